"""Checks of features, targets, weights, row indices and output arrays."""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastmlp._process import memory, warn
from fastmlp.validation import Array, frames, messages, scalars
from fastmlp.validation.messages import count

FINITE_BLOCK = 1 << 16
# Larger arrays would be copied for a search.
SEARCHED = 1 << 12
BALANCED = "balanced"


def features(x: object, n_features: int, kind: np.dtype[Any], who: str) -> Array:
    """X as a C-contiguous (n_rows, n_features)
    array of `kind`, not copied if it is one.
    """
    array = _numbers(x, who, "X", kind)
    if array.ndim != 2:
        hint = messages.of_shape(x, array, n_features)
        raise ValueError(
            f"{who}: X must have shape (n_rows, n_features), got {array.shape}{hint}"
        )
    if array.shape[1] != n_features:
        if len(array) == n_features:
            hint = "; is X transposed? use X.T"
        else:
            hint = ""
        raise ValueError(
            f"{who}: X has {count(array.shape[1], 'feature')}, but the net has "
            f"{count(n_features, 'input')}{hint}"
        )
    if len(array) == 0:
        raise ValueError(f"{who}: X has no rows")
    return _finite(_cast(array, kind, who, "X"), x, who, "X")


def table(x: object, n_features: int | None, who: str) -> Array:
    """X as a C-contiguous (n_rows, n_features)
    array of float32 if it is one, or float64.
    """
    array = _numbers(x, who, "X")
    if array.ndim != 2:
        raise ValueError(
            f"{who}: X must have shape (n_rows, n_features), got {array.shape}"
        )
    if n_features is not None and array.shape[1] != n_features:
        raise ValueError(
            f"{who}: X has {count(array.shape[1], 'feature')}, but there were "
            f"{n_features} before"
        )
    kind = np.dtype(np.float32 if array.dtype == np.float32 else np.float64)
    return _finite(_cast(array, kind, who, "X"), x, who, "X")


def targets(
    y: object,
    n_rows: int,
    n_outputs: int,
    accepted: str,
    kind: np.dtype[Any],
    who: str,
    per_target: int = 1,
) -> Array:
    """y as (n_rows, n_outputs), or (n_rows, 1) for class labels, of `kind`.

    `accepted` is `Loss.targets`. With `per_target` outputs per column,
    y has n_outputs / per_target columns.
    """
    array = _numbers(y, who, "y")
    if array.ndim not in (1, 2):
        raise ValueError(
            f"{who}: y must have shape (n_rows,) or (n_rows, n_outputs), got "
            f"{array.shape}"
        )
    if len(array) != n_rows:
        if array.shape[1:] == (n_rows,):
            hint = "; y is transposed: use y.T"
        else:
            hint = ""
        raise ValueError(
            f"{who}: X has {count(n_rows, 'row')}, but y has {len(array)}{hint}"
        )
    table = array.reshape(n_rows, -1)
    if accepted == "classes" and table.shape[1] == 1:
        _class_labels(y, array, n_outputs, who)
    elif per_target > 1 and table.shape[1] != n_outputs // per_target:
        raise ValueError(
            f"{who}: y has {count(table.shape[1], 'column')}, but the net has "
            f"{count(n_outputs, 'output')}, {per_target} for each column with this "
            f"loss: y must have {count(n_outputs // per_target, 'column')}"
        )
    elif per_target == 1 and table.shape[1] != n_outputs:
        raise ValueError(
            f"{who}: y has {count(table.shape[1], 'column')}, but the net has "
            f"{count(n_outputs, 'output')}{messages.of_columns(array, table.shape[1], n_outputs)}"
        )
    numbers = _finite(_cast(table, kind, who, "y"), y, who, "y")
    _target_values(numbers, accepted, n_outputs, who)
    return numbers


def weights(
    argument: object,
    n_rows: int,
    kind: np.dtype[Any],
    who: str,
    *,
    all_zero: bool = False,
) -> Array:
    """Sample weights as (n_rows,), or an empty array for None;
    `all_zero`: all may be 0.
    """
    if argument is None:
        return np.empty(0, kind)
    numbers = vector(argument, n_rows, kind, "sample_weight", who)
    # Kernels flush denormals to zero.
    tiny = numbers < np.finfo(kind).tiny
    negative = numbers < 0
    if negative.any() or (tiny.all() and not all_zero):
        row = int(negative.argmax())
        place = f"row {row}" if negative[row] else "each row"
        got = f"got {numbers[row]:.4g} in {place}"
        raise ValueError(
            f"{who}: sample_weight must be 0 or more, and not all 0 as {kind}, {got}"
        )
    if numbers[tiny].any():
        return np.where(tiny, kind.type(0), numbers)
    return numbers


