"""fastmlp: a fit without and with a feature, for its price."""

from functools import partial
from typing import Any

import numpy as np

from benchmarks.peers.fastmlp_fit import FastmlpFit
from benchmarks.race import timed
from benchmarks.recipe import BY_PRICE, VALIDATED
from benchmarks.workloads import BY_NAME, CE, Array, Workload
from fastmlp import EMA, Adam

TURN_SECONDS = 0.3


def settings(feature: str, workload: Workload) -> dict[str, Any]:
    """The settings of a net that the feature changes."""
    rate = workload.rule.rate
    changes: dict[str, dict[str, Any]] = {
        "EMA": {"optimizer": Adam(rate, average=EMA(0.99))},
        "dropout": {"dropout": 0.2},
        "clipvalue": {"optimizer": Adam(rate, clipvalue=0.01)},
        "global_clipnorm": {"optimizer": Adam(rate, global_clipnorm=1.0)},
        "label_smoothing": {"label_smoothing": 0.1},
        "focal": {"loss": "focal"},
        VALIDATED: {},
    }
    return changes[feature]


def mean_error(targets: Array, predictions: Array) -> float:
    """A metric that takes less time than a prediction."""
    return float(np.abs(targets[0] - predictions[0]).mean())


class Work:
    """Two fits of a workload, one of them with a feature."""

    def __init__(self, worker: Any, name: str, quick: bool) -> None:
        self.clock, self.feature = worker.clock, BY_PRICE[name].feature
        load = BY_NAME[BY_PRICE[name].workload]
        if self.feature in ("label_smoothing", "focal"):
            load = load._replace(loss=CE)
        load = load.quick() if quick else load
        self.load = load
        self.run = FastmlpFit(load)
        self.held_out = slice(0, max(1, load.n_rows // 10))
        self.epochs = 1
        if not quick:
            *_, second = (self.seconds(False) for _ in range(2))
            self.epochs = max(1, round(TURN_SECONDS / second))
        self.about = {"epochs": self.epochs}

    def turn(self, featured: list[bool]) -> dict[str, Any]:
        """The seconds of an epoch without and with the feature, in an order."""
        seconds = {with_it: self.seconds(with_it) for with_it in featured}
        prediction = self.prediction() if self.feature == VALIDATED else None
        return {"without": seconds[False], "with": seconds[True], "prediction": prediction}

    def seconds(self, with_it: bool) -> float:
        """The seconds of an epoch of a new net, after a first."""
        changes = settings(self.feature, self.load) if with_it else {}
        options: dict[str, Any] = {"batch_size": self.load.batch}
        x, y = self.run.x, self.run.y
        if self.feature == VALIDATED:
            options["validation_data"] = (x[self.held_out], y[self.held_out])
            options["metrics"] = {"error": mean_error} if with_it else None
        net = self.run.made(**changes)
        net.fit(x, y, epochs=1, **options)
        more = partial(net.fit, x, y, epochs=self.epochs, **options)
        return timed(more, self.clock)[0] / self.epochs

    def prediction(self) -> float:
        """The seconds of a prediction of the rows held out, the median of 20."""
        call = partial(self.run.net.predict, self.run.x[self.held_out])
        return float(np.median([timed(call, self.clock)[0] for _ in range(20)]))
