"""The models: each takes a table, trains on its rows, and predicts those to test on.

Every model has the settings of its library, and the best round or epoch of the rows to
validate on. Boosted trees: at most 1,000 rounds, and 50 without a gain end them;
scikit-learn's 10, since they predict with the last round and not with the best.
"""

import math
import time
from collections.abc import Callable
from functools import partial
from importlib import import_module
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from benchmarks.tabular.sources import SplitTable, columns_of, kind_of
from benchmarks.workloads import Array

LINEAR = "linear"
ROUNDS, PATIENCE = 1000, 50
# Of a column that scikit-learn's trees take as categories.
MOST_LEVELS = 254
# Of AutoGluon's best quality; its medium quality ends by itself.
MOST_SECONDS, TARGET = 120, "the target"
AUTOGLUON = ("medium_quality", "best_quality")

# Takes a table, threads and a seed, and returns probabilities (rows,
# classes), or numbers (rows,).
Model = Callable[[SplitTable, int, int], Array]


def categories(table: SplitTable) -> list[str]:
    """The names of the columns that are strings."""
    return [name for name in table.x if table.x[name].dtype.kind == "O"]


def linear(table: SplitTable, threads: int, seed: int) -> Array:
    """Predictions of ridge or logistic regression,
    of standardised and one-hot columns.
    """
    models = import_module("sklearn.linear_model")
    if table.task == "regression":
        net = models.RidgeCV(np.logspace(-3, 4, 15))
    else:
        net = models.LogisticRegression(max_iter=2000)
    return _predict(_dense(table, net, table.train), table)


def scikit_mlp(table: SplitTable, threads: int, seed: int) -> Array:
    """Predictions of scikit-learn's nets;
    they take a quarter of the 80 % to validate on.
    """
    nets = import_module("sklearn.neural_network")
    settings = {
        "early_stopping": True,
        "validation_fraction": 0.25,
        "random_state": seed,
    }
    rows = np.concatenate([table.train, table.validation])
    if table.task != "regression":
        return _predict(_dense(table, nets.MLPClassifier(**settings), rows), table)
    compose, preprocessing = (
        import_module(f"sklearn.{m}") for m in ("compose", "preprocessing")
    )
    net = compose.TransformedTargetRegressor(
        nets.MLPRegressor(**settings), transformer=preprocessing.StandardScaler()
    )
    return _predict(_dense(table, net, rows), table)


def hist_gradient_boosting(table: SplitTable, threads: int, seed: int) -> Array:
    """Predictions of scikit-learn's trees;
    of a column's categories the commonest are kept.
    """
    trees = import_module("sklearn.ensemble")
    model = getattr(trees, f"HistGradientBoosting{kind_of(table.task)}")(
        max_iter=ROUNDS, early_stopping=True, random_state=seed
    )
    x = native(table, MOST_LEVELS)
    x_val, y_val = _validation(table, x)
    with import_module("threadpoolctl").threadpool_limits(threads, user_api="openmp"):
        model.fit(*_training(table, x), X_val=x_val, y_val=y_val)
        return _predict(model, table, x)


def lightgbm(
    table: SplitTable, threads: int, seed: int, seconds: float = math.inf
) -> Array:
    """Predictions of LightGBM; no round begins after so many seconds."""
    library = import_module("lightgbm")
    end = time.perf_counter() + seconds

    def end_in_time(round: Any) -> None:
        if time.perf_counter() > end:
            scores = round.evaluation_result_list
            raise library.callback.EarlyStopException(round.iteration, scores)

    kind = getattr(library, f"LGBM{kind_of(table.task)}")
    model = kind(n_estimators=ROUNDS, n_jobs=threads, random_state=seed, verbose=-1)
    x = native(table)
    x.columns = [f"c{i}" for i in range(x.shape[1])]  # it refuses some signs in names
    stop = library.early_stopping(PATIENCE, verbose=False)
    callbacks = [stop, end_in_time]
    model.fit(
        *_training(table, x), eval_set=[_validation(table, x)], callbacks=callbacks
    )
    return _predict(model, table, x)


