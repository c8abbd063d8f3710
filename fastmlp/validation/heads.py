"""Targets and weights by head, as columns of one array.

A row's numbers are the targets of the first head, then the factors of these targets, if
any; the second head's follow. A factor is a weight over the row's, as of
`validation.gaps`; a head whose loss takes whole rows has one. Either all heads have
factors, or no head has.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from fastmlp.validation import Array, arrays, frames, gaps, scalars
from fastmlp.validation.gaps import Form
from fastmlp.validation.messages import count, listed

# One array, or one for each head.
ByHead = ArrayLike | tuple[ArrayLike, ...] | Mapping[str, ArrayLike]
WeightsByHead = tuple[ArrayLike | None, ...] | Mapping[str, ArrayLike | None]


class HeadForms(NamedTuple):
    """The targets that the losses of heads take.

    Attributes
    ----------
    named : True if the heads' names are the user's
    """

    names: tuple[str, ...]
    forms: tuple[Form, ...]
    named: bool

    @property
    def widths(self) -> list[int]:
        """Columns of each head's targets: one for class labels."""
        return [
            1 if form.accepted == "classes" else form.n_targets for form in self.forms
        ]

    @property
    def n_targets(self) -> int:
        return sum(self.widths)

    def factors(self, columns: Array) -> dict[str, Array]:
        """The factors of each head's targets, of rows with factors."""
        parts = {}
        start = 0
        for name, form, width in zip(self.names, self.forms, self.widths, strict=True):
            end = start + width + (1 if form.whole_rows else width)
            parts[name] = columns[:, start + width : end]
            start = end
        return parts

    @property
    def example(self) -> str:
        """A user's spelling of something for each head."""
        if self.named:
            return "{" + ", ".join(f"{name!r}: ..." for name in self.names) + "}"
        return f"({', '.join(['...'] * len(self.names))},)".replace("...,)", "...)")


class Columns:
    """Numbers of heads in one array, from plain arrays:
    compiled code checks the numbers.

    Parameters
    ----------
    slopes : True for slopes by the outputs, False for targets
    """

    def __init__(self, form: HeadForms, dtype: np.dtype[Any], *, slopes: bool) -> None:
        self._form = form
        self._dtype = dtype
        labels = [not slopes and it.accepted == "classes" for it in form.forms]
        self._kinds = ["iu" if is_label else "fiu" for is_label in labels]
        self._has_labels = True in labels
        if slopes:
            widths = [it.n_outputs for it in form.forms]
        else:
            widths = form.widths
        self.width = sum(widths)
        ends = np.cumsum(widths).tolist()
        self._slices = [*zip([0, *ends], ends, self._kinds, strict=False)]

    def __call__(self, given: Any, shape: tuple[int, ...]) -> Array | None:
        """An array of the shape with a last axis of columns;
        None of what needs other checks.

        `shape` has the number of rows, perhaps after a number of nets.
        """
        if type(given) is np.ndarray:
            fits = given.shape == (*shape, self.width) and not self._has_labels
            return given if fits else None
        if type(given) is dict and self._form.named:
            entries = [given.get(name) for name in self._form.names]
        elif type(given) is tuple:
            entries = [*given]
        else:
            return None
        if len(given) != len(self._slices):
            return None
        columns = np.empty((*shape, self.width), self._dtype)
        with np.errstate(over="ignore"):
            for entry, (first, last, kinds) in zip(entries, self._slices, strict=True):
                if type(entry) is not np.ndarray or entry.dtype.kind not in kinds:
                    return None
                if last - first == 1 and entry.shape == shape:
                    columns[..., first] = entry
                elif entry.shape == (*shape, last - first):
                    columns[..., first:last] = entry
                else:
                    return None
        return columns

    def split(self, columns: Array) -> tuple[Array, ...]:
        """The arrays of heads again, labels as integers."""
        parts = []
        for first, last, kinds in self._slices:
            part = columns[:, first:last]
            parts.append(part if "f" in kinds else part.astype(np.int64))
        return tuple(parts)


def weighted_targets(
    y: Any,
    sample_weight: Any,
    n_rows: int,
    form: Form | HeadForms,
    kind: np.dtype[Any],
    who: str,
    **options: bool,
) -> tuple[Array, Array]:
    """Valid targets and weights of rows,
    as of `gaps.weighted_targets`, of all heads.
    """
    if isinstance(form, Form):
        return gaps.weighted_targets(
            y, sample_weight, n_rows, form, kind, who, **options
        )
    by_head: Sequence[Any] = [None] * len(form.names)
    of_rows = sample_weight
    if isinstance(sample_weight, tuple | Mapping):
        by_head = by_name(sample_weight, form, "sample_weight", who)
        of_rows = None
    elif gaps.n_axes(sample_weight) == 2:
        raise ValueError(
            f"{who}: sample_weight must have shape ({n_rows},), got "
            f"{np.shape(sample_weight)}; weights by head are {form.example}"
        )
    beside = options.get("beside", False)
    every = zip(
        form.names, form.forms, _by_head(y, form, n_rows, who), by_head, strict=True
    )
    parts = []
    for name, own, targets, weight in every:
        where = f"{who}: head {name!r}"
        targets = _as_labels(targets, own, where)
        some = options | {"all_zero": True}
        parts.append(
            gaps.weighted_targets(targets, weight, n_rows, own, kind, where, **some)
        )
    all_zero = options.get("all_zero", False) or options.get("ignore", False)
    rows = arrays.weights(of_rows, n_rows, kind, who, all_zero=all_zero)
    if not beside and all(mass.size == 0 for _, mass in parts):
        return np.concatenate([table for table, _ in parts], axis=1), rows
    return _with_factors(parts, form, rows, kind, who, all_zero=all_zero)


