"""Pages, README's figures and their picture, from files of pytest-benchmark's.

`python -m benchmarks.pages RUN.json` keeps the benchmarks of a run, and writes all
pages. `benchmarks/avx2.json` and `benchmarks/avx-512.json` have those of a kind of
processor, the last of each name. They are files of pytest-benchmark's, which
`pytest-benchmark compare` reads too.
"""

import argparse
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from benchmarks.output import DOCS, ROOT, Table, between_markers
from benchmarks.peers import title
from benchmarks.scores import (
    Quartiles,
    Record,
    bold_if,
    counted,
    digits,
    geometric,
    grouped,
    over,
)

FOLDER = ROOT / "benchmarks"
README = ROOT / "README.md"
PAGE = DOCS / "benchmarks.md"
KINDS = ("AVX2", "AVX-512")
# By page what it shows of a kind, and the sentence above each table.
# Other pages' tables stand until there are such benchmarks of a processor.
HOW_TO = DOCS / "how-to"
SHOWN: dict[Path, dict[str, str]] = {
    PAGE: {
        "train": "Training: a step inside `fit`",
        "gradient": "The loss and its gradient, of a batch",
        "predict": "Predictions, of so many rows in a call",
        "predict drawn": "Predictions by ten drawn nets",
        "many": "Many nets in one call, whole trainings from the start",
        "many settings": "Many nets, each with a rate and a penalty of its own",
        "search": "A search of 60 candidates x 5 folds on digits",
    },
    DOCS / "steps.md": {
        "step": "A step from Python",
        "step group": "A step of all nets of a group",
        "step iris": "A fit of iris, `max_iter=1`",
        "predict table row": "A prediction of one row of a table",
        "step online": "A row of a stream, which is predicted, then learned",
    },
    DOCS / "recipe.md": {
        "train recipe": "A step with the recipe",
        "train feature": "A step without a feature, and with one",
    },
    DOCS / "mixed-precision.md": {"mixed": "A step in bfloat16, and in float32"},
    DOCS / "stream.md": {"stream": "A row of a file"},
    DOCS / "second-order.md": {"second order": "A fit to an error"},
    HOW_TO / "machines.md": {"machines": "A step of two processes"},
    HOW_TO / "first-fit.md": {"first fit": "A new process, to its first predictions"},
    HOW_TO / "serving.md": {"serve": "One row of a table"},
    HOW_TO / "export-to-c.md": {"export": "A call of a net in C"},
    HOW_TO / "train-on-derivatives.md": {
        "train on derivatives": "A step on values and derivatives inside `fit`",
    },
    HOW_TO / "norms.md": {"train norms": "A step inside `fit`"},
}
BEST = "fastest peer"
EXPLAINED = (
    "the time of fastmlp, its rate of multiply-adds, and each library's time over "
    "fastmlp's: medians (and quartiles) of turns of the same rounds; below 1 the "
    "library is ahead."
)
# A library has a mean if it has a figure of most works.
MOST = 0.8
# Columns, from the fastest on; others follow.
COLUMNS = ("jax", "compile", "torch", "sklearn", "numpy", "onnx")


class Group:
    """The benchmarks of a work, by library.

    Attributes
    ----------
    ours : that of fastmlp, or None
    """

    def __init__(self, benchmarks: list[Record]) -> None:
        self.by = {bench["extra_info"]["library"]: bench for bench in benchmarks}
        self.facts: Record = benchmarks[0]["extra_info"]
        self.ours = self.by.get("fastmlp")

    @property
    def others(self) -> list[str]:
        return [name for name in self.by if name != "fastmlp"]

    def ratio(self, name: str) -> Quartiles:
        """A library's time over fastmlp's,
        of turns of the same round, or of medians alone.
        """
        theirs, ours = (
            self.by[n]["stats"].get("data") or [self.by[n]["stats"]["median"]]
            for n in (name, "fastmlp")
        )
        return over(theirs, ours)

    def fastest(self) -> str | None:
        """The library beside fastmlp with the least time in turns of the same round."""
        peers = [name for name in self.others if name.partition("-")[0] != "fastmlp"]
        if not self.ours:
            return None
        return min(peers, key=lambda name: self.ratio(name).median, default=None)

    def cell(self, name: str) -> str:
        """A ratio as a cell: "-" without a figure."""
        if name not in self.by or not self.ours:
            return "-"
        ratio = self.ratio(name).median
        return bold_if(f"{ratio:.2f}x", ratio < 1)


def groups_of(benchmarks: Iterable[Record]) -> list[Group]:
    """All groups of this suite."""
    ours = [bench for bench in benchmarks if "library" in bench["extra_info"]]
    return [Group(those) for those in grouped(ours, "group").values()]


