"""Rules, settings, parameters of estimators and labels as JSON, and back.

Rules of the library are names with settings. A user-defined rule is ``{"own": name}``,
and read back through a mapping from names to functions. Code is neither written to a
file nor run from one.

A value without a form in JSON, such as a tuple or an infinite number,
becomes an object with one entry: the kind and the content.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, fields, is_dataclass
from functools import cache
from types import MappingProxyType, UnionType
from typing import (
    Any,
    Literal,
    NamedTuple,
    NewType,
    Union,
    get_args,
    get_origin,
    get_type_hints,
    is_typeddict,
)

import numpy as np

from fastmlp._process import random_state
from fastmlp.rules import activations, losses
from fastmlp.rules.losses import LOSSES, Loss
from fastmlp.rules.optimizer_protocol import (
    AVERAGES,
    Average,
    Optimizer,
    OptimizerSettings,
)
from fastmlp.rules.optimizers import OPTIMIZERS, SECOND_ORDER, Custom, SecondOrder
from fastmlp.rules.schedules import SCHEDULES
from fastmlp.serialization.files import Content, FileError, arrays_at, content_of
from fastmlp.validation import Array, scalars

Own = Mapping[str, Any]
NO_RULES: Own = MappingProxyType({})
# A schedule may hold a schedule.
MAX_DEPTH = 8
OPTIMIZER_KINDS: Mapping[str, Any] = {**OPTIMIZERS, **SECOND_ORDER, "custom": Custom}


def of_rule(rule: Any, table: Mapping[str, Any]) -> Any:
    """The name in the table, or ``{"own": name}``. Lambdas lack a name."""
    for name, known in table.items():
        if known is rule:
            return name
    name = getattr(rule, "__name__", type(rule).__name__)
    if not name.isidentifier():
        raise ValueError(
            f"the rule {name!r} has no name by which a file can keep it: define it "
            f"with `def`, and "
            "pass it to `load`, as rules={'name': function}"
        )
    return {"own": name}


def rule_from(spelled: Any, table: Mapping[str, Any], kind: str, own: Own) -> Any:
    if isinstance(spelled, str):
        scalars.known("file", kind, spelled, table)
        return table[spelled]
    (key, name), *_ = spelled.items()
    if key != "own" or len(spelled) != 1 or not isinstance(name, str):
        raise ValueError(f"{spelled!r} does not spell a {kind}")
    if name not in own:
        raise ValueError(
            f"the {kind} {name!r} is a custom rule, and no file holds code; give it: "
            f"rules={{{name!r}: ...}}"
        )
    return own[name]


def of_loss(loss: Loss) -> Any:
    """A user-defined loss is passed to `load` again, as a whole `Loss`."""
    known = losses.spelled(loss)
    if known is not None:
        if isinstance(known, str):
            return known
        return losses.of_settings(known)
    if any(known.rule is loss.rule for known in LOSSES.values()):
        raise ValueError(
            f"a Loss of fastmlp's rule {loss.rule.__name__!r} with changed settings "
            "has no name: write a function that calls the rule, and pass it to Loss"
        )
    return of_rule(loss.rule, {})


def loss_from(spelled: Any, own: Own) -> Any:
    """The constructor of a loss checks its settings."""
    if not isinstance(spelled, dict) or "name" not in spelled:
        return rule_from(spelled, LOSSES, "loss", own)
    return _made(spelled, losses.SETTINGS_BY_KIND, "loss")


def _made(spelled: Any, kinds: Mapping[str, Any], kind: str) -> Any:
    settings = dict(spelled)
    name = settings.pop("name")
    scalars.known("file", kind, name, kinds)
    return kinds[name](**settings)


def of_optimizer(optimizer: Optimizer) -> Any:
    names = {kind: name for name, kind in OPTIMIZER_KINDS.items()}
    if (
        not isinstance(optimizer, OptimizerSettings | SecondOrder)
        or type(optimizer) not in names
    ):
        return of_rule(optimizer, {})
    settings = {name: of_setting(value) for name, value in optimizer.settings().items()}
    return {"name": names[type(optimizer)], **settings}


def optimizer_from(spelled: Any, own: Own) -> Any:
    if "own" in spelled:
        return rule_from(spelled, {}, "optimizer", own)
    settings = dict(spelled)
    if "learning_rate" in settings:
        settings["learning_rate"] = rate_from(settings["learning_rate"], own)
    if "average" in settings:
        settings["average"] = average_from(settings["average"])
    if "rule" in settings:
        settings["rule"] = rule_from(settings["rule"], {}, "optimizer's rule", own)
        settings["constants"] = tuple(settings["constants"])
    return _made(settings, OPTIMIZER_KINDS, "optimizer")


def of_setting(value: Any) -> Any:
    if isinstance(value, tuple):
        return [float(number) for number in value]
    kind = type(value)
    if kind in (*AVERAGES.values(), *SCHEDULES.values()):
        settings = {
            field.name: of_setting(getattr(value, field.name))
            for field in fields(value)
        }
        return {"name": kind.__name__, **settings}
    return of_rule(value, {}) if callable(value) else value


def average_from(spelled: Any) -> Any:
    return _made(spelled, AVERAGES, "average")


def rate_from(spelled: Any, own: Own, depth: int = MAX_DEPTH) -> Any:
    """Decode a number, which the caller checks, or a schedule."""
    if not isinstance(spelled, dict):
        return spelled
    if "own" in spelled:
        return rule_from(spelled, {}, "schedule", own)
    if depth == 0:
        raise ValueError(f"more than {MAX_DEPTH} schedules in one another")
    if "schedule" in spelled:
        spelled = {
            **spelled,
            "schedule": rate_from(spelled["schedule"], own, depth - 1),
        }
    return _made(spelled, SCHEDULES, "schedule")


NOT_FINITE_TEXTS = {"inf", "-inf", "nan"}


def of_value(value: Any) -> Any:
    if isinstance(value, np.generic | np.ndarray):
        value = value.tolist()
    if value is None or isinstance(value, bool | int | str):
        return value
    for kind, spell in _SPELLERS.items():
        if isinstance(value, kind):
            return spell(value)
    if not callable(value):
        raise ValueError(f"{value!r} cannot be written to a file")
    return {"rule": of_rule(value, activations.RULES)}


def value_from(spelled: Any, own: Own) -> Any:
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


def _float_from(name: Any) -> float:
    if name not in NOT_FINITE_TEXTS:
        raise ValueError(f"{name!r} is not one of {sorted(NOT_FINITE_TEXTS)}")
    return float(name)


# The first match counts.
_SPELLERS: dict[Any, Callable[[Any], Any]] = {
    float: _of_float,
    Loss: lambda value: {"loss": of_loss(value)},
    losses.LossSettings: lambda value: {"loss": losses.of_settings(value)},
    list: _of_each,
    tuple: lambda value: {"tuple": _of_each(value)},
    dict: lambda value: {"dict": [_of_each(item) for item in value.items()]},
    np.random.RandomState: lambda value: {
        "random_state": random_state.of_random_state(value)
    },
    tuple(SCHEDULES.values()): lambda value: {"schedule": of_setting(value)},
    Average: lambda value: {"average": of_setting(value)},
    Optimizer: lambda value: {"optimizer": of_optimizer(value)},
}
_READERS: dict[str, Callable[[Any, Own], Any]] = {
    "float": lambda content, own: _float_from(content),
    "tuple": lambda content, own: tuple(value_from(entry, own) for entry in content),
    "dict": lambda content, own: {
        value_from(key, own): value_from(value, own) for key, value in content
    },
    "random_state": lambda content, own: random_state.random_state_from(content),
    "schedule": rate_from,
    "average": lambda content, own: average_from(content),
    "loss": loss_from,
    "optimizer": optimizer_from,
    "rule": lambda content, own: rule_from(content, activations.RULES, "rule", own),
}


def add_settings(name: str, kind: type[Any]) -> None:
    _SPELLERS[kind] = lambda value: {name: asdict(value)}
    _READERS[name] = lambda content, own: kind(**content)


class InFile(NamedTuple):
    """The form of one type in a file: functions to JSON and arrays, and back."""

    write: Callable[[Any], tuple[Any, dict[str, Array]]]
    read: Callable[[Any, dict[str, Array]], Any]


InFiles = Mapping[Any, InFile]
# Declared types of fields: arguments of an `__init__` by name, and distinct labels.
Parameters = NewType("Parameters", dict[str, Any])
Labels = NewType("Labels", Array)
# Content of another file within a file; `model.py` adds nets.
FORMS_IN_FILES: dict[Any, InFile] = {
    Content: InFile(
        lambda inner: ({"kind": inner.kind, **inner.header}, inner.arrays), content_of
    )
}


def _origin(kind: Any) -> Any:
    """From NumPy 2.5 on, NDArray is an alias whose value is the array's type."""
    origin = get_origin(kind)
    return get_origin(getattr(origin, "__value__", None)) or origin


