"""Gradient rules: how each number of the gradient changes before the update rule takes it.

A rule takes g, the derivative of the objective with its penalties, and the value of the setting
that asks for it, and returns the new g. NaN must stay NaN, so that a divergence is seen.

To add one: write the function, put it in `RULES` under the name of its setting, and give
`fastmlp.rules.optimizers.protocol.OptimizerSettings` that field.

Clipping by norm needs the whole gradient before the first number changes: `NORMS` names its
settings, `norm_factor` is its formula, and backends take the norms.
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

# Settings that clip by norm, and True where each variable has its own: a layer's weights, or its
# biases.
NORMS: dict[str, bool] = {"clipnorm": True, "global_clipnorm": False}


def norm_factor(norm: float, limit: float) -> float:
    """min(1, limit / norm), and NaN for a norm that is not finite: 0 times the gradient would hide
    the divergence."""
    if norm - norm != 0:
        return norm - norm
    return 1.0 if norm <= limit else limit / norm
