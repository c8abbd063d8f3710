"""Activation functions: each takes a pre-activation z and returns its value and its
slope.
"""

from collections.abc import Callable
from typing import Literal, get_args

from fastmlp.rules.elementary import erf, exp, expm1, logistic
from fastmlp.rules.elementary import softplus as soft_ramp
from fastmlp.rules.elementary import tanh as hyperbolic_tangent

Pair = tuple[float, float]
ActivationRule = Callable[[float], Pair]
ActivationName = Literal[
    "identity",
    "sigmoid",
    "tanh",
    "relu",
    "leaky_relu",
    "elu",
    "selu",
    "gelu",
    "gelu_tanh",
    "silu",
    "mish",
    "softplus",
]


def identity(z: float) -> Pair:
    """f(z) = z."""
    return z, type(z)(1)


def sigmoid(z: float) -> Pair:
    """f(z) = 1 / (1 + exp(-z)), the logistic function."""
    a = logistic(z)
    return a, a * (type(z)(1) - a)


def tanh(z: float) -> Pair:
    """f(z) = tanh(z)."""
    a = hyperbolic_tangent(z)
    return a, type(z)(1) - a * a


def relu(z: float) -> Pair:
    """f(z) = max(z, 0), with slope 0 at 0. NaN stays NaN."""
    zero = type(z)(0)
    return (zero if z < zero else z), (type(z)(1) if z > zero else zero)


def leaky_relu(z: float) -> Pair:
    """f(z) = z above 0, 0.01 z below. Maas, Hannun & Ng (2013)."""
    slope = type(z)(1) if z > 0 else type(z)(0.01)
    return z * slope, slope


def elu(z: float) -> Pair:
    """f(z) = z above 0, exp(z) - 1 below. Clevert, Unterthiner & Hochreiter (2016)."""
    zero, one = type(z)(0), type(z)(1)
    below = expm1(zero if z > zero else z)
    return (z if z > zero else below), (one if z > zero else below + one)


def selu(z: float) -> Pair:
    """f(z) = scale (z above 0, alpha (exp(z) - 1) below). Klambauer et al. (2017)."""
    zero = type(z)(0)
    scale = type(z)(1.0507009873554805)
    scale_alpha = type(z)(1.7580993408473766)
    below = scale_alpha * expm1(zero if z > zero else z)
    return (scale * z if z > zero else below), (
        scale if z > zero else below + scale_alpha
    )


def gelu(z: float) -> Pair:
    """f(z) = z Phi(z), Phi the normal distribution function.
    Hendrycks & Gimpel (2016).
    """
    half = type(z)(0.5)
    probability = half + half * erf(z * type(z)(0.7071067811865476))
    density = type(z)(0.3989422804014327) * exp(-half * z * z)
    return z * probability, probability + z * density


def gelu_tanh(z: float) -> Pair:
    """f(z) = z/2 (1 + tanh(sqrt(2/pi) (z + 0.044715 z^3))). Hendrycks & Gimpel (2016).

    z logistic(2 sqrt(2/pi) (z + 0.044715 z^3)) is the same function:
    1 + tanh loses digits in the left tail.
    """
    root = type(z)(1.5957691216057308)
    cubic = type(z)(0.044715)
    # z is clipped before it is cubed: s (1 - s) is 0 there, and 0 * inf would be NaN.
    near = min(max(z, type(z)(-20)), type(z)(20))
    s = logistic(root * (near + cubic * near * near * near))
    inner_slope = root * (type(z)(1) + type(z)(3) * cubic * near * near)
    return z * s, s + near * s * (type(z)(1) - s) * inner_slope


def silu(z: float) -> Pair:
    """f(z) = z / (1 + exp(-z)). Elfwing, Uchibe & Doya (2018)."""
    s = logistic(z)
    return z * s, s * (type(z)(1) + z * (type(z)(1) - s))


def mish(z: float) -> Pair:
    """f(z) = z tanh(log(1 + exp(z))). Misra (2019)."""
    t = hyperbolic_tangent(soft_ramp(z))
    return z * t, t + z * (type(z)(1) - t * t) * logistic(z)


def softplus(z: float) -> Pair:
    """f(z) = log(1 + exp(z)). Dugas et al. (2001)."""
    return soft_ramp(z), logistic(z)


RULES: dict[str, ActivationRule] = {
    name: globals()[name] for name in get_args(ActivationName)
}
ALIASES = {"logistic": "sigmoid"}
# Words of other libraries, by name or by sentence of advice.
ACTIVATION_SYNONYMS = {
    "silu": "swish",
    "identity": "linear",
    "relu": "rectifier rectified_linear_unit",
    "leaky_relu": "lrelu prelu",
    "sigmoid": "expit",
    "gelu_tanh": "gelu_new gelu_approximate",
    "it comes with loss='cross_entropy', as the link of the output layer": "softmax",
    "it comes with loss='poisson', as the link of the output layer": "exp",
    "it is an argument of the net: MLP(layer_sizes, dropout=0.2)": "dropout",
}
