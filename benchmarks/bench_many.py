"""Many nets in one go: fastmlp's `fit_many` beside its peers.

A call trains all nets from the start. fastmlp's also makes them,
as a user would; its form "one-thread" does so on one.
"""

from functools import partial
from importlib import import_module
from itertools import cycle, islice, pairwise
from typing import Any, NamedTuple

import numpy as np
import pytest

from benchmarks.bench_train import Race
from benchmarks.peers import PEERS
from benchmarks.race import Ways
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
    def net_flops(self) -> int:
        """Floating-point operations of one net's training."""
        return self.workload.flops * self.workload.n_steps * self.epochs

    def quick(self) -> "Sweep":
        return self._replace(n_nets=4, epochs=2, workload=self.workload.quick())

    def settings(self) -> list[tuple[float, float]]:
        pairs = [(rate, l2) for l2 in self.penalties for rate in self.rates]
        return list(islice(cycle(pairs), self.n_nets))

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
        dtype = self.workload.dtype
        layers = []
        for n_in, n_out in pairwise(self.workload.sizes):
            drawn = rng.standard_normal((self.n_nets, n_in, n_out))
            weights = (drawn * np.sqrt(2 / n_in)).astype(dtype)
            biases = np.zeros((self.n_nets, n_out), dtype)
            layers.append((weights, biases))
        return layers


DIGITS = Workload((64, 64, 10), 64, 1_792, loss="cross_entropy")
TABULAR = Workload((13, 32, 32, 1), 32, 512, rule=Rule("adam"))
SWEEPS = {
    "32-nets": Sweep("32-nets", DIGITS, 32, 20, "digits"),
    "1000-nets": Sweep(
        "1000-nets",
        TABULAR,
        n_nets=1_000,
        epochs=200,
        rates=(1e-4, 1e-3, 1e-2),
        penalties=(0.0, 0.01, 0.1),
    ),
}


def make(contestant: str, name: str, quick: bool, **options: Any) -> Any:
    """A contestant's nets; made once,
    `train(epochs, shuffle=True)` trains them from the start.

    Their `losses`, an (n_nets,) array, are the mean losses of the last epoch.
    """
    module = import_module(f"benchmarks.peers.{PEERS[contestant].module}")
    return module.Many(sized(SWEEPS[name], quick), **options)


class Work(Ways):
    """Many nets, trained in each way of a library's."""

    def __init__(
        self, worker: Any, quick: bool, sweep: str, form: str | None = None
    ) -> None:
        ways = worker.module.VARIANTS.get("many", [None])
        if quick:
            ways = ways[:1]
        made = {}
        for way in ways:
            options: dict[str, Any] = {}
            if way:
                options["way"] = way
            elif form:
                options["n_threads"] = 1
            made[str(way)] = make(worker.name, sweep, quick, **options)
        epochs = sized(SWEEPS[sweep], quick).epochs

        def trained(nets: Any, n: int) -> None:
            for _ in range(n):
                nets.train(epochs)

        for nets in made.values():
            trained(nets, 1)
        calls = {way: partial(trained, nets) for way, nets in made.items()}
        super().__init__(worker, quick, calls, warm=False)
        fastest = made[self.about["way"]]
        self.about["loss"] = float(np.mean(fastest.losses))


@pytest.mark.libraries("fastmlp", "fastmlp-one-thread", "jax", "torch", "sklearn")
def test_many(race: Race) -> None:
    sweep = SWEEPS["32-nets"]
    race(Work, flops=sweep.n_nets * sweep.net_flops, sweep=sweep.name)


@pytest.mark.libraries("fastmlp", "fastmlp-one-thread", "jax")
def test_many_settings(race: Race) -> None:
    """Each net has a rate and a penalty of its own:
    others have one optimizer for all of them.
    """
    sweep = SWEEPS["1000-nets"]
    race(Work, flops=sweep.n_nets * sweep.net_flops, sweep=sweep.name)
