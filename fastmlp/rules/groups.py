"""Parameter groups: parameters that share a learning rate and a weight decay, or are frozen.

The rate of a group is the optimizer's rate of the step times the group's factor, as in PyTorch's
groups: a decoupled weight decay, which is a multiple of the rate, scales with it.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any, NamedTuple

# The number of the group of parameters that are not trained.
FROZEN = -1


class Factors(NamedTuple):
    """The factors of the learning rate of one layer; 0: frozen."""

    weights: float = 1.0
    biases: float = 1.0


class ParameterGroup(NamedTuple):
    """The settings of the parameters of a group: a factor of the rate, and if weights decay."""

    factor: float = 1.0
    decays: bool = True

    def settings_of(self, optimizer: Any) -> Any:
        """Return the optimizer with the settings of this group."""
        return optimizer if self.decays else replace(optimizer, weight_decay=0.0)


WHOLE = (ParameterGroup(),)


class ParameterGroups(NamedTuple):
    """The groups of a net's parameters.

    Attributes
    ----------
    groups : the groups in use
    weights, biases : of each layer, the number of the group of its weights and of its biases, or
        FROZEN
    """

    groups: tuple[ParameterGroup, ...]
    weights: tuple[int, ...]
    biases: tuple[int, ...]

    @property
    def alike(self) -> bool:
        """True if all parameters are of one group."""
        return {*self.weights, *self.biases} == {0}

    @property
    def lowest(self) -> int:
        """The first layer, from 0, that is trained: back-propagation ends there."""
        pairs = enumerate(zip(self.weights, self.biases, strict=True))
        return next((i for i, pair in pairs if pair != (FROZEN, FROZEN)), len(self.weights))

    def places(self, width: int) -> tuple[tuple[int, int], ...]:
        """Return the offsets of the coefficients of each layer's weights and biases in a step's
        row, which has `width` for each group; or FROZEN."""

        def place(group: int) -> int:
            return FROZEN if group == FROZEN else group * width

        return tuple((place(w), place(b)) for w, b in zip(self.weights, self.biases, strict=True))


def groups_of(optimizer: Any, factors: Sequence[Factors]) -> ParameterGroups:
    """Return the groups of a net's parameters, from the factors of its layers.

    Examples
    --------
    >>> from fastmlp import Adam
    >>> groups_of(Adam(), [Factors(0, 0), Factors(1, 1)]).weights
    (-1, 0)
    """
    same = getattr(optimizer, "decay_biases", True) or optimizer.weight_decay == 0
    return _groups(tuple(factors), same)


@lru_cache(maxsize=256)
def _groups(factors: tuple[Factors, ...], same: bool) -> ParameterGroups:
    """Return the groups; `same`: biases decay as weights do."""
    numbers_of_groups: dict[ParameterGroup, int] = {}

    def number_of(factor: float, decays: bool) -> int:
        return (
            FROZEN
            if factor == 0
            else numbers_of_groups.setdefault(
                ParameterGroup(factor, decays), len(numbers_of_groups)
            )
        )

    numbers = [(number_of(layer.weights, True), number_of(layer.biases, same)) for layer in factors]
    weights, biases = zip(*numbers, strict=True)
    return ParameterGroups(tuple(numbers_of_groups), weights, biases)
