"""Checks of everything that comes from outside, before anything is compiled.

Errors say who, what was expected, what was got and what is known.
"""

import os
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from datetime import timedelta
from itertools import pairwise
from types import FunctionType
from typing import Any, cast, get_args

import numpy as np
from numpy.typing import NDArray

from fastmlp import (
    activations,
    checks,
    initializers,
    links,
    losses,
    memory,
    optimizers,
    penalties,
)
from fastmlp.layout import Layout

Array = NDArray[Any]
OWNER = "MLP"
FINITE_BLOCK = 1 << 16


def layer_sizes(sizes: object) -> tuple[int, ...]:
    """Check layer sizes: two or more integers of 1 or more, inputs first."""
    if isinstance(sizes, str | bytes | Set | Mapping) or not isinstance(sizes, Iterable):
        raise TypeError(
            f"{OWNER}: layer_sizes must be a sequence of integers, inputs first, got {sizes!r}"
        )
    given = tuple(sizes)
    if len(given) < 2:
        raise ValueError(
            f"{OWNER}: layer_sizes needs at least the inputs and the outputs, got {given!r}"
        )
    return tuple(
        checks.positive_integer(OWNER, f"layer_sizes[{i}]", n) for i, n in enumerate(given)
    )


def activation(rule: object) -> activations.ActivationRule:
    """Return the rule that a name stands for, or check a rule of the user's own."""
    if isinstance(rule, str):
        name = activations.ALIASES.get(rule, rule)
        checks.known(OWNER, "activation", name, activations.RULES)
        return activations.RULES[name]
    return _own_rule("activation", "activation(z) -> (value, slope)", rule, 1, 2)


def hidden_activations(given: object, n_hidden: int) -> tuple[activations.ActivationRule, ...]:
    """Return one rule per hidden layer, from one name or rule or from one for each."""
    if isinstance(given, str) or callable(given):
        return (activation(given),) * n_hidden
    if not isinstance(given, Sequence):
        raise TypeError(
            f"{OWNER}: activation must be a name, a function, or one of them per hidden layer, "
            f"got {given!r}"
        )
    if len(given) != n_hidden:
        raise ValueError(
            f"{OWNER}: activation names {len(given)} layers, but layer_sizes has {n_hidden} hidden"
        )
    return tuple(activation(rule) for rule in given)


def loss(given: object) -> losses.Loss:
    """Return the loss that a name stands for, or check one of the user's own."""
    if isinstance(given, str):
        checks.known(OWNER, "loss", given, losses.LOSSES)
        return losses.LOSSES[given]
    if isinstance(given, losses.Loss):
        return given if given in losses.LOSSES.values() else _own_loss(given)
    form = "loss(prediction, target) -> (value, slope)"
    return losses.Loss(_own_rule("loss", form, given, 2, 2))


def _own_loss(given: losses.Loss) -> losses.Loss:
    if given.link is not None:
        checks.known(OWNER, "link", given.link, links.LINKS)
    checks.known("Loss", "targets", given.targets, get_args(losses.Targets))
    checks.known("Loss", "over_outputs", given.over_outputs, ("mean", "sum"))
    if checks.boolean("Loss", "by_row", given.by_row):
        _function("loss", "rule(outputs, targets, slopes, values)", given.rule)
    else:
        _own_rule("loss", "rule(output, target) -> (value, slope)", given.rule, 2, 2)
    return given


def output_activation(
    given: object, name: str, function: losses.Loss
) -> tuple[activations.ActivationRule, links.Link]:
    """Return the output layer's rule and the link to predictions, or say that they do not fit."""
    if function.link is None:
        rule = activation("identity" if given is None else given)
        return rule, links.LINKS["identity"]
    alias = activations.ALIASES.get(given, given) if isinstance(given, str) else given
    if alias is not None and alias != function.link:
        raise ValueError(
            f"{OWNER}: the loss {name!r} owns its output link {function.link!r}; "
            f"output_activation must be None or {function.link!r}, got {given!r}"
        )
    return activation("identity"), links.LINKS[function.link]