def row_index(argument: object, n_rows: int, who: str, name: str) -> NDArray[np.int64]:
    """Row indices, shape (n,), from indices or from a mask of shape (n_rows,)."""
    array = _numbers(argument, who, name)
    if array.ndim != 1 or (array.dtype.kind == "f" and array.size):
        raise TypeError(
            f"{who}: {name} must be indices of rows, or a mask, in one dimension, got "
            f"dtype {array.dtype} and shape {array.shape}"
        )
    if array.dtype.kind == "b":
        if len(array) != n_rows:
            raise ValueError(
                f"{who}: {name} masks {count(len(array), 'row')}, but X has {n_rows}"
            )
        array = np.flatnonzero(array)
    if len(array) == 0:
        raise ValueError(f"{who}: {name} has no rows")
    low, high = int(array.min()), int(array.max())
    if low < 0 or high >= n_rows:
        raise ValueError(
            f"{who}: {name} must be from 0 to {n_rows - 1}, got "
            f"{low if low < 0 else high}"
        )
    return np.ascontiguousarray(array, np.int64)


def vector(argument: object, n: int, kind: np.dtype[Any], name: str, who: str) -> Array:
    array = _numbers(argument, who, name)
    if array.shape != (n,):
        if array.shape == (n, 1):
            hint = f"; use {name}[:, 0]"
        else:
            hint = messages.of_broadcast(array.shape)
        raise ValueError(
            f"{who}: {name} must have shape ({n},), got {array.shape}{hint}"
        )
    return _finite(_cast(array, kind, who, name), argument, who, name)


def matrix(
    argument: object, shape: tuple[int, int], kind: np.dtype[Any], name: str, who: str
) -> Array:
    array = _numbers(argument, who, name)
    if array.shape != shape:
        column = array.shape == shape[:1] and shape[1] == 1
        if column:
            hint = f"; use {name}[:, None]"
        else:
            hint = messages.of_broadcast(array.shape, shape[1])
        raise ValueError(
            f"{who}: {name} must have shape {shape}, got {array.shape}{hint}"
        )
    return _finite(_cast(array, kind, who, name), argument, who, name)


def jacobian(
    argument: object,
    shape: tuple[int, int, int],
    kind: np.dtype[Any],
    name: str,
    who: str,
    *,
    unknown: bool = False,
) -> Array:
    """Numbers of a Jacobian, shape (n_rows, n_outputs, n_features), or without outputs
    where there is one; NaN, or a mask, stands for an `unknown` number.
    """
    if unknown and isinstance(argument, np.ma.MaskedArray):
        argument = np.ma.filled(argument.astype(np.float64), np.nan)
    array = _numbers(argument, who, name)
    short = (shape[0], shape[2])
    if array.shape == short and shape[1] == 1:
        array = array[:, None]
    if array.shape != shape:
        if shape[1] == 1:
            known = f"{shape}, or {short}"
        else:
            known = f"{shape}"
        swapped = array.shape in (short[::-1], (shape[0], shape[2], shape[1]))
        hint = f"; rows, outputs, features: use {name}.swapaxes(-1, -2)" * swapped
        raise ValueError(
            f"{who}: {name} must have shape {known}, got {array.shape}{hint}"
        )
    array = _cast(array, kind, who, name)
    if unknown:
        bad = np.isinf(array)
    else:
        bad = ~np.isfinite(array)
    if bad.any():
        row, output, feature = map(int, np.unravel_index(int(bad.argmax()), shape))
        also = ", or NaN where unknown" if unknown else ""
        raise ValueError(
            f"{who}: {name} must be finite as {kind}{also}, got "
            f"{array[row, output, feature]} in row {row}, output {output}, feature "
            f"{feature}"
        )
    return array


