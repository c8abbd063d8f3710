"""What each part of the pack is worth: `python -m benchmarks.tabular.ablation --pages`.

The tables are real ones that the recipe was made on, never those that are kept aside. A loss is the
log loss of classes or the RMSE of numbers, of the rows to test on.
"""

import argparse
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import machine, output
from benchmarks.page import ROOT, row
from benchmarks.scores import counted
from benchmarks.tabular import intervals
from benchmarks.tabular.compare import score
from benchmarks.tabular.report import geometric
from benchmarks.tabular.sources import aside, chosen, read, sources
from benchmarks.tabular.variants import WHOLE, complete, rows_of, variants
from fastmlp.tabular.pack import PRESETS

PAGE = ROOT / "docs" / "tables.md"
TABLES = (
    *("attrition", "churn_telecom", "prenatal_care", "unemployment_benefits"),
    *("british_election", "hpc", "police_force"),
    *("ames", "computers", "concrete", "sacramento", "wage"),
)
Records = dict[str, list[dict[str, Any]]]
Say = Callable[[str], None]


def arguments() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.tabular.ablation", description=__doc__
    )
    names = "names, or development or small"
    parser.add_argument("--tables", nargs="+", default=TABLES, metavar="NAME", help=names)
    parser.add_argument("--intervals", nargs="*", metavar="NAME", default=["development"],
                        help="tables of numbers whose intervals are looked at")  # fmt: skip
    parser.add_argument("--preset", choices=PRESETS, default="balanced")
    parser.add_argument("--turns", type=int, default=2, help="packs of each, with own seeds")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path, help="what is there already is not run again")
    parser.add_argument("--from-json", action="store_true", help="render an earlier run's again")
    parser.add_argument("--pages", action="store_true", help="rewrite the sections of the page")
    return parser


def main(words: list[str] | None = None) -> None:
    """Run or load, print, and write what was asked for."""
    parser = arguments()
    options = parser.parse_args(words)
    output.check(parser, options)
    found = earlier = output.earlier(options)
    if not options.from_json:
        found = {
            "machine": machine.describe(),
            "threads": options.threads,
            "preset": options.preset,
            "variants": earlier.get("variants", []),
            "intervals": earlier.get("intervals", []),
        }
        with complete():
            run(options, found)
    sections = {"ablation": ablation_lines(found), "intervals": interval_lines(found)}
    for name, lines in sections.items():
        output.show(lines, options, PAGE, name)


def run(options: argparse.Namespace, found: dict[str, Any]) -> None:
    """Add the records of what was asked for; what there is already is not run again."""
    tables, threads, preset = _developed(options.tables), options.threads, options.preset
    numeric = [n for n in _developed(options.intervals) if sources()[n].task == "regression"]
    turns = range(options.turns)
    missing = [(t, n) for t in turns for n in tables if not _known(found["variants"], n, t)]
    _warm_up({sources()[name].task for _, name in missing}, threads)
    for turn in turns:
        for name in (n for t, n in missing if t == turn):
            table = read(sources()[name])
            for variant, its in variants(rows_of(table), turn, threads, preset):
                record = {"table": name, "turn": turn, "variant": variant}
                record |= {"seconds": its.seconds, "cpu": its.cpu}
                found["variants"].append(record | score(table, its.predictions))
            _say(f"turn {turn + 1}, {name}")
            output.keep(found, options)
        for name in (n for n in numeric if not _known(found["intervals"], n, turn)):
            found["intervals"] += intervals.records(read(sources()[name]), threads, turn, preset)
            _say(f"turn {turn + 1}, intervals of {name}")
            output.keep(found, options)


def _developed(words: list[str]) -> list[str]:
    names = list(chosen(words))
    apart = sorted(set(names) & set(aside()))
    if apart:
        raise ValueError(f"kept aside, for the comparison alone: {', '.join(apart)}")
    return names


def _known(records: list[dict[str, Any]], name: str, turn: int) -> bool:
    return any((r["table"], r["turn"]) == (name, turn) for r in records)


