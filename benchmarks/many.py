"""Many nets in one go: fastmlp's `fit_many` beside its peers, and beside itself.

A turn trains all nets from the start. fastmlp's also makes them, as a user would.
"""

from collections.abc import Iterator
from functools import partial
from importlib import import_module
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from benchmarks import grid
from benchmarks.output import DOCS, Table
from benchmarks.race import Part, Race, add, key_of, timed
from benchmarks.scores import (
    Comparison,
    Record,
    best_turns,
    counted,
    fastest,
    grouped,
    peak_of,
    quartiles,
)
from benchmarks.workloads import Array, Rule, Workload, sized


class Sweep(NamedTuple):
    """Nets of one shape on one set of rows.

    Attributes
    ----------
    workload : the net, its rows and its steps
    data_set : "digits", or "teacher" for the workload's own
    rates, penalties : of which the nets take one after the other
    """

    name: str
    workload: Workload
    n_nets: int
    epochs: int
    data_set: str = "teacher"
    rates: tuple[float, ...] = (1e-3,)
    penalties: tuple[float, ...] = (0.0,)

    @property
    def mixed(self) -> bool:
        """Return True if each net has a rate and a penalty of its own."""
        return len(self.rates) + len(self.penalties) > 2

    @property
    def description(self) -> str:
        """Everything, for people."""
        other = (
            f", {len(self.rates)} rates, {len(self.penalties)} penalties"
            if self.mixed
            else ""
        )
        return (
            f"{self.n_nets:,} x {self.workload.description}, {self.workload.n_rows:,} rows of "
            f"{self.data_set}, {self.epochs} epochs{other}"
        )

    @property
    def net_flops(self) -> int:
        """Floating-point operations of one net's training."""
        return self.workload.flops * self.workload.n_steps * self.epochs

    def quick(self) -> "Sweep":
        return self._replace(n_nets=4, epochs=2, workload=self.workload.quick())

    def settings(self) -> list[tuple[float, float]]:
        pairs = [(rate, l2) for l2 in self.penalties for rate in self.rates]
        return [pairs[i % len(pairs)] for i in range(self.n_nets)]

    def data(self) -> tuple[Array, Array]:
        """X, shape (n_rows, sizes[0]), and y."""
        if self.data_set == "teacher":
            return self.workload.data()
        from sklearn.datasets import load_digits

        x, y = load_digits(return_X_y=True)
        n = self.workload.n_rows
        return (x[:n] / 16).astype(self.workload.dtype), y[:n]

    def starts(self) -> list[tuple[Array, Array]]:
        """New starting weights, shape (n_nets, n_in, n_out), and biases, by layer."""
        rng = np.random.default_rng(2)
        dtype, sizes = self.workload.dtype, self.workload.sizes
        return [
            (
                (rng.standard_normal((self.n_nets, a, b)) * np.sqrt(2 / a)).astype(
                    dtype
                ),
                np.zeros((self.n_nets, b), dtype),
            )
            for a, b in pairwise(sizes)
        ]


DIGITS = Workload((64, 64, 10), 64, 1_792, loss="cross_entropy")
TABULAR = Workload((13, 32, 32, 1), 32, 512, rule=Rule("adam"))
SWEEPS = {
    sweep.name: sweep
    for sweep in (
        Sweep("32 nets", DIGITS, 32, 20, "digits"),
        Sweep(
            "1,000 nets",
            TABULAR,
            1_000,
            200,
            "teacher",
            (1e-4, 1e-3, 1e-2),
            (0.0, 0.01, 0.1),
        ),
    )
}


MODULES = {
    "fastmlp": "fastmlp_nets",
    "jax": "jax_nets",
    "sklearn": "sklearn_nets",
    "torch": "torch_nets",
}
TITLES = {
    "fastmlp": "fastmlp, fit_many",
    "jax": "JAX",
    "sklearn": "scikit-learn, processes",
    "torch": "PyTorch, vmap",
}
# The contestants that train nets with settings of their own; the others have one optimizer for all
# of them, or take minutes.
MIXED = ("fastmlp", "jax")
# PyTorch takes 20 s and more for one turn.
MOST_TURNS, LONG_SECONDS, LONG_REPEATS = 5, 5.0, 2


def make(contestant: str, name: str, quick: bool, **options: Any) -> Any:
    """A contestant's nets; made once, `train(epochs, shuffle=True)` trains them from the start.

    Their `losses`, an (n_nets,) array, are the mean losses of the last epoch.
    """
    module = import_module(f"benchmarks.peers.{MODULES[contestant]}")
    return module.Many(sized(SWEEPS[name], quick), **options)


def ways(contestant: str) -> list[str | None]:
    """The ways that a contestant has to train many nets, of which the fastest counts."""
    module = import_module(f"benchmarks.peers.{MODULES[contestant]}")
    return list(module.VARIANTS.get("many", [None]))