@cache
def declared_fields(kind: Any) -> dict[str, Any]:
    """Types of the fields of a NamedTuple, a dataclass or a TypedDict.

    Examples
    --------
    >>> class Point(NamedTuple):
    ...     x: float
    >>> declared_fields(Point), declared_fields(float)
    ({'x': <class 'float'>}, {})
    """
    names: Any = getattr(
        kind, "_fields", kind.__annotations__ if is_typeddict(kind) else ()
    )
    if is_dataclass(kind):
        names = [field.name for field in fields(kind) if field.init]
    if names:
        hints = get_type_hints(kind)
    else:
        hints = {}
    return {name: hints[name] for name in names}


def _parts(kind: Any, content: Any) -> dict[Any, Any] | None:
    """Types of the parts of a record or a tuple, by name or index, or None."""
    options, names = get_args(kind), declared_fields(kind)
    if _origin(kind) is tuple:
        return dict(
            enumerate(options[:1] * len(content) if ... in options else options)
        )
    if is_typeddict(kind):
        return {
            n: names[n] for n in names if n in content or n in kind.__required_keys__
        }
    return names or None


def of_fields(
    kind: Any, value: Any, forms: InFiles = FORMS_IN_FILES
) -> tuple[Any, dict[str, Array]]:
    """A value of a declared type as JSON, and as arrays by their paths in it."""
    if _origin(kind) in (Union, UnionType):
        if value is None:
            return None, {}
        kind = get_args(kind)[0]
    if kind is Parameters:
        return {name: of_value(each) for name, each in value.items()}, {}
    if kind is Labels:
        return of_classes(value), {}
    if form := forms.get(kind) or FORMS_IN_FILES.get(kind):
        return form.write(value)
    if _origin(kind) is np.ndarray:
        return None, {"": np.asarray(value)}
    parts = _parts(kind, value)
    if parts is None:
        return value if _origin(kind) is dict else of_value(value), {}
    spelled = {}
    arrays = dict[str, Array]()
    for name, part in parts.items():
        by_key = isinstance(name, int) or isinstance(value, dict)
        if by_key:
            one = value[name]
        else:
            one = getattr(value, name)
        spelled[name], inner = of_fields(part, one, forms)
        arrays |= {
            f"{name}.{path}" if path else str(name): inner[path] for path in inner
        }
    return [*spelled.values()] if _origin(kind) is tuple else spelled, arrays


