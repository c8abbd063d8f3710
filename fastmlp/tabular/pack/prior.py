"""The settings of a pack's nets: each drawn by its number and a seed alone."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from fastmlp.network.spec import Activation


class Recipe(NamedTuple):
    """The settings of one net.

    Attributes
    ----------
    number : int, its place in the draw
    encoding : str, the name of the inputs' encoding
    hidden : tuple of int, the sizes of the hidden layers; () is a linear model
    learning_rate, weight_decay, dropout : float
        Biases do not decay. Dropout is of hidden layers.
    seed : int, of weights, orders and dropout
    """

    number: int
    encoding: str
    hidden: tuple[int, ...]
    activation: Activation
    learning_rate: float
    weight_decay: float
    dropout: float
    seed: int

    def __str__(self) -> str:
        layers = "x".join(map(str, self.hidden)) or "linear"
        told = [layers, *([str(self.activation)] if self.hidden else []), self.encoding]
        return " ".join([*told, *([f"dropout {self.dropout:.2g}"] if self.dropout else [])])


class Kind(NamedTuple):
    """A kind of net: what is drawn uniformly from it, the rate and the decay by their logarithm."""

    hidden: tuple[tuple[int, ...], ...]
    activation: Activation
    rates: tuple[float, float]
    decays: tuple[float, float]
    dropouts: tuple[float, float]


TWO, ONE, THREE = ((128, 128),), ((128,),), ((128, 128, 128),)
LOW, HIGH = (0.003, 0.03), (0.3, 2.0)
# Nets go through them in turn; the linear one and that of one layer are among the first.
KINDS = (
    Kind(TWO, "relu", (1.5e-3, 3e-3), LOW, (0.0, 0.0)),
    Kind(TWO, "silu", (1.5e-3, 3e-3), HIGH, (0.15, 0.35)),
    Kind(((),), "relu", (1.5e-3, 3e-3), LOW, (0.0, 0.0)),
    Kind(ONE, "relu", (1.5e-3, 3e-3), HIGH, (0.0, 0.1)),
    Kind(THREE, "silu", (1.0e-3, 2e-3), LOW, (0.0, 0.0)),
    Kind(((64, 64),), "relu", (1.5e-3, 4e-3), HIGH, (0.0, 0.2)),
)


def draw(n: int, seed: int, encodings: Sequence[str]) -> list[Recipe]:
    """Return the settings of n nets; those of a net do not depend on n.

    Parameters
    ----------
    encodings : sequence of str
        The names of the encodings, which nets have in turn.

    Examples
    --------
    >>> draw(2, 0, ["steps"]) == draw(9, 0, ["steps"])[:2]
    True
    """
    return [_drawn(i, seed, encodings[i % len(encodings)]) for i in range(n)]


def _drawn(number: int, seed: int, encoding: str) -> Recipe:
    generator = np.random.default_rng([seed, number])
    kind = KINDS[number % len(KINDS)]
    return Recipe(
        number,
        encoding,
        kind.hidden[int(generator.integers(len(kind.hidden)))],
        kind.activation,
        float(np.exp(generator.uniform(*np.log(kind.rates)))),
        float(np.exp(generator.uniform(*np.log(kind.decays)))),
        float(generator.uniform(*kind.dropouts)),
        int(generator.integers(1 << 31)),
    )
