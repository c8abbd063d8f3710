"""Settings of single layers and inputs: rates,
frozen layers, dropout, noise, monotone inputs.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from itertools import pairwise
from typing import Any, SupportsIndex

import numpy as np
from numpy.typing import NDArray

from fastmlp.network.spec import OWNER, Network, name_of, spread, weight_views
from fastmlp.rules import activations
from fastmlp.rules import dropout as rules
from fastmlp.rules.dropout import Dropout, Rate, is_used
from fastmlp.rules.losses import LINKS
from fastmlp.rules.optimizer_protocol import Optimizer, lag_of
from fastmlp.rules.optimizers import LevenbergMarquardt
from fastmlp.rules.updates import Factors
from fastmlp.validation import scalars
from fastmlp.validation.messages import count

RATES_FORM = (
    "one number of 0 or more, or {'weights': 1.0, 'biases': 0.1}, for each layer, or "
    "one such mapping for all layers"
)
RATE_SYNONYMS = {
    "weights": "weight w kernel kernels coefs",
    "biases": "bias b intercept intercepts",
    "a sequence has one entry a layer, in their order": "0 1 2 layer layers",
}


class Switches(list[bool]):
    """A net's `trainable`: setting an item sets it in the net.

    Parameters
    ----------
    assign : called with the whole list when an item has been set
    """

    def __init__(
        self, values: Sequence[bool], assign: Callable[[list[bool]], None]
    ) -> None:
        super().__init__(values)
        self._assign = assign

    def __setitem__(self, place: SupportsIndex | slice, value: Any) -> None:
        changed = list(self)
        changed[place] = value
        self._assign(changed)
        super().__setitem__(place, value)

    def __reduce__(self) -> Any:
        """A copy, or a pickle, is a plain list."""
        return list, (list(self),)


def layer_rates(
    setting: Any, n_layers: int, name: str = "layer_rates"
) -> tuple[Factors, ...]:
    """Return a pair for each layer, or () if all factors are 1."""
    if setting is None:
        return ()
    if isinstance(setting, Mapping):
        factors = [_factors(setting, name)] * n_layers
    else:
        _check_sequence(setting, n_layers, name, RATES_FORM)
        factors = [_factors(rates, f"{name}[{i}]") for i, rates in enumerate(setting)]
    if factors == [Factors()] * n_layers:
        return ()
    return tuple(factors)


def trainable(setting: Any, n_layers: int, name: str = "trainable") -> tuple[bool, ...]:
    """Return a bool for each layer, or () if all are trained."""
    if isinstance(setting, bool | np.bool_):
        setting = [setting] * n_layers
    else:
        _check_sequence(
            setting, n_layers, name, "True or False, or one of them for each layer"
        )
    switches = [
        scalars.boolean(OWNER, f"{name}[{i}]", _plain(switch))
        for i, switch in enumerate(setting)
    ]
    if all(switches):
        return ()
    return tuple(switches)


def require_trained(network: Network, who: str) -> None:
    if not any(map(any, network.factors)):
        raise ValueError(
            f"{who}: all layers are frozen, there is nothing to train; set "
            "net.trainable = True, or a factor of layer_rates above 0"
        )


def trained_parameters(network: Network) -> NDArray[np.bool_]:
    factors = [(layer.weights != 0, layer.biases != 0) for layer in network.factors]
    return spread(network.layout, *zip(*factors, strict=True)).astype(bool)


def frozen(network: Network) -> list[tuple[bool, bool]]:
    return [(factors.weights == 0, factors.biases == 0) for factors in network.factors]


def in_use(network: Network) -> dict[str, Any]:
    """Rates and frozen layers as JSON, by the names of MLP's attributes;
    empty if all layers train alike.
    """
    rates = network.layer_rates
    switches = network.trainable
    settings = {
        "layer_rates": [shown(factors) for factors in rates],
        "trainable": list(switches),
    }
    return {name: values for name, values in settings.items() if values}


def all_shown(network: Network) -> list[Any]:
    rates = network.layer_rates or (Factors(),) * network.layout.n_layers
    return [shown(factors) for factors in rates]


def shown(factors: Factors) -> Any:
    weights, biases = factors
    if weights == biases:
        return weights
    return {"weights": weights, "biases": biases}


def _factors(setting: Any, name: str) -> Factors:
    if not isinstance(setting, Mapping):
        number = scalars.non_negative(OWNER, name, setting)
        return Factors(number, number)
    for key in setting:
        scalars.known(OWNER, f"key of {name}", key, Factors._fields, RATE_SYNONYMS)
    numbers = {
        key: scalars.non_negative(OWNER, f"{name}[{key!r}]", factor)
        for key, factor in setting.items()
    }
    return Factors(**numbers)


def _check_sequence(setting: Any, n_layers: int, name: str, form: str) -> None:
    a_sequence = isinstance(setting, Sequence) or (
        isinstance(setting, np.ndarray) and setting.ndim == 1
    )
    if isinstance(setting, str | bytes | Set) or not a_sequence:
        raise TypeError(f"{OWNER}: {name} must be {form}, got {setting!r}")
    if len(setting) != n_layers:
        raise ValueError(
            f"{OWNER}: {name} must have one entry for each of "
            f"{count(n_layers, 'layer')}, hidden and output, got {len(setting)}"
        )


def _plain(value: Any) -> Any:
    return bool(value) if isinstance(value, np.bool_) else value


# A schedule is tried at these steps of a fit that ends after them.
TRIAL = np.arange(101)


def dropout_of(
    dropout: object, input_dropout: object, input_noise: object, n_hidden: int
) -> Dropout | None:
    """Checked rates of a net with `n_hidden` hidden layers; None if all are 0."""
    rates = Dropout(
        _rates(dropout, n_hidden),
        _rate("input_dropout", input_dropout),
        _rate("input_noise", input_noise, is_noise=True),
    )
    if any(map(is_used, (*rates.hidden, rates.inputs, rates.noise))):
        return rates
    return None


def _rates(setting: Any, n_hidden: int) -> tuple[Rate, ...]:
    if isinstance(setting, str | bytes | Set | Mapping) or not isinstance(
        setting, Iterable
    ):
        rate = _rate("dropout", setting)
        if is_used(rate) and not n_hidden:
            raise ValueError(
                f"{OWNER}: dropout={setting!r} is of hidden layers, but layer_sizes "
                "has none; input_dropout is of the inputs"
            )
        return (rate,) * n_hidden
    rates = tuple(_rate(f"dropout[{i}]", item) for i, item in enumerate(setting))
    if len(rates) != n_hidden:
        raise ValueError(
            f"{OWNER}: dropout has {count(len(rates), 'rate')}, but layer_sizes has "
            f"{n_hidden} hidden; the outputs are never dropped"
        )
    return rates


def _rate(name: str, setting: Any, *, is_noise: bool = False) -> Rate:
    """A rate of dropout or noise: a number, or a schedule, tried on a few steps."""
    if isinstance(setting, type):
        raise TypeError(
            f"{OWNER}: {name} must be a schedule, not its class: "
            f"{setting.__name__}(...)"
        )
    if callable(setting):
        schedule: Rate = setting
        try:
            rules.check_rates(schedule, TRIAL, len(TRIAL), name)
        except ValueError:
            raise
        except Exception as error:
            raise TypeError(
                f"{OWNER}: {name} must be a number or a schedule, a function of step "
                f"numbers and of the total of steps, got {setting!r}; calling it "
                f"failed: {error}"
            ) from error
        return schedule
    expected = "a finite number of 0 or more"
    check = scalars.non_negative
    if not is_noise:
        expected = "a number in [0, 1)"
        check = scalars.fraction
    try:
        return check(OWNER, name, setting)
    except (TypeError, ValueError) as error:
        if name == "dropout":
            of_layers = ", one for each hidden layer,"
        else:
            of_layers = ""
        raise type(error)(
            f"{OWNER}: {name} must be {expected}{of_layers} or a schedule such as "
            f"Cosine(0.2), got {setting!r}"
        ) from None


Codes = NDArray[np.int8]
# A weight may be anything, not below 0, not above 0, or 0 alone.
FREE = 0
RISING = 1
FALLING = -1
ZERO = 2
# Activations whose values do not fall as z rises; tanh, sigmoid, elu,
# selu and softplus may fall by one unit in the last place.
RISE = ("identity", "relu", "leaky_relu", "tanh", "sigmoid", "elu", "selu", "softplus")
# One unit in 2 or in 4 of a layer sees no constrained input, if some inputs are free.
FREE_OF_FIRST, FREE_OF_OTHERS = 2, 4
# First weights into a unit, n of one sign, are multiplied by this over the root of n,
# if below 1: sums of n numbers of one sign grow as n, not as its root.
START = 1.25


def signs_of(setting: Any, network: Network, who: str = OWNER) -> tuple[int, ...]:
    """Return an empty tuple without a constraint."""
    if setting is None:
        return ()
    name = "monotonic_cst"
    n_inputs = network.layout.sizes[0]
    if isinstance(setting, Mapping):
        raise TypeError(
            f"{who}: {name} must be a sequence of -1, 0 and 1, one for each of the "
            f"{count(n_inputs, 'input')}, got {setting!r}; estimators take names of "
            f"columns"
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
    """Signs of all columns, from a mapping of some columns' names."""
    if names is None:
        raise ValueError(
            f"{who}: monotonic_cst={dict(setting)!r} names columns, and those of X "
            "have no names: pass a frame, or a sequence of -1, 0 and 1"
        )
    for name in setting:
        if name not in [*names]:
            scalars.known(who, "column in monotonic_cst", name, [*map(str, names)])
    return [setting.get(name, 0) for name in names]


