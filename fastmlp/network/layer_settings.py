"""Settings of single layers: learning rates, frozen layers, dropout and noise."""

from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from typing import Any, SupportsIndex

import numpy as np

from fastmlp.network.spec import OWNER, Network
from fastmlp.rules import dropout as rules
from fastmlp.rules.dropout import Dropout, Rate, is_used
from fastmlp.rules.groups import Factors
from fastmlp.validation import scalars
from fastmlp.validation.suggestions import count

FORM = (
    "one number of 0 or more, or {'weights': 1.0, 'biases': 0.1}, for each layer, or one such "
    "mapping for all layers"
)
SYNONYMS = {
    "weights": "weight w kernel kernels coefs",
    "biases": "bias b intercept intercepts",
    "a sequence has one entry a layer, in their order": "0 1 2 layer layers",
}


class Switches(list[bool]):
    """A list of a net's `trainable`. Setting an item sets it in the net.

    Parameters
    ----------
    values : sequence of bool
    assign : callable
        Takes the whole list when an item has been set.
    """

    def __init__(self, values: Sequence[bool], assign: Callable[[list[bool]], None]) -> None:
        super().__init__(values)
        self._assign = assign

    def __setitem__(self, place: SupportsIndex | slice, value: Any) -> None:
        changed = list(self)
        changed[place] = value
        self._assign(changed)
        super().__setitem__(place, value)

    def __reduce__(self) -> Any:
        """Make a copy, or a pickle, a plain list."""
        return list, (list(self),)


def layer_rates(given: Any, n_layers: int, name: str = "layer_rates") -> tuple[Factors, ...]:
    """Check factors of the learning rate; return those of each layer, or () if all are 1."""
    if given is None:
        return ()
    if isinstance(given, Mapping):
        found = [_factors(given, name)] * n_layers
    else:
        _check_sequence(given, n_layers, name, FORM)
        found = [_factors(each, f"{name}[{i}]") for i, each in enumerate(given)]
    return () if found == [Factors()] * n_layers else tuple(found)


def trainable(given: Any, n_layers: int, name: str = "trainable") -> tuple[bool, ...]:
    """Check which layers are trained; return a bool for each, or () if all are."""
    if isinstance(given, bool | np.bool_):
        given = [given] * n_layers
    else:
        _check_sequence(given, n_layers, name, "True or False, or one of them for each layer")
    found = [scalars.boolean(OWNER, f"{name}[{i}]", _plain(its)) for i, its in enumerate(given)]
    return () if all(found) else tuple(found)


def require_trained(network: Network, who: str) -> None:
    """Check that something is trained."""
    if not any(map(any, network.factors)):
        raise ValueError(
            f"{who}: all layers are frozen, there is nothing to train; set net.trainable = True, "
            "or a factor of layer_rates above 0"
        )


def frozen(network: Network) -> list[tuple[bool, bool]]:
    """Return for each layer if its weights are frozen, and if its biases are."""
    return [(its.weights == 0, its.biases == 0) for its in network.factors]


def in_use(network: Network) -> dict[str, Any]:
    """Return rates and frozen layers as JSON, by the names of MLP's attributes; without those of a
    net that trains all of its layers alike."""
    rates, switches = network.layer_rates, network.trainable
    told = {"layer_rates": [shown(each) for each in rates], "trainable": list(switches)}
    return {name: values for name, values in told.items() if values}


def all_shown(network: Network) -> list[Any]:
    """Return the factors of all layers as a user writes them."""
    return [shown(each) for each in network.layer_rates or [Factors()] * network.layout.n_layers]


def shown(factors: Factors) -> Any:
    """Return the factors of a layer as a user writes them."""
    weights, biases = factors
    return weights if weights == biases else {"weights": weights, "biases": biases}


def _factors(given: Any, name: str) -> Factors:
    if not isinstance(given, Mapping):
        number = scalars.non_negative(OWNER, name, given)
        return Factors(number, number)
    for key in given:
        scalars.known(OWNER, f"key of {name}", key, Factors._fields, SYNONYMS)
    numbers = {
        key: scalars.non_negative(OWNER, f"{name}[{key!r}]", each) for key, each in given.items()
    }
    return Factors(**numbers)


def _check_sequence(given: Any, n_layers: int, name: str, form: str) -> None:
    a_sequence = isinstance(given, Sequence) or (isinstance(given, np.ndarray) and given.ndim == 1)
    if isinstance(given, str | bytes | Set) or not a_sequence:
        raise TypeError(f"{OWNER}: {name} must be {form}, got {given!r}")
    if len(given) != n_layers:
        raise ValueError(
            f"{OWNER}: {name} must have one entry for each of {count(n_layers, 'layer')}, hidden "
            f"and output, got {len(given)}"
        )


def _plain(value: Any) -> Any:
    return bool(value) if isinstance(value, np.bool_) else value


# A schedule is tried at these steps of a fit that ends after them.
TRIAL = np.arange(101)


def dropout_of(
    dropout: object, input_dropout: object, input_noise: object, n_hidden: int
) -> Dropout | None:
    """Return what a net with so many hidden layers drops and adds; None: nothing."""
    found = Dropout(
        _rates(dropout, n_hidden),
        _rate("input_dropout", input_dropout),
        _rate("input_noise", input_noise, is_noise=True),
    )
    return found if any(map(is_used, (*found.hidden, found.inputs, found.noise))) else None


def _rates(given: Any, n_hidden: int) -> tuple[Rate, ...]:
    """Return one rate per hidden layer, from one number or schedule, or from a sequence of them."""
    if isinstance(given, str | bytes | Set | Mapping) or not isinstance(given, Iterable):
        rate = _rate("dropout", given)
        if is_used(rate) and not n_hidden:
            raise ValueError(
                f"{OWNER}: dropout={given!r} is of hidden layers, but layer_sizes has none; "
                "input_dropout is of the inputs"
            )
        return (rate,) * n_hidden
    rates = tuple(_rate(f"dropout[{i}]", each) for i, each in enumerate(given))
    if len(rates) != n_hidden:
        raise ValueError(
            f"{OWNER}: dropout has {count(len(rates), 'rate')}, but layer_sizes has "
            f"{n_hidden} hidden; the outputs are never dropped"
        )
    return rates


def _rate(name: str, given: Any, *, is_noise: bool = False) -> Rate:
    """Check a number in the range of rates, or of standard deviations, or a schedule."""
    if isinstance(given, type):
        raise TypeError(f"{OWNER}: {name} must be a schedule, not its class: {given.__name__}(...)")
    if callable(given):
        schedule: Rate = given
        try:
            rules.checked(schedule, TRIAL, len(TRIAL), name)
        except ValueError:
            raise
        except Exception as error:
            raise TypeError(
                f"{OWNER}: {name} must be a number or a schedule, a function of step numbers and "
                f"of the total of steps, got {given!r}; calling it failed: {error}"
            ) from error
        return schedule
    expected, check = "a finite number of 0 or more", scalars.non_negative
    if not is_noise:
        expected, check = "a number in [0, 1)", scalars.fraction
    try:
        return check(OWNER, name, given)
    except (TypeError, ValueError) as error:
        of_layers = ", one for each hidden layer," if name == "dropout" else ""
        raise type(error)(
            f"{OWNER}: {name} must be {expected}{of_layers} or a schedule such as Cosine(0.2), "
            f"got {given!r}"
        ) from None
