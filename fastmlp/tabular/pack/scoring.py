"""What a pack is chosen by: the loss of predictions on validation rows."""

from collections.abc import Callable
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Task = Literal["binary", "multiclass", "regression"]
# A score of the user's: of targets, predictions and weights or None; higher is better.
Score = Callable[[Array, Array, Array | None], float]
# The least probability that a log-loss sees.
LEAST = 1e-7


def log_loss(of_class: Array, weight: Array | None = None) -> float:
    """Return the mean of minus the logarithm of the probability of each row's own class."""
    return float(-np.average(np.log(np.clip(of_class, LEAST, 1)), weights=weight))


def rmse(y: Array, predictions: Array, weight: Array | None = None) -> float:
    """Return the root of the mean squared error."""
    return float(np.sqrt(np.average((y - predictions) ** 2, weights=weight)))


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
    weight : as given
    """

    def __init__(
        self, task: Task, y: Array, weight: Array | None = None, score: Score | None = None
    ) -> None:
        self._task, self._y, self.weight, self._score = task, y, weight, score

    def seen(self, predictions: Array) -> Array:
        """Return what of a candidate's predictions the loss looks at.

        The log-loss looks at the probability of each row's class alone; means of these are those
        of the means.
        """
        if self._score is not None or self._task == "regression":
            return predictions
        return predictions[np.arange(len(self._y)), self._y]

    def loss(self, seen: Array, weight: Array | None) -> float:
        """Return the loss of what `seen` returns, with rows of these weights."""
        if self._score is not None:
            return -float(self._score(self._y, seen, weight))
        if self._task == "regression":
            return rmse(self._y, seen, weight)
        return log_loss(seen, weight)

    def score_of(self, predictions: Array) -> float:
        """Return the score of predictions, higher is better: the user's, minus log-loss, minus
        RMSE."""
        return -self.loss(self.seen(predictions), self.weight)