def fields_from(
    kind: Any,
    spelled: Any,
    arrays: dict[str, Array],
    forms: InFiles = FORMS_IN_FILES,
    own: Own = NO_RULES,
    where: str = "",
) -> Any:
    """The value of `of_fields`, checked against the declared type.

    `own` are the user's rules by name, which `Parameters` may hold.
    """
    if _origin(kind) in (Union, UnionType):
        if spelled is None and not arrays:
            return None
        kind = get_args(kind)[0]
    if kind in (Parameters, Labels) and type(spelled) is not dict:
        raise FileError(f"{where} must be dict, got {spelled!r}")
    if kind is Parameters:
        return {name: value_from(each, own) for name, each in spelled.items()}
    if kind is Labels:
        return classes_from(spelled)
    if form := forms.get(kind) or FORMS_IN_FILES.get(kind):
        return form.read(spelled, arrays)
    origin = _origin(kind)
    if origin is np.ndarray:
        if "" not in arrays:
            raise FileError(f"{where} must be an array")
        return arrays[""]
    if origin is tuple or declared_fields(kind):
        if type(spelled) is not (list if origin is tuple else dict):
            raise FileError(f"{where} must have parts, got {spelled!r}")
        parts = _parts(kind, spelled) or {}
        each: Any = dict(enumerate(spelled)) if origin is tuple else spelled
        if each.keys() != parts.keys():
            known, present = (
                ", ".join(map(str, names)) or "no fields" for names in (parts, each)
            )
            raise FileError(
                f"{where or 'the content'} must have {known}, got {present}"
            )
        inner = arrays_at(arrays)
        values = {
            name: fields_from(
                parts[name],
                one,
                inner.get(str(name), {}),
                forms,
                own,
                f"{where}.{name}".lstrip("."),
            )
            for name, one in each.items()
        }
        if origin is tuple:
            return tuple(values.values())
        return kind(**values)
    value = spelled if origin is dict else value_from(spelled, {})
    if (
        value not in get_args(kind)
        if origin is Literal
        else type(value) is not (origin or kind)
    ):
        if origin is Literal:
            options = get_args(kind)
        else:
            options = ()
        known = " or ".join(map(repr, options)) or (origin or kind).__name__
        raise FileError(f"{where} must be {known}, got {value!r}")
    return value