def _with_factors(
    parts: Sequence[tuple[Array, Array]],
    form: HeadForms,
    rows: Array,
    kind: np.dtype[Any],
    who: str,
    *,
    all_zero: bool,
) -> tuple[Array, Array]:
    """Each head's targets beside their factors, and the weights of rows.

    A row's weight is the mean of its heads' weights. A factor is a head's weight
    divided by that mean; a table's columns beyond the head's targets multiply it.
    """
    by_head = [
        weight.astype(np.float64) if weight.size else np.ones(len(table))
        for table, weight in parts
    ]
    mean = np.mean(by_head, axis=0)
    divisor = np.where(mean > 0, mean, 1)
    columns: list[Array] = []
    for (table, _), width, weight, head in zip(
        parts, form.widths, by_head, form.forms, strict=True
    ):
        ratio = (weight / divisor)[:, None]
        n_factors = 1 if head.whole_rows else width
        if table.shape[1] > width:
            factors = table[:, width:]
        else:
            factors = np.ones((1, 1))
        columns.append(table[:, :width])
        columns.append(np.broadcast_to(factors * ratio, (len(table), n_factors)))
    of_rows = mean * rows if rows.size else mean
    weights = arrays.weights(of_rows, len(of_rows), kind, who, all_zero=all_zero)
    return np.concatenate(columns, axis=1).astype(kind), weights


def by_name(argument: Any, form: HeadForms, word: str, who: str) -> list[Any]:
    """The entries of a tuple or a dict, in the order of the heads."""
    names = form.names
    if isinstance(argument, Mapping):
        if not form.named:
            raise TypeError(
                f"{who}: {word} is a dict, but the heads have no names: give "
                f"{form.example}, or a dict as the net's loss"
            )
        for name in argument:
            scalars.known(who, f"head of {word}", name, names)
        missing = [name for name in names if name not in argument]
        if missing:
            heads = count(len(missing), "head")
            raise ValueError(
                f"{who}: {word} lacks {heads}: {listed([*map(repr, missing)])}; give "
                f"{form.example}"
            )
        return [argument[name] for name in names]
    if len(argument) != len(names):
        raise ValueError(
            f"{who}: {word} must have one entry for each of "
            f"{count(len(names), 'head')}, {form.example}, got {len(argument)}"
        )
    return list(argument)


def joined(slopes: Any, form: HeadForms, kind: np.dtype[Any], who: str) -> Array:
    """Slopes by the outputs, shape (n_rows, n_outputs), from each head's slopes."""
    parts: list[Array] = []
    entries = by_name(slopes, form, "output_gradient", who)
    for name, own, entry in zip(form.names, form.forms, entries, strict=True):
        array = np.asarray(entry, kind)
        if array.ndim == 1 and own.n_outputs == 1:
            array = array[:, None]
        if parts:
            n_rows = len(parts[0])
        elif array.ndim:
            n_rows = len(array)
        else:
            n_rows = 0
        if array.shape != (n_rows, own.n_outputs):
            raise ValueError(
                f"{who}: head {name!r}: output_gradient must have shape "
                f"({n_rows or 'n_rows'}, {own.n_outputs}), got {array.shape}"
            )
        parts.append(array)
    return np.concatenate(parts, axis=1)


def _by_head(y: Any, form: HeadForms, n_rows: int, who: str) -> list[Any]:
    """The targets of each head, from a tuple,
    a dict, a frame or an array of numbers.
    """
    if isinstance(y, tuple | Mapping) and not frames.is_frame(y):
        each = by_name(y, form, "y", who)
        lacking = [
            name for name, own in zip(form.names, each, strict=True) if own is None
        ]
        if lacking:
            raise ValueError(
                f"{who}: head {lacking[0]!r} has no targets; for targets that are not "
                "known use NaN and missing_targets='ignore'"
            )
        return each
    if frames.is_frame(y):
        columns = frames.columns_of(y)
        width = len(columns)
    else:
        classes = [
            name
            for name, own in zip(form.names, form.forms, strict=True)
            if own.accepted == "classes"
        ]
        if classes:
            raise TypeError(
                f"{who}: y must have one entry for each head, {form.example}, as head "
                f"{classes[0]!r} takes class labels; got {type(y).__name__}"
            )
        y = np.asarray(y)
        width = y.shape[1] if y.ndim == 2 else 1
    if width != form.n_targets:
        raise ValueError(
            f"{who}: y has {count(width, 'column')}, but the heads have "
            f"{count(form.n_targets, 'target')}; or give {form.example}"
        )
    ends = np.cumsum(form.widths).tolist()
    starts = [0, *ends[:-1]]
    if frames.is_frame(y):
        return [
            np.column_stack(columns[a:b]) if b - a > 1 else np.asarray(columns[a])
            for a, b in zip(starts, ends, strict=True)
        ]
    table = y.reshape(len(y), -1)
    return [table[:, a:b] for a, b in zip(starts, ends, strict=True)]


def _as_labels(targets: Any, form: Form, who: str) -> Any:
    """Labels in the place of one-hot rows."""
    if form.accepted != "classes" or gaps.n_axes(targets) != 2:
        return targets
    table = np.asarray(targets)
    if table.shape[1] != form.n_outputs or form.n_outputs == 1:
        return targets
    one_hot = ((table == 0) | (table == 1)).all() and (table.sum(axis=1) == 1).all()
    if not one_hot:
        raise ValueError(
            f"{who} takes class labels, 0 to {form.n_outputs - 1}, or one-hot rows, "
            "but not probabilities of classes"
        )
    return table.argmax(axis=1)
