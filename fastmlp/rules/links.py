"""Inverse links: from the raw outputs of a net to predictions, as values or probabilities.

A link takes one raw output and returns its value; `softmax` takes rows, shape (n_rows, n), and
writes their values.
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

from fastmlp.rules.elementary import exp, exponentials, logistic


class Link(NamedTuple):
    """A link's function; `by_row` is True if it takes whole rows of outputs."""

    rule: Callable[..., Any]
    by_row: bool = False


def identity(raw: float) -> float:
    """The raw output itself."""
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


LinkName = Literal["identity", "sigmoid", "exp", "softmax"]
LINKS: dict[str, Link] = {
    "identity": Link(identity),
    "sigmoid": Link(logistic),
    "exp": Link(exp),
    "softmax": Link(softmax, by_row=True),
}