def optimizer(given: object) -> optimizers.Optimizer:
    """Return the optimizer that a name or an update rule stands for, or check the one given."""
    if isinstance(given, str):
        checks.known(OWNER, "optimizer", given, optimizers.OPTIMIZERS)
        return optimizers.OPTIMIZERS[given]()
    # One of ours first: to look for a protocol's members takes a seventh of making a net.
    if type(given) in optimizers.OPTIMIZERS.values():
        return cast(optimizers.Optimizer, given)
    if isinstance(given, optimizers.Custom):
        form = "rule(w, g, m, v, rate, *constants) -> (w, m, v)"
        _own_rule("optimizer", form, given.rule, 5 + len(given.constants), 3)
    if isinstance(given, optimizers.Optimizer) and not isinstance(given, type):
        return given
    if callable(given) and not isinstance(given, type):
        form = "optimizer(w, g, m, v, rate) -> (w, m, v)"
        return optimizers.Custom(_own_rule("optimizer", form, given, 5, 3))
    raise TypeError(
        f"{OWNER}: optimizer must be a name, an optimizer such as Adam(), or an update rule, "
        f"got {given!r}; known names: {', '.join(sorted(optimizers.OPTIMIZERS))}"
    )


def penalty_terms(
    l2: object, l1: object, more: object
) -> tuple[tuple[penalties.PenaltyRule, float], ...]:
    """Return pairs of a penalty's rule and its strength, those of strength 0 left out."""
    if more is not None and not isinstance(more, Mapping):
        raise TypeError(
            f"{OWNER}: penalties must be a mapping of names or functions to strengths, got {more!r}"
        )
    terms = []
    for key, strength in [("l2", l2), ("l1", l1), *(more or {}).items()]:
        name = key if isinstance(key, str) else getattr(key, "__name__", "penalty")
        rule, number = _penalty(key), checks.non_negative(OWNER, name, strength)
        if number > 0:
            terms.append((rule, number))
    return tuple(terms)


def _penalty(key: object) -> penalties.PenaltyRule:
    if isinstance(key, str):
        checks.known(OWNER, "penalty", key, penalties.RULES)
        return penalties.RULES[key]
    return _own_rule("penalty", "penalty(w) -> (value, slope)", key, 1, 2)


def room_for_parameters(layout: Layout, kind: np.dtype[Any]) -> None:
    """Check that the parameters can be had, and beside them a layer as it is drawn, in float64."""
    largest = max(n_in * n_out for n_in, n_out in pairwise(layout.sizes))
    n_bytes = layout.n_parameters * kind.itemsize + 9 * largest
    what = f"layer_sizes={layout.sizes}: making {layout.n_parameters:,} parameters"
    memory.require(n_bytes, OWNER, what)


def initializer(given: object, rules: Sequence[activations.ActivationRule]) -> list[Any]:
    """Return an initializer per layer: the one given, or the default of the layer's activation."""
    if given is None:
        names = [initializers.DEFAULTS.get(rule.__name__, initializers.DEFAULT) for rule in rules]
        return [initializers.RULES[name] for name in names]
    if isinstance(given, str):
        checks.known(OWNER, "initializer", given, initializers.RULES)
        return [initializers.RULES[given]] * len(rules)
    if not callable(given):
        raise TypeError(f"{OWNER}: initializer must be a name or a function, got {given!r}")
    return [given] * len(rules)


def initial_weights(rule: Any, generator: np.random.Generator, out: Array) -> None:
    """Write what an initializer makes of a layer's shape to the layer, checked."""
    weights = np.asarray(rule(generator, out.shape))
    wanted = (
        f"{OWNER}: initializer {getattr(rule, '__name__', rule)!r} must return finite {out.dtype} "
        f"numbers of shape {out.shape}"
    )
    if weights.shape != out.shape or weights.dtype.kind not in "fiub":
        raise ValueError(f"{wanted}, got {weights.dtype} of shape {weights.shape}")
    with np.errstate(over="ignore"):
        out[:] = weights
    if not (good := np.isfinite(out)).all():
        raise ValueError(f"{wanted}, got {out[~good][0]}")


