"""Scores of a model on the rows of a table."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastmlp.data.batches import PredictBatch, predicted
from fastmlp.data.columns import require_target
from fastmlp.tabular.schema.arrow_columns import decoded, numbers, places
from fastmlp.tabular.schema.rule import Task
from fastmlp.validation import scalars

Array = NDArray[Any]


# A metric takes scikit-learn's metrics, places of classes or numbers, and probabilities or numbers.
METRICS: dict[Task, dict[str, Callable[[Any, Array, Array], float]]] = {
    "classification": {
        "accuracy": lambda metrics, codes, p: metrics.accuracy_score(codes, p.argmax(axis=1)),
        "log_loss": lambda metrics, codes, p: metrics.log_loss(
            codes, p, labels=np.arange(p.shape[1])
        ),
        "auc": lambda metrics, codes, p: metrics.roc_auc_score(
            codes,
            p[:, 1] if p.shape[1] == 2 else p,
            multi_class="ovr",
            labels=np.arange(p.shape[1]),
        ),
    },
    "regression": {
        "rmse": lambda metrics, y, result: metrics.root_mean_squared_error(y, result),
        "mae": lambda metrics, y, result: metrics.mean_absolute_error(y, result),
        "r2": lambda metrics, y, result: metrics.r2_score(y, result),
    },
}
DEFAULTS: dict[Task, tuple[str, ...]] = {
    "classification": ("accuracy", "log_loss"),
    "regression": ("rmse", "mae", "r2"),
}
SYNONYMS = {
    "accuracy": "acc",
    "log_loss": "cross_entropy logloss nll",
    "auc": "roc_auc auroc roc_auc_score",
    "rmse": "root_mean_squared_error",
    "mae": "mean_absolute_error l1",
    "r2": "r2_score",
}


def task_of(model: Any) -> Task:
    """Return the task of a model of tables."""
    return "classification" if hasattr(model, "classes_") else "regression"


def score(
    model: Any, batches: Iterable[PredictBatch], target: str, who: str, names: Sequence[str] = ()
) -> dict[str, float]:
    """Return the scores of all rows by the metrics' names, by default `DEFAULTS`.

    Targets and predictions of all rows stay in memory, the columns of one batch.

    Parameters
    ----------
    batches : rows, which keep the target's column

    Raises
    ------
    TypeError, ValueError
        If a metric is not known, or a target is missing or not of the model's kind.
    """
    from sklearn import metrics

    task = task_of(model)
    known, method = METRICS[task], model.predict if task == "regression" else model.predict_proba
    for name in names:
        scalars.known(who, "metric", name, known, SYNONYMS)
    targets, predictions = list[Array](), list[Array]()
    for batch in batches:
        if batch.rows.num_rows:
            place: Any = batch.where
            targets.append(_targets(model, batch.kept.column(target), target, place.by(who)))
            predictions.append(predicted(method, batch, named=True, who=who))
    if not targets:
        raise ValueError(f"{who}: there are no rows")
    y, values = np.concatenate(targets), np.concatenate(predictions).astype(np.float64)
    if task == "classification":
        values /= values.sum(axis=1, keepdims=True)
    return {name: float(known[name](metrics, y, values)) for name in names or DEFAULTS[task]}


def _targets(model: Any, column: Any, name: str, where: str) -> Array:
    """Return numbers, or the places of classes, of an Arrow column, shape (n_rows,).

    Raises
    ------
    TypeError, ValueError
        If values are missing, are not numbers, or are unknown classes.
    """
    import pyarrow

    require_target(column, name, where)
    if not hasattr(model, "classes_"):
        return numbers(column, name, where)
    classes = tuple(model.classes_.tolist())
    codes = places(decoded(column).cast(pyarrow.array(classes).type), classes)
    if (codes < 0).any():
        unknown = column[int(np.argmax(codes < 0))].as_py()
        raise ValueError(
            f"{where}: the target {name!r} has the class {unknown!r}, which was not in "
            f"training; known: {', '.join(map(repr, classes[:20]))}"
        )
    return codes
