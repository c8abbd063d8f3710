"""Gradient rules and update rules: how one step changes the gradient, then one parameter.

A gradient rule takes g, the derivative of the objective with its penalties, and the value of the
setting that asks for it, and returns the new g. NaN must stay NaN, so that a divergence is seen. To
add one: write the function, put it in `GRADIENT_RULES` under the name of its setting, and give
`fastmlp.rules.optimizer_protocol.OptimizerSettings` that field. Clipping by norm needs the whole
gradient before the first number changes: `NORMS` names its settings, `norm_factor` is its formula,
and backends take the norms.

An update rule, the inner formula of an optimizer, takes a parameter w, its gradient g, two slots of
state (m, v) that start at 0 and the coefficients of the step, and returns the new (w, m, v).
"""

from collections.abc import Callable

from fastmlp.rules.elementary import sqrt

GradientRule = Callable[..., float]


def unchanged(g: float) -> float:
    """g."""
    return g


def clip(g: float, limit: float) -> float:
    """min(max(g, -limit), limit)."""
    return -limit if g < -limit else limit if g > limit else g


GRADIENT_RULES: dict[str, GradientRule] = {"clipvalue": clip}

# Settings that clip by norm, and True where each variable has its own: a layer's weights, or its
# biases.
NORMS: dict[str, bool] = {"clipnorm": True, "global_clipnorm": False}


def norm_factor(norm: float, limit: float) -> float:
    """min(1, limit / norm), and NaN for a norm that is not finite: 0 times the gradient would hide
    the divergence."""
    if norm - norm != 0:
        return norm - norm
    return 1.0 if norm <= limit else limit / norm


Triple = tuple[float, float, float]
UpdateRule = Callable[..., Triple]


def sgd(w: float, g: float, m: float, v: float, rate: float) -> Triple:
    """w <- w - rate g."""
    return w - rate * g, m, v


def sgd_momentum(w: float, g: float, m: float, v: float, rate: float, momentum: float) -> Triple:
    """m <- momentum m - rate g; w <- w + m."""
    m = momentum * m - rate * g
    return w + m, m, v


def sgd_nesterov(w: float, g: float, m: float, v: float, rate: float, momentum: float) -> Triple:
    """m <- momentum m - rate g; w <- w + momentum m - rate g."""
    m = momentum * m - rate * g
    return w + (momentum * m - rate * g), m, v


def rmsprop(
    w: float,
    g: float,
    m: float,
    v: float,
    rate: float,
    gain_v: float,
    momentum: float,
    epsilon: float,
) -> Triple:
    """v is a running mean of g^2; m <- momentum m + g / (sqrt(v) + epsilon); w <- w - rate m."""
    v = v + gain_v * (g * g - v)
    m = momentum * m + g / (sqrt(v) + epsilon)
    return w - rate * m, m, v


def adagrad(w: float, g: float, m: float, v: float, rate: float, epsilon: float) -> Triple:
    """v <- v + g^2; w <- w - rate g / (sqrt(v) + epsilon)."""
    v = v + g * g
    return w - rate * g / (sqrt(v) + epsilon), m, v


def adam(
    w: float,
    g: float,
    m: float,
    v: float,
    rate: float,
    gain_m: float,
    gain_v: float,
    epsilon: float,
) -> Triple:
    """m and v are running means of g and g^2; w <- w - rate m / (sqrt(v) + epsilon)."""
    m = m + gain_m * (g - m)
    v = v + gain_v * (g * g - v)
    return w - rate * m / (sqrt(v) + epsilon), m, v


def adamw(
    w: float,
    g: float,
    m: float,
    v: float,
    rate: float,
    gain_m: float,
    gain_v: float,
    epsilon: float,
    keep: float,
) -> Triple:
    """Adam's step from keep w, with keep = 1 - rate weight_decay."""
    m = m + gain_m * (g - m)
    v = v + gain_v * (g * g - v)
    return keep * w - rate * m / (sqrt(v) + epsilon), m, v


def nadam(
    w: float,
    g: float,
    m: float,
    v: float,
    rate_m: float,
    rate_g: float,
    gain_m: float,
    gain_v: float,
    epsilon: float,
) -> Triple:
    """Adam's m and v; w <- w - (rate_m m + rate_g g) / (sqrt(v) + epsilon)."""
    m = m + gain_m * (g - m)
    v = v + gain_v * (g * g - v)
    return w - (rate_m * m + rate_g * g) / (sqrt(v) + epsilon), m, v


def schedule_free_adamw(
    w: float,
    g: float,
    m: float,
    v: float,
    rate: float,
    gain_v: float,
    epsilon: float,
    root: float,
    decay: float,
    share: float,
    rate_m: float,
) -> Triple:
    """w is y, and m is z - y. v is a running mean of g^2; s = root g / (sqrt(v) + epsilon) +
    decay y; y <- y + share m - rate s, and m <- (1 - share) m - rate_m s."""
    v = v + gain_v * (g * g - v)
    s = root * g / (sqrt(v) + epsilon) + decay * w
    return w + share * m - rate * s, m - share * m - rate_m * s, v


# How many of the slots (m, v) a rule uses, in this order; a rule that is not listed uses both.
N_MOMENTS: dict[UpdateRule, int] = {sgd: 0, sgd_momentum: 1, sgd_nesterov: 1}