def dtype(given: Any) -> np.dtype[Any]:
    """Check a dtype: float32 or float64."""
    try:
        kind = np.dtype(given)
    except TypeError:
        kind = np.dtype(object)
    if given is None or kind not in (np.dtype(np.float32), np.dtype(np.float64)):
        raise ValueError(f"{OWNER}: dtype must be 'float32' or 'float64', got {given!r}")
    return kind


def generator(seed: Any) -> np.random.Generator:
    """Return NumPy's generator of this seed."""
    try:
        if isinstance(seed, bool | np.bool_):
            raise TypeError("it would do as 0 or 1")
        return np.random.default_rng(seed)
    except (TypeError, ValueError) as error:
        raise type(error)(
            f"{OWNER}: seed must be None, an integer of 0 or more, a SeedSequence or a Generator, "
            f"got {seed!r}"
        ) from error


def device(given: object) -> str:
    """Check a device's name; whether there is one is not looked at."""
    number = given.removeprefix("cuda:") if isinstance(given, str) else ""
    numbered = given != number and number.isascii() and number.isdigit()
    if given not in ("cpu", "cuda") and not numbered:
        raise ValueError(
            f"{OWNER}: unknown device {given!r}; known: cpu, cuda, cuda:0, cuda:1, ..."
        )
    return str(given)


def features(x: object, n_features: int, kind: np.dtype[Any], who: str) -> Array:
    """Return X as a C-contiguous (n_rows, n_features) array of `kind`, not copied if it is one.

    Raises
    ------
    TypeError
        Where X is no array of real numbers.
    ValueError
        Where its shape is wrong, it has no rows, or a number in it is not finite.
    """
    array = _numbers(x, who, "X")
    if array.ndim != 2:
        hint = "; for one feature use X.reshape(-1, 1)" if array.ndim == 1 else ""
        raise ValueError(f"{who}: X must have shape (n_rows, n_features), got {array.shape}{hint}")
    if array.shape[1] != n_features:
        raise ValueError(
            f"{who}: X has {array.shape[1]} features, but the net has {n_features} inputs"
        )
    if len(array) == 0:
        raise ValueError(f"{who}: X has no rows")
    return _finite(_cast(array, kind, who, "X"), who, "X")


def targets(
    y: object, n_rows: int, n_outputs: int, function: losses.Loss, kind: np.dtype[Any], who: str
) -> Array:
    """Return y as (n_rows, n_outputs), or (n_rows, 1) for class labels, of `kind`.

    Raises
    ------
    TypeError
        Where y is no array of real numbers.
    ValueError
        Where shape, length or values are not what the loss takes.
    """
    array = _numbers(y, who, "y")
    if array.ndim not in (1, 2):
        raise ValueError(
            f"{who}: y must have shape (n_rows,) or (n_rows, n_outputs), got {array.shape}"
        )
    if len(array) != n_rows:
        raise ValueError(f"{who}: X has {n_rows} rows, but y has {len(array)}")
    table = array.reshape(n_rows, -1)
    if function.targets == "classes" and table.shape[1] == 1:
        _class_labels(array, n_outputs, who)
    elif table.shape[1] != n_outputs:
        raise ValueError(
            f"{who}: y has {table.shape[1]} columns, but the net has {n_outputs} outputs"
        )
    numbers = _finite(_cast(table, kind, who, "y"), who, "y")
    _target_values(numbers, function, n_outputs, who)
    return numbers


def weights(given: object, n_rows: int, kind: np.dtype[Any], who: str) -> Array:
    """Return sample weights as (n_rows,), or an empty array for None."""
    if given is None:
        return np.empty(0, kind)
    numbers = vector(given, n_rows, kind, "sample_weight", who)
    # Denormals are zeros inside a kernel.
    if (numbers < 0).any() or numbers.max() < np.finfo(kind).tiny:
        raise ValueError(f"{who}: sample_weight must be 0 or more, and not all 0 as {kind}")
    return numbers


