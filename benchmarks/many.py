"""Many nets in one go: fastmlp's `fit_many` beside its peers, and beside itself.

A turn trains all nets from the start. fastmlp's also makes them, as a user would.
"""

from collections.abc import Callable, Iterator
from importlib import import_module
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from benchmarks import grid
from benchmarks.peers import PEERS
from benchmarks.scores import counted, peak_of, quartiles
from benchmarks.workloads import Array, Rule, Workload


class Sweep(NamedTuple):
    """Nets of one shape on one set of rows.

    Attributes
    ----------
    workload : the net, its rows and its steps
    data_set : "digits", or "teacher" for the workload's own
    rates, penalties : of which the nets take one after the other
    mixed : whether each net has a rate and a penalty of its own
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
        """Whether the nets differ in more than their seed."""
        return len(self.rates) + len(self.penalties) > 2

    @property
    def description(self) -> str:
        """Everything, for people."""
        other = f", {len(self.rates)} rates, {len(self.penalties)} penalties" if self.mixed else ""
        return (
            f"{self.n_nets:,} x {self.workload.description}, {self.workload.n_rows:,} rows of "
            f"{self.data_set}, {self.epochs} epochs{other}"
        )

    @property
    def net_flops(self) -> int:
        """Floating-point operations of one net's training."""
        return self.workload.flops * self.workload.n_steps * self.epochs

    def quick(self) -> "Sweep":
        """The same, but little of it."""
        return self._replace(n_nets=4, epochs=2, workload=self.workload.quick())

    def settings(self) -> list[tuple[float, float]]:
        """Return each net's rate and penalty."""
        pairs = [(rate, l2) for l2 in self.penalties for rate in self.rates]
        return [pairs[i % len(pairs)] for i in range(self.n_nets)]

    def data(self) -> tuple[Array, Array]:
        """Return X, shape (n_rows, sizes[0]), and y."""
        if self.data_set == "teacher":
            return self.workload.data()
        from sklearn.datasets import load_digits

        x, y = load_digits(return_X_y=True)
        n = self.workload.n_rows
        return (x[:n] / 16).astype(self.workload.dtype), y[:n]

    def starts(self) -> list[tuple[Array, Array]]:
        """Return new starting weights, shape (n_nets, n_in, n_out), and biases, by layer."""
        rng = np.random.default_rng(2)
        dtype, sizes = self.workload.dtype, self.workload.sizes
        return [
            (
                (rng.standard_normal((self.n_nets, a, b)) * np.sqrt(2 / a)).astype(dtype),
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
        Sweep("1,000 nets", TABULAR, 1_000, 200, "teacher", (1e-4, 1e-3, 1e-2), (0.0, 0.01, 0.1)),
    )
}


class Nets:
    """What every contestant can do with a sweep; made once, trained again and again.

    Attributes
    ----------
    losses : (n_nets,) array, each net's mean loss in the last epoch of the last training
    """

    losses: Any

    def train(self, epochs: int, *, shuffle: bool = True) -> None:
        """Train all nets from their start, and return when they are done."""
        raise NotImplementedError

    def parameters(self) -> Array:
        """Return all weights, then all biases, shape (n_nets, n_parameters)."""
        raise NotImplementedError


MODULES = {
    "fastmlp": "fastmlp_many",
    "jax": "jax_many",
    "sklearn": "sklearn_many",
    "torch": "torch_many",
}
TITLES = {"jax": "JAX", "sklearn": "scikit-learn, processes", "torch": "PyTorch, vmap"}
# Whom a sweep of nets with settings of their own takes; the others have one optimizer for all of
# them, or take minutes.
MIXED = ("fastmlp", "jax")
HEADER = (
    f"  {'contestant':<25} {'ms a net':>9} {'GFLOP/s':>8} {'% peak':>7} {'/ fastmlp':>10}  loss"
)
# PyTorch takes 20 s and more for one turn.
LONG_SECONDS, LONG_REPEATS = 5.0, 2


