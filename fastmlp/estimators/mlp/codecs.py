"""Parameters, labels and optimizer objects as JSON values, and back.

Plain values stay as they are. Tuples, dicts and numbers that are not finite, for which JSON has no
form, and objects that the core names become an object with one entry: its kind and its content.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array
from sklearn.neural_network._stochastic_optimizers import AdamOptimizer, SGDOptimizer
from sklearn.preprocessing import LabelBinarizer

from fastmlp._process import random_state
from fastmlp.estimators.mlp.fitting import to_core
from fastmlp.rules import activations
from fastmlp.rules.averages import Average
from fastmlp.rules.optimizers import Optimizer
from fastmlp.rules.schedules import SCHEDULES
from fastmlp.serialization import codec
from fastmlp.serialization.safetensors_file import FileError
from fastmlp.validation import scalars

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
        return [value_from(entry, own) for entry in spelled]
    if not isinstance(spelled, dict):
        return spelled
    ((form, content),) = spelled.items()
    return _READERS[form](content, own)


def _of_float(value: float) -> Any:
    return value if np.isfinite(value) else {"float": str(value)}


def _of_each(values: Any) -> list[Any]:
    return [of_value(entry) for entry in values]


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
    tuple(SCHEDULES.values()): lambda value: {"schedule": codec.of_setting(value)},
    Average: lambda value: {"average": codec.of_setting(value)},
    Optimizer: lambda value: {"optimizer": codec.of_optimizer(value)},
}
_READERS: dict[str, Callable[[Any, Own], Any]] = {
    "float": _float_from,
    "tuple": lambda content, own: tuple(value_from(entry, own) for entry in content),
    "dict": lambda content, own: {
        value_from(key, own): value_from(value, own) for key, value in content
    },
    "random_state": _random_state_from,
    "schedule": codec.rate_from,
    "average": lambda content, own: codec.average_from(content),
    "optimizer": codec.optimizer_from,
    "rule": lambda content, own: codec.rule_from(content, activations.RULES, "rule", own),
}


Array = NDArray[Any]
# By the kind of a NumPy dtype, the types that the labels have in Python.
TYPES: dict[str, tuple[type, ...]] = {
    "b": (bool,), "i": (int,), "u": (int,), "f": (float,), "U": (str,),
    "O": (str, bool, int, float),
}  # fmt: skip
NUMBERS = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")
NAMES = {*NUMBERS, "float16", "float32", "float64", "bool", "str", "object"}
# In an array every text has the length of the longest.
MAX_TEXT_BYTES = 16 << 20


def of_labels(classifier: Any) -> dict[str, Any]:
    """Return the JSON form of a fitted classifier's labels.

    Raises
    ------
    ValueError
        If their dtype has no form in a file.
    """
    binarizer = classifier._label_binarizer
    return of_classes(classifier.classes_) | {
        "several": binarizer.y_type_.startswith("multilabel"),
        "sparse": bool(binarizer.sparse_input_),
    }


def of_classes(classes: Array) -> dict[str, Any]:
    """Return the JSON form of labels, shape (n_classes,).

    Raises
    ------
    ValueError
        If their dtype has no form in a file.
    """
    spelled = {
        "dtype": "str" if classes.dtype.kind == "U" else classes.dtype.name,
        "values": classes.tolist(),
    }
    try:
        classes_from(spelled)
    except FileError as error:
        raise ValueError(f"the labels cannot be written to a file: {error}") from error
    return spelled


def classes_from(spelled: Mapping[str, Any]) -> Array:
    """Return the labels, shape (n_classes,)."""
    name, values = spelled["dtype"], spelled["values"]
    if name not in NAMES:
        raise FileError(f"labels of dtype {name!r}; known: {', '.join(sorted(NAMES))}")
    dtype = np.dtype(name)
    types = TYPES[dtype.kind]
    if type(values) is not list or any(type(value) not in types for value in values):
        raise FileError(f"labels of dtype {name} must be a list of {types[0].__name__}")
    if dtype.kind == "U" and 4 * len(values) * max(map(len, values)) > MAX_TEXT_BYTES:
        raise FileError(f"labels of more than {MAX_TEXT_BYTES:,} bytes as an array of text")
    classes = np.array(values, dtype)
    if classes.tolist() != values:
        raise FileError(f"labels that {name} cannot hold")
    return classes


def binarizer_from(spelled: Mapping[str, Any], classes: Array) -> Any:
    """Return the binarizer of these labels, which must be sorted and distinct."""
    several, sparse = spelled["several"], spelled["sparse"]
    if type(several) is not bool or type(sparse) is not bool or sparse > several:
        raise FileError("whether rows have several labels, and sparse ones, must be true or false")
    targets = np.eye(2, len(classes), dtype=int) if several else np.repeat(classes, 2)
    binarizer = LabelBinarizer().fit(csr_array(targets) if sparse else targets)
    if not np.array_equal(binarizer.classes_, classes):
        raise FileError("labels must be sorted, and each there once")
    return binarizer


FIELDS: dict[str, tuple[str, ...]] = {
    "sgd": ("learning_rate_init", "lr_schedule", "momentum", "nesterov", "power_t"),
    "adam": ("learning_rate_init", *to_core.SETTINGS),
}
SGD_SCHEDULES = ("constant", "adaptive", "invscaling")


def of_optimizer(optimizer: Any) -> dict[str, Any]:
    """Return the JSON form of an optimizer object, without its state."""
    if isinstance(optimizer, to_core.CoreOptimizer):
        return {"kind": "core", "core": codec.of_optimizer(optimizer.core), "t": optimizer.t}
    kind = "sgd" if isinstance(optimizer, SGDOptimizer) else "adam"
    settings = {name: _plain(name, getattr(optimizer, name)) for name in FIELDS[kind]}
    now = {"learning_rate": float(optimizer.learning_rate), "t": to_core.steps_of(optimizer)}
    return {"kind": kind, **settings, **now}


def optimizer_from(spelled: Mapping[str, Any], own: Mapping[str, Any]) -> Any:
    """Return the optimizer object of a JSON form.

    Raises
    ------
    FileError, TypeError, ValueError, LookupError
        If the form is not valid.
    """
    kind, t = spelled["kind"], count(spelled["t"], "t")
    scalars.known("file", "kind of optimizer", kind, [*FIELDS, "core"])
    if kind == "core":
        optimizer = to_core.CoreOptimizer(codec.optimizer_from(spelled["core"], own))
        optimizer.t = t
        return optimizer
    settings = {name: spelled[name] for name in FIELDS[kind]}
    scalars.positive("file", "learning_rate_init", settings["learning_rate_init"])
    optimizer = _sgd(settings) if kind == "sgd" else AdamOptimizer([], **settings)
    optimizer.learning_rate = scalars.non_negative(
        "file", "learning_rate", spelled["learning_rate"]
    )
    optimizer.t = t
    to_core.core_of(optimizer)
    return optimizer


def count(value: Any, name: str) -> int:
    """Check a number of steps, rows or epochs."""
    if type(value) is not int or not 0 <= value <= scalars.LARGEST:
        raise FileError(f"{name} must be an integer of 0 or more, got {value!r}")
    return value


def _sgd(settings: dict[str, Any]) -> SGDOptimizer:
    scalars.known("file", "learning_rate", settings["lr_schedule"], SGD_SCHEDULES)
    scalars.boolean("file", "nesterov", settings["nesterov"])
    scalars.non_negative("file", "power_t", settings["power_t"])
    if scalars.non_negative("file", "momentum", settings["momentum"]) > 1:
        raise FileError(f"momentum must be at most 1, got {settings['momentum']!r}")
    return SGDOptimizer([], **settings)


def _plain(name: str, value: Any) -> Any:
    if name == "nesterov":
        return bool(value)
    return value if name == "lr_schedule" else float(value)