def row_index(given: object, n_rows: int, who: str, name: str) -> NDArray[np.int64]:
    """Return the indices of rows, shape (n,), from such or from a mask of shape (n_rows,)."""
    array = _numbers(given, who, name)
    if array.ndim != 1 or (array.dtype.kind == "f" and array.size):
        raise TypeError(
            f"{who}: {name} must be indices of rows, or a mask, in one dimension, got dtype "
            f"{array.dtype} and shape {array.shape}"
        )
    if array.dtype.kind == "b":
        if len(array) != n_rows:
            raise ValueError(f"{who}: {name} masks {len(array)} rows, but X has {n_rows}")
        array = np.flatnonzero(array)
    if len(array) == 0:
        raise ValueError(f"{who}: {name} has no rows")
    low, high = int(array.min()), int(array.max())
    if low < 0 or high >= n_rows:
        raise ValueError(
            f"{who}: {name} must be from 0 to {n_rows - 1}, got {low if low < 0 else high}"
        )
    return np.ascontiguousarray(array, np.int64)


def vector(given: object, n: int, kind: np.dtype[Any], name: str, who: str) -> Array:
    """Return finite numbers of shape (n,) and of `kind`."""
    array = _numbers(given, who, name)
    if array.shape != (n,):
        raise ValueError(f"{who}: {name} must have shape ({n},), got {array.shape}")
    return _finite(_cast(array, kind, who, name), who, name)


def out_array(out: object, shape: tuple[int, int], kind: np.dtype[Any], who: str) -> Array:
    """Return `out`, checked, or a new array."""
    if out is None:
        memory.require(shape[0] * shape[1] * kind.itemsize, who, f"predictions of shape {shape}")
        return np.empty(shape, kind)
    good = isinstance(out, np.ndarray) and out.shape == shape and out.dtype == kind
    if not (good and out.flags.c_contiguous and out.flags.writeable):  # type: ignore[attr-defined]
        got = f"{out.dtype} {out.shape}" if isinstance(out, np.ndarray) else type(out).__name__
        raise ValueError(
            f"{who}: out must be a writeable C-contiguous {kind} array of shape {shape}, got {got}"
        )
    return out  # type: ignore[return-value]


def callbacks(given: object, who: str) -> tuple[Callable[..., Any], ...]:
    """Check callbacks: a function, or a sequence of functions."""
    if callable(given):
        return (given,)
    functions = tuple(given) if isinstance(given, Iterable) else (given,)
    if not all(callable(function) for function in functions):
        raise TypeError(f"{who}: callbacks must be functions of one argument, got {given!r}")
    return functions


def validation_pair(given: object, who: str) -> tuple[Any, Any, Any]:
    """Return (X, y, sample_weight or None) of validation data given as two or three."""
    if not isinstance(given, tuple | list) or len(given) not in (2, 3):
        raise TypeError(
            f"{who}: validation_data must be (X, y) or (X, y, sample_weight), "
            f"got {type(given).__name__}"
        )
    return (*given, None)[:3]


def checkpoint(path: object, every: object, resume: object, who: str) -> int | timedelta:
    """Check where and when to write checkpoints; return when."""
    checks.boolean(who, "resume", resume)
    if path is None and resume:
        raise ValueError(f"{who}: resume=True needs checkpoint=, the file to go on from")
    if path is not None and not isinstance(path, str | os.PathLike):
        raise TypeError(f"{who}: checkpoint must be a path, got {path!r}")
    if isinstance(every, timedelta):
        if every < timedelta(0):
            raise ValueError(f"{who}: checkpoint_every must be 0 or more, got {every!r}")
        return every
    if isinstance(every, float):
        raise TypeError(
            f"{who}: checkpoint_every must be a number of epochs, an integer, or a time: "
            f"datetime.timedelta(seconds={every!r})"
        )
    return checks.positive_integer(who, "checkpoint_every", every)


def own_rules(given: object, who: str) -> Mapping[str, Any]:
    """Check the mapping that brings a user's rules back: names to functions."""
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        raise TypeError(f"{who}: rules must be a mapping of names to rules, got {given!r}")
    return given


def rates(given: object, n_steps: int, schedule: object) -> NDArray[np.float64]:
    """Check what a learning-rate schedule returned."""
    try:
        array = np.asarray(given, np.float64)
        good = array.shape == (n_steps,) and np.isfinite(array).all() and (array >= 0).all()
    except (TypeError, ValueError):
        good = False
    if not good:
        raise ValueError(
            f"learning-rate schedule {schedule!r} must return {n_steps} finite rates of 0 or more, "
            f"got {given!r}"
        )
    return array