def make(contestant: str, name: str, quick: bool, **options: Any) -> Nets:
    """Return a contestant's nets."""
    sweep = SWEEPS[name].quick() if quick else SWEEPS[name]
    nets: Nets = import_module(f"benchmarks.peers.{MODULES[contestant]}").many(sweep, **options)
    return nets


def ways(contestant: str) -> list[str | None]:
    """Return the ways that a contestant has to train many nets, of which the fastest counts."""
    module = import_module(f"benchmarks.peers.{MODULES[contestant]}")
    return list(getattr(module, "WAYS", [None]))


def race(contestants: list[Any], repeats: int, quick: bool, say: Callable[[str], None]) -> Any:
    """Return a record per sweep and contestant, and one of the grid."""
    group = [c for c in contestants if c.name in MODULES]
    records = []
    for name, sweep in SWEEPS.items():
        entrants = [c for c in group if c.name in MIXED or not sweep.mixed]
        records += sweep_in_turns(name, entrants, repeats, quick, say)
    return {"sweeps": records, "grids": grid.race(contestants, quick, say)}


def sweep_in_turns(
    name: str, contestants: list[Any], repeats: int, quick: bool, say: Callable[[str], None]
) -> list[dict[str, Any]]:
    """Return one record per contestant: seconds of whole trainings by repeat, and more."""
    records, ready = [], []
    for contestant in contestants:
        say(f"{name}: preparing {contestant.title}, threads {contestant.n_threads}")
        reply = contestant.ask("prepare_many", name=name, quick=quick)
        record = {
            "sweep": name,
            "contestant": contestant.name,
            "threads": contestant.n_threads,
            **reply,
            "seconds": [],
            "one_thread": [],
            "alone": [],
        }
        records.append(record)
        if "loss" in reply:
            ready.append((contestant, record))
    for repeat in range(repeats):
        for contestant, record in ready[repeat % len(ready) :] + ready[: repeat % len(ready)]:
            if record["first_seconds"] > LONG_SECONDS and repeat >= LONG_REPEATS:
                continue
            _turn(contestant, record)
    return records


def _turn(contestant: Any, record: dict[str, Any]) -> None:
    verbs = ["seconds"]
    if contestant.name == "fastmlp":
        verbs += ["alone", "one_thread"] if contestant.n_threads > 1 else ["alone"]
    for verb in verbs:
        reply = contestant.ask("train_many", what=verb)
        record[verb] += [reply["seconds"]] if "seconds" in reply else []


class Trainer:
    """A contestant's nets in its own process."""

    def __init__(self, contestant: str, name: str, quick: bool, way: str | None = None) -> None:
        self.nets = make(contestant, name, quick, **({"way": way} if way else {}))
        self.single: Any = None
        if contestant == "fastmlp":
            self.single = make(contestant, name, quick, n_threads=1)
        self.epochs = (SWEEPS[name].quick() if quick else SWEEPS[name]).epochs

    def train(self, what: str) -> None:
        """Train all nets, on all threads or on one."""
        (self.single if what == "one_thread" else self.nets).train(self.epochs)


def lines(results: dict[str, Any]) -> Iterator[str]:
    """Every sweep, then the grid."""
    found = results.get("many") or {}
    records = [r for r in found.get("sweeps", []) if r["seconds"]]
    for name, threads in dict.fromkeys((r["sweep"], r["threads"]) for r in records):
        its = [r for r in records if (r["sweep"], r["threads"]) == (name, threads)]
        yield from _sweep_lines(name, threads, its, results)
    for r in found.get("sweeps", []):
        if "error" in r or "unsupported" in r:
            yield f"  {PEERS[r['contestant']].title}: {r.get('error') or r['unsupported']}"
    yield from grid.lines(found.get("grids", []))


