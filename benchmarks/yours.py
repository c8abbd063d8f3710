"""A run of five minutes on any machine, beside ours: `benchmarks.compare --quick --pages`.

It writes benchmarks/yours.md, which git ignores, and no page of the documentation. Results that are
kept as benchmarks/quick.json are ours: they stand on docs/benchmarks-yours.md, and beside anyone's.
"""

import json
from collections.abc import Iterator
from pathlib import Path

from benchmarks import estimators, first_seconds, machine, predictions, training
from benchmarks.output import DOCS, ROOT, Table, between_markers, say
from benchmarks.peers import PEERS
from benchmarks.race import OVER
from benchmarks.scores import Comparison, Record, counted, digits, reason

# From a small one to one that takes a peer little longer, or less; each name is that of one net. A
# net takes 50 s beside all peers, of which torch.compile takes most.
NETS = ("16-64-64-2@64", "784-128-10@128", "128-1024-1024-10@512-f64")
# In the order in which they are measured: the last is left out first.
PARTS = (training.PART, first_seconds.PART, predictions.PART, estimators.PART)
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


def time_of(seconds: float) -> str:
    """Seconds in a unit that suits them: "1.6 us", "12 ms", "2.3 s"."""
    unit, factor = (
        ("s", 1.0) if seconds >= 1 else ("ms", 1e3) if seconds >= 1e-3 else ("us", 1e6)
    )
    return f"{digits(seconds * factor)} {unit}"


def comparisons(results: Record) -> dict[str, Comparison]:
    """All that fastmlp and a peer did, at the most threads, by its name."""
    threads = max(r["threads"] for r in results["peaks"])
    shown = [one for part in PARTS for one in part.compared(results, threads)]
    return {f"{one.group}: {one.case}": one for one in shown}


def cells(one: Comparison) -> tuple[str, str, str]:
    return time_of(one.seconds), one.peer, one.cell


def lines(results: Record, ours: Record | None = None) -> Iterator[str]:
    """The page of a run, beside ours if there is such."""
    threads, shown = max(r["threads"] for r in results["peaks"]), comparisons(results)
    yield machine.measured(results, counted(threads))
    yield from _caveats(results)
    lost, n = [what for what, one in shown.items() if one.ratio < 1], len(shown)
    names = f", in bold: {'; '.join(lost)}" if lost else ""
    yield (
        f"\nThe fastest peer takes longer than fastmlp in {n - len(lost)} of {n} comparisons, and "
        f"less time in {len(lost)}{names}.\n"
    )
    titles = ["", ">fastmlp", "fastest peer", ">its time over fastmlp's"]
    rows = [[what, *cells(one)] for what, one in shown.items()]
    if ours:
        titles += [
            ">fastmlp, ours",
            "fastest peer, ours",
            ">its time over fastmlp's, ours",
        ]
        beside = {what: cells(one) for what, one in comparisons(ours).items()}
        rows = [[*row, *beside.get(row[0], ("-", "-", "-"))] for row in rows]
    yield from Table(titles, rows).markdown()
    for part in PARTS:
        yield from part.table(results, threads)


def _caveats(results: Record) -> Iterator[str]:
    """The load of the machine, and what was left out."""
    load = results["machine"]["load"]
    if load > BUSY * results["machine"]["cores"]:
        yield (
            f"\n**The machine did other work too**, of a load of {load:.1f} as the run began: "
            "times are too long, and ratios uncertain."
        )
    absent = [
        f"{PEERS[name].title} ({why})" for name, why in results["skipped"].items()
    ]
    for part in PARTS:
        late = [r["contestant"] for r in results[part.key] if reason(r) == OVER]
        titles = ", ".join(PEERS[name].title for name in dict.fromkeys(late))
        absent += (
            [f"of the part `{part.name}` some of {titles} ({OVER})"] if late else []
        )
    if absent:
        yield f"\nLeft out: {'; '.join(absent)}."


def write(results: Record, kept: Path | None) -> None:
    """Write the page of a run: ours, if its results were kept as ours, or a visitor's."""
    if kept and kept.resolve() == OURS:
        between_markers(PAGE, "\n".join(lines(results)))
        say(f"{PAGE.relative_to(ROOT)} has our figures now")
        return
    ours = json.loads(OURS.read_text()) if OURS.is_file() else None
    text = [TITLE, "", *lines(results, ours)]
    if ours:
        text += ["", f"Ours: {machine.measured(ours)}"]
    YOURS.write_text("\n".join(text) + "\n")
    say(f"{YOURS} has your figures beside ours")
