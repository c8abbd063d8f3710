"""Targets that are not known, and weights by target:
both become weights beside the targets.

A gap is a target of weight 0. With weights w of shape (n_rows, n_targets) a row has the
weight m = mean(w), and each of its targets the factor w / m. Rows then have a mean
loss, and a sum of weights, as rows with weights by row. Factors stand beside targets:
(n_rows, 2 n_targets) numbers.
"""

from typing import Any, Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray

from fastmlp.validation import Array, arrays, frames, scalars

MissingTargets = Literal["raise", "ignore"]
GAP_SYNONYMS = {"raise": "error", "ignore": "drop skip omit mask nan warn"}
Mask = NDArray[np.bool_]


class Form(NamedTuple):
    """The targets that a loss takes.

    Attributes
    ----------
    accepted : the field `targets` of the loss
    whole_rows : the loss of a row is one number, and a row is known or not
    """

    n_outputs: int
    accepted: str
    per_target: int
    whole_rows: bool

    @property
    def n_targets(self) -> int:
        return self.n_outputs // self.per_target


def checked(argument: object, who: str) -> bool:
    """True for "ignore"."""
    known = get_args(MissingTargets)
    scalars.known(who, "missing_targets", argument, known, GAP_SYNONYMS)
    return argument == "ignore"


def weighted_targets(
    y: Any,
    sample_weight: Any,
    n_rows: int,
    form: Form,
    kind: np.dtype[Any],
    who: str,
    **gaps: bool,
) -> tuple[Array, Array]:
    """Valid targets, (n_rows, n_targets),
    and weights of rows, (n_rows,), or (0,) for 1.

    Weights by target, and gaps, are factors beside the targets.

    Parameters
    ----------
    **gaps
        ``ignore=True``: NaN, None and NA in y are gaps, and all rows may have the
        weight 0. ``beside=True``: factors are there also where all are 1.
        ``all_zero=True``: as for `arrays.weights`.
    """
    ignore = gaps.get("ignore", False)
    all_zero = gaps.get("all_zero", False)
    known = None
    if ignore:
        y, known = fill_gaps(y, form, who)
    of_output = (form.n_outputs, form.accepted, kind, who, form.per_target)
    table = arrays.targets(y, n_rows, *of_output)
    shape = (n_rows, 1 if form.whole_rows else table.shape[1])
    by_target = n_axes(sample_weight) == 2
    if by_target and shape[1] == 1 and np.shape(sample_weight) != shape:
        if not form.whole_rows:
            # Raises the error of weights by row.
            arrays.weights(sample_weight, n_rows, kind, who)
        raise ValueError(
            f"{who}: sample_weight must have shape ({n_rows},), got "
            f"{np.shape(sample_weight)}: this loss takes the targets of a row together"
        )
    beside = gaps.get("beside", False) and shape[1] > 1
    if known is None and not by_target and not beside:
        return table, arrays.weights(
            sample_weight, n_rows, kind, who, all_zero=ignore or all_zero
        )
    weight = _matrix(sample_weight, shape, kind, who, ignore or all_zero)
    if known is not None:
        weight *= known.all(axis=1, keepdims=True) if form.whole_rows else known
    if shape[1] == 1:
        return table, np.ascontiguousarray(weight[:, 0], kind)
    mass = weight.mean(axis=1)
    factors = weight / np.where(mass > 0, mass, 1)[:, None]
    return np.concatenate([table, factors.astype(kind)], axis=1), mass.astype(kind)


def n_axes(argument: Any) -> int:
    """The number of axes, 1 for what is not an array."""
    try:
        return np.ndim(argument)
    except ValueError:
        return 1


def _matrix(
    sample_weight: Any,
    shape: tuple[int, int],
    kind: np.dtype[Any],
    who: str,
    all_zero: bool,
) -> Array:
    """Weights of shape `shape` in float64,
    from weights by row or by target, or None.
    """
    if sample_weight is None:
        return np.ones(shape)
    if n_axes(sample_weight) != 2:
        own = arrays.weights(sample_weight, shape[0], kind, who, all_zero=all_zero)
        return np.repeat(own[:, None].astype(np.float64), shape[1], axis=1)
    numbers = arrays.matrix(sample_weight, shape, kind, "sample_weight", who)
    # The least weight of each row, so that an error names the row.
    arrays.weights(numbers.min(axis=1), len(numbers), kind, who, all_zero=True)
    flat = arrays.weights(numbers.ravel(), numbers.size, kind, who, all_zero=all_zero)
    return flat.reshape(shape).astype(np.float64)


