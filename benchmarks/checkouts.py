"""Two checkouts of fastmlp in turns: `python -m benchmarks.compare --checkouts BEFORE [AFTER]`.

Each checkout has a process of its own for each number of threads, and a folder of its own for
compiled code. All of them run the benchmarks of this checkout, which call nothing of fastmlp that
is not public. On one thread the CPU time of the process is taken, which other processes disturb
less than the wall time.

A pass starts the processes anew, for two of the same code may differ by a few percent as long as
they live: one row's prediction by 5.
"""

import argparse
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import first_seconds, machine
from benchmarks.output import ROOT, Table
from benchmarks.race import Contestant, Part, Race, in_turns
from benchmarks.scores import (
    Record,
    counted,
    digits,
    failed,
    geometric,
    grouped,
    reason,
)

TURNS, PASSES = 9, 3
# Fields of records that say what was done.
FACTS = ("workload", "task", "net", "n_rows", "sweep", "what", "data_set", "way")
TITLES = ("", "", ">before", ">after", "", ">ratio", "least to most", ">of least")


class Checkout(Contestant):
    """A contestant that trains by the fastmlp of a folder."""

    def __init__(self, folder: Path, cache: Path, n_threads: int) -> None:
        super().__init__("fastmlp", n_threads, checkout=folder, cache=cache)
        self.folder = folder
        reply = self.ask("folder")
        if reply.get("folder") != str(folder):
            self.close()
            raise SystemExit(f"{self.title} was not imported: {reply}, {self.about}")
        if n_threads == 1:
            self.ask("count_cpu_time")

    @property
    def title(self) -> str:
        return f"fastmlp of {self.folder}"


def measure(options: argparse.Namespace, parts: list[Part], race: Race) -> Record:
    """Run all that the options name, in several passes."""
    folders = [path.resolve() for path in [*options.checkouts, ROOT][:2]]
    results: Record = {
        "machine": machine.describe(),
        "checkouts": [
            {"folder": str(path), "commit": machine.commit_of(path)} for path in folders
        ],
        "records": [],
    }
    by_name: dict[str, Record] = {}
    with tempfile.TemporaryDirectory() as room:
        caches = [(path, Path(room, str(i))) for i, path in enumerate(folders)]
        try:
            for _ in range(options.passes):
                for record in _pass(options.threads, parts, caches, race):
                    add(by_name.setdefault(record["what"], record), record)
                    results["records"] = [*by_name.values()]
                    race.say("  ".join(map(str, cells(by_name[record["what"]]))))
        except KeyboardInterrupt:
            results["interrupted"] = True
            race.say("interrupted: the results so far follow")
    return results


def _pass(
    threads: list[int], parts: list[Part], places: list[tuple[Path, Path]], race: Race
) -> Iterator[Record]:
    """Start all processes, take the turns of a pass, and yield the comparisons.

    Parameters
    ----------
    places : each checkout's folder, and that of its compiled code
    """
    with ExitStack() as stack:
        checkouts = {
            n: [stack.enter_context(closing(Checkout(*place, n))) for place in places]
            for n in threads
        }
        for part in parts:
            for contestants in checkouts.values() if part.key in COMPARED else ():
                results = part.measure(
                    race._replace(contestants=contestants), part.kind()
                )
                records = results["sweeps"] if part.key == "many" else results
                yield from pairs(part, records)
    if any(part.key == "cold_starts" for part in parts):
        yield from _cold(places, race)


# The others have peers, or processes of their own.
COMPARED = ("training", "predictions", "steps", "estimators", "many")


def pairs(part: Part, records: list[Record]) -> Iterator[Record]:
    """Yield the comparisons of records of two contestants that did the same."""
    by_facts: dict[str, list[Record]] = {}
    for record in records:
        facts = ", ".join(str(record[name]) for name in FACTS if record.get(name))
        by_facts.setdefault(
            f"{part.name} {facts}, {counted(record['threads'])}", []
        ).append(record)
    for what, both in by_facts.items():
        times = [
            r["step_seconds"] if "step_seconds" in r else r["seconds"] for r in both
        ]
        yield pair(part.name, what, times, [reason(r) for r in both if failed(r)])


