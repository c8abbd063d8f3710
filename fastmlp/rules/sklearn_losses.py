"""scikit-learn's losses, which differ from `fastmlp.rules.losses` in scale and in clipping.

Probabilities are clipped in the value. The rules take whole rows, because value and slope have
different scales: the squared error is a mean over outputs, its slope is the slope of half the sum.

References
----------
scikit-learn, `sklearn.neural_network`: squared_error, log_loss and poisson of version 1.9.
"""

from typing import Any

import numpy as np

from fastmlp.rules.elementary import exponentials, log, logistic
from fastmlp.rules.losses import Loss, poisson


def half_squared_error(prediction: Any, target: Any, slope: Any, value: Any) -> None:
    """L = mean_j (p_j - y_j)^2 / 2 with slope p_j - y_j, which lacks the mean's 1 / n."""
    n_rows, n = prediction.shape
    half = type(prediction[0, 0])(0.5)
    for r in range(n_rows):
        value[r] = 0.0
    for j in range(n):
        for r in range(n_rows):
            error = prediction[r, j] - target[r, j]
            slope[r, j] = error
            value[r] += half * error * error
    for r in range(n_rows):
        value[r] /= n


def clipped_log_loss(raw: Any, target: Any, slope: Any, value: Any) -> None:
    """L = -sum_j y_j log p_j + (1 - y_j) log(1 - p_j), with p = 1 / (1 + exp(-raw)), y 0 or 1.

    In the value, p is clipped to [eps, 1 - eps], eps that of the precision.
    """
    n_rows, n = raw.shape
    one, eps = type(raw[0, 0])(1), np.finfo(raw.dtype).eps
    for r in range(n_rows):
        value[r] = 0.0
    for j in range(n):
        for r in range(n_rows):
            p = logistic(raw[r, j])
            slope[r, j] = p - target[r, j]
            p = min(max(p, eps), one - eps)
            value[r] -= log(p if target[r, j] > 0 else one - p)


def clipped_cross_entropy(raw: Any, target: Any, slope: Any, value: Any) -> None:
    """L = -log p_y, with p = softmax(raw) and the class y in a column of its own.

    In the value, p is clipped to [eps, 1 - eps], eps that of the precision.
    """
    n_rows, n = raw.shape
    one, eps = type(raw[0, 0])(1), np.finfo(raw.dtype).eps
    exponentials(raw, slope)
    for r in range(n_rows):
        value[r] = 0.0
    for j in range(n):
        for r in range(n_rows):
            value[r] += slope[r, j]
    for j in range(n):
        for r in range(n_rows):
            slope[r, j] /= type(one)(value[r])
    for r in range(n_rows):
        label = int(target[r, 0])
        value[r] = min(max(slope[r, label], eps), one - eps)
        slope[r, label] -= one
    # By itself, so that the logarithms vectorise.
    for r in range(n_rows):
        value[r] = -log(type(one)(value[r]))


SKLEARN_LOSSES: dict[str, Loss] = {
    "squared_error": Loss(half_squared_error, by_row=True),
    "poisson": Loss(poisson, link="exp", targets="count", over_outputs="sum"),
    "binary_log_loss": Loss(clipped_log_loss, link="sigmoid", targets="unit", by_row=True),
    "log_loss": Loss(clipped_cross_entropy, link="softmax", targets="classes", by_row=True),
}
