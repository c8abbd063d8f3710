"""From records to numbers for people: medians, quartiles, rates, ratios of interleaved repeats."""

from typing import Any, NamedTuple

import numpy as np

from benchmarks.peers import PEERS
from benchmarks.workloads import BY_NAME, Workload


def counted(n_threads: int) -> str:
    """Return "1 thread", "2 threads"."""
    return f"{n_threads} thread{'s' if n_threads != 1 else ''}"


class Quartiles(NamedTuple):
    """A median and the quartiles beside it."""

    low: float
    median: float
    high: float


class Score(NamedTuple):
    """One contestant on one workload; `ratio` is its time over fastmlp's, above 1 a win of ours."""

    contestant: str
    variant: str
    us: Quartiles
    samples_per_second: float
    gflops: float
    percent_of_peak: float
    ratio: Quartiles
    loss: float
    first_seconds: float

    @property
    def title(self) -> str:
        """The contestant's name for people."""
        return PEERS[self.contestant].title


class Heat(NamedTuple):
    """A workload at a number of threads: who took part, and who could not."""

    workload: Workload
    threads: int
    scores: list[Score]
    absent: list[tuple[str, str]]

    @property
    def ours(self) -> Score | None:
        """fastmlp's score."""
        return next((s for s in self.scores if s.contestant == "fastmlp"), None)

    @property
    def fastest_peer(self) -> Score | None:
        """The peer with the least time, in turns of the same round: where a machine has two speeds
        for seconds at a time, medians of times may be of one or of the other."""
        peers = [s for s in self.scores if s.contestant != "fastmlp"]
        by_ratio = self.ours is not None
        return min(peers, key=lambda s: (s.ratio if by_ratio else s.us).median, default=None)

    def of(self, name: str) -> Score | None:
        """Return a contestant's score, if it has one."""
        return next((s for s in self.scores if s.contestant == name), None)


def quartiles(values: Any) -> Quartiles:
    """Return the quartiles of some numbers."""
    return Quartiles(*(float(q) for q in np.quantile(values, [0.25, 0.5, 0.75])))


def peak_of(results: dict[str, Any], dtype: str, threads: int) -> float:
    """Return the best GFLOP/s that multiply-adds reached, NaN if not measured."""
    rates = [
        record["gflops"]
        for record in results["peaks"]
        if record["what"] == f"fma {dtype}" and record["threads"] == threads
    ]
    return max(rates, default=float("nan"))


def heats(results: dict[str, Any]) -> list[Heat]:
    """Return all workloads, in the order they were run."""
    keys = dict.fromkeys((r["workload"], r["threads"]) for r in results["training"])
    return [_heat(results, *key) for key in keys]


def _heat(results: dict[str, Any], name: str, threads: int) -> Heat:
    workload = BY_NAME[name]
    if results.get("quick"):
        workload = workload.quick()
    records = [r for r in results["training"] if (r["workload"], r["threads"]) == (name, threads)]
    ran = {r["contestant"]: r for r in records if r["step_seconds"]}
    base = ran.get("fastmlp", {}).get("step_seconds")
    peak = peak_of(results, workload.dtype, threads)
    scores = [_score(workload, record, base, peak) for record in ran.values()]
    absent = [
        (r["contestant"], r.get("unsupported") or r.get("error") or "no result")
        for r in records
        if r["contestant"] not in ran
    ]
    return Heat(workload, threads, scores, absent)


def _score(workload: Workload, record: dict[str, Any], base: Any, peak: float) -> Score:
    seconds = np.array(record["step_seconds"])
    rate = 1 / float(np.median(seconds))
    together = min(len(seconds), len(base)) if base else 0
    ratio = seconds[:together] / np.array(base[:together]) if together else [float("nan")]
    gflops = workload.flops * rate / 1e9
    return Score(
        contestant=record["contestant"],
        variant=record["variant"],
        us=quartiles(seconds * 1e6),
        samples_per_second=workload.batch * rate,
        gflops=gflops,
        percent_of_peak=100 * gflops / peak,
        ratio=quartiles(ratio),
        loss=record["loss"],
        first_seconds=record["first_seconds"],
    )


def geometric_means(all_heats: list[Heat], threads: int) -> dict[str, tuple[float, int, int]]:
    """Return, by contestant and for the "fastest peer", (mean ratio, wins, workloads)."""
    here = [heat for heat in all_heats if heat.threads == threads and heat.ours]
    ratios: dict[str, list[float]] = {}
    for heat in here:
        for score in heat.scores:
            if score.contestant != "fastmlp":
                ratios.setdefault(score.contestant, []).append(score.ratio.median)
        if heat.fastest_peer:
            ratios.setdefault("fastest peer", []).append(heat.fastest_peer.ratio.median)
    return {
        name: (float(np.exp(np.mean(np.log(r)))), sum(x > 1 for x in r), len(r))
        for name, r in ratios.items()
    }
