"""Gradient rules: how each number of the gradient changes before the update rule takes it.

A rule takes g, the derivative of the objective with its penalties, and the value of the setting
that asks for it, and returns the new g. NaN must stay NaN, so that a divergence is seen.

To add one: write the function, put it in `RULES` under the name of its setting, and give
`fastmlp.rules.optimizers.protocol.Settings` that field.
"""

from collections.abc import Callable

GradientRule = Callable[..., float]


def unchanged(g: float) -> float:
    """g."""
    return g


def clip(g: float, limit: float) -> float:
    """min(max(g, -limit), limit)."""
    return -limit if g < -limit else limit if g > limit else g


RULES: dict[str, GradientRule] = {"clipvalue": clip}
