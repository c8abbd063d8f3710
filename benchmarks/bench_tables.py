"""Models of tables: fits of rows that are made up,
and predictions, beside LightGBM and CatBoost.

Single rows are served beside ONNX Runtime, too,
from one thread, and from sixteen at once.

Rows have 16 numbers, with 4 categories or without. A fit takes the rows to validate on
from those to train on. The tables of `benchmarks.tabular` say how good the models are.
"""

import threading
import time
import warnings
from collections.abc import Callable
from functools import partial
from importlib import import_module
from itertools import cycle
from typing import Any, Literal

import numpy as np
import pytest

from benchmarks.bench_train import Race
from benchmarks.peers import Unsupported
from benchmarks.race import Ways, repeated
from benchmarks.workloads import Array

N_NUMBERS = 16
N_LEVELS = 6
N_ROWS = 20_000
# Columns of categories, by the kind of a table.
KINDS = {"numbers": 0, "numbers-and-categories": 4}
THREADS = 1
TASK: Literal["regression"] = "regression"


def made_up(
    n_rows: int, kind: str = "numbers-and-categories", seed: int = 0
) -> tuple[Any, Array]:
    """A frame, and numbers to predict."""
    pandas = import_module("pandas")
    rng = np.random.default_rng(seed)
    numbers = rng.standard_normal((n_rows, N_NUMBERS))
    codes = rng.integers(N_LEVELS, size=(n_rows, 4))
    frame = pandas.DataFrame(numbers, columns=[f"x{i}" for i in range(N_NUMBERS)])
    for i, column in enumerate(codes.T[: KINDS[kind]]):
        frame[f"c{i}"] = np.array(list("abcdef"), object)[column]
    signal = np.sin(2 * numbers[:, 0]) + numbers[:, 1] * numbers[:, 2]
    if KINDS[kind]:
        signal += 0.5 * (codes[:, 0] % 3)
    return frame, signal + np.abs(numbers[:, 3]) + rng.standard_normal(n_rows)