def pair(part: str, what: str, times: list[list[float]], errors: list[str]) -> Record:
    """The comparison of the seconds of two contestants."""
    if len(times) < 2:
        errors.append("only one of the checkouts can do it")
    return {"part": part, "what": what, "seconds": times, "errors": errors}


def add(known: Record, record: Record) -> None:
    """Add the turns of another pass."""
    if known is not record:
        known["errors"] += record["errors"]
        for times, more in zip(known["seconds"], record["seconds"], strict=False):
            times += more


def _cold(places: list[tuple[Path, Path]], race: Race) -> Iterator[Record]:
    """New processes, once each checkout's bytecode and compiled code are there."""
    race.say("cold starts")
    fit = first_seconds.ROWS + first_seconds.OURS
    for folder, cache in places:
        first_seconds.launch(fit, cache, folder)
    starts = {"import": "import fastmlp", "first fit, full cache": fit}
    for what, command in (starts | {"first fit, empty cache": fit}).items():
        taken: list[list[first_seconds.Start]] = [[] for _ in places]
        entries = [
            (folder, cache if what in starts else None, command, times)
            for (folder, cache), times in zip(places, taken, strict=True)
        ]
        in_turns(entries, race.repeats, _launch)
        for clock, name in (("wall time", "seconds"), ("CPU time", "cpu_seconds")):
            times = [[getattr(start, name) for start in launched] for launched in taken]
            what_timed = f"cold {what}, {clock}, all threads"
            yield pair("cold", what_timed, times, [])


def _launch(folder: Path, cache: Path | None, command: str, times: list[Any]) -> None:
    """Add a new process of a checkout, with its cache or with an empty one."""
    with tempfile.TemporaryDirectory() as new:
        times.append(first_seconds.launch(command, cache or Path(new), folder))


def ratios(record: Record) -> Any:
    """The time after over the time before, of each round of turns."""
    if record["errors"]:
        return np.zeros(0)
    before, after = record["seconds"]
    n = min(len(before), len(after))
    return np.array(after[:n]) / np.array(before[:n])


def cells(record: Record) -> tuple[str, ...]:
    """A comparison: median times, the median ratio, the least and the most, and the ratio of the
    least times. A star: the same checkout was the faster in every round."""
    changes = ratios(record)
    if not len(changes):
        return ("", record["what"], *(record["errors"] or ["no result"])[:1])
    scale, unit = (1e6, "us") if np.median(record["seconds"][0]) < 1e-3 else (1e3, "ms")
    before, after = (scale * np.array(times) for times in record["seconds"])
    return (
        "*" if changes.min() > 1 or changes.max() < 1 else "",
        record["what"],
        digits(np.median(before)),
        digits(np.median(after)),
        unit,
        f"{np.median(changes):.3f}",
        f"{changes.min():.3f} to {changes.max():.3f}",
        f"{after.min() / before.min():.3f}",
    )


def lines(results: Record) -> Iterator[str]:
    m, records = results["machine"], results["records"]
    yield f"{m['date']}: {m['cpu']}, {m['cores']} cores, load before {m['load']:.2f}"
    for name, checkout in zip(("before", "after"), results["checkouts"], strict=True):
        yield f"{name}: {checkout['folder']}, {checkout['commit'] or 'no commit'}"
    rows = [*map(cells, records)]
    yield from Table(TITLES, [row for row in rows if len(row) == len(TITLES)]).text()
    yield from ("  ".join(row) for row in rows if len(row) < len(TITLES))
    yield "geometric means of the median ratios"
    for part, compared in grouped(records, "part").items():
        medians = [np.median(ratios(r)) for r in compared if len(ratios(r))]
        if medians:
            yield f"  {part:<10} {geometric(medians):.3f} of {len(medians)}"
