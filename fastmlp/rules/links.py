"""Inverse links: from the raw outputs of a net to predictions, as values or probabilities.

A link takes one raw output and returns its value; `softmax` takes rows, shape (n_rows, n), and
writes their values.
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

from fastmlp.rules.elementary import exp, exponentials, logistic

# The logarithm of 1e-6, the least variance that "gaussian_nll" predicts.
LEAST_LOG_VARIANCE = -13.815510557964274


class Link(NamedTuple):
    """`by_row` is True if the function takes whole rows of outputs."""

    rule: Callable[..., Any]
    by_row: bool = False


def identity(raw: float) -> float:
    return raw


def softmax(raw: Any, value: Any) -> None:
    """Write exp(raw_j) / sum_k exp(raw_k) of every row to `value`, both shape (n_rows, n).

    The row's maximum is subtracted first.
    """
    n_rows, n = raw.shape
    exponentials(raw, value)
    for r in range(n_rows):
        total = value[r, 0]
        for j in range(1, n):
            total += value[r, j]
        share = type(total)(1) / total
        for j in range(n):
            value[r, j] *= share


def ascending(raw: Any, value: Any) -> None:
    """Write every row's numbers in ascending order to `value`, both shape (n_rows, n)."""
    n_rows, n = raw.shape
    for j in range(n):
        for r in range(n_rows):
            value[r, j] = raw[r, j]
    for i in range(1, n):
        for j in range(i, 0, -1):
            for r in range(n_rows):
                low, high = value[r, j - 1], value[r, j]
                value[r, j - 1] = high if high < low else low
                value[r, j] = low if high < low else high


def deviation(raw: float) -> float:
    """The standard deviation of the logarithm of a variance, at least `LEAST_LOG_VARIANCE`.

    Rules call no other rules, so `mean_and_deviation` repeats the formula.
    """
    half, least = type(raw)(0.5), type(raw)(LEAST_LOG_VARIANCE)
    return exp(half * (least if raw < least else raw))


def mean_and_deviation(raw: Any, value: Any) -> None:
    """For each pair of raw outputs (mean, s), write the mean and the standard deviation exp(s /
    2), s at least `LEAST_LOG_VARIANCE`; both shape (n_rows, 2 n)."""
    n_rows, n = raw.shape
    half, least = type(raw[0, 0])(0.5), type(raw[0, 0])(LEAST_LOG_VARIANCE)
    for j in range(0, n, 2):
        for r in range(n_rows):
            value[r, j] = raw[r, j]
    for j in range(1, n, 2):
        for r in range(n_rows):
            value[r, j] = exp(half * (least if raw[r, j] < least else raw[r, j]))


LinkName = Literal["identity", "sigmoid", "exp", "softmax", "sorted", "mean_std"]
LINKS: dict[str, Link] = {
    "identity": Link(identity),
    "sigmoid": Link(logistic),
    "exp": Link(exp),
    "softmax": Link(softmax, by_row=True),
    "sorted": Link(ascending, by_row=True),
    "mean_std": Link(mean_and_deviation, by_row=True),
}