def catboost_of(frame: Any, y: Array) -> Any:
    """A fitted CatBoost; a fifth of the rows end its training,
    as those of a pack do.
    """
    from benchmarks.tabular.models import fitted_catboost
    from benchmarks.tabular.sources import SplitTable

    parts = np.split(np.arange(len(y)), [len(y) * 4 // 5, len(y)])
    table = SplitTable("made up", TASK, frame, y, *parts)
    model, *_ = fitted_catboost(table, THREADS, 0)
    return model


def lightgbm_of(frame: Any, y: Array) -> Any:
    model = import_module("lightgbm").LGBMRegressor(n_jobs=THREADS, verbose=-1)
    return model.fit(with_categories(frame), y)


def with_categories(frame: Any) -> Any:
    """The frame with its texts as categories, which LightGBM takes."""
    texts = list(frame.select_dtypes(exclude="number"))
    return frame.astype(dict.fromkeys(texts, "category"))


def pack_fitted(preset: str, frame: Any, y: Array, **settings: Any) -> Any:
    from benchmarks.tabular.models import pack_of

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pack = pack_of(TASK, THREADS, 0, preset=preset, **settings)
        return pack.fit(frame, y)


def fit_of(name: str, form: str | None, quick: bool) -> Any:
    """A function of a frame and numbers that fits a library's model."""
    if name == "lightgbm":
        return lightgbm_of
    if name == "catboost":
        return catboost_of
    fit = partial(pack_fitted, form or "fast")
    if quick:
        fit = partial(fit, max_iter=2, n_members=2)
    return fit


class Fit(Ways):
    """Fits of a table, after one of few rows that compiles."""

    def __init__(
        self, worker: Any, quick: bool, kind: str, form: str | None = None
    ) -> None:
        fit = fit_of(worker.name, form, quick)
        n_first = 200 if quick else 1500
        fit(*made_up(n_first, kind))
        n_rows = 200 if quick else N_ROWS
        rows = made_up(n_rows, kind)
        super().__init__(worker, quick, {"fit": repeated(fit, *rows)}, warm=False)


class Predict(Ways):
    """Predictions of so many rows of a frame."""

    def __init__(
        self, worker: Any, quick: bool, kind: str, n_rows: int, form: str | None = None
    ) -> None:
        fit = fit_of(worker.name, form, quick)
        n_fitted = 200 if quick else 5_000
        model = fit(*made_up(n_fitted, kind))
        if quick:
            n_rows = min(n_rows, 100)
        rows, _ = made_up(n_rows, kind, seed=1)
        predict = model.predict
        if worker.name == "catboost":
            predict = partial(predict, thread_count=THREADS)
        if worker.name == "lightgbm":
            rows = with_categories(rows)
        super().__init__(worker, quick, {"predict": repeated(predict, rows)})


# Rows to serve, in turn; threads that ask,
# and how often a second each asks at drawn times.
N_SERVED = 200
N_ASKING = 16
RATE = 100
SERVED = ("dict", "list", "frame")
ASKED = ("p99-at-100-a-second", "closed-loop", "p99-in-a-closed-loop")
Call = Callable[[], Any]


def served_by(name: str, model: Any, form: str) -> Callable[[Any], Any]:
    """A library's prediction of a row;
    what turns a row into its form is a part of it.
    """
    if name == "fastmlp":
        if form == "frame":
            return model.predict
        return lambda row: model.predict([row])
    if form == "frame":
        return partial(model.predict, **OF_ONE_THREAD[name])
    numbers = [f"x{i}" for i in range(N_NUMBERS)]
    texts = [f"c{i}" for i in range(4)]
    if name == "onnx":
        return partial(by_onnx, model)
    if name == "catboost":
        names = [*numbers, *texts]
        predict = partial(model.predict, thread_count=THREADS)
        if form == "list":
            return predict
        return lambda row: predict([row[name] for name in names])
    codes = {level: code for code, level in enumerate("abcdef")}
    booster = model.booster_

    def predict_codes(row: Any) -> Any:
        if form == "dict":
            values = [*row.values()]
        else:
            values = row
        coded = [*values[:N_NUMBERS], *map(codes.get, values[N_NUMBERS:])]
        return booster.predict(np.array([coded], np.float64), num_threads=THREADS)

    return predict_codes


OF_ONE_THREAD = {
    "lightgbm": {"num_threads": THREADS},
    "catboost": {"thread_count": THREADS},
}


def by_onnx(session: Any, row: Any) -> Any:
    inputs = {}
    for name, value in row.items():
        kind = object if isinstance(value, str) else np.float32
        inputs[name] = np.array([[value]], kind)
    return session.run(None, inputs)


def session_of(model: Any) -> Any:
    """The model of fastmlp in ONNX Runtime, on one thread."""
    from fastmlp import to_onnx

    runtime = import_module("onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = THREADS
    graph = to_onnx(model).SerializeToString()
    return runtime.InferenceSession(graph, options, ["CPUExecutionProvider"])


def latencies(call: Call, seconds: float, rate: float | None) -> Array:
    """Seconds of the calls of all threads,
    which ask at drawn times, or at once if rate is None.

    A call begins when it is due, however late its thread wakes.
    """
    found: list[list[float]] = [[] for _ in range(N_ASKING)]
    begin = time.perf_counter() + 0.05

    def ask(i: int) -> None:
        rng = np.random.default_rng(i)
        due = begin
        time.sleep(begin - time.perf_counter())
        while due < begin + seconds:
            if rate is not None:
                due += rng.exponential(1 / rate)
                time.sleep(max(0.0, due - time.perf_counter()))
            call()
            now = time.perf_counter()
            found[i].append(now - due)
            if rate is None:
                due = now

    threads = [threading.Thread(target=ask, args=(i,)) for i in range(N_ASKING)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return np.concatenate(found)


def rows_of(container: str, name: str) -> list[Any]:
    """Rows to serve to a library, each in a form of SERVED."""
    frame, _ = made_up(N_SERVED, seed=1)
    if container == "frame":
        if name == "lightgbm":
            frame = with_categories(frame)
        return [frame.iloc[[i]] for i in range(N_SERVED)]
    rows: list[Any] = frame.to_dict("records")
    if container == "list":
        return [[*row.values()] for row in rows]
    return rows


class Serve(Ways):
    """Single rows in a form, from one thread;
    or as dicts by many, by a name of ASKED.
    """

    def __init__(
        self, worker: Any, quick: bool, task: str, form: str | None = None
    ) -> None:
        container = "dict" if task in ASKED else task
        name = worker.name
        if name == "onnx" and container != "dict":
            raise Unsupported("inputs are by column")
        fit = fit_of("fastmlp" if name == "onnx" else name, form, quick)
        n_fitted = 200 if quick else 5_000
        model = fit(*made_up(n_fitted))
        if name == "onnx":
            model = session_of(model)
        predict = served_by(name, model, container)
        turns = cycle(rows_of(container, name))
        calls = repeated(lambda: predict(next(turns)))
        self.task = task
        self.seconds = 0.1 if quick else 2.0
        super().__init__(worker, quick, {container: calls})
        self.call: Call = partial(self.run, 1)

    def turn(self, n: int) -> float:
        if self.task not in ASKED:
            return super().turn(n)
        rate = None if "closed" in self.task else RATE
        found = latencies(self.call, self.seconds, rate)
        if self.task == "closed-loop":
            return n * self.seconds / len(found)
        return n * float(np.percentile(found, 99))


models = pytest.mark.libraries("fastmlp", "fastmlp-balanced", "lightgbm", "catboost")


@models
@pytest.mark.parametrize("kind", KINDS)
def test_fit_table(race: Race, kind: str) -> None:
    race(Fit, seconds=0, rows=N_ROWS, kind=kind)


@models
@pytest.mark.parametrize("n_rows", [1, 100, 10_000, 100_000], ids=lambda n: f"{n}-rows")
@pytest.mark.parametrize("kind", KINDS)
def test_predict_table(race: Race, kind: str, n_rows: int) -> None:
    race(Predict, seconds=0.05, rows=n_rows, kind=kind, n_rows=n_rows)


@pytest.mark.libraries("fastmlp", "fastmlp-balanced", "lightgbm", "catboost", "onnx")
@pytest.mark.parametrize("task", [*SERVED, *ASKED])
def test_serve(race: Race, task: str) -> None:
    race(Serve, seconds=0 if task in ASKED else 0.05, rows=1, task=task)
