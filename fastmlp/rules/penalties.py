"""Penalties on weights: each takes a weight and returns its value and its slope.

The objective adds ``strength / m * sum(value(w))`` over all weights, not biases; m is the number of
rows of the batch. Penalties are added: l1 and l2 together are the elastic net.

To add one: write the function and put its name in `PenaltyName`.
"""

from collections.abc import Callable
from typing import Literal, get_args

Pair = tuple[float, float]
PenaltyRule = Callable[[float], Pair]
PenaltyName = Literal["l2", "l1"]


def l2(w: float) -> Pair:
    """w^2 / 2, ridge. Hoerl & Kennard (1970)."""
    return type(w)(0.5) * w * w, w


def l1(w: float) -> Pair:
    """abs(w), lasso, with slope 0 at 0. Tibshirani (1996)."""
    zero, one = type(w)(0), type(w)(1)
    return abs(w), (one if w > zero else -one if w < zero else zero)


RULES: dict[str, PenaltyRule] = {name: globals()[name] for name in get_args(PenaltyName)}
# From a name, or a sentence of advice, to the words of other libraries.
SYNONYMS = {
    "l2": "ridge weight_decay",
    "l1": "lasso",
    "it is both together: l2=..., l1=...": "elastic_net",
}
