"""From an estimator's settings to the core's loss, and the scores of losses without R2."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import issparse

from fastmlp.rules.loss_settings import Quantile, Smoothed, Tweedie
from fastmlp.rules.losses import LOSSES, Loss
from fastmlp.rules.sklearn_losses import SKLEARN_LOSSES

Array = NDArray[Any]
# Beside scikit-learn's.
OF_REGRESSORS = ("gamma", "tweedie", "quantile", "gaussian_nll")


def loss_of_regressor(estimator: Any) -> Loss:
    """Return the loss of a regressor."""
    match estimator.loss:
        case "quantile":
            return Quantile(estimator.quantile).loss
        case "tweedie":
            return Tweedie(estimator.power).loss
        case "gamma" | "gaussian_nll":
            return LOSSES[estimator.loss]
    return SKLEARN_LOSSES[estimator.loss]


def loss_of_classifier(estimator: Any) -> Loss:
    """Return the loss of a classifier, by its output activation; sums over labels, as there."""
    one = estimator.out_activation_ == "softmax"
    if estimator.label_smoothing > 0:
        name = "cross_entropy" if one else "binary_cross_entropy"
        return Smoothed(name, float(estimator.label_smoothing)).loss._replace(over_outputs="sum")
    return SKLEARN_LOSSES["log_loss" if one else "binary_log_loss"]


def checked_targets(regressor: Any, y: Any) -> Array:
    """Return a regressor's targets as a dense array, after a check that its loss takes them.

    Raises
    ------
    TypeError
        If they are not numbers: NumPy would make numbers of texts and of dates too.
    ValueError
        If the loss does not take them.
    """
    dense: Array = y.toarray() if issparse(y) else y
    if dense.dtype.kind not in "biuf":
        raise TypeError(f"MLPRegressor: y must hold numbers, got an array of {dense.dtype}")
    least, accepted = float(dense.min()) if dense.size else 1.0, regressor._loss().targets
    # scikit-learn does not check the targets of its "poisson".
    if regressor.loss in OF_REGRESSORS and (
        (accepted == "positive" and least <= 0) or (accepted == "count" and least < 0)
    ):
        limit = "above 0" if accepted == "positive" else "0 or more"
        raise ValueError(
            f"MLPRegressor: y must be {limit} for loss={regressor.loss!r}, got {least}"
        )
    return dense


def pinball_score(outputs: Array, targets: Array, weight: Any, levels: Any) -> float:
    """Return the negative mean pinball loss, over levels or outputs, and rows."""
    error = targets - outputs
    losses = np.maximum(levels * error, (np.asarray(levels) - 1) * error)
    return -float(np.average(losses.mean(axis=1, dtype=np.float64), weights=weight))


def quantile_score(estimator: Any, X: Any, y: Any, weight: Any) -> float:
    """Return the negative mean pinball loss of an estimator's predictions."""
    targets = np.asarray(y, np.float64).reshape(len(y), -1)
    outputs = estimator.predict(X).reshape(len(targets), -1)
    return pinball_score(outputs, targets, weight, estimator.quantile)
