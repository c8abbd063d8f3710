"""Mixed precision: fastmlp, PyTorch and JAX with products of bfloat16, each beside its float32.

Each contestant has two processes, one for a precision. All of them take turns on a net, so that
ratios are of the same rounds, and a peer's time is that of the faster precision.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from benchmarks import race
from benchmarks.peers import PEERS, load
from benchmarks.scores import Quartiles, counted, peak_of, quartiles
from benchmarks.workloads import BY_NAME, MIXED, Workload

COLUMNS = ("jax", "compile", "torch")
PRECISIONS = ("bfloat16", "float32")


class Aim(NamedTuple):
    """What is to hold of a net: the fastest peer's time of either precision over fastmlp's, and
    that of fastmlp's own float32."""

    peer: float
    own: float


AIMS = {
    "128-1024-1024-10@512": Aim(1.2, 1.6),
    "784-512-512-10@128": Aim(1.2, 1.4),
    "1024-2048-2048-1000@512": Aim(1.05, 1.7),
    "32-256-256-10@256": Aim(float("nan"), 1.15),
    "23-256-256-1@256": Aim(float("nan"), 1.15),
}
# Of the bfloat16 peak, of the net with the most operations.
PEAK_AIM = 0.74


def plain(workload: Workload) -> Workload:
    """Return the same in float32."""
    return workload._replace(compute_dtype=None)


def measure(
    contestants: list[Any],
    names: list[str] | None,
    effort: race.Effort,
    say: race.Say,
    earlier: dict[str, Any],
) -> dict[str, Any]:
    """Return a record per net, contestant and precision; another pass adds its turns.

    Of a contestant's two processes the second has bfloat16. Only nets are tried whose names contain
    one of `names`, if there are some.
    """
    records = []
    for workload in MIXED:
        if not race.asked_for(workload.name, names):
            continue
        seen: list[str] = []
        entries = []
        for contestant in contestants:
            key = f"{contestant.name}, {contestant.n_threads}"
            entries.append((contestant, workload if key in seen else plain(workload)))
            seen.append(key)
        known = [r for r in earlier.get("training", []) if r["workload"] in _names(workload)]
        records += race.turns(entries, effort, say, known)
    return {"training": records, "kernels": earlier.get("kernels") or _kernels(records, say)}


def chosen(results: dict[str, Any]) -> dict[str, Any]:
    """Return an earlier run's records without its times: to go on with its variants."""
    records = results["mixed"]["training"]
    return {"training": [{**record, "step_seconds": []} for record in records]}


def _names(workload: Workload) -> tuple[str, str]:
    return workload.name, plain(workload).name


def _kernels(records: list[dict[str, Any]], say: race.Say) -> list[str]:
    """Return what oneDNN runs for PyTorch's products of the net that was first."""
    ran = [r for r in records if r["contestant"] == "torch" and r["step_seconds"]]
    mixed = [r for r in ran if BY_NAME[r["workload"]].compute_dtype]
    if not mixed:
        return []
    say("what oneDNN runs")
    found = load("torch", "mixed").kernels(BY_NAME[mixed[0]["workload"]], mixed[0]["variant"])
    return list(found)


class Group(NamedTuple):
    """A net at a number of threads: records by contestant and precision that have turns."""

    workload: Workload
    threads: int
    records: dict[tuple[str, str], dict[str, Any]]

    @property
    def name(self) -> str:
        """The net and its batch."""
        return plain(self.workload).name

    def ms(self, contestant: str, precision: str) -> float:
        """Return the median of milliseconds a step."""
        return 1e3 * float(np.median(self.records[contestant, precision]["step_seconds"]))

    def ratio(self, contestant: str, precision: str) -> Quartiles:
        """Return its time over that of fastmlp in bfloat16, by turn."""
        ours = self.records["fastmlp", "bfloat16"]["step_seconds"]
        theirs = self.records[contestant, precision]["step_seconds"]
        return quartiles([b / a for a, b in zip(ours, theirs, strict=False)])

    def least(self, contestant: str, precision: str) -> float:
        """Return its least time over that of fastmlp in bfloat16: others disturb it least."""
        ours, theirs = self.records["fastmlp", "bfloat16"], self.records[contestant, precision]
        return float(min(theirs["step_seconds"]) / min(ours["step_seconds"]))

    def fastest_peer(self) -> tuple[str, str] | None:
        """Return the peer, and its precision, with the least time in turns of the same round."""
        peers = [key for key in self.records if key[0] != "fastmlp"]
        return min(peers, key=lambda key: self.ratio(*key).median, default=None)

    def share(self, results: dict[str, Any], precision: str) -> float:
        """Return fastmlp's share of the peak of products in this precision."""
        rate = self.workload.flops / self.ms("fastmlp", precision) / 1e6
        return rate / peak_of(results, precision, self.threads)


def groups(results: dict[str, Any]) -> Iterator[Group]:
    """Yield all nets that fastmlp has trained in both precisions."""
    records = (results.get("mixed") or {}).get("training", [])
    for workload in MIXED:
        for threads in dict.fromkeys(r["threads"] for r in records):
            its = {
                (r["contestant"], BY_NAME[r["workload"]].compute_dtype or "float32"): r
                for r in records
                if r["workload"] in _names(workload) and r["threads"] == threads
            }
            ran = {key: r for key, r in its.items() if r["step_seconds"]}
            if all(("fastmlp", precision) in ran for precision in PRECISIONS):
                small = workload.quick() if results.get("quick") else workload
                yield Group(small, threads, ran)


