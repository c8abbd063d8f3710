"""Inverse links: from the raw outputs of a net to the values or probabilities of its loss.

A link takes one raw output and returns its value, but for `softmax`, which takes a row.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from fastmlp.elementary import exp, logistic


class Link(NamedTuple):
    """A link's function, and whether it works on a whole row of outputs."""

    rule: Callable[..., Any]
    by_row: bool = False


def identity(raw: float) -> float:
    """The raw output itself."""
    return raw


def softmax(raw: Any, value: Any) -> None:
    """Write exp(raw_j) / sum_k exp(raw_k) of one row to `value`, the maximum taken off first."""
    peak = raw[0]
    for j in range(1, raw.size):
        peak = raw[j] if raw[j] > peak else peak
    total = type(peak)(0)
    for j in range(raw.size):
        value[j] = exp(raw[j] - peak)
        total += value[j]
    for j in range(raw.size):
        value[j] /= total


LINKS = {
    "identity": Link(identity),
    "sigmoid": Link(logistic),
    "exp": Link(exp),
    "softmax": Link(softmax, by_row=True),
}