def _own_rule(kind: str, form: str, rule: Any, n_arguments: int, n_results: int) -> Any:
    """Check a user's rule by calling it uncompiled."""
    _function(kind, form, rule)
    try:
        result = getattr(rule, "py_func", rule)(*[np.float64(0.5)] * n_arguments)
    except Exception as error:
        raise TypeError(
            f"{OWNER}: {kind} must be a function {form}; calling it failed: {error}"
        ) from error
    if not isinstance(result, tuple) or len(result) != n_results or not all(map(_scalar, result)):
        raise TypeError(f"{OWNER}: {kind} must be a function {form}, but it returned {result!r}")
    return rule


def _function(kind: str, form: str, rule: Any) -> None:
    if not isinstance(rule, FunctionType) and not hasattr(rule, "py_func"):
        raise TypeError(f"{OWNER}: {kind} must be a name or a function {form}, got {rule!r}")


def _scalar(value: object) -> bool:
    return np.ndim(value) == 0 and np.asarray(value).dtype.kind in "fiub"  # type: ignore[arg-type]


def _numbers(given: object, who: str, name: str) -> Array:
    if hasattr(given, "toarray"):
        raise TypeError(f"{who}: {name} is a sparse matrix; use {name}.toarray()")
    try:
        array = np.asarray(given)
    except ValueError as error:
        raise ValueError(f"{who}: {name} must be an array of numbers: {error}") from error
    if array.dtype.kind not in "fiub":
        raise TypeError(f"{who}: {name} must hold real numbers, got dtype {array.dtype}")
    return array


def _cast(array: Array, kind: np.dtype[Any], who: str, name: str) -> Array:
    """Return the array C-contiguous and of `kind`: itself, or a copy."""
    if array.dtype == kind and array.flags.c_contiguous:
        return array
    memory.require(array.size * kind.itemsize, who, f"{name} as {kind}, shape {array.shape},")
    # Numbers beyond float32 become inf, which the check for finite numbers reports.
    with np.errstate(over="ignore"):
        return np.ascontiguousarray(array.astype(kind, copy=False))


def _finite(array: Array, who: str, name: str) -> Array:
    """Check in blocks, so that no mask as large as the data is made."""
    flat = array.reshape(-1)
    for start in range(0, flat.size, FINITE_BLOCK):
        good = np.isfinite(flat[start : start + FINITE_BLOCK])
        if not good.all():
            where = start + int(np.argmin(good))
            width = array.shape[1] if array.ndim == 2 else 1
            row, column = divmod(where, width)
            place = f"row {row}, column {column}" if array.ndim == 2 else f"row {row}"
            raise ValueError(
                f"{who}: {name} must be finite as {array.dtype}, got {flat[where]} in {place}"
            )
    return array


def _class_labels(array: Array, n_outputs: int, who: str) -> None:
    if array.dtype.kind == "f":
        raise TypeError(
            f"{who}: class labels must be integers from 0 to {n_outputs - 1}, "
            f"got dtype {array.dtype}"
        )
    low, high = int(array.min()), int(array.max())
    if low < 0 or high >= n_outputs:
        raise ValueError(
            f"{who}: class labels must be from 0 to {n_outputs - 1}, for a net of {n_outputs} "
            f"outputs, got {low if low < 0 else high}"
        )


def _target_values(table: Array, function: losses.Loss, n_outputs: int, who: str) -> None:
    if function.targets == "unit" and ((table < 0) | (table > 1)).any():
        raise ValueError(f"{who}: y must be in [0, 1] for this loss, got {_worst(table)}")
    if function.targets == "count" and (table < 0).any():
        raise ValueError(f"{who}: y must be 0 or more for this loss, got {table.min()}")
    if function.targets == "classes" and table.shape[1] == n_outputs > 1:
        off = np.abs(table.sum(axis=1) - 1) > 1e-3
        if off.any() or (table < 0).any():
            raise ValueError(
                f"{who}: rows of y must be one-hot or probabilities that sum to 1, "
                f"got {table[int(np.argmax(off))]}"
            )


def _worst(table: Array) -> float:
    return float(table.min() if table.min() < 0 else table.max())
