"""Targets and predictions of a pack: outputs of nets,
losses of predictions, scores of rows.
"""

import math
from collections.abc import Callable
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastmlp import BinaryFocal, Focal, Loss, Quantile, Tweedie
from fastmlp.tabular.decisions import LabelScore
from fastmlp.typing import Array, LossLike

Task = Literal["binary", "multiclass", "regression"]
# A user's score of targets, predictions and weights or None; higher is better.
Score = Callable[[Array, Array, Array | None], float]
# Least probability in a log-loss,
# and least mean of a deviance as a share of the targets' mean.
LEAST_MEAN = 1e-7
# The part of the log loss in the loss of a score of labels, which breaks ties.
OF_TIES = 1e-9


def squared_errors(y: Array, predictions: Array) -> Array:
    errors: Array = (y - predictions) ** 2
    return errors


def absolute_errors(y: Array, predictions: Array) -> Array:
    return np.abs(y - predictions)


def hits(codes: Array, probabilities: Array) -> Array:
    """True where the most probable class is the row's, shape (n_rows,)."""
    right: Array = probabilities.argmax(axis=1) == codes
    return right


def of_classes(codes: Array, probabilities: Array) -> Array:
    """Probability of each row's true class, shape (n_rows,)."""
    return probabilities[np.arange(len(codes)), codes]


class Scorer:
    """The loss of candidates' predictions on the same rows, lower is better.

    Parameters
    ----------
    task : Task
    y : (n_rows,) array, numbers or class indices
    weight : (n_rows,) array, optional
    score : function of (y, predictions, weight), higher is better; None: log-loss or RMSE
        Candidates with equal scores of labels are compared by their log loss.
    """

    def __init__(
        self,
        task: Task,
        y: Array,
        weight: Array | None = None,
        score: Score | None = None,
    ) -> None:
        self._task = task
        self.y = y
        self.weight = weight
        self._score = score

    def of(self, rows: Array) -> "Scorer":
        """The loss on some of the rows."""
        weight = None if self.weight is None else self.weight[rows]
        return Scorer(self._task, self.y[rows], weight, self._score)

    def seen(self, predictions: Array) -> Array:
        """The part of a candidate's predictions that the loss compares.

        The log-loss reads only the probability of each row's class;
        means over candidates are exact.
        """
        if self._score is not None or self._task == "regression":
            return predictions
        return of_classes(self.y, predictions)

    def loss(self, seen: Array, weight: Array | None) -> float:
        """The loss of the result of `seen`, with rows of these weights."""
        if self._score is not None:
            loss = -float(self._score(self.y, seen, weight))
            if isinstance(self._score, LabelScore):
                loss += OF_TIES * _log_loss(of_classes(self.y, seen), weight)
            return loss
        if self._task == "regression":
            return math.sqrt(_mean(squared_errors(self.y, seen), weight))
        return _log_loss(seen, weight)

    def score_of(self, predictions: Array) -> float:
        """The score of predictions, higher is better:
        the user's, minus log-loss, or minus RMSE.
        """
        if self._score is not None:
            return float(self._score(self.y, predictions, self.weight))
        return -self.loss(self.seen(predictions), self.weight)


def _log_loss(of_rows: Array, weight: Array | None) -> float:
    return _mean(-np.log(np.clip(of_rows, LEAST_MEAN, 1)), weight)


def _mean(errors: Array, weight: Array | None) -> float:
    """The weighted mean of errors, shape (n_rows,), with the bits of `np.average`.

    The checks of `np.average` take as long as a selection's thousand means.
    """
    if weight is None:
        mean = errors.mean()
    else:
        mean = (errors * weight).sum() / weight.sum()
    return float(mean)


Objective = Literal[
    "squared_error", "absolute_error", "quantile", "poisson", "gamma", "tweedie"
]
# Other libraries' words for some losses.
WORDS_OF_LOSSES = {
    "squared_error": "mse mean_squared_error l2 rmse regression",
    "absolute_error": "mae mean_absolute_error l1 regression_l1 mape",
    "quantile": "pinball multi_quantile",
    "poisson": "count",
}
DEFAULT_LOSSES: dict[Task, LossLike] = {
    "binary": "binary_cross_entropy",
    "multiclass": "cross_entropy",
    "regression": "mse",
}