def time_of(seconds: float) -> str:
    """Seconds in a unit that suits them: "1.6 us", "12 ms", "2.3 s"."""
    unit = "us"
    factor = 1e6
    if seconds >= 1:
        unit = "s"
        factor = 1.0
    elif seconds >= 1e-3:
        unit = "ms"
        factor = 1e3
    return f"{digits(seconds * factor)} {unit}"


def summary(benchmarks: Iterable[Record]) -> Iterator[str]:
    """A line for each group, for the terminal."""
    for group in groups_of(benchmarks):
        if group.ours and group.others:
            ratios = sorted((group.ratio(n).median, title(n)) for n in group.others)
            listed = ", ".join(f"{name} {ratio:.2f}x" for ratio, name in ratios)
            ours = time_of(group.ours["stats"]["median"])
            yield f"{group.ours['group']}: fastmlp {ours}; {listed}"


def kept() -> dict[str, list[Record]]:
    """The benchmarks of each kind that has some."""
    files = {kind: FOLDER / f"{kind.lower()}.json" for kind in KINDS}
    return {
        kind: json.loads(file.read_text())["benchmarks"]
        for kind, file in files.items()
        if file.is_file()
    }


def keep(run: Record) -> None:
    """Put the benchmarks of a run in the place of those of its kind that have their
    names.
    """
    cpu = run["machine_info"]["described"]["cpu"]
    kind = next((k for k in KINDS if cpu.endswith(k)), KINDS[0])
    new = [bench for bench in run["benchmarks"] if "library" in bench["extra_info"]]
    names = {bench["fullname"] for bench in new}
    old = [b for b in kept().get(kind, []) if b["fullname"] not in names]
    # A line each, so that a commit shows which have changed.
    lines = ",\n".join(json.dumps(rounded(bench)) for bench in [*old, *new])
    about = {name: part for name, part in run.items() if name != "benchmarks"}
    text = f'{json.dumps(about)[:-1]}, "benchmarks": [\n{lines}\n]}}\n'
    (FOLDER / f"{kind.lower()}.json").write_text(text)


def rounded(value: Any) -> Any:
    """Numbers of four digits: a page shows three."""
    if isinstance(value, float):
        return float(f"{value:.4g}")
    if isinstance(value, dict):
        return {name: rounded(part) for name, part in value.items()}
    return [*map(rounded, value)] if isinstance(value, list) else value


def ordered(names: Iterable[str]) -> list[str]:
    """Libraries, each once, in the order of columns."""
    found = dict.fromkeys(names)
    return [n for n in COLUMNS if n in found] + [n for n in found if n not in COLUMNS]


def means(groups: list[Group]) -> dict[str, float]:
    """Geometric means of the ratios of the fastest peer,
    and of each library with most of them.
    """
    ratios: dict[str, list[float]] = {BEST: []}
    for group in groups:
        if best := group.fastest():
            ratios[BEST].append(group.ratio(best).median)
            for name in group.others:
                ratios.setdefault(name, []).append(group.ratio(name).median)
    most = MOST * len(ratios[BEST])
    return {
        name: float(geometric(r)) for name, r in ratios.items() if r and len(r) >= most
    }


def table(groups: list[Group]) -> Iterator[str]:
    """A row for each work, a column for each library; and the geometric means."""
    names = ordered(name for group in groups for name in group.others)
    rows = []
    for group in (group for group in groups if group.ours):
        assert group.ours
        best = group.fastest()
        gflops = group.ours["extra_info"].get("gflops")
        rows.append(
            [
                group.facts["work"] or group.facts["verb"],
                time_of(group.ours["stats"]["median"]),
                digits(gflops) if gflops else "-",
                f"{group.ratio(best).cell}, {title(best)}" if best else "-",
                *map(group.cell, names),
            ]
        )
    by_name = means(groups)
    if len(rows) > 1 and BEST in by_name:
        cells = [f"{by_name[n]:.2f}x" if n in by_name else "-" for n in names]
        rows.append(["geometric mean", "", "", f"**{by_name[BEST]:.2f}x**", *cells])
    titles = ["", ">fastmlp", ">GFLOP/s", BEST, *(f">{title(name)}" for name in names)]
    yield from Table(titles, rows).markdown()


def measured(groups: list[Group]) -> str:
    """The sentence above the tables: date, processor, threads, and versions."""
    facts = next((g.ours for g in groups if g.ours), {"extra_info": groups[0].facts})
    first = facts["extra_info"]
    libraries = {name: b for group in groups for name, b in group.by.items()}
    versions = dict.fromkeys(
        str(b["extra_info"]["version"]).partition(",")[0].partition(";")[0]
        for name, b in libraries.items()
        if b["extra_info"].get("version")
    )
    run = f"{run_of(first)}, {counted(first['threads'])}"
    return f"Measured on {first['date']} with {run}; {', '.join(versions)}."