def _warm_up(tasks: set[str], threads: int) -> None:
    """Have the code of all variants compiled before any is timed."""
    small = {"binary": "breast_cancer", "multiclass": "digits", "regression": "diabetes"}
    for task in sorted(tasks):
        _say(f"warm up: {task}")
        for _ in variants(rows_of(read(sources()[small[task]])), 0, threads, "fast"):
            pass


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


class Grid:
    """Changes of the loss in per cent, and ratios of CPU seconds, nan where nothing changes.

    Attributes
    ----------
    changes, ratios : (tables, variants), geometric means of turns
    """

    def __init__(self, records: list[dict[str, Any]]) -> None:
        self.tables = list(dict.fromkeys(r["table"] for r in records))
        self.variants = [v for v in dict.fromkeys(r["variant"] for r in records) if v != WHOLE]
        self.changes = np.array([self._of(records, "score", name) for name in self.tables])
        self.ratios = np.array([self._of(records, "cpu", name) for name in self.tables])
        self.changes = 100 * (self.changes - 1)

    def _of(self, records: list[dict[str, Any]], key: str, table: str) -> list[float]:
        its = {(r["variant"], r["turn"]): r[key] for r in records if r["table"] == table}
        turns = [turn for variant, turn in its if variant == WHOLE]
        found = []
        for variant in self.variants:
            known = [t for t in turns if (variant, t) in its]
            logs = [np.log(its[variant, t] / its[WHOLE, t]) for t in known]
            found.append(float(np.exp(np.mean(logs))) if logs else float("nan"))
        return found


def ablation_lines(found: dict[str, Any]) -> Iterator[str]:
    """Yield the section on the parts: a row a part, then a row a table."""
    records = found["variants"]
    if not records:
        return
    grid, turns = Grid(records), len({r["turn"] for r in records})
    yield _intro(found, f"{len(grid.tables)} tables, {_packs(turns)} of the preset "
                        f"`{found['preset']}`")  # fmt: skip
    yield "\n| without | tables | loss, geometric mean | median | greater on | CPU seconds |"
    yield "|---|--:|--:|--:|--:|--:|"
    for j, name in enumerate(grid.variants):
        change = grid.changes[:, j][~np.isnan(grid.changes[:, j])]
        mean = 100 * (geometric(1 + change / 100) - 1)
        yield row(
            name,
            len(change),
            f"{mean:+.1f} %",
            f"{np.median(change):+.1f} %",
            f"{(change > 0).sum()} of {len(change)}",
            f"{geometric(grid.ratios[:, j]):.2f}x",
        )
    yield "\nBy table, in per cent of the whole pack's loss; a dash where it has no such part:\n"
    yield row("table", *grid.variants)
    yield f"|---|{'--:|' * len(grid.variants)}"
    for name, changes in zip(grid.tables, grid.changes, strict=True):
        yield row(name, *("-" if np.isnan(c) else f"{c:+.1f}" for c in changes))


def interval_lines(found: dict[str, Any]) -> Iterator[str]:
    """Yield the section on intervals: a row a table."""
    records = found["intervals"]
    if not records:
        return
    turns = len({r["turn"] for r in records})
    yield _intro(found, f"{_packs(turns)} of the preset `{found['preset']}` a table")
    yield ""
    yield from intervals.lines(records)


def _packs(turns: int) -> str:
    return "one pack" if turns == 1 else f"{turns} packs of own seeds"


def _intro(found: dict[str, Any], what: str) -> str:
    m = found["machine"]
    versions = ", ".join(
        f"{n} {m['versions'][n]}" for n in ("numba", "numpy", "scikit-learn") if n in m["versions"]
    )
    return (
        f"Measured on {m['date']}: {what}, {counted(found['threads'])}, {m['cores']} cores of "
        f"{m['cpu']}, Python {m['python']}, fastmlp {m['fastmlp']}; {versions}."
    )


if __name__ == "__main__":
    main()