def lines(results: dict[str, Any]) -> Iterator[str]:
    """All of it, as text."""
    for group in groups(results):
        yield f"\nin mixed precision, {group.name}, {counted(group.threads)}"
        yield (
            f"  {'contestant':<14} {'precision':<9} {'ms/step':>8} {'/ ours':>7} "
            f"{'quartiles':>13} {'loss':>8}  variant"
        )
        for name, precision in sorted(group.records, key=lambda key: group.ms(*key)):
            record, q = group.records[name, precision], group.ratio(name, precision)
            yield (
                f"  {PEERS[name].title:<14} {precision:<9} {group.ms(name, precision):>8.3f} "
                f"{q.median:>7.2f} {f'{q.low:.2f} - {q.high:.2f}':>13} {record['loss']:>8.4f}  "
                f"{record['variant']}"
            )
        shares = ", ".join(f"{group.share(results, p):.0%} of {p}'s" for p in PRECISIONS)
        yield f"  fastmlp's share of the peak: {shares}"
    mixed = results.get("mixed") or {}
    for r in mixed.get("training", []):
        if not r["step_seconds"]:
            why = r.get("error") or r.get("unsupported") or "no result"
            yield f"  {r['workload']}: {PEERS[r['contestant']].title}: {why}"
    yield from (f"  oneDNN: {line}" for line in mixed.get("kernels", []))


def table(results: dict[str, Any], threads: int) -> Iterator[str]:
    """The nets' times, ratios and losses, in Markdown."""
    found = [group for group in groups(results) if group.threads == threads]
    if not found:
        return
    peaks = " and ".join(f"{peak_of(results, p, threads):.0f} in {p}" for p in PRECISIONS)
    yield (
        f"\nMultiply-adds in registers reach {peaks}, GFLOP/s. Milliseconds a step, the share "
        "of the peak in bfloat16, and float32's time over that in bfloat16 are fastmlp's. Then "
        "what the fastest peer of either precision takes over fastmlp in bfloat16: medians (and "
        "quartiles) of interleaved turns, and the ratio of the least times, which other "
        "processes disturb least; below 1 the peer is ahead.\n"
    )
    yield "| net@batch | float32 | bfloat16 | of peak | gain | aim | fastest peer | aim |"
    yield "|---|--:|--:|--:|--:|--:|---|--:|"
    most = max(group.workload.flops for group in found)
    yield from (_row(results, group, widest=group.workload.flops == most) for group in found)
    titles = [f"{PEERS[n].title}, {p}" for n in COLUMNS for p in PRECISIONS]
    yield "\nEach peer's time over that of fastmlp in bfloat16.\n"
    yield f"| net@batch | {' | '.join(titles)} |"
    yield f"|---|{'--:|' * len(titles)}"
    for group in found:
        keys = [(n, p) for n in COLUMNS for p in PRECISIONS]
        cells = [f"{group.ratio(*k).median:.2f}x" if k in group.records else "-" for k in keys]
        yield f"| {group.name} | {' | '.join(cells)} |"
    yield from _losses(found)
    yield from _ways(results, found)


def _row(results: dict[str, Any], group: Group, *, widest: bool) -> str:
    own, aim, best = group.ratio("fastmlp", "float32"), AIMS[group.name], group.fastest_peer()
    share = f"{group.share(results, 'bfloat16'):.0%}"
    cells = [group.name, *(f"{group.ms('fastmlp', p):.3g}" for p in reversed(PRECISIONS))]
    cells += [f"{share}, aim {PEAK_AIM:.0%}" if widest else share]
    cells += [_spread(own, group.least("fastmlp", "float32")), f"{aim.own:g}x"]
    who = f", {PEERS[best[0]].title}, {best[1]}" if best else ""
    cells += [f"{_spread(group.ratio(*best), group.least(*best))}{who}" if best else "-"]
    cells += ["-" if np.isnan(aim.peer) else f"{aim.peer:g}x"]
    return f"| {' | '.join(cells)} |"


def _spread(q: Quartiles, least: float) -> str:
    return f"**{q.median:.2f}x** ({q.low:.2f} to {q.high:.2f}); {least:.2f}x"


def _losses(found: list[Group]) -> Iterator[str]:
    names = ("fastmlp", *COLUMNS)
    titles = [f"{PEERS[name].title}" for name in names]
    yield (
        "\nThe loss of all rows after one epoch from the same start, in float32, and in bfloat16; "
        "each library shuffles by its own generator.\n"
    )
    yield f"| net@batch | {' | '.join(titles)} |"
    yield f"|---|{'--:|' * len(titles)}"
    for group in found:
        cells = [
            ", ".join(
                f"{group.records[name, p]['loss']:.3f}" if (name, p) in group.records else "-"
                for p in reversed(PRECISIONS)
            )
            for name in names
        ]
        yield f"| {group.name} | {' | '.join(cells)} |"


def _ways(results: dict[str, Any], found: list[Group]) -> Iterator[str]:
    """Which variants were the fastest, and what oneDNN says."""
    for name in COLUMNS:
        its = [
            group.records[name, "bfloat16"]
            for group in found
            if (name, "bfloat16") in group.records
        ]
        ways = dict.fromkeys(record["variant"] for record in its)
        if ways:
            yield f"\n{PEERS[name].title} in bfloat16, its way: {'; '.join(ways)}."
    told = results["mixed"].get("kernels", [])
    if told:
        yield f"\nWhat oneDNN ran for PyTorch on {found[0].name} (`ONEDNN_VERBOSE=1`):\n"
        yield from (f"    {line}" for line in told)