def _check_rules(network: Network, who: str) -> None:
    """Refuse layers, activations and links that may fall where inputs rise."""
    if not network.layout.is_plain:
        raise ValueError(
            f"{who}: monotonic_cst needs a net without norms, residual blocks and "
            "skip, whose outputs may fall where their inputs rise: leave them out"
        )
    for rule in network.activations:
        if rule not in [activations.RULES[name] for name in RISE]:
            raise ValueError(
                f"{who}: monotonic_cst needs activations that rise, got "
                f"{name_of(rule)!r}; known: {', '.join(RISE)}; 'relu' keeps the order "
                f"to the last digit"
            )
    link = network.link
    if link not in [
        LINKS[name] for name in ("identity", "sigmoid", "exp", "sorted", "mean_std")
    ]:
        raise ValueError(
            f"{who}: monotonic_cst needs outputs that rise with the raw ones, as those "
            f"of the link {name_of(link.rule)!r} do not: use "
            f"loss='binary_cross_entropy', in a classifier two "
            "classes"
        )


def check_optimizer(optimizer: Optimizer, network: Network) -> None:
    if isinstance(optimizer, LevenbergMarquardt) and not network.layout.is_plain:
        raise ValueError(
            f"{OWNER}: LevenbergMarquardt needs a net without norms, residual blocks and "
            "skip: use LBFGS() or Adam()"
        )
    if network.signs and lag_of(optimizer):
        raise ValueError(
            f"{OWNER}: {type(optimizer).__name__} shows parameters beyond those of its "
            "steps, which monotonic_cst cannot bound: use AdamW(average=EMA(0.99))"
        )


