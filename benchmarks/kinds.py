"""The figures of docs/benchmarks.md and README by kind of processor.

benchmarks/avx2.json and benchmarks/avx-512.json have for each part of the page the sentence of its
run, its tables, and the cases in which a peer is ahead. A run replaces its parts of its own kind.
"""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path

from benchmarks import machine, training
from benchmarks.output import ROOT, between_markers
from benchmarks.peers import PEERS
from benchmarks.race import Part
from benchmarks.scores import Record, counted, grouped

FOLDER, README = ROOT / "benchmarks", ROOT / "README.md"
KINDS = ("AVX2", "AVX-512")
TRAIN = training.PART.name


def file_of(kind: str) -> Path:
    return FOLDER / f"{kind.lower()}.json"


def kept() -> dict[str, Record]:
    """The figures of each kind that has some."""
    files = {kind: file_of(kind) for kind in KINDS}
    return {kind: json.loads(f.read_text()) for kind, f in files.items() if f.is_file()}


def digest(
    results: Record, parts: Iterable[Part], intro: str
) -> Iterator[tuple[str, Record]]:
    """The figures of each part that has results, by name."""
    heats, counts = (
        training.heats(results),
        sorted({r["threads"] for r in results["peaks"]}),
    )
    for part in parts:
        lines = [*part.table(results, counts[-1])]
        every = ((n, case) for n in counts for case in part.compared(results, n))
        cases = [
            {**case._asdict(), "group": f"{case.group}, {counted(n)}"}
            for n, case in every
        ]
        if lines and cases:
            figures: Record = {"measured": intro, "lines": lines, "groups": []}
            for group, those in grouped(cases, "group").items():
                behind = [
                    [c["ratio"], c["peer"], c["case"]] for c in those if c["ratio"] < 1
                ]
                figures["groups"].append([group, len(those), sorted(behind)])
            if part.name == TRAIN:
                means = training.geometric_means(heats, counts[-1])
                figures |= {
                    "run": machine.short(results),
                    "threads": counted(counts[-1]),
                }
                figures |= {"means": {n: mean for n, (mean, _) in means.items()}}
                figures["nets"] = means[training.BEST][1]
            yield part.name, figures


def keep(results: Record, parts: Iterable[Part], intro: str) -> None:
    """Replace the figures of a run's parts, of its own kind of processor."""
    kind = next((k for k in KINDS if results["machine"]["cpu"].endswith(k)), KINDS[0])
    figures = {**kept().get(kind, {}), **dict(digest(results, parts, intro))}
    file_of(kind).write_text(json.dumps(figures, indent=1) + "\n")


def page(figures: dict[str, Record]) -> Iterator[str]:
    """The tables of each kind, each under the sentence of its run."""
    for kind, parts in figures.items():
        yield f"\n## With {kind}"
        said = ""
        for part in parts.values():
            if part["measured"] != said:
                said = part["measured"]
                yield f"\n{said}"
            yield from part["lines"]


def slow(figures: dict[str, Record]) -> Iterator[str]:
    """The cases in which a peer is ahead, by kind and group."""
    for kind, parts in figures.items():
        for group, n, behind in (g for part in parts.values() for g in part["groups"]):
            listed = ", ".join(
                f"{ratio:.2f} ({peer}, {case})" for ratio, peer, case in behind
            )
            yield f"- **{group}, {kind}**: {len(behind)} of {n}{listed and ': '}{listed}."


def sentences(figures: dict[str, Record]) -> Iterator[str]:
    """README's sentences: the geometric means of each kind, and the run that they are of."""
    for kind, part in ((kind, p[TRAIN]) for kind, p in figures.items() if TRAIN in p):
        means = part["means"]
        peers = ", ".join(
            f"{PEERS[n].title} {means[n]:.2f}" for n in training.COLUMNS if n in means
        )
        yield (
            f"With {kind} the fastest other library takes {means[training.BEST]:.2f} times as long "
            f"per training step of {part['threads']},\n"
            f"on average over {part['nets']} nets ({peers}).\n"
            f"Measured with {part['run'].removesuffix(f', {kind}')}."
        )


def rewrite() -> None:
    """Write the page, README and the picture from the figures that are kept."""
    from docs.tools import times

    figures = kept()
    between_markers(training.PAGE, "\n".join(page(figures)))
    between_markers(training.PAGE, "\n".join(slow(figures)), "slow")
    between_markers(README, "\n".join(sentences(figures)))
    times.PICTURE.write_text(times.drawn(figures))
