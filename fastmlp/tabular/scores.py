"""Scores of a `TableModel` on the rows of a table."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastmlp.tabular.batches import Batch
from fastmlp.tabular.model import TableModel, Task
from fastmlp.validation import scalars

Array = NDArray[Any]


def accuracy(codes: Array, probabilities: Array) -> float:
    """Return the share of rows whose most probable class is theirs."""
    return float((probabilities.argmax(axis=1) == codes).mean())


def log_loss(codes: Array, probabilities: Array) -> float:
    """Return the mean of minus the logarithm of the probability of each row's class."""
    its = probabilities[np.arange(len(codes)), codes].astype(np.float64)
    least = np.finfo(probabilities.dtype).eps
    return float(-np.log(np.clip(its, least, 1)).mean())


def auc(codes: Array, probabilities: Array) -> float:
    """Return the area under the ROC curve; of several classes each against the others, the mean."""
    try:
        from sklearn.metrics import roc_auc_score
    except ImportError as error:
        raise ImportError("auc needs scikit-learn: pip install 'fastmlp[sklearn]'") from error
    if probabilities.shape[1] == 2:
        return float(roc_auc_score(codes, probabilities[:, 1]))
    classes = np.arange(probabilities.shape[1])
    p = probabilities.astype(np.float64)
    p /= p.sum(axis=1, keepdims=True)
    return float(roc_auc_score(codes, p, multi_class="ovr", labels=classes))


def rmse(y: Array, predictions: Array) -> float:
    """Return the root of the mean squared error."""
    return float(np.sqrt(np.mean((y - predictions) ** 2)))


def mae(y: Array, predictions: Array) -> float:
    """Return the mean absolute error."""
    return float(np.abs(y - predictions).mean())


def r2(y: Array, predictions: Array) -> float:
    """Return one minus the squared errors' share of the variance."""
    spread = float(((y - y.mean()) ** 2).sum())
    return 1 - float(((y - predictions) ** 2).sum()) / spread if spread else float("nan")


METRICS: dict[Task, dict[str, Callable[[Array, Array], float]]] = {
    "classification": {"accuracy": accuracy, "log_loss": log_loss, "auc": auc},
    "regression": {"rmse": rmse, "mae": mae, "r2": r2},
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


def score(
    model: TableModel, batches: Iterable[Batch], who: str, metrics: Sequence[str] = ()
) -> dict[str, float]:
    """Return the scores of all rows, by the metrics' names; without names the default ones.

    Raises
    ------
    TypeError, ValueError
        If a metric is not known, or the targets are not what they must be.
    """
    known = METRICS[model.task]
    for name in metrics:
        scalars.known(who, "metric", name, known, SYNONYMS)
    targets, answers = [], []
    for batch, outputs in model.outputs(batches):
        targets.append(model.target.values(batch.column(model.target.name), batch.where))
        regression = model.target.classes is None
        answers.append(model.answers(outputs) if regression else model.probabilities(outputs))
    if not targets:
        raise ValueError(f"{who}: there are no rows")
    y, predictions = np.concatenate(targets), np.concatenate(answers)
    return {name: known[name](y, predictions) for name in metrics or DEFAULTS[model.task]}
