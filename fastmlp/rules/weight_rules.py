"""Initial weights, and penalties on weights.

An initializer takes a generator and a shape (n_in, n_out), and returns a layer's weights. A user
may pass any such function.

A penalty takes a weight and returns its value and its slope. The objective adds ``strength / m *
sum(value(w))`` over all weights, not biases; m is the number of rows of the batch. Penalties are
added: l1 and l2 together are the elastic net.
"""

from collections.abc import Callable
from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

Shape = tuple[int, int]
Weights = NDArray[np.float64]
Initializer = Callable[[np.random.Generator, Shape], ArrayLike]
InitializerName = Literal[
    "glorot_uniform",
    "glorot_normal",
    "he_uniform",
    "he_normal",
    "lecun_uniform",
    "lecun_normal",
    "normal",
    "zeros",
]
Pair = tuple[float, float]
PenaltyRule = Callable[[float], Pair]
PenaltyName = Literal["l2", "l1"]


def glorot_uniform(generator: np.random.Generator, shape: Shape) -> Weights:
    """U(-b, b), b = sqrt(6 / (n_in + n_out)). Glorot & Bengio (2010)."""
    return _uniform(generator, shape, 2 / sum(shape))


def glorot_normal(generator: np.random.Generator, shape: Shape) -> Weights:
    """N(0, 2 / (n_in + n_out)). Glorot & Bengio (2010)."""
    return _normal(generator, shape, 2 / sum(shape))


def he_uniform(generator: np.random.Generator, shape: Shape) -> Weights:
    """U(-b, b), b = sqrt(6 / n_in). He, Zhang, Ren & Sun (2015)."""
    return _uniform(generator, shape, 2 / shape[0])


def he_normal(generator: np.random.Generator, shape: Shape) -> Weights:
    """N(0, 2 / n_in). He, Zhang, Ren & Sun (2015)."""
    return _normal(generator, shape, 2 / shape[0])


def lecun_uniform(generator: np.random.Generator, shape: Shape) -> Weights:
    """U(-b, b), b = sqrt(3 / n_in). LeCun, Bottou, Orr & Müller (1998)."""
    return _uniform(generator, shape, 1 / shape[0])


def lecun_normal(generator: np.random.Generator, shape: Shape) -> Weights:
    """N(0, 1 / n_in). LeCun, Bottou, Orr & Müller (1998)."""
    return _normal(generator, shape, 1 / shape[0])


def normal(generator: np.random.Generator, shape: Shape) -> Weights:
    """N(0, 0.05^2)."""
    return _normal(generator, shape, 0.05**2)


def zeros(generator: np.random.Generator, shape: Shape) -> Weights:
    """All zeros: for linear models; hidden units would stay equal to each other."""
    return np.zeros(shape)


def _uniform(generator: np.random.Generator, shape: Shape, variance: float) -> Weights:
    bound = np.sqrt(3 * variance)
    return generator.uniform(-bound, bound, shape)


def _normal(generator: np.random.Generator, shape: Shape, variance: float) -> Weights:
    return generator.normal(0, np.sqrt(variance), shape)


INITIALIZERS: dict[str, Initializer] = {name: globals()[name] for name in get_args(InitializerName)}
DEFAULTS: dict[str, str] = {
    **dict.fromkeys(
        ("relu", "leaky_relu", "elu", "gelu", "gelu_tanh", "silu", "mish"), "he_uniform"
    ),
    "selu": "lecun_normal",
}
DEFAULT = "glorot_uniform"
# From a name to the words of other libraries.
INITIALIZER_SYNONYMS = {
    "glorot_uniform": "xavier xavier_uniform glorot uniform",
    "glorot_normal": "xavier_normal",
    "he_uniform": "kaiming kaiming_uniform he",
    "he_normal": "kaiming_normal",
    "lecun_normal": "lecun",
    "normal": "random_normal randn gaussian",
}


def l2(w: float) -> Pair:
    """w^2 / 2, ridge. Hoerl & Kennard (1970)."""
    return type(w)(0.5) * w * w, w


def l1(w: float) -> Pair:
    """abs(w), lasso, with slope 0 at 0. Tibshirani (1996)."""
    zero, one = type(w)(0), type(w)(1)
    return abs(w), (one if w > zero else -one if w < zero else zero)


PENALTIES: dict[str, PenaltyRule] = {name: globals()[name] for name in get_args(PenaltyName)}
# From a name, or a sentence of advice, to the words of other libraries.
PENALTY_SYNONYMS = {
    "l2": "ridge weight_decay",
    "l1": "lasso",
    "it is both together: l2=..., l1=...": "elastic_net",
}