def run_of(facts: Record) -> str:
    """Version and commit of fastmlp, and the processor."""
    return f"fastmlp {facts['fastmlp']}, {facts['processor']}"


def text_of(page: Path, figures: dict[str, list[Record]]) -> Iterator[str]:
    """The tables of each kind of processor, each under the sentence of its run."""
    for kind, benchmarks in figures.items():
        by_verb = grouped(
            ({"verb": g.facts["verb"], "group": g} for g in groups_of(benchmarks)),
            "verb",
        )
        shown = {verb: text for verb, text in SHOWN[page].items() if verb in by_verb}
        if shown:
            level = "###" if page.parent == HOW_TO else "##"
            yield f"\n{level} With {kind}"
        said = ""
        for verb, text in shown.items():
            groups = [pair["group"] for pair in by_verb[verb]]
            sentence = measured(groups)
            if sentence != said:
                said = sentence
                yield f"\n{said}"
            yield f"\n{text}: {EXPLAINED}\n"
            yield from table(groups)


def slow(figures: dict[str, list[Record]]) -> Iterator[str]:
    """The works in which a peer is ahead, by kind and verb."""
    for kind, benchmarks in figures.items():
        groups = [g for g in groups_of(benchmarks) if g.facts["verb"] in SHOWN[PAGE]]
        pairs = [{"verb": g.facts["verb"], "group": g} for g in groups if g.fastest()]
        for verb, those in grouped(pairs, "verb").items():
            behind = []
            for group in (pair["group"] for pair in those):
                best = group.fastest()
                ratio = group.ratio(best).median
                if ratio < 1:
                    work = group.facts["work"]
                    behind.append((ratio, f"{ratio:.2f} ({title(best)}, {work})"))
            listed = ", ".join(text for _, text in sorted(behind))
            text = f"{len(behind)} of {len(those)}{listed and ': '}{listed}"
            yield f"- **{verb.capitalize()}, {kind}**: {text}."


def digests(figures: dict[str, list[Record]]) -> dict[str, Record]:
    """By kind the means of training, of how many nets and threads, and their run."""
    found = {}
    for kind, benchmarks in figures.items():
        groups = [g for g in groups_of(benchmarks) if g.facts["verb"] == "train"]
        groups = [group for group in groups if group.fastest()]
        if groups:
            facts = groups[0].facts
            found[kind] = {
                "means": means(groups),
                "nets": len(groups),
                "threads": counted(facts["threads"]),
                "run": f"{run_of(facts).removesuffix(f', {kind}')}, {facts['date']}",
            }
    return found


def speed(figures: dict[str, list[Record]]) -> str:
    """README's first sentence of speeds: PyTorch,
    or the first library that has a mean.
    """
    means_of = {kind: part["means"] for kind, part in digests(figures).items()}
    names = ordered(name for part in means_of.values() for name in part if name != BEST)
    name = "torch" if "torch" in names else names[0]
    times = [
        f"{part[name]:.1f} times{' as long as fastmlp' * (not i)} with {kind}"
        for i, (kind, part) in enumerate(means_of.items())
        if name in part
    ]
    return f"A training step takes {title(name)} {', and '.join(times)}."


def sentences(figures: dict[str, list[Record]]) -> Iterator[str]:
    """README's sentences: the geometric means of each kind,
    and the run that they are of.
    """
    for kind, part in digests(figures).items():
        by_name = part["means"]
        first, *names = sorted(by_name.keys() - {BEST}, key=by_name.__getitem__)
        others = "".join(f", {title(name)} {by_name[name]:.1f}" for name in names)
        yield (
            f"With {kind} a training step takes {title(first)} {by_name[first]:.1f} "
            f"times as long as fastmlp{others}.\nThe fastest library of each net takes "
            f"{by_name[BEST]:.1f} times as long: geometric means over {part['nets']} "
            f"nets,\n{part['threads']}, with {part['run']}."
        )


def rewrite() -> None:
    """Write all pages, README and the picture from the figures that are kept."""
    from docs.tools import bars

    figures = kept()
    for page in SHOWN:
        if text := "\n".join(text_of(page, figures)):
            between_markers(page, text)
    between_markers(PAGE, "\n".join(slow(figures)), "slow")
    means_of_training = "\n\n".join(sentences(figures))
    between_markers(PAGE, means_of_training, "means")
    between_markers(README, means_of_training)
    between_markers(README, speed(figures), "speed")
    bars.TIMES.write_text(bars.times(digests(figures)))


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser("python -m benchmarks.pages", description=__doc__)
    files = "of --benchmark-json; without, the pages are written from what is kept"
    parser.add_argument("runs", nargs="*", type=Path, help=files)
    for path in parser.parse_args(words).runs:
        keep(json.loads(path.read_text()))
    rewrite()


if __name__ == "__main__":
    main()
