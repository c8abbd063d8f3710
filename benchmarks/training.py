"""Training: seconds a step of each workload beside the peers', and their geometric means."""

import math
import time
from collections.abc import Iterator
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from benchmarks.output import DOCS, Table
from benchmarks.peers import PEERS, Unsupported, titles
from benchmarks.race import Part, Race, timed
from benchmarks.scores import (
    Comparison,
    Quartiles,
    Record,
    counted,
    digits,
    geometric,
    grouped,
    over,
    peak_of,
    quartiles,
    reason,
)
from benchmarks.workloads import BY_NAME, Workload, sized

PAGE = DOCS / "benchmarks.md"
COLUMNS = ("jax", "compile", "torch", "sklearn", "numpy")
BEST = "fastest peer"
# Of each variant, where there are several.
TURNS = 3
TITLES = [
    "",
    "contestant",
    ">us/step",
    ">quartiles",
    ">samples/s",
    ">GFLOP/s",
    ">% peak",
]
TITLES += [">/ fastmlp", ">quartiles", ">loss", ">first", "variant"]


class Work:
    """In a contestant's process: the run of its fastest variant, of all or of one.

    Attributes
    ----------
    about : the variant, the seconds of its first epoch and of a later one, and the loss after one
        from the start; the seconds of all variants that were tried
    """

    def __init__(
        self,
        worker: Any,
        workload: str,
        quick: bool,
        variant: str | None = None,
        trial_seconds: float = math.inf,
    ) -> None:
        self.clock, begin = worker.clock, time.perf_counter()
        load = sized(BY_NAME[workload], quick)
        variants = [variant] if variant else worker.module.VARIANTS[load.form]
        runs: dict[str, Any] = {}
        replies: dict[str, Any] = {}
        for name in variants[:1] if quick else variants:
            if runs and time.perf_counter() - begin > trial_seconds:
                break
            try:
                runs[name], replies[name] = _first(worker.module, load, name)
            except Unsupported:
                if name == variants[0]:
                    raise
        # A variant that computes nonsense is not a way to do the work.
        sound = [name for name, reply in replies.items() if np.isfinite(reply["loss"])]
        if not sound:
            raise ArithmeticError("the loss is not finite after one epoch")
        # In turns, as a machine may have slower seconds.
        n_turns = TURNS if len(sound) > 1 else 1
        turns = [[_epoch_seconds(runs[name]) for name in sound] for _ in range(n_turns)]
        tried = dict(zip(sound, np.median(turns, axis=0).tolist(), strict=True))
        best = min(tried, key=lambda name: tried[name])
        self.run = runs[best]
        self.about = {**replies[best], "epoch_seconds": tried[best], "tried": tried}

    def turn(self, n: int) -> Record:
        """Train n epochs, timed, after one from the start, to wake pools, caches and memory."""
        self.run.reset()
        self.run.epochs(1)
        return {"seconds": timed(partial(self.run.epochs, n), self.clock)[0]}


def _first(module: Any, workload: Workload, variant: str) -> tuple[Any, Record]:
    """A run, the seconds of its first epoch, and the loss after one from the start."""

    def made() -> Any:
        run = module.make(workload, variant)
        run.epochs(1)
        return run

    first, run = timed(made)
    run.reset()
    run.epochs(1)
    return run, {"variant": variant, "first_seconds": first, "loss": run.loss()}


def _epoch_seconds(run: Any) -> float:
    """The seconds of an epoch, of several in one call: fewer entries from Python."""
    run.reset()
    n = min(max(1, int(0.1 / timed(partial(run.epochs, 1))[0])), 1000)
    return timed(partial(run.epochs, n))[0] / n


class Score(NamedTuple):
    """A contestant on a workload; `ratio` is the time over fastmlp's, above 1 where that wins."""

    contestant: str
    variant: str
    us: Quartiles
    gflops: float
    percent_of_peak: float
    ratio: Quartiles
    loss: float
    first_seconds: float

    @property
    def title(self) -> str:
        return PEERS[self.contestant].title


class Heat(NamedTuple):
    """A workload at a number of threads: scores, and the contestants that have none."""

    workload: Workload
    threads: int
    scores: list[Score]
    absent: list[tuple[str, str]]

    @property
    def ours(self) -> Score | None:
        return self.of("fastmlp")

    @property
    def fastest_peer(self) -> Score | None:
        """The peer with the least time, in turns of the same round: where a machine has two speeds
        for seconds at a time, medians of times may be of one or of the other."""
        peers = [s for s in self.scores if s.contestant != "fastmlp"]
        by_ratio = self.ours is not None
        return min(
            peers, key=lambda s: (s.ratio if by_ratio else s.us).median, default=None
        )

    def of(self, name: str) -> Score | None:
        return next((s for s in self.scores if s.contestant == name), None)

    def ratio(self, name: str) -> str:
        score = self.of(name)
        return f"{score.ratio.median:.2f}x" if score else "-"

    def fastest(self) -> str:
        """The cell of the fastest peer: ratio, quartiles, name."""
        peer = self.fastest_peer
        return f"{peer.ratio.cell}, {peer.title}" if peer else "-"