# Python types of labels, by the kind of the NumPy dtype.
TYPES: dict[str, tuple[type, ...]] = {
    "b": (bool,),
    "i": (int,),
    "u": (int,),
    "f": (float,),
    "U": (str,),
    "O": (str, bool, int, float),
}
NUMBER_DTYPES = (
    "int8",
    "int16",
    "int32",
    "int64",
    "uint8",
    "uint16",
    "uint32",
    "uint64",
)
DTYPE_NAMES = {*NUMBER_DTYPES, "float16", "float32", "float64", "bool", "str", "object"}
# Texts of an array have the length of the longest.
MAX_TEXT_BYTES = 16 << 20


def of_classes(classes: Array) -> dict[str, Any]:
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
    name, values = spelled["dtype"], spelled["values"]
    if name not in DTYPE_NAMES:
        raise FileError(
            f"labels of dtype {name!r}; known: {', '.join(sorted(DTYPE_NAMES))}"
        )
    dtype = np.dtype(name)
    types = TYPES[dtype.kind]
    if type(values) is not list or any(type(value) not in types for value in values):
        raise FileError(f"labels of dtype {name} must be a list of {types[0].__name__}")
    if dtype.kind == "U" and 4 * len(values) * max(map(len, values)) > MAX_TEXT_BYTES:
        raise FileError(
            f"labels of more than {MAX_TEXT_BYTES:,} bytes as an array of text"
        )
    classes = np.array(values, dtype)
    if classes.tolist() != values:
        raise FileError(f"labels that {name} cannot hold")
    return classes


def count(value: Any, name: str) -> int:
    if type(value) is not int or not 0 <= value <= scalars.LARGEST:
        raise FileError(f"{name} must be an integer of 0 or more, got {value!r}")
    return value
