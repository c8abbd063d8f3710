"""fastmlp's estimators beside scikit-learn's: the same data, settings and random state.

Each works in the process of its contestant; fits and predictions go in turns. The time is that of
the public call, from checking the data to the last attribute. Both give the same numbers, and take
the same epochs.
"""

import warnings
from collections.abc import Iterator
from functools import cache, partial
from importlib import import_module
from typing import Any

import numpy as np

from benchmarks.output import Table
from benchmarks.peers import PEERS
from benchmarks.race import Part, Race, repeated, timed
from benchmarks.scores import (
    Comparison,
    Record,
    best_turns,
    fastest,
    grouped,
    over,
    quartiles,
)

LIBRARIES = {"fastmlp": "fastmlp", "sklearn": "sklearn.neural_network"}
# Further settings for all: the synthetic rows are many, and every epoch is like the next.
DATASETS: dict[str, Record] = {
    "digits": {},
    "breast cancer": {},
    "diabetes": {},
    "50,000 x 30": {"max_iter": 10},
}
SPARSE = "sparse text"
CONFIGURATIONS: dict[str, Record] = {
    "defaults": {},
    "lbfgs": {"solver": "lbfgs"},
    "sgd": {"solver": "sgd", "learning_rate_init": 0.01},
    "sgd, adaptive": {
        "solver": "sgd",
        "learning_rate": "adaptive",
        "learning_rate_init": 0.01,
        "nesterovs_momentum": False,
    },
    "early stopping": {"early_stopping": True},
    "tanh": {"activation": "tanh"},
    "logistic, 2 layers": {"activation": "logistic", "hidden_layer_sizes": (50, 50)},
    "10 units": {"hidden_layer_sizes": (10,)},
    "3 layers": {"hidden_layer_sizes": (64, 64, 64)},
    "batches of 32": {"batch_size": 32},
    "lbfgs, tanh, 2 layers": {
        "solver": "lbfgs",
        "activation": "tanh",
        "hidden_layer_sizes": (32, 16),
    },
}
PREDICTED = {f"predict {n:,}": n for n in (1, 1_000, 100_000)}
# Of each contestant at most; and the seconds of a turn, which has one call at least.
TURNS, SECONDS = 3, 0.02


@cache
def data(name: str, dtype: str) -> tuple[Any, Any]:
    """The rows, standardised, and their targets."""
    if name in ("digits", "breast cancer", "diabetes"):
        datasets = import_module("sklearn.datasets")
        X, y = getattr(datasets, f"load_{name.replace(' ', '_')}")(return_X_y=True)
        X = (X - X.mean(axis=0)) / np.where(X.std(axis=0) > 0, X.std(axis=0), 1)
        if name == "diabetes":
            y = (y - y.mean()) / y.std()
        return X.astype(dtype), y.astype(dtype) if name == "diabetes" else y
    rng = np.random.default_rng(0)
    if name == SPARSE:
        sparse = import_module("scipy.sparse")
        X = sparse.random_array(
            (20_000, 50_000), density=0.001, rng=rng, format="csr", dtype=dtype
        )
        return X, (X @ rng.normal(size=50_000) > 0).astype(int)
    X = rng.normal(size=(50_000, 30))
    return X.astype(dtype), (X[:, 0] * X[:, 1] + X[:, 2] > 0).astype(int)


def fitted(contestant: str, name: str, dtype: str, settings: Record) -> Any:
    """A contestant's estimator of a data set."""
    kind = "MLPRegressor" if name == "diabetes" else "MLPClassifier"
    model = getattr(import_module(LIBRARIES[contestant]), kind)(
        random_state=0, **settings
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return model.fit(*data(name, dtype))


class Work:
    """In a contestant's process: fits of a data set, or predictions of so many rows."""

    def __init__(
        self, worker: Any, quick: bool, what: str, data_set: str, dtype: str
    ) -> None:
        self.clock = worker.clock
        fit = partial(fitted, worker.name, data_set, dtype)
        X = data(data_set, dtype)[0]
        if what in PREDICTED:
            rows = np.resize(X, (PREDICTED[what], X.shape[1]))
            self.run = repeated(fit({"max_iter": 2}).predict, rows)
        else:
            more = {"max_iter": 2} if data_set == SPARSE else DATASETS[data_set]
            self.run = repeated(fit, {**CONFIGURATIONS[what], **more})
        self.about: Record = {"ways": {"": {}}}

    def turn(self, name: str, calls: int) -> Record:
        """The seconds of a call, of many."""
        return {"seconds": timed(partial(self.run, calls), self.clock)[0] / calls}


def measure(race: Race, earlier: list[Record]) -> list[Record]:
    """Seconds by turn of each task and contestant; a first turn, which compiles, is left out."""
    both = race.only(LIBRARIES)
    if len(both.contestants) < 2:
        return []
    few = race.quick or {c.name for c in both.contestants} == {"fastmlp"}
    both = both._replace(repeats=min(race.repeats, TURNS))
    return [r for task in tasks(few) for r in both.ways("estimators", SECONDS, **task)]


def tasks(few: bool) -> Iterator[Record]:
    dtypes = ("float64",) if few else ("float64", "float32")
    for data_set in [*DATASETS][: 1 if few else None]:
        for dtype in dtypes:
            for what in [*[*CONFIGURATIONS][: 2 if few else None], *PREDICTED]:
                yield {"what": what, "data_set": data_set, "dtype": dtype}
    for dtype in () if few else dtypes:
        yield {"what": "defaults", "data_set": SPARSE, "dtype": dtype}


def lines(results: Record) -> Iterator[str]:
    """Every task, then medians of fits and predictions, for the terminal."""
    tasks: dict[tuple[Any, ...], dict[str, list[float]]] = {}
    for r in results["estimators"]:
        key = r["data_set"], r["dtype"], r["what"], r["threads"]
        tasks.setdefault(key, {})[r["contestant"]] = r["seconds"]
    tasks = {
        key: times
        for key, times in tasks.items()
        if len(times) == 2 and all(times.values())
    }
    if not tasks:
        return
    yield f"\nestimators: {PEERS['sklearn'].title}'s time over fastmlp's, the same call and numbers"
    rows, by_kind = [], dict[str, list[float]]()
    for key, times in tasks.items():
        ratio, ms = (
            over(times["sklearn"], times["fastmlp"]),
            quartiles(times["fastmlp"]).median,
        )
        rows.append((*key, f"{1e3 * ms:.3g}", f"{ratio.median:.2f}x", ratio.spread))
        by_kind.setdefault(key[2] if key[2] in PREDICTED else "fit", []).append(
            ratio.median
        )
    titles = (
        "data",
        "dtype",
        "what",
        ">threads",
        ">fastmlp, ms",
        ">ratio",
        ">quartiles",
    )
    yield from Table(titles, rows).text()
    for kind, medians in by_kind.items():
        yield (
            f"  {kind}: median {np.median(medians):.2f}x, least {min(medians):.2f}x, "
            f"below 1 in {sum(ratio < 1 for ratio in medians)} of {len(medians)}"
        )


def compared(results: Record, threads: int) -> Iterator[Comparison]:
    records = [r for r in results["estimators"] if r["threads"] == threads]
    for what, those in grouped(records, "what").items():
        yield from fastest("`MLPClassifier` on digits", what, best_turns(those))


PART = Part("estimators", "estimators", measure, lines=lines, compared=compared)
