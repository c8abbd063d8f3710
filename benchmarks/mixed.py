"""Mixed precision: fastmlp, PyTorch and JAX with products of bfloat16, each beside its float32.

Each contestant has two processes, one for a precision. All of them take turns on a net, so that
ratios are of the same rounds, and a peer's time is that of the faster precision.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from benchmarks.output import DOCS, Table
from benchmarks.peers import PEERS, load, titles
from benchmarks.race import Part, Race, Say
from benchmarks.scores import Quartiles, Record, over, peak_of, ways
from benchmarks.workloads import BY_NAME, MIXED, Workload, sized

PAGE = DOCS / "mixed-precision.md"
COLUMNS = ("jax", "compile", "torch")
PRECISIONS = ("bfloat16", "float32")
TITLES = ("net@batch", ">float32", ">bfloat16", ">of peak", ">gain", "fastest peer")


def plain(workload: Workload) -> Workload:
    """The same workload in float32."""
    return workload._replace(compute_dtype=None)


def measure(race: Race, earlier: Record) -> Record:
    """A record per net, contestant and precision; another pass adds its turns.

    Of a contestant's two processes the second has bfloat16.
    """
    records = []
    names = {contestant.name for contestant in race.twins}
    for workload in (w for w in MIXED if race.asked_for(w.name)):
        known = [
            r for r in earlier.get("training", []) if r["workload"] in _names(workload)
        ]
        entries = [(c, plain(workload)) for c in race.only(names).contestants]
        records += race.train([*entries, *((c, workload) for c in race.twins)], known)
    return {
        "training": records,
        "kernels": earlier.get("kernels") or _kernels(records, race.say),
    }


def _names(workload: Workload) -> tuple[str, str]:
    return workload.name, plain(workload).name


def _kernels(records: list[Record], say: Say) -> list[str]:
    """The kernels that oneDNN runs for PyTorch's products of the net that was first."""
    ran = [r for r in records if r["contestant"] == "torch" and r["step_seconds"]]
    mixed = [r for r in ran if BY_NAME[r["workload"]].compute_dtype]
    if not mixed:
        return []
    say("the kernels of oneDNN")
    return [*load("torch").kernels(BY_NAME[mixed[0]["workload"]], mixed[0]["variant"])]


class MixedNet(NamedTuple):
    """A net at a number of threads: records by contestant and precision that have turns."""

    workload: Workload
    threads: int
    records: dict[tuple[str, str], Record]

    @property
    def name(self) -> str:
        return plain(self.workload).name

    def seconds(self, *key: str) -> list[float]:
        """The seconds of a step, by turn."""
        times: list[float] = self.records[key[0], key[1]]["step_seconds"]
        return times

    def ratio(self, *key: str) -> Quartiles:
        """A contestant's time over that of fastmlp in bfloat16, by turn."""
        return over(self.seconds(*key), self.seconds("fastmlp", "bfloat16"))

    def cell(self, *key: str) -> str:
        """The ratio as a cell, and that of the least times, which others disturb least."""
        least = min(self.seconds(*key)) / min(self.seconds("fastmlp", "bfloat16"))
        return f"{self.ratio(*key).cell}; {least:.2f}x"

    def fastest_peer(self) -> tuple[str, str] | None:
        """The peer and its precision with the least time in turns of the same round."""
        peers = [key for key in self.records if key[0] != "fastmlp"]
        return min(peers, key=lambda key: self.ratio(*key).median, default=None)


def groups(results: Record) -> Iterator[MixedNet]:
    """Yield all nets that fastmlp has trained in both precisions."""
    records = results["mixed"].get("training", [])
    for workload in MIXED:
        for threads in dict.fromkeys(r["threads"] for r in records):
            ran = {
                (r["contestant"], BY_NAME[r["workload"]].compute_dtype or "float32"): r
                for r in records
                if r["workload"] in _names(workload) and r["threads"] == threads
                if r["step_seconds"]
            }
            if all(("fastmlp", precision) in ran for precision in PRECISIONS):
                small = sized(workload, results.get("quick", False))
                yield MixedNet(small, threads, ran)


def table(results: Record, threads: int) -> Iterator[str]:
    shown = [group for group in groups(results) if group.threads == threads]
    if not shown:
        return
    peaks = " and ".join(
        f"{peak_of(results, p, threads):.0f} in {p}" for p in PRECISIONS
    )
    rows = [_cells(results, group) for group in shown]
    yield from Table(TITLES, rows).under(
        f"Multiply-adds in registers reach {peaks}, GFLOP/s. Milliseconds a step, the share "
        "of the peak in bfloat16, and float32's time over that in bfloat16 are fastmlp's. Then "
        "what the fastest peer of either precision takes over fastmlp in bfloat16: medians (and "
        "quartiles) of interleaved turns, and the ratio of the least times, which other "
        "processes disturb least; below 1 the peer is ahead."
    )
    keys = [(n, p) for n in COLUMNS for p in PRECISIONS]
    heads = ["net@batch", *(f">{PEERS[n].title}, {p}" for n, p in keys)]
    rows = [
        [
            g.name,
            *(f"{g.ratio(*k).median:.2f}x" if k in g.records else "-" for k in keys),
        ]
        for g in shown
    ]
    yield from Table(heads, rows).under(
        "Each peer's time over that of fastmlp in bfloat16."
    )
    names = ("fastmlp", *COLUMNS)
    rows = [[g.name, *(_losses(g, n) for n in names)] for g in shown]
    yield from Table(["net@batch", *titles(names)], rows).under(
        "The loss of all rows after one epoch from the same start, in float32, and in bfloat16; "
        "each library shuffles by its own generator."
    )
    for name in COLUMNS:
        key = name, "bfloat16"
        if records := [group.records[key] for group in shown if key in group.records]:
            yield ways(f"{PEERS[name].title} in bfloat16, its way", records, "variant")
    if kernels := results["mixed"].get("kernels", []):
        yield f"\nWhat oneDNN ran for PyTorch on {shown[0].name} (`ONEDNN_VERBOSE=1`):\n"
        yield from (f"    {line}" for line in kernels)


def _cells(results: Record, group: MixedNet) -> list[str]:
    best = group.fastest_peer()
    half, whole = (
        1e3 * float(np.median(group.seconds("fastmlp", p))) for p in PRECISIONS
    )
    share = (
        group.workload.flops / half / 1e6 / peak_of(results, "bfloat16", group.threads)
    )
    cells = [group.name, f"{whole:.3g}", f"{half:.3g}", f"{share:.0%}"]
    cells += [group.cell("fastmlp", "float32")]
    return [
        *cells,
        f"{group.cell(*best)}, {PEERS[best[0]].title}, {best[1]}" if best else "-",
    ]


def _losses(group: MixedNet, name: str) -> str:
    records = [group.records.get((name, p)) for p in reversed(PRECISIONS)]
    return ", ".join(f"{record['loss']:.3f}" if record else "-" for record in records)


PART = Part("mixed", "mixed", measure, table, PAGE, kind=dict, repeated=True)