def xgboost(table: SplitTable, threads: int, seed: int) -> Array:
    model = getattr(import_module("xgboost"), f"XGB{kind_of(table.task)}")(
        n_estimators=ROUNDS,
        early_stopping_rounds=PATIENCE,
        enable_categorical=True,
        n_jobs=threads,
        random_state=seed,
    )
    x = native(table)
    model.fit(*_training(table, x), eval_set=[_validation(table, x)], verbose=False)
    return _predict(model, table, x)


class EndInTime:
    """CatBoost's callback that ends a fit after so many seconds."""

    def __init__(self, seconds: float) -> None:
        self._end = time.perf_counter() + seconds

    def after_iteration(self, _: Any) -> bool:
        """Return True to go on."""
        return time.perf_counter() < self._end


def catboost(
    table: SplitTable, threads: int, seed: int, seconds: float = math.inf
) -> Array:
    """Predictions of CatBoost; a missing category is a level of its own."""
    if math.isinf(seconds):
        callbacks = []
    else:
        callbacks = [EndInTime(seconds)]
    model, x = fitted_catboost(table, threads, seed, callbacks)
    return _predict(model, table, x)


def fitted_catboost(
    table: SplitTable, threads: int, seed: int, callbacks: Any = (), **settings: Any
) -> tuple[Any, Any]:
    """A model that has stopped by the rows to validate on,
    and the columns as it takes them.
    """
    model = getattr(import_module("catboost"), f"CatBoost{kind_of(table.task)}")(
        iterations=ROUNDS,
        early_stopping_rounds=PATIENCE,
        thread_count=threads,
        random_seed=seed,
        cat_features=categories(table),
        verbose=False,
        allow_writing_files=False,
        **settings,
    )
    x = table.x.copy()
    for name in categories(table):
        x[name] = x[name].fillna("missing")
    stop = {"eval_set": _validation(table, x), "callbacks": list(callbacks) or None}
    model.fit(*_training(table, x), **stop)
    return model, x


def chimeraboost(table: SplitTable, threads: int, seed: int) -> Array:
    kind = getattr(import_module("chimeraboost"), f"ChimeraBoost{kind_of(table.task)}")
    model = kind(
        random_state=seed, thread_count=threads, cat_features=categories(table)
    )
    model.fit(*_training(table, table.x), eval_set=_validation(table, table.x))
    return _predict(model, table)


def realmlp(table: SplitTable, threads: int, seed: int) -> Array:
    """Predictions of RealMLP-TD: 256 epochs, and for a log loss no label smoothing.

    It refuses missing numbers: they are the median, and a column says so.
    """
    kind = getattr(import_module("pytabkit"), f"RealMLP_TD_{kind_of(table.task)}")
    settings: dict[str, Any] = {}
    if table.task != "regression":
        settings = {"use_ls": False, "val_metric_name": "cross_entropy"}
    x = _filled(table)
    rows = np.concatenate([table.train, table.validation])
    model = kind(device="cpu", random_state=seed, n_threads=threads, **settings)
    model.fit(
        x.iloc[rows],
        table.y[rows],
        val_idxs=np.arange(len(table.train), len(rows)),
        cat_col_names=categories(table),
    )
    return _predict(model, table, x)


def autogluon(table: SplitTable, threads: int, seed: int, preset: str) -> Array:
    """Predictions of AutoGluon's ensemble, of the models that are installed beside it.

    "best_quality" trains on folds of all rows but those to test on,
    within `MOST_SECONDS`.
    """
    tabular = import_module("autogluon.tabular")
    x = table.x.assign(**{TARGET: table.y})
    rows: dict[str, Any] = {
        "train_data": x.iloc[table.train],
        "tuning_data": x.iloc[table.validation],
    }
    if preset == "best_quality":
        rows = {"train_data": x.iloc[np.concatenate([table.train, table.validation])]}
        rows["time_limit"] = MOST_SECONDS
    if table.task == "regression":
        loss = "root_mean_squared_error"
    else:
        loss = "log_loss"
    with TemporaryDirectory() as folder:
        model = tabular.TabularPredictor(
            TARGET,
            problem_type=table.task,
            eval_metric=loss,
            path=folder,
            verbosity=0,
            learner_kwargs={"random_state": seed},
        )
        model.fit(**rows, presets=preset, num_cpus=threads, num_gpus=0)
        return _predict(model, table, table.x)


