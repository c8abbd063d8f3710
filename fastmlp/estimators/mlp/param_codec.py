"""An estimator's parameters as JSON values, and back.

Plain values stay as they are. Tuples, dicts and numbers that are not finite, for which JSON has no
form, and objects that the core names become an object with one entry: its kind and its content.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from fastmlp._process import random_state
from fastmlp.rules import activations
from fastmlp.rules.averages import Average
from fastmlp.rules.optimizers import Optimizer
from fastmlp.rules.schedules import SCHEDULES
from fastmlp.serialization import codec

Own = Mapping[str, Any]
NOT_FINITE = {"inf", "-inf", "nan"}


def of_value(value: Any) -> Any:
    """Return the JSON form of a value.

    Raises
    ------
    ValueError
        If it is neither plain nor has a name.
    """
    if isinstance(value, np.generic | np.ndarray):
        value = value.tolist()
    if value is None or isinstance(value, bool | int | str):
        return value
    for kind, spell in _SPELLERS.items():
        if isinstance(value, kind):
            return spell(value)
    if not callable(value):
        raise ValueError(f"{value!r} cannot be written to a file")
    return {"rule": codec.of_rule(value, activations.RULES)}


def value_from(spelled: Any, own: Own) -> Any:
    """Return the value of a JSON form.

    Raises
    ------
    TypeError, ValueError, LookupError
        If the form is not valid.
    """
    if isinstance(spelled, list):
        return [value_from(each, own) for each in spelled]
    if not isinstance(spelled, dict):
        return spelled
    ((form, content),) = spelled.items()
    return _READERS[form](content, own)


def _of_float(value: float) -> Any:
    return value if np.isfinite(value) else {"float": str(value)}


def _of_each(values: Any) -> list[Any]:
    return [of_value(each) for each in values]


def _float_from(name: Any, own: Own) -> float:
    if name not in NOT_FINITE:
        raise ValueError(f"{name!r} is none of {sorted(NOT_FINITE)}")
    return float(name)


def _random_state_from(state: Any, own: Own) -> np.random.RandomState:
    return random_state.random_state_from(state)


# In the order in which they are tried.
_SPELLERS: dict[Any, Callable[[Any], Any]] = {
    float: _of_float,
    list: _of_each,
    tuple: lambda value: {"tuple": _of_each(value)},
    dict: lambda value: {"dict": [_of_each(item) for item in value.items()]},
    np.random.RandomState: lambda value: {"random_state": random_state.of_random_state(value)},
    tuple(SCHEDULES.values()): lambda value: {"schedule": codec.of_rate(value)},
    Average: lambda value: {"average": codec.of_rate(value)},
    Optimizer: lambda value: {"optimizer": codec.of_optimizer(value)},
}
_READERS: dict[str, Callable[[Any, Own], Any]] = {
    "float": _float_from,
    "tuple": lambda content, own: tuple(value_from(each, own) for each in content),
    "dict": lambda content, own: {
        value_from(key, own): value_from(value, own) for key, value in content
    },
    "random_state": _random_state_from,
    "schedule": codec.rate_from,
    "average": lambda content, own: codec.average_from(content),
    "optimizer": codec.optimizer_from,
    "rule": lambda content, own: codec.rule_from(content, activations.RULES, "rule", own),
}
