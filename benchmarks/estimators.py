"""fastmlp's estimators beside scikit-learn's: the same data, settings and random state.

Each works in the process of its contestant; fits and predictions go in turns. The time is that of
the public call, from checking the data to the last attribute. Both give the same numbers, and each
turn has the number of its epochs.
"""

import time
import warnings
from collections.abc import Iterator
from functools import cache, partial
from importlib import import_module
from typing import Any

import numpy as np

from benchmarks.output import Table
from benchmarks.peers import PEERS
from benchmarks.race import Clock, Race, in_turns, timed
from benchmarks.scores import Quartiles, Record, over, quartiles

FIT, PREDICT = "estimators.fit", "estimators.predict"
LIBRARIES = {"fastmlp": "fastmlp", "sklearn": "sklearn.neural_network"}
# Further settings for all: the synthetic rows are many, and every epoch is like the next.
DATASETS: dict[str, Record] = {
    "digits": {},
    "breast cancer": {},
    "diabetes": {},
    "50,000 x 30": {"max_iter": 10},
}
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
PREDICTED = (1, 1_000, 100_000)


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
    if name == "sparse text":
        sparse = import_module("scipy.sparse")
        X = sparse.random_array((20_000, 50_000), density=0.001, rng=rng, format="csr", dtype=dtype)
        return X, (X @ rng.normal(size=50_000) > 0).astype(int)
    X = rng.normal(size=(50_000, 30))
    return X.astype(dtype), (X[:, 0] * X[:, 1] + X[:, 2] > 0).astype(int)


def estimator(contestant: str, name: str, settings: dict[str, Any]) -> Any:
    """A contestant's estimator for a data set."""
    kind = "MLPRegressor" if name == "diabetes" else "MLPClassifier"
    return getattr(import_module(LIBRARIES[contestant]), kind)(random_state=0, **settings)


def fit(
    contestant: str,
    name: str,
    dtype: str,
    settings: dict[str, Any],
    clock: Clock = time.perf_counter,
) -> Record:
    """The seconds, epochs and loss of a fit."""
    X, y = data(name, dtype)
    model = estimator(contestant, name, settings)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        seconds, _ = timed(partial(model.fit, X, y), clock)
    return {"seconds": seconds, "epochs": model.n_iter_, "loss": float(model.loss_)}


@cache
def _trained(contestant: str, name: str, dtype: str) -> Any:
    model = estimator(contestant, name, {"max_iter": 2})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return model.fit(*data(name, dtype))


def predict(
    contestant: str, name: str, dtype: str, n_rows: int, clock: Clock = time.perf_counter
) -> dict[str, Any]:
    """The seconds of a call."""
    model = _trained(contestant, name, dtype)
    X = data(name, dtype)[0]
    rows = np.resize(X, (n_rows, X.shape[1]))
    calls = 300 if n_rows <= 1_000 else 1

    def some(n: int) -> None:
        for _ in range(n):
            model.predict(rows)

    some(3)
    return {"seconds": timed(partial(some, calls), clock)[0] / calls}


def measure(race: Race) -> list[Record]:
    """A record per task: seconds by contestant and turn."""
    pair = {c.name: c for c in race.those(LIBRARIES)}
    if len(pair) < len(LIBRARIES):
        return []
    return [
        {**task, "threads": pair["fastmlp"].n_threads, "times": task_in_turns(race, task, pair)}
        for task in tasks(race.quick)
    ]


def task_in_turns(
    race: Race, task: Record, contestants: dict[str, Any], errors: list[str] | None = None
) -> dict[str, list[float]]:
    """The seconds of a task by contestant and turn, without a first turn, which compiles."""
    race.say(f"estimators: {task['what']}, {task['request']['name']}, {task['request']['dtype']}")
    times: dict[str, list[float]] = {name: [] for name in contestants}

    def turn(name: str) -> None:
        reply = contestants[name].ask("call", function=task["function"], **task["request"])
        times[name] += [reply.get("seconds", float("nan"))]
        if "error" in reply and errors is not None:
            errors.append(reply["error"])

    in_turns([(name,) for name in contestants], race.repeats + 1, turn)
    return {name: [s for s in seconds[1:] if s == s] for name, seconds in times.items()}


def tasks(quick: bool) -> Iterator[Record]:
    """Yield the request of each task, with the function that does it and a description."""
    dtypes = ("float64",) if quick else ("float64", "float32")
    for name, more in [*DATASETS.items()][: 1 if quick else None]:
        for dtype in dtypes:
            for what, settings in [*CONFIGURATIONS.items()][: 2 if quick else None]:
                fit = {"name": name, "dtype": dtype, "settings": {**settings, **more}}
                yield {"function": FIT, "what": what, "request": fit}
            for n_rows in PREDICTED:
                predict = {"name": name, "dtype": dtype, "n_rows": n_rows}
                what = f"predict {n_rows:,}"
                yield {"function": PREDICT, "what": what, "request": predict}
    for dtype in () if quick else dtypes:
        request = {"name": "sparse text", "dtype": dtype, "settings": {"max_iter": 2}}
        yield {"function": FIT, "what": "sparse, 2 epochs", "request": request}


def ratios(record: Record) -> Quartiles:
    """scikit-learn's time over fastmlp's, turn by turn."""
    return over(record["times"]["sklearn"], record["times"]["fastmlp"])


def lines(results: Record) -> Iterator[str]:
    """Every task, then medians of fits and predictions, for the terminal."""
    records = [r for r in results["estimators"] if all(r["times"].values())]
    if not records:
        return
    yield f"\nestimators: {PEERS['sklearn'].title}'s time over fastmlp's, the same call and numbers"
    rows, by_kind = [], dict[str, list[float]]()
    for r in records:
        ours, ratio = quartiles(r["times"]["fastmlp"]).median, ratios(r)
        cells = r["request"]["name"], r["request"]["dtype"], r["what"], f"{1e3 * ours:.3g}"
        rows.append((*cells, f"{ratio.median:.2f}x", ratio.spread))
        kind = r["what"] if r["function"] == PREDICT else "fit"
        by_kind.setdefault(kind, []).append(ratio.median)
    titles = ("data", "dtype", "what", ">fastmlp, ms", ">ratio", ">quartiles")
    yield from Table(titles, rows).text()
    for kind, medians in by_kind.items():
        yield (
            f"  {kind}: median {np.median(medians):.2f}x, least {min(medians):.2f}x, "
            f"below 1 in {sum(ratio < 1 for ratio in medians)} of {len(medians)}"
        )
