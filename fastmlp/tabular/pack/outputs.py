"""Targets and predictions of a pack: outputs of nets, losses of predictions, intervals."""

import math
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastmlp.network.spec import LossLike
from fastmlp.training import metrics

Array = NDArray[Any]
Task = Literal["binary", "multiclass", "regression"]
# A score of the user's: of targets, predictions and weights or None; higher is better.
Score = Callable[[Array, Array, Array | None], float]
# The least probability that a log-loss sees.
LEAST = 1e-7


class Scorer:
    """The loss of candidates' predictions on the same rows, lower is better.

    Parameters
    ----------
    task : Task
    y : (n_rows,) array, numbers or places of classes
    weight : (n_rows,) array, optional
    score : function of (y, predictions, weight), higher is better; None: log-loss or RMSE

    Attributes
    ----------
    y, weight : as given
    """

    def __init__(
        self, task: Task, y: Array, weight: Array | None = None, score: Score | None = None
    ) -> None:
        self._task, self.y, self.weight, self._score = task, y, weight, score

    def seen(self, predictions: Array) -> Array:
        """The part of a candidate's predictions that the loss compares.

        The log-loss looks at the probability of each row's class alone; means of these are those
        of the means.
        """
        if self._score is not None or self._task == "regression":
            return predictions
        return metrics.of_classes(self.y, predictions)

    def loss(self, seen: Array, weight: Array | None) -> float:
        """The loss of the predictions that `seen` returned, with rows of these weights."""
        if self._score is not None:
            return -float(self._score(self.y, seen, weight))
        if self._task == "regression":
            return math.sqrt(_mean(metrics.squared_errors(self.y, seen), weight))
        return _mean(metrics.log_losses(seen, LEAST), weight)

    def score_of(self, predictions: Array) -> float:
        """Return the score of predictions, higher is better: the user's, minus log-loss, minus
        RMSE."""
        return -self.loss(self.seen(predictions), self.weight)


def _mean(errors: Array, weight: Array | None) -> float:
    """The mean of errors, shape (n_rows,), weighted: the bits of `np.average`, which looks at its
    arguments for as long as a selection's thousand means take."""
    mean = errors.mean() if weight is None else (errors * weight).sum() / weight.sum()
    return float(mean)


LOSSES: dict[Task, LossLike] = {
    "binary": "binary_cross_entropy",
    "multiclass": "cross_entropy",
    "regression": "mse",
}


class NetOutputs(NamedTuple):
    """The outputs of all nets of a pack.

    Numbers are learned as ``(y - center) / scale``, and predictions stay within those that were
    seen in training.

    Attributes
    ----------
    n_outputs : of each net: one for two classes
    bias : (n_outputs,) of the last layer before training: log odds, log shares, or 0
    low, high : the range of predictions of numbers
    """

    task: Task
    n_outputs: int
    bias: tuple[float, ...]
    center: float = 0.0
    scale: float = 1.0
    low: float = 0.0
    high: float = 1.0

    @property
    def loss(self) -> LossLike:
        """The loss that nets are trained on."""
        return LOSSES[self.task]

    def targets(self, y: Array) -> Array:
        """The targets of nets, of numbers or places of classes, shape (n_rows,)."""
        return (y - self.center) / self.scale if self.task == "regression" else y

    def predictions(self, outputs: Array) -> NDArray[np.float64]:
        """Return numbers, shape (n_rows,), or probabilities, shape (n_rows, n_classes), of what a
        net predicts, shape (n_rows, n_outputs)."""
        numbers = outputs.astype(np.float64)
        if self.task == "regression":
            return np.clip(numbers[:, 0] * self.scale + self.center, self.low, self.high)
        return np.concatenate([1 - numbers, numbers], axis=1) if self.task == "binary" else numbers


def outputs_of(task: Task, y: Array, weight: Array | None, n_classes: int) -> NetOutputs:
    """Return the outputs for targets in training, shape (n_rows,): numbers or places of classes.

    A class without a row there has the share of half a row.
    """
    if task == "regression":
        center = float(np.average(y, weights=weight))
        scale = float(np.sqrt(np.average((y - center) ** 2, weights=weight))) or 1.0
        return NetOutputs(task, 1, (0.0,), center, scale, float(y.min()), float(y.max()))
    mass = np.bincount(y, weights=weight, minlength=n_classes).astype(np.float64)
    shares = np.maximum(mass, 0.5 * mass.sum() / len(y))
    logs = np.log(shares / shares.sum())
    if task == "binary":
        return NetOutputs(task, 1, (float(logs[1] - logs[0]),))
    return NetOutputs(task, n_classes, tuple(logs.tolist()))


def half_width(residuals: Array, coverage: float) -> float:
    """Return the half width of intervals around predictions that hold a share of the targets.

    Of n residuals in ascending order it is the one at place ``ceil((n + 1) coverage)``. If the rows
    of the residuals and new rows come in any order equally often, and the model has not seen
    either, intervals hold a new target with at least this probability, on average over all rows.

    Parameters
    ----------
    residuals : (n_rows,) array
        Absolute differences of targets and predictions in rows that the model was not trained on,
        ascending.
    coverage : float in (0, 1)

    Returns
    -------
    float
        Infinite if there are too few rows for the coverage: fewer than about
        ``coverage / (1 - coverage)``.

    References
    ----------
    Lei, G'Sell, Rinaldo, Tibshirani & Wasserman (2018), "Distribution-free predictive inference for
    regression", section 2.2.

    Examples
    --------
    >>> half_width(np.arange(1.0, 10.0), 0.8)
    8.0
    """
    place = math.ceil((len(residuals) + 1) * coverage - 1e-9)
    return float(residuals[place - 1]) if place <= len(residuals) else math.inf


def sorted_residuals(y: Array, predictions: Array) -> NDArray[np.float64]:
    """The absolute differences in ascending order, for `half_width`, shape (n_rows,)."""
    residuals: NDArray[np.float64] = np.sort(np.abs(y - predictions).astype(np.float64))
    return residuals