def directions(sizes: Sequence[int], signs: Sequence[int]) -> list[Codes]:
    """The directions of the units of each layer, inputs first: 1, -1, or 0 for free."""
    result = [np.array(signs, np.int8)]
    for i, n in enumerate(sizes[1:-1]):
        if 0 in signs:
            n_free = n // (FREE_OF_OTHERS if i else FREE_OF_FIRST)
        else:
            n_free = 0
        layer = np.zeros(n, np.int8)
        layer[n_free::2] = 1
        layer[n_free + 1 :: 2] = -1
        result.append(layer)
    return [*result, np.ones(sizes[-1], np.int8)]


def codes_of(network: Network) -> Codes:
    """Codes of all parameters, shape (n_parameters,): biases are free."""
    layout = network.layout
    units = directions(network.layout.sizes, network.signs)
    codes = np.zeros(layout.n_parameters, np.int8)
    for (first, second), view in zip(
        pairwise(units), weight_views(layout, codes), strict=True
    ):
        view[...] = np.outer(first, second)
        view[np.ix_(first != 0, second == 0)] = ZERO
    if network.link == LINKS["mean_std"]:
        weight_views(layout, codes)[-1][:, 1::2] = FREE
    return codes


def bounded(parameters: NDArray[Any], codes: Codes) -> NDArray[Any]:
    """The parameters with 0 for each wrong sign, in a new array."""
    wrong = (codes * parameters < 0) | (codes == ZERO)
    return np.where(wrong, parameters.dtype.type(0), parameters)


def bounds_of(network: Network) -> list[tuple[float | None, float | None]]:
    """The least and the largest number of each parameter,
    as SciPy's `minimize` takes them.
    """
    ranges = {
        FREE: (None, None),
        RISING: (0.0, None),
        FALLING: (None, 0.0),
        ZERO: (0.0, 0.0),
    }
    return [ranges[code] for code in codes_of(network).tolist()]


def set_first_weights(network: Network, parameters: NDArray[Any]) -> None:
    codes = codes_of(network)
    layers = (weight_views(network.layout, flat) for flat in (codes, parameters))
    for signs, weights in zip(*layers, strict=True):
        fixed = np.abs(signs) == 1
        scale = np.minimum(1.0, START / np.sqrt(np.maximum(fixed.sum(axis=0), 1)))
        weights[...] = np.where(fixed, signs * np.abs(weights) * scale, weights)
    parameters[...] = bounded(parameters, codes)
