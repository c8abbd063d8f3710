"""Models of tables: fits of rows that are made up, and predictions, beside LightGBM and CatBoost.

Rows have 16 numbers, with 4 categories or without. A fit takes the rows to validate on from those
to train on. The tables of `benchmarks.tabular` say how good the models are.
"""

import warnings
from functools import partial
from importlib import import_module
from typing import Any, Literal

import numpy as np
import pytest

from benchmarks.bench_train import Race
from benchmarks.race import Ways, repeated
from benchmarks.workloads import Array

N_NUMBERS, N_LEVELS, N_ROWS = 16, 6, 20_000
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
    """A fitted CatBoost; a fifth of the rows end its training, as those of a pack do."""
    from benchmarks.tabular.models import fitted_catboost
    from benchmarks.tabular.sources import SplitTable

    parts = np.split(np.arange(len(y)), [len(y) * 4 // 5, len(y)])
    table = SplitTable("made up", TASK, frame, y, *parts)
    return fitted_catboost(table, THREADS, 0)[0]


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
        return pack_of(TASK, THREADS, 0, preset=preset, **settings).fit(frame, y)


def fit_of(name: str, form: str | None, quick: bool) -> Any:
    """A function of a frame and numbers that fits a library's model."""
    if name == "fastmlp":
        settings: Any = {"max_iter": 2, "n_members": 2} if quick else {}
        return partial(pack_fitted, form or "fast", **settings)
    return {"lightgbm": lightgbm_of, "catboost": catboost_of}[name]


class Fit(Ways):
    """Fits of a table, after one of few rows that compiles."""

    def __init__(
        self, worker: Any, quick: bool, kind: str, form: str | None = None
    ) -> None:
        fit = fit_of(worker.name, form, quick)
        fit(*made_up(1500 if not quick else 200, kind))
        rows = made_up(200 if quick else N_ROWS, kind)
        super().__init__(worker, quick, {"fit": repeated(fit, *rows)}, warm=False)


class Predict(Ways):
    """Predictions of so many rows of a frame."""

    def __init__(
        self, worker: Any, quick: bool, kind: str, n_rows: int, form: str | None = None
    ) -> None:
        model = fit_of(worker.name, form, quick)(
            *made_up(200 if quick else 5_000, kind)
        )
        rows = made_up(min(n_rows, 100) if quick else n_rows, kind, seed=1)[0]
        predict = model.predict
        if worker.name == "catboost":
            predict = partial(predict, thread_count=THREADS)
        if worker.name == "lightgbm":
            rows = with_categories(rows)
        super().__init__(worker, quick, {"predict": repeated(predict, rows)})


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