def measure(race: Race, earlier: Record) -> Record:
    """A record per sweep and contestant, seconds of whole trainings by turn; those of the grid."""

    def turn(contestant: Any, record: Record) -> None:
        if (
            record["first_seconds"] > LONG_SECONDS
            and len(record["seconds"]) >= LONG_REPEATS
        ):
            return
        verbs = ["seconds"]
        if contestant.name == "fastmlp":
            verbs += ["alone", "one_thread"] if contestant.n_threads > 1 else ["alone"]
        for verb in verbs:
            add(record[verb], contestant.ask("turn", what=verb))

    records = []
    few = {"fastmlp"} == {contestant.name for contestant in race.contestants}
    for name, sweep in [*SWEEPS.items()][: 1 if few else None]:
        works = [
            (
                c,
                key_of(c, sweep=name, seconds=[], one_thread=[], alone=[]),
                {"name": name},
            )
            for c in race.only(MIXED if sweep.mixed else MODULES).contestants
        ]
        race.take_turns("many", works, turn, MOST_TURNS)
        records += [record for _, record, _ in works]
    return {"sweeps": records, "grids": grid.measure(race)}


class Work:
    """In a contestant's process: many nets, trained in its fastest way.

    Attributes
    ----------
    about : the way, the seconds of its first training and of the last, and the mean loss
    """

    def __init__(self, worker: Any, name: str, quick: bool) -> None:
        self.clock, self.contestant = worker.clock, worker.name
        self.sweep = name, quick
        tried = [self._made(way) for way in ways(worker.name)]
        best = min(tried, key=lambda reply: reply["again_seconds"])
        if best is not tried[-1]:
            self._made(best["way"])
        self.about = best

    def _made(self, way: str | None) -> Record:
        options: Any = {"way": way} if way else {}
        self.nets = make(self.contestant, *self.sweep, **options)
        self.single: Any = None
        if self.contestant == "fastmlp":
            self.single = make(self.contestant, *self.sweep, n_threads=1)
        n = 2 if len(ways(self.contestant)) > 1 else 1
        times = [self.turn("seconds")["seconds"] for _ in range(n)]
        loss = float(np.mean(self.nets.losses))
        return {
            "way": way,
            "first_seconds": times[0],
            "again_seconds": times[-1],
            "loss": loss,
        }

    def turn(self, what: str) -> Record:
        """Train all nets, on all threads or on one, timed; or one by its own fit, alone."""
        if what == "alone":
            return {"seconds": self.single.alone()}
        nets = self.single if what == "one_thread" else self.nets
        return {
            "seconds": timed(partial(nets.train, self.nets.sweep.epochs), self.clock)[0]
        }


def table(results: Record, threads: int) -> Iterator[str]:
    records = [r for r in results["many"].get("sweeps", []) if r["seconds"]]
    records = [r for r in records if r["threads"] == threads]
    medians = {
        (r["sweep"], r["contestant"]): quartiles(r["seconds"]).median for r in records
    }
    rows = []
    for r in records:
        sweep = sized(SWEEPS[r["sweep"]], results.get("quick", False))
        seconds = medians[r["sweep"], r["contestant"]]
        gflops = 1e-9 * sweep.net_flops * sweep.n_nets / seconds
        share = 100 * gflops / peak_of(results, sweep.workload.dtype, threads)
        ratio = seconds / medians.get((r["sweep"], "fastmlp"), np.nan)
        name = ", ".join(filter(None, [TITLES[r["contestant"]], r.get("way")]))
        cells = f"{1e3 * seconds / sweep.n_nets:.3g}", f"{share:.0f} %", f"{ratio:.2f}x"
        rows.append((sweep.description, name, *cells))
    titles = ("nets", "by", ">ms a net", ">of peak", ">time over fastmlp's")
    yield from Table(titles, rows).under(
        "Many nets in one call, whole trainings from the start:"
    )
    for r in (r for r in records if r["alone"]):
        n_nets = sized(SWEEPS[r["sweep"]], results.get("quick", False)).n_nets
        gain = min(r["seconds"]) / n_nets * threads / min(r["alone"])
        gains = f"{gain:.2f}"
        if r["one_thread"]:
            more = min(r["one_thread"]) / min(r["seconds"])
            gains += f"; {counted(threads)} over one: {more:.2f}x"
        yield (
            f"\n{r['sweep']}: time of a net, times the threads, over that of its own fit on "
            f"one: {gains}."
        )
    grids = results["many"].get("grids", [])
    yield from grid.lines([r for r in grids if r["threads"] == threads])


def compared(results: Record, threads: int) -> Iterator[Comparison]:
    records = [r for r in results["many"].get("sweeps", []) if r["threads"] == threads]
    for sweep, those in grouped(records, "sweep").items():
        yield from fastest("Many nets in one call", sweep, best_turns(those))


PAGE = DOCS / "benchmarks.md"
PART = Part("many", "many", measure, table, PAGE, kind=dict, compared=compared)
