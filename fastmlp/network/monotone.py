"""Nets whose predictions rise or fall with some inputs: the signs of their weights.

Each hidden unit has a direction: it rises with the constrained inputs, falls with them, or does not
see them. A weight has the sign that its two ends' directions ask for. So it is exact in floating
point: rounding reverses no order, and neither do sums of products with weights of one sign. Units
of both directions make nets of relu universal (Sartor et al., ICML 2025); weights that are all not
negative would make them convex in every input.
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastmlp.network.spec import OWNER, Network, weight_views
from fastmlp.network.summary import name_of
from fastmlp.rules import activations
from fastmlp.rules.links import LINKS
from fastmlp.rules.optimizer_protocol import Optimizer, lag_of
from fastmlp.validation import scalars
from fastmlp.validation.messages import count

Codes = NDArray[np.int8]
# A weight may become anything, a number not below 0, a number not above 0, or 0 alone.
FREE, RISING, FALLING, ZERO = 0, 1, -1, 2
# Their values do not fall as z rises; tanh, sigmoid, elu, selu and softplus may fall by one
# unit in the last place.
RISE = ("identity", "relu", "leaky_relu", "tanh", "sigmoid", "elu", "selu", "softplus")
# One unit in 2 or in 4 of a layer sees no constrained input, if some inputs are free.
FREE_OF_FIRST, FREE_OF_OTHERS = 2, 4
# First weights into a unit, n of one sign, are times this over the root of n, if that is below 1:
# sums of n numbers of one sign grow as n, not as its root.
START = 1.25


def signs_of(setting: Any, network: Network, who: str = OWNER) -> tuple[int, ...]:
    """Check the constraints of a net's inputs; return an empty tuple without a constraint."""
    if setting is None:
        return ()
    name, n_inputs = "monotonic_cst", network.layout.sizes[0]
    if isinstance(setting, Mapping):
        raise TypeError(
            f"{who}: {name} must be a sequence of -1, 0 and 1, one for each of the "
            f"{count(n_inputs, 'input')}, got {setting!r}; estimators take names of columns"
        )
    signs = np.asarray(setting)
    if signs.shape != (n_inputs,) or not np.isin(signs, (-1, 0, 1)).all():
        raise ValueError(
            f"{who}: {name} must be -1 (falls), 0 (free) or 1 (rises) for each of the "
            f"{count(n_inputs, 'input')}, got {setting!r}"
        )
    if not signs.any():
        return ()
    _check_rules(network, who)
    return tuple(signs.astype(int).tolist())


def by_column(setting: Mapping[Any, Any], names: Any, who: str) -> list[Any]:
    """Signs of all columns, from a mapping of some columns' names to signs."""
    if names is None:
        raise ValueError(
            f"{who}: monotonic_cst={dict(setting)!r} names columns, and those of X have no names: "
            "pass a frame, or a sequence of -1, 0 and 1"
        )
    for name in setting:
        if name not in [*names]:
            scalars.known(who, "column in monotonic_cst", name, [*map(str, names)])
    return [setting.get(name, 0) for name in names]


def _check_rules(network: Network, who: str) -> None:
    for rule in network.activations:
        if rule not in [activations.RULES[name] for name in RISE]:
            raise ValueError(
                f"{who}: monotonic_cst needs activations that rise, got {name_of(rule)!r}; known: "
                f"{', '.join(RISE)}; 'relu' keeps the order to the last digit"
            )
    link = network.link
    if link not in [LINKS[name] for name in ("identity", "sigmoid", "exp", "sorted", "mean_std")]:
        raise ValueError(
            f"{who}: monotonic_cst needs outputs that rise with the raw ones, as those of the link "
            f"{name_of(link.rule)!r} do not: use loss='binary_cross_entropy', in a classifier two "
            "classes"
        )


def check_optimizer(optimizer: Optimizer, signs: Sequence[int], who: str = OWNER) -> None:
    """Check that a net with constraints can be trained by an optimizer."""
    if signs and lag_of(optimizer):
        raise ValueError(
            f"{who}: {type(optimizer).__name__} shows parameters beyond those of its steps, which "
            "monotonic_cst cannot bound: use AdamW(average=EMA(0.99))"
        )


def directions(sizes: Sequence[int], signs: Sequence[int]) -> list[Codes]:
    """The directions of the units of each layer, inputs first: 1, -1, or 0 for free.

    Examples
    --------
    >>> [layer.tolist() for layer in directions((2, 4, 4, 1), (1, 0))]
    [[1, 0], [0, 0, 1, -1], [0, 1, -1, 1], [1]]
    """
    result = [np.array(signs, np.int8)]
    for i, n in enumerate(sizes[1:-1]):
        n_free = n // (FREE_OF_OTHERS if i else FREE_OF_FIRST) if 0 in signs else 0
        layer = np.zeros(n, np.int8)
        layer[n_free::2], layer[n_free + 1 :: 2] = 1, -1
        result.append(layer)
    return [*result, np.ones(sizes[-1], np.int8)]


def codes_of(network: Network) -> Codes:
    """The codes of all parameters, shape (n_parameters,): biases are free."""
    layout, units = network.layout, directions(network.layout.sizes, network.signs)
    codes = np.zeros(layout.n_parameters, np.int8)
    for (first, second), view in zip(pairwise(units), weight_views(layout, codes), strict=True):
        view[...] = np.outer(first, second)
        view[np.ix_(first != 0, second == 0)] = ZERO
    if network.link == LINKS["mean_std"]:
        weight_views(layout, codes)[-1][:, 1::2] = FREE
    return codes


def bounded(parameters: NDArray[Any], codes: Codes) -> NDArray[Any]:
    """The parameters with 0 in the place of each wrong sign, in a new array."""
    wrong = (codes * parameters < 0) | (codes == ZERO)
    return np.where(wrong, parameters.dtype.type(0), parameters)


def bounds_of(network: Network) -> list[tuple[float | None, float | None]]:
    """The least and the largest number of each parameter, as SciPy's `minimize` takes them."""
    ranges = {FREE: (None, None), RISING: (0.0, None), FALLING: (None, 0.0), ZERO: (0.0, 0.0)}
    return [ranges[code] for code in codes_of(network).tolist()]


def set_first_weights(network: Network, parameters: NDArray[Any]) -> None:
    """Give an initializer's weights, part of flat parameters, their signs."""
    codes = codes_of(network)
    layers = (weight_views(network.layout, flat) for flat in (codes, parameters))
    for signs, weights in zip(*layers, strict=True):
        fixed = np.abs(signs) == 1
        scale = np.minimum(1.0, START / np.sqrt(np.maximum(fixed.sum(axis=0), 1)))
        weights[...] = np.where(fixed, signs * np.abs(weights) * scale, weights)
    parameters[...] = bounded(parameters, codes)