PEERS: dict[str, Model] = {
    LINEAR: linear,
    "MLP of scikit-learn": scikit_mlp,
    "HistGradientBoosting": hist_gradient_boosting,
    "LightGBM": lightgbm,
    "XGBoost": xgboost,
    "CatBoost": catboost,
    "chimeraboost": chimeraboost,
    "RealMLP-TD": realmlp,
    **{
        f"AutoGluon {preset}": partial(autogluon, preset=preset) for preset in AUTOGLUON
    },
}


def predictor(model: Any, task: str) -> Callable[[Any], Any]:
    """The method that predicts numbers, or probabilities of classes."""
    method: Callable[[Any], Any] = (
        model.predict if task == "regression" else model.predict_proba
    )
    return method


def _predict(model: Any, table: SplitTable, x: Any = None) -> Array:
    rows = (table.x if x is None else x).iloc[table.test]
    predictions = np.asarray(predictor(model, table.task)(rows), np.float64)
    if table.task == "regression":
        return predictions.ravel()
    return predictions


def _training(table: SplitTable, x: Any) -> tuple[Any, Array]:
    return x.iloc[table.train], table.y[table.train]


def _validation(table: SplitTable, x: Any) -> tuple[Any, Array]:
    return x.iloc[table.validation], table.y[table.validation]


def native(table: SplitTable, most: int | None = None) -> Any:
    """The columns with pandas' categories, those of the rows to train on."""
    pandas = import_module("pandas")
    x = table.x.copy()
    for name in categories(table):
        levels = x[name].iloc[table.train].value_counts().index[:most]
        x[name] = x[name].astype(pandas.CategoricalDtype(sorted(levels)))
    return x


def _filled(table: SplitTable) -> Any:
    """The columns without missing values:
    medians of the rows to train on, and marks.
    """
    x = table.x.copy()
    names = categories(table)
    for name in table.x:
        if name in names:
            x[name] = x[name].fillna("missing").astype("category")
            continue
        column = x[name].astype(np.float64)
        missing = column.isna()
        if missing.any():
            x[f"{name} is missing"] = missing.astype(np.float64)
        x[name] = column.fillna(column.iloc[table.train].median()).fillna(0)
    return x


def _dense(table: SplitTable, model: Any, rows: Array) -> Any:
    """A pipeline of standardised numbers and one-hot categories,
    trained on some rows.
    """
    pipeline = import_module("sklearn.pipeline")
    texts = categories(table)
    columns = columns_of([*table.x], texts)
    return pipeline.make_pipeline(columns, model).fit(table.x.iloc[rows], table.y[rows])


FASTMLP = "fastmlp"
NETS = "fastmlp nets"


def pack_of(task: str, threads: int | None, seed: int, **settings: Any) -> Any:
    """fastmlp's model of a task, a pack of nets."""
    kind = getattr(import_module("fastmlp.tabular"), f"TabularMLP{kind_of(task)}")
    return kind(random_state=seed, n_jobs=threads, **settings)


def fitted(table: SplitTable, threads: int | None, seed: int, **settings: Any) -> Any:
    """Such a model of a table, with some settings."""
    x_val, y_val = _validation(table, table.x)
    model = pack_of(table.task, threads, seed, **settings)
    return model.fit(*_training(table, table.x), X_val=x_val, y_val=y_val)


def pack(table: SplitTable, threads: int, seed: int, **settings: Any) -> Array:
    """Predictions of such a model."""
    model = fitted(table, threads, seed, **settings)
    return np.asarray(predictor(model, table.task)(table.x.iloc[table.test]))


# The preset "balanced", and its nets alone.
OURS: dict[str, Model] = {
    FASTMLP: pack,
    NETS: partial(pack, trees=False),
}
# To compare fastmlp with itself; they run if they are named.
PRESETS: dict[str, Model] = {
    f"{FASTMLP} {preset}": partial(pack, preset=preset) for preset in ("fast", "best")
}
PRESETS[f"{FASTMLP} fast and trees"] = partial(pack, preset="fast", trees=True)
