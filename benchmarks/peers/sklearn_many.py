"""scikit-learn: a fit for each net, by joblib in as many processes as there are threads."""

import warnings
from typing import Any

import joblib
import numpy as np
from sklearn.neural_network import MLPClassifier, MLPRegressor

from benchmarks.machine import cores
from benchmarks.many import Nets, Sweep
from benchmarks.workloads import Array

NEVER = 1_000_000


class Many(Nets):
    """Worker processes stay for the next training; each has one thread of BLAS."""

    def __init__(self, sweep: Sweep) -> None:
        self.sweep = sweep
        self.x, self.y = sweep.data()
        # Said, as the environment's number of threads, which is for the whole process, goes before.
        with joblib.parallel_config("loky", inner_max_num_threads=1):
            self.pool = joblib.Parallel(n_jobs=cores())
        self.fitted: list[Any] = []

    def train(self, epochs: int, *, shuffle: bool = True) -> None:
        load = self.sweep.workload
        kind = MLPClassifier if load.loss == "cross_entropy" else MLPRegressor
        target = self.y if self.y.ndim == 1 else self.y[:, 0]
        models = [
            kind(
                load.sizes[1:-1],
                activation=load.activation,
                batch_size=load.batch,
                learning_rate_init=rate,
                alpha=l2,
                max_iter=epochs,
                n_iter_no_change=NEVER,
                shuffle=shuffle,
                random_state=i,
            )
            for i, (rate, l2) in enumerate(self.sweep.settings())
        ]
        self.fitted = self.pool(joblib.delayed(fit)(model, self.x, target) for model in models)
        self.losses = np.array([model.loss_ for model in self.fitted])

    def parameters(self) -> Array:
        parts = [[*model.coefs_, *model.intercepts_] for model in self.fitted]
        return np.stack([np.concatenate([np.ravel(part) for part in net]) for net in parts])


def fit(model: Any, x: Array, y: Array) -> Any:
    """Fit in a worker; it does not converge, and need not say so."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return model.fit(x, y)
