"""fastmlp's estimators beside scikit-learn's: the same data, settings and random state.

The time is that of the public call, from checking the data to the last attribute. Both
give the same numbers, and take the same epochs. And a search beside scikit-learn's, in
processes.
"""

import warnings
from contextlib import AbstractContextManager, nullcontext
from functools import cache, partial
from importlib import import_module
from itertools import product
from typing import Any

import numpy as np
import pytest

from benchmarks.bench_train import Race
from benchmarks.machine import cores
from benchmarks.race import Ways, repeated
from benchmarks.scores import Record

LIBRARIES = {"fastmlp": "fastmlp", "sklearn": "sklearn.neural_network"}
SPARSE = "sparse-text"
MADE_UP = "50000x30"
# Further settings for all: the synthetic rows are many,
# and every epoch is like the next.
DATASETS: dict[str, Record] = {
    "digits": {},
    "breast_cancer": {},
    "diabetes": {},
    MADE_UP: {"max_iter": 10},
    SPARSE: {"max_iter": 2},
}
CONFIGURATIONS: dict[str, Record] = {
    "defaults": {},
    "lbfgs": {"solver": "lbfgs"},
    "sgd": {"solver": "sgd", "learning_rate_init": 0.01},
    "sgd-adaptive": {
        "solver": "sgd",
        "learning_rate": "adaptive",
        "learning_rate_init": 0.01,
        "nesterovs_momentum": False,
    },
    "early-stopping": {"early_stopping": True},
    "tanh": {"activation": "tanh"},
    "logistic-2-layers": {"activation": "logistic", "hidden_layer_sizes": (50, 50)},
    "10-units": {"hidden_layer_sizes": (10,)},
    "3-layers": {"hidden_layer_sizes": (64, 64, 64)},
    "batches-of-32": {"batch_size": 32},
    "lbfgs-tanh-2-layers": {
        "solver": "lbfgs",
        "activation": "tanh",
        "hidden_layer_sizes": (32, 16),
    },
}
DENSE = [name for name in DATASETS if name != SPARSE]
TASKS = [*product(DENSE, CONFIGURATIONS), (SPARSE, "defaults")]
FOLDS = 5
GRID: dict[str, list[Any]] = {
    "hidden_layer_sizes": [(32,), (64,), (32, 32)],
    "alpha": [1e-5, 1e-4, 1e-3, 1e-2, 1e-1],
    "learning_rate_init": [1e-3, 1e-2],
    "batch_size": [64, 200],
}
QUICK: dict[str, list[Any]] = {"hidden_layer_sizes": [(8,)], "alpha": [1e-4, 1e-2]}


@cache
def data(name: str, dtype: str, quick: bool = False) -> tuple[Any, Any]:
    """The rows, standardised, and their targets."""
    rng = np.random.default_rng(0)
    if name == SPARSE:
        sparse = import_module("scipy.sparse")
        n = 200 if quick else 20_000
        words = 500 if quick else 50_000
        X = sparse.random_array(
            (n, words), density=0.001, rng=rng, format="csr", dtype=dtype
        )
        y = X @ rng.normal(size=words) > 0
        return X, y.astype(int)
    if name == MADE_UP:
        n = 200 if quick else 50_000
        X = rng.normal(size=(n, 30))
        y = X[:, 0] * X[:, 1] + X[:, 2] > 0
        return X.astype(dtype), y.astype(int)
    load = getattr(import_module("sklearn.datasets"), f"load_{name}")
    X, y = load(return_X_y=True)
    if quick:
        X = X[:200]
        y = y[:200]
    deviation = X.std(axis=0)
    X = (X - X.mean(axis=0)) / np.where(deviation > 0, deviation, 1)
    if name == "diabetes":
        y = ((y - y.mean()) / y.std()).astype(dtype)
    return X.astype(dtype), y


def fitted(
    contestant: str, name: str, dtype: str, settings: Record, quick: bool = False
) -> Any:
    """A contestant's estimator of a data set."""
    library = import_module(LIBRARIES[contestant])
    if name == "diabetes":
        model = library.MLPRegressor(random_state=0, **settings)
    else:
        model = library.MLPClassifier(random_state=0, **settings)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return model.fit(*data(name, dtype, quick))


class Fit(Ways):
    """Fits of a data set."""

    def __init__(
        self, worker: Any, quick: bool, data_set: str, what: str, dtype: str
    ) -> None:
        settings = {**CONFIGURATIONS[what], **DATASETS[data_set]}
        if quick:
            settings["max_iter"] = 2
        fit = partial(fitted, worker.name, data_set, dtype, settings, quick)
        super().__init__(worker, quick, {"fit": repeated(fit)}, warm=False)


class Predict(Ways):
    """Predictions of so many rows of digits."""

    def __init__(self, worker: Any, quick: bool, n_rows: int, dtype: str) -> None:
        model = fitted(worker.name, "digits", dtype, {"max_iter": 2}, quick)
        X, _ = data("digits", dtype, quick)
        if quick:
            n_rows = min(n_rows, 100)
        rows = np.resize(X, (n_rows, X.shape[1]))
        super().__init__(worker, quick, {"predict": repeated(model.predict, rows)})


def search_of(contestant: str, quick: bool) -> Any:
    library = import_module(LIBRARIES[contestant])
    grid = QUICK if quick else GRID
    max_iter = 3 if quick else 30
    model = library.MLPClassifier(max_iter=max_iter, random_state=0)
    if contestant == "fastmlp":
        return library.MLPSearchCV(model, grid, cv=FOLDS)
    from sklearn.model_selection import GridSearchCV

    return GridSearchCV(model, grid, cv=FOLDS, n_jobs=cores())


def searched(contestant: str, quick: bool) -> Any:
    """A fitted search on digits."""
    X, y = data("digits", "float64", quick)
    model = search_of(contestant, quick)
    with warnings.catch_warnings(), _processes(contestant):
        warnings.simplefilter("ignore")
        return model.fit(X, y)


def _processes(contestant: str) -> AbstractContextManager[Any]:
    """One thread of BLAS for each process of scikit-learn's:
    the environment's number is for all of them together.
    """
    if contestant != "sklearn":
        return nullcontext()
    import joblib

    return joblib.parallel_config("loky", inner_max_num_threads=1)


class Search(Ways):
    """A search, after a short one that compiles, or starts the processes."""

    def __init__(self, worker: Any, quick: bool) -> None:
        searched(worker.name, True)
        search = repeated(partial(searched, worker.name, quick))
        super().__init__(worker, quick, {"search": search}, warm=False)


both = pytest.mark.libraries(*LIBRARIES)
each_dtype = pytest.mark.parametrize("dtype", ["float64", "float32"])


@both
@each_dtype
@pytest.mark.parametrize(("data_set", "what"), TASKS)
def test_fit_estimator(race: Race, data_set: str, what: str, dtype: str) -> None:
    race(Fit, seconds=0.02, data_set=data_set, what=what, dtype=dtype)


@both
@each_dtype
@pytest.mark.parametrize("n_rows", [1, 1_000, 100_000], ids=lambda n: f"{n}-rows")
def test_predict_estimator(race: Race, n_rows: int, dtype: str) -> None:
    race(Predict, seconds=0.02, rows=n_rows, n_rows=n_rows, dtype=dtype)


@both
def test_search(race: Race) -> None:
    race(Search)
