"""scikit-learn."""

import warnings
from collections.abc import Callable
from typing import Any

import joblib
import numpy as np
import sklearn
from sklearn.neural_network import MLPClassifier, MLPRegressor

from benchmarks.bench_many import Sweep
from benchmarks.machine import cores
from benchmarks.peers import Run, Unsupported
from benchmarks.workloads import Array, Workload, flat

VARIANTS = {"plain": ("fit",)}
EPSILON = 7e-10
NEVER = 10**9
ACTIVATIONS = {"relu": "relu", "tanh": "tanh", "sigmoid": "logistic"}


def about() -> str:
    return f"scikit-learn {sklearn.__version__}, NumPy {np.__version__}"


def make(workload: Workload, variant: str = "fit") -> "SklearnFit":
    if workload.rule.kind == "adamw":
        raise Unsupported("scikit-learn has no AdamW")
    return SklearnFit(workload)


def estimator_of(load: Workload, **settings: Any) -> Any:
    """An estimator that takes all of its epochs."""
    kind = MLPRegressor if load.loss == "mse" else MLPClassifier
    return kind(
        hidden_layer_sizes=load.sizes[1:-1],
        activation=ACTIVATIONS[load.activation],
        batch_size=load.batch,
        n_iter_no_change=NEVER,
        **settings,
    )


class SklearnFit(Run):
    """An estimator that goes on from where it is."""

    def __init__(self, workload: Workload) -> None:
        self.workload = workload
        self.x, self.y = workload.data()
        self.classes = workload.loss != "mse"
        if self.y.ndim == 2 and self.y.shape[1] == 1:
            self.y = self.y[:, 0]
        if self.classes:
            self.y = self.y.astype(np.int64)
        self.reset()

    def reset(self) -> None:
        load = self.workload
        rule = load.rule
        self.net = estimator_of(
            load,
            solver=rule.kind,
            alpha=load.l2,
            learning_rate_init=rule.rate,
            momentum=rule.momentum,
            nesterovs_momentum=rule.momentum > 0,
            shuffle=load.shuffle,
            tol=0.0,
            epsilon=EPSILON,
            random_state=0,
        )
        self._partial_fit(slice(0, max(load.batch, 2)))
        parts = [*self.net.coefs_, *self.net.intercepts_]
        weights, biases = zip(*load.start(), strict=True)
        for part, value in zip(parts, [*weights, *biases], strict=True):
            part[...] = value
        # Its moments and step number; made anew by the next fit.
        del self.net._optimizer

    def _partial_fit(self, rows: slice) -> None:
        if self.classes:
            options = {"classes": np.unique(self.y)}
        else:
            options = {}
        self.net.partial_fit(self.x[rows], self.y[rows], **options)

    def epochs(self, n: int) -> None:
        self.net.set_params(max_iter=n, warm_start=True)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.net.fit(self.x, self.y)
        # Else partial_fit on a batch that lacks a class would raise.
        self.net.warm_start = False

    def steps(self, n: int) -> None:
        self.net.shuffle = False
        for rows in map(self.workload.rows, range(n)):
            self._partial_fit(rows)
        self.net.shuffle = self.workload.shuffle

    def loss(self) -> float:
        if self.workload.loss == "mse":
            error = self.net.predict(self.x) - self.y
            return float(np.mean(error**2))
        p = self.net.predict_proba(self.x).astype(np.float64)
        columns = np.searchsorted(self.net.classes_, self.y)
        chosen = p[np.arange(len(p)), columns]
        return float(-np.mean(np.log(np.maximum(chosen, 1e-300))))

    def parameters(self) -> Array:
        return flat(zip(self.net.coefs_, self.net.intercepts_, strict=True))

    def predictors(self) -> dict[str, Callable[[Any], Any]]:
        if self.classes:
            return {"predict": self.net.predict_proba}
        return {"predict": self.net.predict}


class Many:
    """Worker processes stay for the next training; each has one thread of BLAS."""

    def __init__(self, sweep: Sweep) -> None:
        self.sweep = sweep
        self.x, self.y = sweep.data()
        # Said, as the environment's number of threads,
        # which is for the whole process, goes before.
        with joblib.parallel_config("loky", inner_max_num_threads=1):
            self.pool = joblib.Parallel(n_jobs=cores())
        self.fitted: list[Any] = []

    def train(self, epochs: int, *, shuffle: bool = True) -> None:
        target = self.y if self.y.ndim == 1 else self.y[:, 0]
        models = [
            estimator_of(
                self.sweep.workload,
                learning_rate_init=rate,
                alpha=l2,
                max_iter=epochs,
                shuffle=shuffle,
                random_state=i,
            )
            for i, (rate, l2) in enumerate(self.sweep.settings())
        ]
        self.fitted = self.pool(
            joblib.delayed(fit)(model, self.x, target) for model in models
        )
        self.losses = np.array([model.loss_ for model in self.fitted])

    def parameters(self) -> Array:
        nets = []
        for model in self.fitted:
            nets.append(flat(zip(model.coefs_, model.intercepts_, strict=True)))
        return np.stack(nets)


def fit(model: Any, x: Array, y: Array) -> Any:
    """Fit in a worker; it does not converge, and need not say so."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return model.fit(x, y)
