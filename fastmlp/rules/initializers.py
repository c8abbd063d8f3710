"""Initial weights and biases: the start of a net.

An initializer takes a generator and a layer's shape (n_in, n_out), and returns weights,
or a tuple of weights and biases; biases are 0 without the tuple. `by_layer` chooses the
initializers of a net.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastmlp.validation import scalars
from fastmlp.validation.calls import settings

Shape = tuple[int, int]
Weights = NDArray[np.float64]
Drawn = tuple[Weights, Weights]
Initializer = Callable[
    [np.random.Generator, Shape], ArrayLike | tuple[ArrayLike, ArrayLike]
]
InitializerName = Literal[
    "glorot_uniform",
    "glorot_normal",
    "he_uniform",
    "he_normal",
    "lecun_uniform",
    "lecun_normal",
    "normal",
    "zeros",
    "sklearn",
    "torch",
]


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
    """All zeros, for linear models: hidden units would stay equal."""
    return np.zeros(shape)


def sklearn(generator: np.random.Generator, shape: Shape, factor: float = 6.0) -> Drawn:
    """Weights and biases U(-b, b), b = sqrt(factor / (n_in + n_out)), as scikit-learn's
    MLPs have them: the factor is 2 where the activation is a sigmoid, else 6.
    """
    bound = np.sqrt(factor / sum(shape))
    return _within(generator, shape, bound, bound)


def torch(generator: np.random.Generator, shape: Shape) -> Drawn:
    """Weights and biases U(-b, b), b = 1 / sqrt(n_in),
    as PyTorch's nn.Linear has them.
    """
    bound = 1 / np.sqrt(shape[0])
    return _within(generator, shape, bound, bound)


@settings
class Orthogonal:
    """Weights with orthonormal rows or columns,
    the fewer of the two, times a gain; biases are 0.

    Parameters
    ----------
    gain : float above 0, default 1
        The singular values of the weights. For relu, the root of 2 keeps the scale of
        activations.

    Raises
    ------
    ValueError
        If the gain is not a number above 0.

    References
    ----------
    Saxe, McClelland & Ganguli, Exact solutions to the nonlinear dynamics of learning in
    deep linear neural networks, 2014.

    Examples
    --------
    >>> import numpy as np
    >>> from fastmlp import MLP, Orthogonal
    >>> net = MLP((8, 3, 1), initializer=Orthogonal(gain=2**0.5), dtype="float64", seed=0)
    >>> np.allclose(net.weights[0].T @ net.weights[0], 2 * np.eye(3))
    True
    """

    gain: float = 1.0

    def __post_init__(self) -> None:
        gain = scalars.positive("Orthogonal", "gain", self.gain)
        object.__setattr__(self, "gain", gain)

    def __call__(self, generator: np.random.Generator, shape: Shape) -> Weights:
        n_in, n_out = shape
        numbers = generator.normal(size=(max(shape), min(shape)))
        columns, triangle = np.linalg.qr(numbers)
        # Signs of the diagonal make the distribution Haar's.
        columns *= self.gain * np.where(np.diag(triangle) < 0, -1.0, 1.0)
        return columns if n_in >= n_out else columns.T


def hidden(generator: np.random.Generator, shape: Shape, square: float) -> Drawn:
    """Weights within sqrt(square / n_in),
    biases within 1 / sqrt(n_in): the default start.
    """
    bound = np.sqrt(square / shape[0])
    return _within(generator, shape, bound, 1 / np.sqrt(shape[0]))


def output(generator: np.random.Generator, shape: Shape) -> Weights:
    """Weights within 1 / (4 sqrt(n_in)):
    first predictions of the default start are small.
    """
    return _uniform(generator, shape, OUTPUT_SQUARE / (3 * shape[0]))


def _uniform(generator: np.random.Generator, shape: Shape, variance: float) -> Weights:
    bound = np.sqrt(3 * variance)
    return generator.uniform(-bound, bound, shape)


def _normal(generator: np.random.Generator, shape: Shape, variance: float) -> Weights:
    return generator.normal(0, np.sqrt(variance), shape)


def _within(
    generator: np.random.Generator, shape: Shape, bound: float, bias_bound: float
) -> Drawn:
    weights = generator.uniform(-bound, bound, shape)
    return weights, generator.uniform(-bias_bound, bias_bound, shape[1])


INITIALIZERS: dict[str, Any] = {
    name: globals()[name] for name in get_args(InitializerName)
}
_REFUSED = "PyTorch's function of that name is {!r}; what nn.Linear has is 'torch'"
# Words of other libraries, by name or by sentence of advice.
INITIALIZER_SYNONYMS = {
    "glorot_uniform": "xavier glorot uniform",
    "he_uniform": "kaiming he",
    "lecun_normal": "lecun",
    "normal": "random_normal randn gaussian",
    "sklearn": "scikit-learn",
    "torch": "pytorch nn.linear",
    _REFUSED.format("glorot_uniform"): "xavier_uniform xavier_uniform_",
    _REFUSED.format("glorot_normal"): "xavier_normal xavier_normal_",
    _REFUSED.format("he_uniform"): "kaiming_uniform kaiming_uniform_",
    _REFUSED.format("he_normal"): "kaiming_normal kaiming_normal_",
    "it is a class: initializer=fastmlp.Orthogonal(gain=1.0)": "orthogonal orthogonal_",
}


class Squares(NamedTuple):
    """n_in times the squares of the bounds of weights,
    by the activation of a hidden layer.
    """

    first: float
    further: float


# The default start. The page "What numbers does a net start from?" has the race of
# starts.
SQUARES = {
    **dict.fromkeys(("relu", "leaky_relu", "tanh"), Squares(1, 6)),
    **dict.fromkeys(
        ("elu", "gelu", "gelu_tanh", "silu", "mish", "softplus", "sigmoid"),
        Squares(3, 6),
    ),
}
# For selu, whose deep nets diverge from more, identity, and activations of the user.
OTHER_SQUARES = Squares(3, 3)
OUTPUT_SQUARE = 1 / 16


def by_layer(setting: Any, activations: Sequence[str]) -> list[Initializer]:
    """Return one initializer for each layer.

    Parameters
    ----------
    setting : a name of INITIALIZERS, an initializer, or None for the default start
    activations : names of the layers' activations, inputs first
    """
    if setting is None:
        squares = [SQUARES.get(name, OTHER_SQUARES) for name in activations[:-1]]
        of_hidden = [
            partial(hidden, square=each.further if i else each.first)
            for i, each in enumerate(squares)
        ]
        return [*of_hidden, output]
    if setting == "sklearn":
        return [partial(sklearn, factor=factor) for factor in _factors(activations)]
    if isinstance(setting, str):
        rule = INITIALIZERS[setting]
    else:
        rule = setting
    return [rule] * len(activations)


def _factors(activations: Sequence[str]) -> list[float]:
    """The factors of "sklearn": by the one activation of all hidden layers, also for
    the output layer, or by each layer's activation where hidden layers have several.
    """
    names = activations
    hidden = {*activations[:-1]}
    if len(hidden) <= 1:
        names = [*(hidden or {"identity"})] * len(activations)
    return [2.0 if name == "sigmoid" else 6.0 for name in names]