def why_not(loss: object) -> str:
    """Why models of numbers refuse a loss that nets take,
    and what does instead; or "".
    """
    if isinstance(loss, str):
        return OTHER_LOSSES.get(loss, "")
    if isinstance(loss, Quantile):
        if isinstance(loss.levels, float):
            return f"Use loss='quantile', quantile={loss.levels!r}"
        return OTHER_LOSSES["gaussian_nll"]
    if isinstance(loss, Tweedie):
        return f"Use loss='tweedie', power={loss.power!r}"
    if isinstance(loss, Focal | BinaryFocal):
        return OTHER_LOSSES["focal"]
    if isinstance(loss, Loss) or callable(loss):
        return (
            "A loss of your own would see standardised targets, and would have no "
            "score in their units to select nets by: scale y, and take MLP(loss=...)"
            ".as_estimator()"
        )
    return ""


# Losses of nets that models of numbers refuse, and why.
_OF_CLASSES = "It is a loss of classes: take TabularMLPClassifier"
OTHER_LOSSES = {
    **dict.fromkeys(
        ("binary_cross_entropy", "cross_entropy", "focal", "binary_focal"), _OF_CLASSES
    ),
    **dict.fromkeys(
        ("huber", "log_cosh"),
        "Its bend is at an error of 1, and nets see standardised targets: use "
        "'absolute_error', or scale y and take MLP(loss=...).as_estimator()",
    ),
    "gaussian_nll": "A model predicts one number: predict_quantiles and "
    "predict_interval have the others",
}


class NumberLoss(NamedTuple):
    """The loss of a model of numbers, in scikit-learn's words.

    `setting` is the level of "quantile", or the power of "tweedie".
    """

    name: Objective = "squared_error"
    setting: float = 0.5

    @property
    def of_nets(self) -> LossLike:
        if self.name in ("quantile", "tweedie"):
            return (Quantile if self.name == "quantile" else Tweedie)(self.setting)
        if self.name == "squared_error":
            return "mse"
        return "mae" if self.name == "absolute_error" else self.name

    @property
    def level(self) -> float | None:
        """The level of the quantile that has the least loss;
        None for losses of means.
        """
        return {"absolute_error": 0.5, "quantile": self.setting}.get(self.name)

    @property
    def power(self) -> float | None:
        """The power of the deviance; None for other losses."""
        return {"poisson": 1.0, "gamma": 2.0, "tweedie": self.setting}.get(self.name)

    def of_rows(self, y: Array, predictions: Array) -> Array:
        """The loss of each row, shape (n_rows,), as in scikit-learn's metric."""
        if self.power is not None:
            return _deviances(y, predictions, self.power)
        if self.level is None:
            return squared_errors(y, predictions)
        if self.name == "absolute_error":
            return absolute_errors(y, predictions)
        errors = y - predictions
        losses: Array = np.maximum(self.level * errors, (self.level - 1) * errors)
        return losses

    def score(self, y: Array, predictions: Array, weight: Array | None) -> float:
        return -_mean(self.of_rows(y, predictions), weight)


def _deviances(y: Array, mean: Array, power: float) -> Array:
    """The Tweedie deviance of each row, of a power from 1 to 2;
    NaN where the mean is below 0.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        if power == 1:
            halves = np.where(y > 0, y * np.log(y / mean), 0) - y + mean
        elif power == 2:
            halves = np.log(mean / y) + y / mean - 1
        else:
            a, b = 1 - power, 2 - power
            halves = y**b / (a * b) - y * mean**a / a + mean**b / b
    return np.asarray(2 * halves)


class NetOutputs(NamedTuple):
    """The outputs of all nets of a pack.

    Numbers are learned as ``(y - center) / scale``,
    and predictions stay within the training range.

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
    def bounds(self) -> tuple[float, float]:
        """The range of numbers: 0 to 1, from 0, to 0,
        or infinite, whichever first holds all targets.
        """
        low = 0.0 if self.low >= 0 else -math.inf
        high = 0.0 if self.high <= 0 else math.inf
        if self.low >= 0 and 0 < self.high <= 1:
            return (low, 1.0)
        return (low, high)

    @property
    def kind(self) -> Literal["classification", "regression"]:
        """The task in the words of encodings."""
        if self.task == "regression":
            return "regression"
        return "classification"

    @property
    def loss(self) -> LossLike:
        """The default loss of nets."""
        return DEFAULT_LOSSES[self.task]

    def targets(self, y: Array) -> Array:
        """Targets of nets, from numbers or class indices, shape (n_rows,)."""
        if self.task == "regression":
            return (y - self.center) / self.scale
        return y

    def predictions(self, outputs: Array) -> NDArray[np.float64]:
        """Numbers, shape (n_rows,), or probabilities,
        shape (n_rows, n_classes), from a net's predictions.

        `outputs` has shape (n_rows, n_outputs).
        """
        numbers = outputs.astype(np.float64)
        if self.task == "regression":
            return np.clip(
                numbers[:, 0] * self.scale + self.center, self.low, self.high
            )
        if self.task == "binary":
            return np.concatenate([1 - numbers, numbers], axis=1)
        return numbers