def real_array(argument: object, who: str, name: str) -> Array:
    """An array of real numbers of any shape."""
    return _numbers(argument, who, name)


def out_array(
    out: object, shape: tuple[int, ...], kind: np.dtype[Any], who: str
) -> Array:
    """Return `out` after checking it, or a new array if it is None."""
    if out is None:
        n_bytes = math.prod(shape) * kind.itemsize
        if n_bytes > memory.UNCHECKED_BYTES:
            memory.require(n_bytes, who, f"predictions of shape {shape}")
        return np.empty(shape, kind)
    good = isinstance(out, np.ndarray) and out.shape == shape and out.dtype == kind
    if not (good and out.flags.c_contiguous and out.flags.writeable):  # type: ignore[attr-defined]
        raise ValueError(
            f"{who}: out must be a writeable C-contiguous {kind} array of shape "
            f"{shape}, got {_brief(out)}"
        )
    return out  # type: ignore[return-value]


def warn_if_not_finite(predictions: Array, who: str) -> Array:
    """Return the predictions; warn with a RuntimeWarning if one is not finite."""
    # A sum takes half the time of `isfinite`, 0.5 % of a prediction; it may overflow.
    with np.errstate(all="ignore"):
        suspect = not np.isfinite(predictions.sum())
    if suspect and not np.isfinite(predictions).all():
        warn(
            f"{who}: not all predictions are finite {predictions.dtype} numbers: rows "
            "far outside of those trained on, or parameters that are not finite?",
            RuntimeWarning,
        )
    return predictions


def _brief(argument: object) -> str:
    """A short description of an array, or the type's name."""
    if not isinstance(argument, np.ndarray):
        return type(argument).__name__
    order = "" if argument.flags.c_contiguous else ", not C-contiguous"
    writeable = "" if argument.flags.writeable else ", read-only"
    return f"{argument.dtype} {argument.shape}{order}{writeable}"


def unnamed(y: object, who: str) -> None:
    if isinstance(y, str):
        instead = f"for a column of X give target={y!r} in its place"
        raise TypeError(f"{who}: y must be an array, got {y!r}; {instead}")


def unmasked(argument: object, who: str, name: str) -> None:
    if isinstance(argument, np.ma.MaskedArray) and np.ma.is_masked(argument):
        raise ValueError(
            f"{who}: {name} has masked entries; fill them in, or leave their rows out"
        )


def array_of(argument: Any, who: str, name: str, expected: str) -> Array:
    """An array of any dtype, from rows of one length, none of them masked."""
    unmasked(argument, who, name)
    try:
        return np.asarray(argument)
    except ValueError as error:
        wrong = ragged(argument) or error
        raise ValueError(f"{who}: {name} must be {expected}: {wrong}") from error


def check_labels(labels: Any, who: str, name: str) -> None:
    """Check that no label is masked or ends in NUL, which NumPy's texts drop."""
    unmasked(labels, who, name)
    if type(labels) is np.ndarray and labels.dtype.kind != "O":
        return
    for label in np.asarray(labels, object).ravel():
        if isinstance(label, str) and label.endswith("\0"):
            raise ValueError(
                f"{who}: {name} holds {label!r}, whose NUL character at the end "
                "NumPy's texts drop: give labels that differ in others"
            )


def ragged(argument: Any) -> str:
    """The fault of rows of several lengths; "" for other rows."""
    if hasattr(argument, "__len__"):
        lengths = [np.size(row) for row in argument]
    else:
        lengths = []
    other = next((i for i, n in enumerate(lengths) if n != lengths[0]), None)
    if other is None:
        return ""
    first = f"row 0 has {count(lengths[0], 'number')}"
    return f"{first}, row {other} has {lengths[other]}; rows need the same columns"


