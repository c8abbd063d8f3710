"""fastmlp: `fit`."""

from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.workloads import Array, Workload, flat
from fastmlp import EMA, MLP, SGD, Adam, AdamW, Cosine

VARIANTS = dict.fromkeys(("plain", "mixed", "recipe"), ("fit",))


def about() -> str:
    import numba

    return f"Numba {numba.__version__}, {numba.config.NUMBA_NUM_THREADS} threads"


def make(workload: Workload, variant: str = "fit") -> "FastmlpFit":
    return FastmlpFit(workload)


def optimizer_of(workload: Workload) -> Any:
    rule, recipe = workload.rule, workload.recipe
    if rule.kind == "sgd":
        return SGD(rule.rate, rule.momentum, nesterov=rule.momentum > 0)
    if rule.kind == "adamw":
        return AdamW(rule.rate, weight_decay=rule.weight_decay)
    if recipe:
        averaged = EMA(recipe.average)
        return Adam(Cosine(rule.rate), average=averaged, global_clipnorm=recipe.norm)
    return Adam(rule.rate)


class FastmlpFit:
    """A net, as a user writes it."""

    def __init__(self, workload: Workload) -> None:
        self.workload = workload
        self.x, self.y = workload.data()
        self.start = flat(workload.start())
        self.reset()

    def reset(self) -> None:
        self.net = self.made()

    def made(self, **changes: Any) -> MLP:
        """A new net at the start, with further settings, or others."""
        load = self.workload
        settings: dict[str, Any] = {
            "activation": load.activation,
            "loss": load.loss,
            "optimizer": optimizer_of(load),
            "l2": load.l2,
            "dtype": load.dtype,
            "seed": 0,
        }
        if load.compute_dtype:
            settings["compute_dtype"] = load.compute_dtype
        if load.recipe:
            settings["dropout"] = load.recipe.dropout
        net = MLP(load.sizes, **{**settings, **changes})
        net.parameters[:] = self.start
        return net

    def epochs(self, n: int) -> None:
        load = self.workload
        self.net.fit(self.x, self.y, epochs=n, batch_size=load.batch, shuffle=load.shuffle)

    def steps(self, n: int) -> None:
        load, rows = self.workload, slice(0, n * self.workload.batch)
        epochs = 1 if load.shuffle else n
        x, y = self.x[rows], self.y[rows]
        if n == 1 and not load.recipe:  # The recipe's schedule asks for the end of a fit.
            self.net.train_on_batch(x, y)
            return
        self.net.fit(x, y, epochs=epochs, batch_size=load.batch, shuffle=False)

    def gradient(self) -> Array:
        batch = slice(0, self.workload.batch)
        return self.net.loss_and_gradient(self.x[batch], self.y[batch])[1]

    def loss(self) -> float:
        twin = MLP(
            self.workload.sizes,
            activation=self.workload.activation,
            loss=self.workload.loss,
            dtype=self.workload.dtype,
        )
        twin.parameters[:] = self.net.parameters
        return twin.loss_and_gradient(self.x, self.y)[0]

    def parameters(self) -> Array:
        return self.net.parameters.copy()

    def rows(self, x: Array) -> Array:
        return x

    def predictors(self) -> dict[str, Callable[[Array], Array]]:
        outs: dict[int, Array] = {}

        def into(x: Array) -> Array:
            out = outs.get(len(x))
            if out is None:
                shape = (len(x), self.workload.sizes[-1])
                out = outs[len(x)] = np.empty(shape, self.workload.dtype)
            return self.net.predict(x, out=out)

        return {"new array": self.net.predict, "out=": into}