SQUARED = NumberLoss()


def outputs_of(
    task: Task,
    y: Array,
    weight: Array | None,
    n_classes: int,
    loss: NumberLoss = SQUARED,
) -> NetOutputs:
    """The outputs for training targets, shape (n_rows,): numbers or class indices.

    A class without a row has the share of half a row.
    Nets begin near the constant with the least loss: the mean, or a quantile.
    """
    if task == "regression":
        center = float(np.average(y, weights=weight))
        low = float(y.min())
        if loss.power is not None:
            # The deviance needs a mean other than 0.
            scale = center or 1.0
            low = max(low, LEAST_MEAN * scale)
            center = 0.0
        elif loss.level is not None:
            center = float(np.quantile(y, loss.level))
            scale = float(np.average(np.abs(y - center), weights=weight)) or 1.0
        else:
            scale = float(np.sqrt(np.average((y - center) ** 2, weights=weight))) or 1.0
        return NetOutputs(task, 1, (0.0,), center, scale, low, float(y.max()))
    mass = np.bincount(y, weights=weight, minlength=n_classes).astype(np.float64)
    shares = np.maximum(mass, 0.5 * mass.sum() / len(y))
    logs = np.log(shares / shares.sum())
    if task == "binary":
        return NetOutputs(task, 1, (float(logs[1] - logs[0]),))
    return NetOutputs(task, n_classes, tuple(logs.tolist()))


def conformal_quantile(
    scores: Array, level: float, weights: Array | None = None
) -> float:
    """The least score that a new row's score does not exceed with a probability.

    The result is score number ``ceil((n + 1) level)`` of n scores in ascending order.
    Old and new rows must be exchangeable, and unseen in training. A new row's score is
    then at most this with at least the probability, on average over all rows.

    Parameters
    ----------
    scores : (n_rows,) array, ascending
        Scores of rows that the model was not trained on.
    level : float in (0, 1)
    weights : (n_rows,) array, optional
        Weights of the rows, 1 in the mean, as for a new row. None or empty: all alike.

    Returns
    -------
    float
        Infinite if there are too few rows for the level:
        fewer than about ``level / (1 - level)``.

    References
    ----------
    Lei, G'Sell, Rinaldo, Tibshirani & Wasserman (2018), "Distribution-free predictive
    inference for regression", section 2.2. Tibshirani, Barber, Candes & Ramdas (2019),
    "Conformal prediction under covariate shift", for the weights.

    Examples
    --------
    >>> conformal_quantile(np.arange(1.0, 10.0), 0.8)
    8.0
    """
    n = len(scores)
    if weights is not None and len(weights):
        reached = np.cumsum(weights)
    else:
        reached = np.arange(1, n + 1)
    place = int(np.searchsorted(reached, (n + 1) * level - 1e-9))
    return float(scores[place]) if place < n else math.inf


def scores_of(task: Task, y: Array, predictions: Array) -> NDArray[np.float64]:
    """Errors of numbers, with sign,
    or one minus the probability of the row's class, (n_rows,).

    References
    ----------
    Sadinle, Lei & Wasserman (2019),
    "Least ambiguous set-valued classifiers with bounded error levels".
    """
    if task == "regression":
        return np.asarray(y - predictions, np.float64)
    return 1 - of_classes(y, predictions) / predictions.sum(axis=1)
