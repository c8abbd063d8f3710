"""Losses: each takes an output and its target, and returns its value and its slope.

A loss either takes the net's prediction, after any output activation (`link` is None), or owns
its output link and takes the raw output: softmax with cross-entropy, the logistic function with
binary cross-entropy, the exponential with poisson. In the second form value and slope come from one
numerically stable formula.

To add one: write the function, and give it a row in `LOSSES` and its name in `LossName`.
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

from fastmlp.rules.elementary import exp, exponentials, log, log1p, logistic, softplus
from fastmlp.rules.links import LinkName
from fastmlp.validation.calls import explained

Pair = tuple[float, float]
Targets = Literal["real", "unit", "count", "classes"]


@explained
class Loss(NamedTuple):
    """A loss: its rule and how a net uses it.

    Parameters
    ----------
    rule : callable
        ``rule(output, target) -> (value, slope)`` on scalars or, with `by_row`,
        ``rule(outputs, targets, slopes, values)`` on rows: the first three have shape
        (n_rows, n), `values` has shape (n_rows,), and the rule writes `slopes` and `values`.
        Columns are contiguous: inner loops over rows vectorise.
    link : str, optional
        The name of the inverse link that the loss owns. None: the loss takes the prediction,
        and the net may have any output activation.
    targets : {"real", "unit", "count", "classes"}
        The targets that are accepted: any number, numbers in [0, 1], numbers of 0 or more, or class
        labels (integers, or one-hot rows).
    by_row : bool
        True if `rule` takes whole rows.
    over_outputs : {"mean", "sum"}
        How the values of a row's outputs are combined.

    Raises
    ------
    TypeError, ValueError
        By `MLP`, if a part is invalid.

    Examples
    --------
    >>> from fastmlp import MLP, Loss
    >>> def squared_log_error(raw, target):
    ...     error = raw - target
    ...     return error * error, error + error
    >>> net = MLP((2, 4, 1), loss=Loss(squared_log_error, link="exp", over_outputs="sum"))
    >>> net
    MLP((2, 4, 1), activation='relu', output_activation='exp', loss='squared_log_error', ...)
    """

    rule: Callable[..., Any]
    link: LinkName | None = None
    targets: Targets = "real"
    by_row: bool = False
    over_outputs: Literal["mean", "sum"] = "mean"


def mse(prediction: float, target: float) -> Pair:
    """L = (p - y)^2, the squared error."""
    error = prediction - target
    return error * error, error + error


def mae(prediction: float, target: float) -> Pair:
    """L = abs(p - y), the absolute error, with slope 0 at p = y."""
    error = prediction - target
    zero, one = type(error)(0), type(error)(1)
    return abs(error), (one if error > zero else -one if error < zero else zero)


def huber(prediction: float, target: float) -> Pair:
    """L = (p - y)^2 / 2 within 1 of the target, abs(p - y) - 1/2 beyond. Huber (1964)."""
    error = prediction - target
    one, half = type(error)(1), type(error)(0.5)
    inside = -one if error < -one else one if error > one else error
    return inside * (error - half * inside), inside


def binary_cross_entropy(raw: float, target: float) -> Pair:
    """L = -y log p - (1 - y) log(1 - p), with p = 1 / (1 + exp(-raw)).

    Computed as y softplus(-raw) + (1 - y) softplus(raw): softplus(raw) - y raw would cancel to 0
    for a correct prediction of high confidence.
    """
    one = type(raw)(1)
    return target * softplus(-raw) + (one - target) * softplus(raw), logistic(raw) - target


def poisson(raw: float, target: float) -> Pair:
    """L = y log(y / p) - y + p, with p = exp(raw): half the Poisson deviance, 0 at p = y.

    NaN for negative y.
    """
    zero, one = type(raw)(0), type(raw)(1)
    p = exp(raw)
    return p - target + target * (log(target if target != zero else one) - raw), p - target


def cross_entropy(raw: Any, target: Any, slope: Any, value: Any) -> None:
    """L = -sum_j y_j log p_j, with p = softmax(raw); a target of one column is a class label.

    log sum_j exp(raw_j) is computed as peak + log1p(sum of the other terms), which keeps the digits
    of a small loss; the peak is subtracted from the target's output before any term is added.
    """
    n_rows, n = raw.shape
    one = type(raw[0, 0])(1)
    exponentials(raw, slope)
    # value[r] is the sum of the other terms, without the peak's 1: exact if they are small.
    for r in range(n_rows):
        value[r] = -1.0
    for j in range(n):
        for r in range(n_rows):
            value[r] += 1.0 if slope[r, j] == one else 0.0
    for j in range(n):
        for r in range(n_rows):
            value[r] += 0.0 if slope[r, j] == one else slope[r, j]
    for j in range(n):
        for r in range(n_rows):
            slope[r, j] /= one + type(one)(value[r])
    for r in range(n_rows):
        value[r] = log1p(type(one)(value[r]))
    for r in range(n_rows):
        peak = raw[r, 0]
        for j in range(1, n):
            peak = raw[r, j] if raw[r, j] > peak else peak
        if target.shape[1] == 1:
            label = int(target[r, 0])
            slope[r, label] -= one
            value[r] += peak - raw[r, label]
        else:
            mass, loss, rest = type(one)(0), type(one)(0), type(one)(value[r])
            for j in range(n):
                mass += target[r, j]
                loss += target[r, j] * (rest + (peak - raw[r, j]))
            for j in range(n):
                slope[r, j] = slope[r, j] * mass - target[r, j]
            value[r] = loss


LossName = Literal["mse", "mae", "huber", "binary_cross_entropy", "cross_entropy", "poisson"]
LOSSES: dict[str, Loss] = {
    "mse": Loss(mse),
    "mae": Loss(mae),
    "huber": Loss(huber),
    "binary_cross_entropy": Loss(binary_cross_entropy, link="sigmoid", targets="unit"),
    "cross_entropy": Loss(
        cross_entropy, link="softmax", targets="classes", by_row=True, over_outputs="sum"
    ),
    "poisson": Loss(poisson, link="exp", targets="count"),
}
# What to write here, a name or a sentence, and the words of it elsewhere.
SYNONYMS = {
    "mse": "mean_squared_error squared_error squared l2 rmse",
    "mae": "mean_absolute_error absolute_error absolute l1",
    "huber": "smooth_l1",
    "binary_cross_entropy": "bce bce_with_logits binary_crossentropy binary_log_loss log_loss "
    "deviance sigmoid logistic",
    "cross_entropy": "ce xent nll negative_log_likelihood log_loss deviance softmax kl_div "
    "categorical_cross_entropy sparse_categorical_cross_entropy",
    "poisson": "poisson_nll half_poisson poisson_deviance",
    "write it as a function loss(prediction, target) -> (value, slope)": "quantile pinball hinge "
    "log_cosh gaussian_nll",
}
