"""Scores of a model on the rows of a table."""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from fastmlp.data.batches import PredictBatch, predicted
from fastmlp.data.columns import require_target
from fastmlp.tabular.schema.arrow_columns import decoded, numbers, places
from fastmlp.tabular.schema.rule import Task
from fastmlp.training import metrics
from fastmlp.validation import scalars
from fastmlp.validation.packages import needs

Array = NDArray[Any]


class StreamedMetric(Protocol):
    """A metric of the rows so far."""

    def add(self, y: Array, predictions: Array) -> None:
        """Take rows: places of classes and probabilities of each, or numbers and predictions."""

    def value(self) -> float:
        """Return the metric of all rows."""


class Mean:
    """The mean over the rows of a function of each.

    Parameters
    ----------
    of : returns an array of shape (n_rows,), of what `add` takes
    end : applied to the mean
    """

    def __init__(self, of: Callable[[Array, Array], Array], end: Callable[[float], float] = float):
        self._of, self._end = of, end
        self._total, self._n = 0.0, 0

    def add(self, y: Array, predictions: Array) -> None:
        """Take rows."""
        each = self._of(y, predictions)
        self._total, self._n = self._total + float(each.sum()), self._n + len(each)

    def value(self) -> float:
        """Return the mean."""
        return self._end(self._total / self._n)


class R2:
    """One minus the squared errors' share of the variance."""

    def __init__(self) -> None:
        self._errors, self._n, self._mean, self._spread = 0.0, 0, 0.0, 0.0

    def add(self, y: Array, predictions: Array) -> None:
        """Take rows."""
        self._errors += float(metrics.squared_errors(y, predictions).sum())
        # Chan et al., Updating formulae and a pairwise algorithm for computing sample variances.
        n, mean = self._n + len(y), float(y.mean())
        apart = mean - self._mean
        self._spread += float(((y - mean) ** 2).sum()) + apart**2 * self._n * len(y) / n
        self._mean += apart * len(y) / n
        self._n = n

    def value(self) -> float:
        """Return the coefficient; NaN if all targets are one number."""
        return 1 - self._errors / self._spread if self._spread else float("nan")


class Auc:
    """The area under the ROC curve; of several classes each against the others, the mean.

    The score needs an order of all rows: probabilities, in float32, and classes stay in memory.
    """

    def __init__(self) -> None:
        try:
            import sklearn.metrics
        except ImportError as error:
            raise ImportError(needs("auc", "scikit-learn")) from error
        self._area = sklearn.metrics.roc_auc_score
        self._codes, self._probabilities = list[Array](), list[Array]()

    def add(self, y: Array, predictions: Array) -> None:
        """Keep rows."""
        n_classes = predictions.shape[1]
        self._codes.append(y.astype(np.min_scalar_type(n_classes)))
        self._probabilities.append(predictions[:, 1].copy() if n_classes == 2 else predictions)

    def value(self) -> float:
        """Return the area, as scikit-learn has it."""
        codes, p = np.concatenate(self._codes), np.concatenate(self._probabilities)
        self._codes, self._probabilities = [], []
        if p.ndim == 1:
            return float(self._area(codes, p))
        classes = np.arange(p.shape[1])
        p = p.astype(np.float64)
        p /= p.sum(axis=1, keepdims=True)
        return float(self._area(codes, p, multi_class="ovr", labels=classes))


def surprise(codes: Array, probabilities: Array) -> Array:
    """Return minus the logarithm of the probability of each row's class."""
    own = metrics.of_classes(codes, probabilities).astype(np.float64)
    return metrics.log_losses(own, float(np.finfo(probabilities.dtype).eps))


METRICS: dict[Task, dict[str, Callable[[], StreamedMetric]]] = {
    "classification": {
        "accuracy": lambda: Mean(metrics.hits),
        "log_loss": lambda: Mean(surprise),
        "auc": Auc,
    },
    "regression": {
        "rmse": lambda: Mean(metrics.squared_errors, math.sqrt),
        "mae": lambda: Mean(metrics.absolute_errors),
        "r2": R2,
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
    """Return the scores of all rows, by the metrics' names; without names the default ones.

    One batch is in memory at a time; for `Auc` the predictions of all rows.

    Parameters
    ----------
    batches : rows, and the target among the columns that are kept of them

    Raises
    ------
    TypeError, ValueError
        If a metric is not known, or the targets are not what they must be.
    """
    task = task_of(model)
    known, method = METRICS[task], model.predict if task == "regression" else model.predict_proba
    for name in names:
        scalars.known(who, "metric", name, known, SYNONYMS)
    measured = {name: known[name]() for name in names or DEFAULTS[task]}
    n = 0
    for batch in batches:
        if not batch.rows.num_rows:
            continue
        place: Any = batch.where
        y = _targets(model, batch.kept.column(target), target, place.by(who))
        n += len(y)
        predictions = predicted(method, batch, named=True, who=who)
        for metric in measured.values():
            metric.add(y, predictions)
    if not n:
        raise ValueError(f"{who}: there are no rows")
    return {name: metric.value() for name, metric in measured.items()}


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
