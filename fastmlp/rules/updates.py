"""Rules of weights: penalties, changes of the gradient, updates; groups.

A gradient rule takes g, penalties included, and the setting that asks for the rule, and
returns the new g. NaN must stay NaN, so that a divergence is seen. Clipping by norm
needs the whole gradient first: backends take the norms, `norm_factor` is the formula.

An update rule takes a parameter w, its gradient g, two slots of state (m, v)
that start at 0, and the step's coefficients; it returns new (w, m, v).

Parameter groups share a learning rate and a weight decay, or are frozen. The rate of a
group is the optimizer's rate times the group's factor, as in PyTorch: a decoupled
weight decay scales with it.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any, Literal, NamedTuple, get_args

from fastmlp.rules.elementary import sqrt

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


PENALTIES: dict[str, PenaltyRule] = {
    name: globals()[name] for name in get_args(PenaltyName)
}
# Words of other libraries, by name or by sentence of advice.
PENALTY_SYNONYMS = {
    "l2": "ridge weight_decay",
    "l1": "lasso",
    "it is both together: l2=..., l1=...": "elastic_net",
}


GradientRule = Callable[..., float]
Triple = tuple[float, float, float]
UpdateRule = Callable[..., Triple]
# The group of parameters that are not trained.
FROZEN = -1


def unchanged(g: float) -> float:
    """g."""
    return g


def clip(g: float, limit: float) -> float:
    """min(max(g, -limit), limit)."""
    return -limit if g < -limit else limit if g > limit else g


GRADIENT_RULES: dict[str, GradientRule] = {"clipvalue": clip}

# Settings that clip by norm; True: each variable has a norm,
# a layer's weights or its biases.
NORM_LIMITS: dict[str, bool] = {"clipnorm": True, "global_clipnorm": False}


def norm_factor(norm: float, limit: float) -> float:
    """min(1, limit / norm), and NaN for a norm that is not finite:
    0 times the gradient would hide the divergence.
    """
    if norm - norm != 0:
        return norm - norm
    return 1.0 if norm <= limit else limit / norm


def sgd(w: float, g: float, m: float, v: float, rate: float) -> Triple:
    """w <- w - rate g."""
    return w - rate * g, m, v


def sgd_momentum(
    w: float, g: float, m: float, v: float, rate: float, momentum: float
) -> Triple:
    """m <- momentum m - rate g; w <- w + m."""
    m = momentum * m - rate * g
    return w + m, m, v


def sgd_nesterov(
    w: float, g: float, m: float, v: float, rate: float, momentum: float
) -> Triple:
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
    """v is a running mean of g^2; m <- momentum m + g / (sqrt(v)
    + epsilon); w <- w - rate m.
    """
    v = v + gain_v * (g * g - v)
    m = momentum * m + g / (sqrt(v) + epsilon)
    return w - rate * m, m, v


def adagrad(
    w: float, g: float, m: float, v: float, rate: float, epsilon: float
) -> Triple:
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
    """w is y, and m is z - y. v is a running mean of g^2; s = root g / (sqrt(v) +
    epsilon) + decay y; y <- y + share m - rate s, and m <- (1 - share) m - rate_m s.
    """
    v = v + gain_v * (g * g - v)
    s = root * g / (sqrt(v) + epsilon) + decay * w
    return w + share * m - rate * s, m - share * m - rate_m * s, v


# How many of the slots (m, v) a rule uses, in this order;
# a rule that is not listed uses both.
N_MOMENTS: dict[UpdateRule, int] = {sgd: 0, sgd_momentum: 1, sgd_nesterov: 1}


class Factors(NamedTuple):
    """Factors of one layer's learning rate; 0: frozen."""

    weights: float = 1.0
    biases: float = 1.0


class ParameterGroup(NamedTuple):
    """A factor of the rate, and if weights decay."""

    factor: float = 1.0
    decays: bool = True

    def settings_of(self, optimizer: Any) -> Any:
        return optimizer if self.decays else replace(optimizer, weight_decay=0.0)


ONE_GROUP = (ParameterGroup(),)


class ParameterGroups(NamedTuple):
    """The groups of a net's parameters.

    Attributes
    ----------
    weights, biases : group of each layer's weights and of its biases, or FROZEN
    """

    groups: tuple[ParameterGroup, ...]
    weights: tuple[int, ...]
    biases: tuple[int, ...]

    @property
    def alike(self) -> bool:
        return {*self.weights, *self.biases} == {0}

    @property
    def lowest(self) -> int:
        """The first layer, from 0, that is trained: back-propagation ends there."""
        pairs = enumerate(zip(self.weights, self.biases, strict=True))
        return next(
            (i for i, pair in pairs if pair != (FROZEN, FROZEN)), len(self.weights)
        )

    def places(self, width: int) -> tuple[tuple[int, int], ...]:
        """Return the offsets of the coefficients of each layer's weights and biases in
        a step's row, which has `width` for each group; or FROZEN.
        """

        def place(group: int) -> int:
            return FROZEN if group == FROZEN else group * width

        return tuple(
            (place(w), place(b)) for w, b in zip(self.weights, self.biases, strict=True)
        )


def groups_of(optimizer: Any, factors: Sequence[Factors]) -> ParameterGroups:
    same = getattr(optimizer, "decay_biases", True) or optimizer.weight_decay == 0
    return _groups(tuple(factors), same)


@lru_cache(maxsize=256)
def _groups(factors: tuple[Factors, ...], same: bool) -> ParameterGroups:
    """`same`: biases decay as weights do."""
    numbers_of_groups: dict[ParameterGroup, int] = {}

    def number_of(factor: float, decays: bool) -> int:
        return (
            FROZEN
            if factor == 0
            else numbers_of_groups.setdefault(
                ParameterGroup(factor, decays), len(numbers_of_groups)
            )
        )

    numbers = [
        (number_of(layer.weights, True), number_of(layer.biases, same))
        for layer in factors
    ]
    weights, biases = zip(*numbers, strict=True)
    return ParameterGroups(tuple(numbers_of_groups), weights, biases)
