"""A run of five minutes on any machine, beside ours: `benchmarks.compare --quick --pages`.

It writes benchmarks/yours.md, which git ignores, and no page of the documentation. Results that are
kept as benchmarks/quick.json are ours: they stand on docs/benchmarks-yours.md, and beside anyone's.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from benchmarks import cold_start, estimators, machine, predictions, training
from benchmarks.output import DOCS, ROOT, Table, between_markers, say
from benchmarks.peers import PEERS
from benchmarks.race import OVER
from benchmarks.scores import Record, bold_if, counted, digits, grouped, over, quartiles, reason

# From a small one to one that takes a peer little longer, or less; each name is that of one net. A
# net takes 50 s beside all peers, of which torch.compile takes most.
NETS = ("16-64-64-2@64", "784-128-10@128", "128-1024-1024-10@512-f64")
# In the order in which they are measured: the last is left out first.
PARTS = (training.PART, cold_start.PART, predictions.PART, estimators.PART)
USUAL: Record = {
    "workloads": [*NETS],
    "parts": [part.name for part in PARTS],
    "repeats": 5,
    "passes": 1,
    "minutes": 0.6,
}
# No work begins later, of five minutes; and no variant of a net, beside the first.
SECONDS, TRIAL_SECONDS = 240.0, 3.0
OURS, YOURS = ROOT / "benchmarks" / "quick.json", ROOT / "benchmarks" / "yours.md"
PAGE = DOCS / "benchmarks-yours.md"
# Of the cores, above which figures are those of a machine that does other work.
BUSY = 0.25
TITLE = "# How fast fastmlp is here, and on our machine"


class Comparison(NamedTuple):
    """What was timed, fastmlp's seconds, the fastest peer, and its time over fastmlp's."""

    what: str
    seconds: float
    peer: str
    ratio: float

    @property
    def cells(self) -> tuple[str, str, str]:
        return time_of(self.seconds), self.peer, bold_if(f"{self.ratio:.2f}x", self.ratio < 1)


def time_of(seconds: float) -> str:
    """Seconds in a unit that suits them: "1.6 us", "12 ms", "2.3 s"."""
    unit, factor = ("s", 1.0) if seconds >= 1 else ("ms", 1e3) if seconds >= 1e-3 else ("us", 1e6)
    return f"{digits(seconds * factor)} {unit}"


def comparisons(results: Record) -> Iterator[Comparison]:
    """All that fastmlp and a peer did, at the most threads."""
    threads = max(r["threads"] for r in results["peaks"])
    for heat in training.heats(results):
        if heat.threads == threads and heat.ours and (peer := heat.fastest_peer):
            what, seconds = f"a step of {heat.workload.name}", 1e-6 * heat.ours.us.median
            yield Comparison(what, seconds, peer.title, peer.ratio.median)
    for part, key, words in (
        ("predictions", "n_rows", "16-64-64-2 predicts rows: {:,}"),
        ("estimators", "what", "`MLPClassifier` on digits: {}"),
    ):
        records = [r for r in results[part] if r["threads"] == threads]
        for value, those in grouped(records, key).items():
            yield from _fastest(words.format(value), _turns(those))
    starts = [r for r in results["cold_starts"] if "empty" in r]
    for key, words in (("empty", "nothing compiled before"), ("full", "compiled before")):
        turns = {r["contestant"]: [quartiles(np.atleast_1d(r[key])).median] for r in starts}
        yield from _fastest(f"a first epoch in a new process: {words}", turns)


def _turns(records: list[Record]) -> dict[str, list[float]]:
    """The seconds by turn of each contestant's fastest way."""
    timed = [r for r in records if r["seconds"]]
    return {
        name: min((r["seconds"] for r in ways), key=lambda seconds: quartiles(seconds).median)
        for name, ways in grouped(timed, "contestant").items()
    }


def _fastest(what: str, turns: dict[str, list[float]]) -> Iterator[Comparison]:
    ours = turns.pop("fastmlp", None)
    if ours and turns:
        name, ratio = min(
            ((name, over(theirs, ours).median) for name, theirs in turns.items()),
            key=lambda pair: pair[1],
        )
        yield Comparison(what, quartiles(ours).median, PEERS[name].title, ratio)


def lines(results: Record, ours: Record | None = None) -> Iterator[str]:
    """The page of a run, beside ours if there is such."""
    threads, shown = max(r["threads"] for r in results["peaks"]), [*comparisons(results)]
    yield machine.measured(results, counted(threads))
    yield from _caveats(results)
    lost, n = [one.what for one in shown if one.ratio < 1], len(shown)
    names = f", in bold: {'; '.join(lost)}" if lost else ""
    yield (
        f"\nThe fastest peer takes longer than fastmlp in {n - len(lost)} of {n} comparisons, and "
        f"less time in {len(lost)}{names}.\n"
    )
    titles = ["", ">fastmlp", "fastest peer", ">its time over fastmlp's"]
    rows = [[one.what, *one.cells] for one in shown]
    if ours:
        titles += [">fastmlp, ours", "fastest peer, ours", ">its time over fastmlp's, ours"]
        beside = {one.what: one.cells for one in comparisons(ours)}
        rows = [[*row, *beside.get(row[0], ("-", "-", "-"))] for row in rows]
    yield from Table(titles, rows).markdown()
    for part in PARTS:
        yield from part.table(results, threads)


def summary(results: Record) -> str:
    """The README's sentence: the net's geometric mean, and the comparisons that are lost."""
    shown, threads = [*comparisons(results)], max(r["threads"] for r in results["peaks"])
    mean, _, n_nets = training.geometric_means(training.heats(results), threads)[training.BEST]
    lost = sum(one.ratio < 1 for one in shown)
    return (
        f"In the quick benchmark the fastest other library takes {mean:.2f} times as long, over "
        f"{n_nets} nets,\nand is faster in {lost} of {len(shown)} comparisons. Measured with "
        f"{machine.short(results)}."
    )


def _caveats(results: Record) -> Iterator[str]:
    """The load of the machine, and what was left out."""
    load = results["machine"]["load"]
    if load > BUSY * results["machine"]["cores"]:
        yield (
            f"\n**The machine did other work too**, of a load of {load:.1f} as the run began: "
            "times are too long, and ratios uncertain."
        )
    absent = [f"{PEERS[name].title} ({why})" for name, why in results["skipped"].items()]
    for part in PARTS:
        late = [r["contestant"] for r in results[part.key] if reason(r) == OVER]
        titles = ", ".join(PEERS[name].title for name in dict.fromkeys(late))
        absent += [f"of the part `{part.name}` some of {titles} ({OVER})"] if late else []
    if absent:
        yield f"\nLeft out: {'; '.join(absent)}."


def write(results: Record, kept: Path | None) -> None:
    """Write the page of a run: ours, if its results were kept as ours, or a visitor's."""
    if kept and kept.resolve() == OURS:
        between_markers(PAGE, "\n".join(lines(results)))
        between_markers(training.README, summary(results), "quick")
        say(f"{PAGE.relative_to(ROOT)} has our figures now")
        return
    ours = json.loads(OURS.read_text()) if OURS.is_file() else None
    text = [TITLE, "", *lines(results, ours)]
    if ours:
        text += ["", f"Ours: {machine.measured(ours)}"]
    YOURS.write_text("\n".join(text) + "\n")
    say(f"{YOURS} has your figures beside ours")