def _numbers(
    argument: object, who: str, name: str, kind: np.dtype[Any] | None = None
) -> Array:
    """An array of real numbers; an array made from a frame's columns is of `kind`."""
    if type(argument) is np.ndarray and argument.dtype.kind in "fiub":
        return argument
    if hasattr(argument, "toarray"):
        if hasattr(argument, "pieces"):
            form = "expanded"
        else:
            form = "a sparse matrix"
        raise TypeError(f"{who}: {name} is {form}; use {name}.toarray()")
    if (numbers := frames.numbers_of(argument, kind, who, name)) is not None:
        return numbers
    array = array_of(argument, who, name, "an array of numbers")
    if array.dtype.kind not in "fiub":
        if array.dtype.kind in "OUS" and array.ndim == 0:
            if hasattr(argument, "__next__"):
                rows = f"; try np.array(list({name}))"
            else:
                rows = ""
            if hasattr(argument, "collect"):
                rows = f"; use {name}.collect()"
            if name == "X" and isinstance(argument, str | os.PathLike):
                rows = (
                    "; of files predict_batches predicts, and fastmlp.predict_parquet"
                )
            raise TypeError(
                f"{who}: {name} must be an array of real numbers, got "
                f"{type(argument).__name__}{rows}"
            )
        hint = messages.of_kind(argument, array, name)
        raise TypeError(
            f"{who}: {name} must hold real numbers, got dtype {array.dtype}{hint}"
        )
    return array


def _cast(array: Array, kind: np.dtype[Any], who: str, name: str) -> Array:
    if array.dtype == kind and array.flags.c_contiguous:
        return array
    memory.require(
        array.size * kind.itemsize, who, f"{name} as {kind}, shape {array.shape},"
    )
    # Numbers beyond float32's range become inf, which `_finite` reports.
    with np.errstate(over="ignore"):
        return np.ascontiguousarray(array, kind)


def _finite(array: Array, argument: object, who: str, name: str) -> Array:
    """Check that all numbers are finite, block by block,
    without a mask as large as the data.

    The message names number and column as in `argument`, from which the array was made.
    """
    # Bytes are searched in 0.1 us; the mask's `all` takes 2.3 us.
    if array.size <= SEARCHED and b"\0" not in np.isfinite(array).tobytes():
        return array
    flat = array.reshape(-1)
    for start in range(0, flat.size, FINITE_BLOCK):
        good = np.isfinite(flat[start : start + FINITE_BLOCK])
        if not np.logical_and.reduce(good):
            where = start + int(np.argmin(good))
            width = array.shape[1] if array.ndim == 2 else 1
            row, column = divmod(where, width)
            if array.ndim == 2:
                place = f", column {messages.column_name(argument, column)}"
            else:
                place = ""
            if frames.is_frame(argument):
                frames.check(argument, who, name)
            value = frames.value(argument, row, column)
            raise ValueError(
                f"{who}: {name} must be finite as {array.dtype}, got {value} in row "
                f"{row}{place}{messages.of_value(value, array.dtype, name)}"
            )
    return array


def _class_labels(argument: object, array: Array, n_outputs: int, who: str) -> None:
    if array.dtype.kind == "f":
        raise TypeError(
            f"{who}: class labels must be integers from 0 to {n_outputs - 1}, "
            f"got dtype {array.dtype}{messages.of_real_labels(argument, array)}"
        )
    low, high = int(array.min()), int(array.max())
    if low < 0 or high >= n_outputs:
        raise ValueError(
            f"{who}: class labels must be from 0 to {n_outputs - 1}, for a net of "
            f"{count(n_outputs, 'output')}, got {low if low < 0 else high}"
            f"{messages.of_labels(array, n_outputs)}"
        )


def _target_values(table: Array, accepted: str, n_outputs: int, who: str) -> None:
    if accepted == "unit" and ((table < 0) | (table > 1)).any():
        worst = float(table.min() if table.min() < 0 else table.max())
        hint = messages.of_unit_targets(table)
        raise ValueError(f"{who}: y must be in [0, 1] for this loss, got {worst}{hint}")
    if accepted == "count" and (table < 0).any():
        raise ValueError(f"{who}: y must be 0 or more for this loss, got {table.min()}")
    if accepted == "positive" and (table < np.finfo(table.dtype).tiny).any():
        raise ValueError(
            f"{who}: y must be above 0 for this loss, got {table.min()}; for targets "
            "of 0 and more use loss='tweedie' or loss='poisson'"
        )
    if accepted == "classes" and table.shape[1] == n_outputs > 1:
        off = np.abs(table.sum(axis=1) - 1) > 1e-3
        if off.any() or (table < 0).any():
            raise ValueError(
                f"{who}: rows of y must be one-hot or probabilities that sum to 1, "
                f"got {table[int(np.argmax(off))]}"
            )