def _sweep_lines(
    name: str, threads: int, records: list[dict[str, Any]], results: dict[str, Any]
) -> Iterator[str]:
    sweep = _sweep_of(name, results)
    yield f"\n{sweep.description}, {counted(threads)}"
    yield HEADER
    for r in sorted(records, key=lambda r: quartiles(r["seconds"]).median):
        yield (
            f"  {title(r):<25} {1e3 * seconds_a_net(r, sweep.n_nets):>9.3g} "
            f"{rate(r, sweep) / 1e9:>8.0f} {percent_of_peak(r, sweep, results):>7.1f} "
            f"{over_ours(r, records):>9.2f}x  {r['loss']:.4f}"
        )
    for r in records:
        if r["alone"]:
            yield (
                f"  a net's own fit on one thread: {1e3 * min(r['alone']):.3g} ms; "
                f"in the sweep, times the threads, {over_alone(r, sweep.n_nets):.3f} of it"
            )
        if r["one_thread"]:
            yield f"  {counted(threads)} over one: {speed_up(r):.2f}x"


def table(results: dict[str, Any], threads: int) -> Iterator[str]:
    """All of it, in Markdown."""
    found = results.get("many") or {}
    records = [r for r in found.get("sweeps", []) if r["seconds"] and r["threads"] == threads]
    if records:
        yield "\nMany nets in one call, whole trainings from the start:\n"
        yield "| nets | by | ms a net | of peak | time over fastmlp's |"
        yield "|---|---|--:|--:|--:|"
    for r in records:
        sweep = _sweep_of(r["sweep"], results)
        its = [other for other in records if other["sweep"] == r["sweep"]]
        share = f"{percent_of_peak(r, sweep, results):.0f} %"
        cells = [f"{1e3 * seconds_a_net(r, sweep.n_nets):.3g}", share, f"{over_ours(r, its):.2f}x"]
        yield f"| {sweep.description} | {title(r)} | {' | '.join(cells)} |"
    for r in (r for r in records if r["alone"]):
        of_own = over_alone(r, _sweep_of(r["sweep"], results).n_nets)
        gain = f"; {counted(threads)} over one: {speed_up(r):.2f}x" if r["one_thread"] else ""
        yield (
            f"\n{r['sweep']}: time of a net, times the threads, over that of its own fit on one: "
            f"{of_own:.2f}{gain}."
        )
    yield from grid.table([r for r in found.get("grids", []) if r["threads"] == threads])


def _sweep_of(name: str, results: dict[str, Any]) -> Sweep:
    return SWEEPS[name].quick() if results.get("quick") else SWEEPS[name]


def title(record: dict[str, Any]) -> str:
    """Return who it is, and by what."""
    name = TITLES.get(record["contestant"], "fastmlp, fit_many")
    return f"{name}, {record['way']}" if record.get("way") else name


def seconds_a_net(record: dict[str, Any], n_nets: int) -> float:
    """Return the median turn's seconds over the number of nets."""
    return float(quartiles(record["seconds"]).median / n_nets)


def rate(record: dict[str, Any], sweep: Any) -> float:
    """Return operations a second."""
    return float(sweep.net_flops / seconds_a_net(record, sweep.n_nets))


def percent_of_peak(record: dict[str, Any], sweep: Any, results: dict[str, Any]) -> float:
    """Return the share of the multiply-add peak of the record's threads; NaN where unknown."""
    peak = peak_of(results, sweep.workload.dtype, record["threads"])
    return 100 * rate(record, sweep) / (1e9 * peak)


def over_ours(record: dict[str, Any], records: list[dict[str, Any]]) -> float:
    """Return the time over fastmlp's; NaN where it did not take part."""
    ours = [r for r in records if r["contestant"] == "fastmlp"]
    if not ours:
        return float("nan")
    theirs = quartiles(record["seconds"]).median
    return float(theirs / quartiles(ours[0]["seconds"]).median)


def over_alone(record: dict[str, Any], n_nets: int) -> float:
    """Return the best time of a net in the sweep, times the threads, over that of its own fit."""
    in_sweep = min(record["seconds"]) / n_nets * record["threads"]
    return float(in_sweep / min(record["alone"]))


def speed_up(record: dict[str, Any]) -> float:
    """Return the best time on one thread over the best on all."""
    return float(min(record["one_thread"]) / min(record["seconds"]))
