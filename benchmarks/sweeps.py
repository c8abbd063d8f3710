"""Many nets to train in one go, that all contestants share."""

from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

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