def class_weights(
    class_weight: object,
    y: Any,
    sample_weight: Any,
    form: Form,
    who: str,
    *,
    ignore: bool = False,
) -> Array:
    """Weights of rows by `arrays.class_weights`;
    a row without a known label has the weight 0.
    """
    rows = None
    if ignore:
        y, rows = known_rows(y, who)
        if rows is not None and sample_weight is not None:
            sample_weight = np.asarray(sample_weight)[rows]
    own = arrays.class_weights(
        class_weight, y, sample_weight, form.accepted, form.n_outputs, who
    )
    if rows is None:
        return own
    weight = np.zeros(len(rows))
    weight[rows] = own
    return weight


def known_rows(y: Any, who: str) -> tuple[Any, Mask | None]:
    """The rows of y whose targets are all known, and their mask; None: all rows."""
    known = known_mask(y)
    array = with_nan(y, who)
    if known is None or array is None:
        return y if array is None else array, None
    rows: Mask = np.all(known.reshape(len(known), -1), axis=1)
    return array[rows], rows


def fill_gaps(y: Any, form: Form, who: str) -> tuple[Any, Mask | None]:
    """y with a valid target in each gap,
    and a mask of known targets, (n_rows, n_columns).

    A gap has the first known target of its column: a user's rule may be finite
    there alone. Without a gap y is returned unchanged, and None.
    """
    array = with_nan(y, who)
    if array is None or array.ndim not in (1, 2):
        return y, None
    labels = form.accepted == "classes" and (array.ndim == 1 or array.shape[1] == 1)
    if array.dtype.kind != "f":
        return array, None
    known: Mask = ~np.isnan(array.reshape(len(array), -1))
    is_code = form.accepted == "classes" and not labels
    if is_code:
        known = np.repeat(known.all(axis=1, keepdims=True), known.shape[1], axis=1)
    table = array.reshape(known.shape)
    whole = labels and bool((np.floor(table[known]) == table[known]).all())
    if known.all():
        if labels and whole and np.isfinite(table).all():
            return array.astype(np.int64), None
        return array, None
    n_columns = known.shape[1]
    if is_code:
        instead = np.zeros(n_columns)
    else:
        instead = np.full(n_columns, _default(form))
    if is_code:
        instead[0] = 1
    for j in np.flatnonzero(known.any(axis=0)) if not is_code else ():
        instead[j] = table[int(known[:, j].argmax()), j]
    full = np.where(known, table, instead.astype(table.dtype)).reshape(array.shape)
    return (full.astype(np.int64) if whole else full), known


def known_mask(y: Any) -> Mask | None:
    """The mask of known targets or labels of any kind,
    in the shape of y; None: all are known.
    """
    array = np.asarray(y)
    if np.ma.isMaskedArray(y):
        known = ~np.ma.getmaskarray(y)
    else:
        known = array == array
    if array.dtype.kind == "O":
        known = np.array([not _is_gap(each) for each in array.ravel()])
    known = known.reshape(array.shape)
    return None if known.all() else known


def _is_gap(entry: Any) -> bool:
    lacks = type(entry).__name__ in frames.MISSING_TYPES
    return lacks or (isinstance(entry, float | np.floating) and entry != entry)


def _default(form: Form) -> float:
    return 1.0 if form.accepted == "positive" else 0.0


def with_nan(y: Any, who: str) -> Array | None:
    """y as an array of numbers, with NaN in its gaps; None if y is not one."""
    if type(y) is np.ndarray and y.dtype.kind in "fiub":
        return y
    if isinstance(y, np.ma.MaskedArray):
        return np.where(np.ma.getmaskarray(y), np.nan, np.ma.getdata(y))
    if hasattr(y, "__cuda_array_interface__"):
        raise TypeError(
            f"{who}: missing_targets='ignore' needs y in the memory of the host"
        )
    table, kind = frames.read(y, who)
    if kind == "frame":
        columns = [_floats(np.asarray(each)) for each in frames.columns_of(table)]
        there = [each for each in columns if each is not None]
        if len(there) == len(columns):
            return np.column_stack(there)
        return None
    try:
        return _floats(np.asarray(table))
    except ValueError:
        return None


def _floats(array: Array) -> Array | None:
    """Objects as floats, NaN in the place of None and NA; None for other objects."""
    if array.dtype.kind in "fiub":
        return array
    if array.dtype.kind != "O":
        return None
    numbers = [
        np.nan if type(each).__name__ in frames.MISSING_TYPES else each
        for each in array.ravel()
    ]
    try:
        return np.array(numbers, np.float64).reshape(array.shape)
    except (TypeError, ValueError):
        return None