def heats(results: Record) -> list[Heat]:
    """All workloads, in the order they were run."""
    groups = grouped(results["training"], "workload", "threads")
    return [_heat(results, name, n, records) for (name, n), records in groups.items()]


def _heat(results: Record, name: str, threads: int, records: list[Record]) -> Heat:
    load = sized(BY_NAME[name], results.get("quick", False))
    ran = {r["contestant"]: r for r in records if r["step_seconds"]}
    base = ran.get("fastmlp", {}).get("step_seconds")
    peak, scores = peak_of(results, load.dtype, threads), []
    for record in ran.values():
        us = quartiles(1e6 * np.array(record["step_seconds"]))
        gflops = load.flops / us.median / 1e3
        score = Score(
            contestant=record["contestant"],
            variant=record["variant"],
            us=us,
            gflops=gflops,
            percent_of_peak=100 * gflops / peak,
            ratio=over(record["step_seconds"], base),
            loss=record["loss"],
            first_seconds=record["first_seconds"],
        )
        scores.append(score)
    absent = [
        (r["contestant"], reason(r)) for r in records if r["contestant"] not in ran
    ]
    return Heat(load, threads, scores, absent)


def geometric_means(
    all_heats: list[Heat], threads: int
) -> dict[str, tuple[float, int]]:
    """(mean ratio, workloads) of the fastest peer, and of those with most of the workloads."""
    ratios: dict[str, list[float]] = {}
    for heat in all_heats:
        if heat.threads != threads or not heat.ours:
            continue
        peers = [(s.contestant, s) for s in heat.scores if s.contestant != "fastmlp"]
        peers += [(BEST, heat.fastest_peer)] if heat.fastest_peer else []
        for name, score in peers:
            ratios.setdefault(name, []).append(score.ratio.median)
    most = 0.8 * len(ratios.get(BEST, ()))
    return {n: (geometric(r), len(r)) for n, r in ratios.items() if len(r) >= most}


def measure(race: Race, earlier: list[Record], form: str = "plain") -> list[Record]:
    """A record of each workload of a form and contestant; another pass adds its turns."""
    trainers = [c for c in race.contestants if form in PEERS[c.name].forms]
    records = []
    for load in (
        w for w in BY_NAME.values() if w.form == form and race.asked_for(w.name)
    ):
        known = [r for r in earlier if r["workload"] == load.name]
        records += race.train([(contestant, load) for contestant in trainers], known)
        for heat in heats({"training": records[-len(trainers) :], "quick": race.quick}):
            race.say(f"{heat.workload.name}: {heat.fastest()}")
    return records


def compared(results: Record, threads: int) -> Iterator[Comparison]:
    for heat in heats(results):
        if heat.threads == threads and heat.ours and (peer := heat.fastest_peer):
            seconds, ratio = 1e-6 * heat.ours.us.median, peer.ratio.median
            yield Comparison(
                "Training steps", heat.workload.name, seconds, peer.title, ratio
            )


def heat_lines(heat: Heat) -> Iterator[str]:
    """A workload for the terminal: every contestant, the fastest peer marked."""
    load = heat.workload
    yield f"\n{load.description}; {load.flops / 1e6:.3g} MFLOP a step; {counted(heat.threads)}"
    rows = []
    for s in sorted(heat.scores, key=lambda score: score.us.median):
        low, us, high = s.us
        cells = ["*" if s is heat.fastest_peer else "", s.title, digits(us)]
        cells += [f"{digits(low)} - {digits(high)}", f"{1e6 * load.batch / us:,.0f}"]
        cells += [digits(s.gflops), f"{s.percent_of_peak:.1f}", f"{s.ratio.median:.2f}"]
        cells += [s.ratio.spread, f"{s.loss:.4f}", f"{s.first_seconds:.1f}s", s.variant]
        rows.append(cells)
    yield from Table(TITLES, rows).text()
    yield from (f"   {PEERS[name].title} - {why}" for name, why in heat.absent)


def lines(results: Record) -> Iterator[str]:
    for heat in heats(results):
        yield from heat_lines(heat)


def table(results: Record, threads: int) -> Iterator[str]:
    yield (
        "\nTraining: microseconds a step, the share of the cores' multiply-add peak, and each "
        "peer's time over fastmlp's: medians (and quartiles) of interleaved repeats; below 1 the "
        "peer is ahead.\n"
    )
    all_heats = heats(results)
    rows: list[list[str]] = []
    for heat in all_heats:
        if heat.threads == threads and (ours := heat.ours):
            cells = [
                digits(ours.us.median),
                f"{ours.percent_of_peak:.0f} %",
                heat.fastest(),
            ]
            rows.append([heat.workload.description, *cells, *map(heat.ratio, COLUMNS)])
    means = geometric_means(all_heats, threads)
    best, *cells = [
        f"{means[n][0]:.2f}x" if n in means else "-" for n in (BEST, *COLUMNS)
    ]
    rows.append(["geometric mean", "", "", f"**{best}**", *cells])
    heads = ["net@batch", ">fastmlp, us", ">of peak", BEST]
    yield from Table([*heads, *titles(COLUMNS)], rows).markdown()


PART = Part(
    "train", "training", measure, table, PAGE, lines, repeated=True, compared=compared
)
