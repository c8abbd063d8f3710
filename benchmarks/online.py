"""Streams of river, row by row: each model predicts a row, then learns it.

`python -m benchmarks.online` prints the mean error and microseconds of both calls of
fastmlp.river, river's linear models and, where it is installed, deep-river. Needs the
group `steps`.
"""

import time
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from itertools import islice
from typing import Any

import numpy as np

N_ROWS = 10_000
TURNS = 20
Stream = list[tuple[dict[Any, Any], Any]]


def streams() -> dict[str, Stream]:
    datasets = import_module("river.datasets")
    synth = import_module("river.datasets.synth")
    gradual = {"position": (3500, 7000), "transition_window": 500}
    drifting = synth.FriedmanDrift("gra", **gradual, seed=1)
    abrupt = synth.FriedmanDrift("gsg", **gradual, seed=1)
    turning = synth.Hyperplane(seed=1, n_drift_features=5, mag_change=0.01)
    return {
        "TrumpApproval": [*datasets.TrumpApproval()],
        "Friedman, gradual drift": [*islice(drifting, N_ROWS)],
        "Friedman, drift and back": [*islice(abrupt, N_ROWS)],
        "Phishing": [*datasets.Phishing()],
        "Hyperplane that turns": [*islice(turning, N_ROWS)],
        "ImageSegments": [*datasets.ImageSegments()],
    }


def models(stream: Stream) -> dict[str, Callable[[], Any]]:
    ours = import_module("fastmlp.river")
    linear = import_module("river.linear_model")
    scaler = import_module("river.preprocessing").StandardScaler
    if isinstance(stream[0][1], float):
        made: dict[str, Callable[[], Any]] = {
            "fastmlp.river": lambda: ours.MLPRegressor(seed=0),
            "LinearRegression": lambda: scaler() | linear.LinearRegression(),
            "LinearRegression(intercept_lr=0.1)": lambda: (
                scaler() | linear.LinearRegression(intercept_lr=0.1)
            ),
        }
        if find_spec("deep_river"):
            made["deep-river, 32-32, Adam(0.01)"] = lambda: scaler() | deep(stream)
        return made
    several = len({y for _, y in stream}) > 2
    if several:
        line = linear.SoftmaxRegression
    else:
        line = linear.LogisticRegression
    return {
        "fastmlp.river": lambda: ours.MLPClassifier(seed=0),
        line.__name__: lambda: scaler() | line(),
    }


def deep(stream: Stream) -> Any:
    torch = import_module("torch")
    torch.manual_seed(0)
    torch.set_num_threads(1)
    first_row, _ = stream[0]
    net = torch.nn.Sequential(
        torch.nn.Linear(len(first_row), 32),
        torch.nn.ReLU(),
        torch.nn.Linear(32, 32),
        torch.nn.ReLU(),
        torch.nn.Linear(32, 1),
    )
    regressor = import_module("deep_river.regression").Regressor
    return regressor(net, loss_fn="mse", optimizer_fn="adam", lr=0.01, seed=0)


def run(stream: Stream, model: Any) -> tuple[float, float]:
    """The mean error, absolute or of labels, and microseconds a row on this thread."""
    errors = []
    numeric = isinstance(stream[0][1], float)
    begin = time.thread_time()
    for x, y in stream:
        predicted = model.predict_one(x)
        model.learn_one(x, y)
        if numeric:
            errors.append(abs(predicted - y))
        else:
            errors.append(predicted != y)
    spent = time.thread_time() - begin
    return float(np.mean(errors)), 1e6 * spent / len(stream)


def beyond() -> float:
    """Microseconds of learn_one of ten features on 10-8-8-1 beyond a loop that sorts
    them.
    """
    model = import_module("fastmlp.river").MLPRegressor((8, 8), seed=0)
    table = np.random.default_rng(0).normal(size=(500, 10))
    rows = [{f"f{i}": v for i, v in enumerate(row)} for row in table.tolist()]
    array = np.zeros((1, 10), np.float32)
    sorting = np.inf
    learning = np.inf
    for _ in range(TURNS):
        begin = time.thread_time()
        for x in rows:
            for place, name in enumerate(sorted(x)):
                array[0, place] = x[name]
        middle = time.thread_time()
        for x in rows:
            model.learn_one(x, x["f0"])
        end = time.thread_time()
        sorting = min(sorting, middle - begin)
        learning = min(learning, end - middle)
    return 1e6 * (learning - sorting) / len(rows)


def main() -> None:
    print("| stream | model | error | us a row |")
    print("|---|---|--:|--:|")
    for name, stream in streams().items():
        for title, make in models(stream).items():
            error, spent = run(stream, make())
            print(f"| {name} | {title} | {error:.3f} | {spent:.1f} |", flush=True)
    print(f"\nlearn_one beyond a loop that sorts: {beyond():.1f} us")


if __name__ == "__main__":
    main()
