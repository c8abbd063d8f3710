"""fastmlp: `fit_many`."""

from functools import partial
from typing import Any

import numpy as np

from benchmarks.many import Nets, Sweep
from benchmarks.race import timed
from benchmarks.workloads import Array, flat
from fastmlp import MLP, Adam, fit_many


class Many(Nets):
    """Nets, as a user writes them; making them is part of the training."""

    def __init__(self, sweep: Sweep, n_threads: int | None = None) -> None:
        self.sweep, self.n_threads = sweep, n_threads
        self.x, self.y = sweep.data()
        layers = sweep.starts()
        self.settings = sweep.settings()
        self.starts = [flat([(w[i], b[i]) for w, b in layers]) for i in range(sweep.n_nets)]
        self.nets: list[MLP] = []

    def net(self, i: int, n_threads: int | None = None) -> MLP:
        load, (rate, l2) = self.sweep.workload, self.settings[i]
        net = MLP(
            load.sizes,
            activation=load.activation,
            loss=load.loss,
            optimizer=Adam(rate),
            l2=l2,
            dtype=load.dtype,
            seed=i,
            n_threads=n_threads,
        )
        net.parameters[:] = self.starts[i]
        return net

    def train(self, epochs: int, *, shuffle: bool = True) -> None:
        self.nets = [self.net(i) for i in range(self.sweep.n_nets)]
        options: Any = {"epochs": epochs, "batch_size": self.sweep.workload.batch}
        histories = fit_many(
            self.nets, self.x, self.y, shuffle=shuffle, n_threads=self.n_threads, **options
        )
        self.losses = np.array([history.loss[-1] for history in histories])

    def parameters(self) -> Array:
        return np.stack([net.parameters for net in self.nets])

    def alone(self, repeats: int = 5) -> float:
        """The seconds of a net's own fit on one thread: the best, mean over all settings."""
        n = min(len(set(self.settings)), self.sweep.n_nets)
        options: Any = {"epochs": self.sweep.epochs, "batch_size": self.sweep.workload.batch}

        def fitted(i: int) -> float:
            net = self.net(i, n_threads=1)
            return timed(partial(net.fit, self.x, self.y, **options))[0]

        return float(np.mean([min(fitted(i) for _ in range(repeats)) for i in range(n)]))