def class_weights(
    class_weight: object,
    y: Any,
    sample_weight: Any,
    accepted: str,
    n_outputs: int,
    who: str,
) -> NDArray[np.float64]:
    """Weights of rows, shape (n_rows,): the class's weight times `sample_weight`.

    `accepted` is `Loss.targets`.
    """
    if not isinstance(class_weight, Mapping) and class_weight != BALANCED:
        kind = ValueError if isinstance(class_weight, str) else TypeError
        raise kind(
            f"{who}: class_weight must be 'balanced', or a mapping of classes to "
            f"numbers, such as {{0: 1.0, 1: 5.0}}, got {class_weight!r}"
        )
    if accepted != "classes" and (accepted, n_outputs) != ("unit", 1):
        raise ValueError(
            f"{who}: class_weight needs a loss of classes, such as 'cross_entropy', or "
            "'binary_cross_entropy' with one output; for other targets use "
            "sample_weight"
        )
    labels = _labels(y, who)
    n_classes = n_outputs if accepted == "classes" else 2
    rows = _of_rows(class_weight, labels, n_classes, who)
    if sample_weight is None:
        return rows
    return rows * vector(
        sample_weight, len(rows), np.dtype(np.float64), "sample_weight", who
    )


def balanced(counts: Mapping[int, int]) -> dict[int, float]:
    total = sum(counts.values())
    return {label: total / (len(counts) * n) for label, n in counts.items()}


def class_counts(targets: Iterable[Any], who: str) -> Counter[int]:
    """Number of rows of each class, of y in parts."""
    counts = Counter[int]()
    for y in targets:
        present, n = np.unique(_labels(y, who), return_counts=True)
        counts.update(dict(zip(present.tolist(), n.tolist(), strict=True)))
    return counts


def _labels(y: Any, who: str) -> NDArray[np.int64]:
    """Class labels, shape (n_rows,), from labels or one-hot rows."""
    if hasattr(y, "__cuda_array_interface__"):
        raise TypeError(
            f"{who}: class_weight needs y in the memory of the host, not of the GPU"
        )
    numbers = frames.numbers_of(y, None, who, "y")
    table = np.asarray(y) if numbers is None else numbers
    if table.dtype.kind in "OSUT":
        kind = f"texts or objects; take integers, {messages.AS_CLASSES}"
        raise TypeError(f"{who}: class_weight needs y of numbers, got {kind}")
    if table.dtype.kind not in "fiub" or table.ndim not in (1, 2):
        raise TypeError(
            f"{who}: class_weight needs y of class labels, or of one-hot rows, got "
            f"dtype {table.dtype} and shape {table.shape}"
        )
    columns = table.reshape(len(table), -1)
    if columns.shape[1] > 1:
        labels: Any = columns.argmax(axis=1)
        exact = np.array_equal(columns, np.eye(columns.shape[1])[labels])
    else:
        labels = columns[:, 0]
        exact = bool(np.isfinite(labels).all()) and bool(
            (labels == np.round(labels)).all()
        )
    if not exact:
        raise ValueError(
            f"{who}: class_weight needs class labels or one-hot rows, but y has rows of "
            "probabilities; for those use sample_weight"
        )
    return np.asarray(labels, np.int64)


def _of_rows(
    class_weight: Any, labels: NDArray[np.int64], n_classes: int, who: str
) -> NDArray[np.float64]:
    present, place, counts = np.unique(labels, return_inverse=True, return_counts=True)
    if class_weight == BALANCED:
        of_classes = len(labels) / (len(present) * counts)
    else:
        numbers = {
            _class(key, n_classes, who): scalars.non_negative(
                who, f"class_weight[{key!r}]", value
            )
            for key, value in class_weight.items()
        }
        of_classes = np.array([numbers.get(int(label), 1.0) for label in present])
    return np.asarray(of_classes[place.reshape(-1)], np.float64)


def _class(key: Any, n_classes: int, who: str) -> int:
    whole = isinstance(key, int | np.integer) and not isinstance(key, bool)
    if not whole or not 0 <= key < n_classes:
        raise ValueError(
            f"{who}: the keys of class_weight must be class labels, integers from 0 to "
            f"{n_classes - 1}, got {key!r}"
        )
    return int(key)
