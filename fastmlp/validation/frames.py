"""Frames of pandas, polars and Arrow as arrays of real numbers.

They are known by their members, so that none of these libraries is imported.
"""

from collections import Counter
from collections.abc import Iterable
from decimal import Decimal
from importlib import import_module
from numbers import Integral, Real
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastmlp._process import memory, warnings
from fastmlp.validation import hints
from fastmlp.validation.packages import needs
from fastmlp.validation.suggestions import count, listed, suggestion

Array = NDArray[Any]
Names = tuple[str, ...] | None
# Rows of all columns that are written at a time: 1.8 ns a number, 2.2 ns by whole columns.
STRIP = 2048
MISSING_TYPES = ("NoneType", "NAType", "NaTType")


class Column(NamedTuple):
    """A column as an array of real numbers, or why it is none.

    Attributes
    ----------
    numbers : (n_rows,) array, or None
    n_missing : int, how many values are missing
    example : a value that is no number, where the column holds one
    """

    numbers: Array | None
    n_missing: int = 0
    example: Any = None


def is_frame(given: object) -> bool:
    """Return True for a table of columns: of pandas, polars or Arrow."""
    if type(given) is np.ndarray:
        return False
    of_pandas = hasattr(given, "iloc") and hasattr(given, "columns")
    return of_pandas or hasattr(given, "get_columns") or hasattr(given, "num_columns")


def is_series(given: object) -> bool:
    """Return True for one column: of pandas, polars or Arrow."""
    counts = hasattr(given, "isna") or hasattr(given, "null_count")
    return counts and hasattr(given, "to_numpy") and not is_frame(given)


def known(given: Any, who: str) -> Any:
    """Return what is given; a table of another library as Arrow's, if it has an Arrow stream.

    Raises
    ------
    ImportError
        If that needs pyarrow, and it is not installed.
    """
    if type(given) is np.ndarray or not hasattr(given, "__arrow_c_stream__"):
        return given
    if is_frame(given) or is_series(given):
        return given
    try:
        pyarrow = import_module("pyarrow")
    except ImportError as error:
        kind = type(given).__name__
        raise ImportError(needs(f"{who}: to read a {kind}", "pyarrow")) from error
    return pyarrow.table(given)


def names_of(given: object) -> Names:
    """Return the names of a frame's columns, if all are strings that differ; else None."""
    names = _names(given) or []
    if not names or not all(isinstance(name, str) for name in names):
        return None
    return tuple(names) if len(set(names)) == len(names) else None


def repeated(names: Iterable[Any]) -> str:
    """Return the texts that several columns have as names, and how many; "" if all differ."""
    times = Counter(name for name in names if isinstance(name, str))
    return listed([f"{name!r} ({n} times)" for name, n in times.items() if n > 1])


def require_different(frame: Any, who: str) -> None:
    """Check that the columns of a frame have different names.

    Raises
    ------
    ValueError
        If they have not.
    """
    if twice := repeated(_names(frame) or ()):
        raise ValueError(f"{who}: X has several columns of the name {twice}; {hints.RENAME}")


def warn_of_forgotten(given: object, who: str) -> None:
    """Warn if a frame's columns are known by place, as several have one name."""
    if twice := repeated(_names(given) or ()):
        told = f"X has several columns of the name {twice}; its columns are known by place"
        warnings.warn(f"{who}: {told}: {hints.RENAME}", UserWarning)


def named(given: Any, names: Names, who: str) -> tuple[Any, Names]:
    """Return X with the columns of these names, in this order, and the names.

    Without names a frame's own are returned. What has none, as an array, is returned as it is.

    Raises
    ------
    ValueError
        If a column is missing, or several have its name.
    """
    if type(given) is np.ndarray:
        return given, names
    given = known(given, who)
    return (given, names_of(given)) if names is None else (_select(given, names, who), names)


def names_given(given: object, n_features: int, who: str) -> Names:
    """Check names of features that a user sets: strings that differ, one a feature, or None.

    Raises
    ------
    TypeError, ValueError
        If they are not that.
    """
    if given is None:
        return None
    names = () if isinstance(given, str) or not isinstance(given, Iterable) else tuple(given)
    if not names or not all(isinstance(name, str) for name in names):
        raise TypeError(f"{who} must be a sequence of str, or None, got {given!r}")
    if len(names) != n_features or len(set(names)) != n_features:
        raise ValueError(f"{who} must be {n_features} names that differ, got {listed([*names])}")
    return names


def _select(given: Any, names: tuple[str, ...], who: str) -> Any:
    there = _names(given)
    if there is None or there == list(names) or not any(isinstance(name, str) for name in there):
        return given
    missing = [name for name in names if name not in there]
    if missing:
        others = [name for name in there if isinstance(name, str) and name not in names]
        told = [_with_suggestion(name, others) for name in missing]
        more = f"; other columns of X: {listed(list(map(repr, others)))}" if others else ""
        raise ValueError(
            f"{who}: X lacks {len(missing)} of the {count(len(names), 'known column')}: "
            f"{listed(told)}{more}"
        )
    for name in names:
        if there.count(name) > 1:
            raise ValueError(f"{who}: X has {there.count(name)} columns of the name {name!r}")
    if hasattr(given, "iloc"):
        return given.iloc[:, [there.index(name) for name in names]]
    return given.select(list(names))


def _with_suggestion(name: str, others: list[str]) -> str:
    meant = suggestion(name, others).strip(",; ")
    return f"{name!r} ({meant})" if meant else repr(name)


def numbers(given: Any, kind: np.dtype[Any] | None, who: str, name: str) -> Array:
    """Return a frame's numbers, shape (n_rows, n_columns), or those of a series, (n_rows,).

    Parameters
    ----------
    given : frame or series
    kind : dtype of the array; None: the one that holds the numbers of all columns

    Raises
    ------
    TypeError
        If a column does not hold real numbers.
    ValueError
        If values are missing.
    """
    if not is_frame(given):
        return _checked([given], [""], given, who, name)[0]
    if (whole := _of_numpy(given, kind, who, name)) is not None:
        return whole
    arrays = check(given, who, name)
    if not arrays:
        return np.empty((len(given), 0))
    return _side_by_side(arrays, kind or np.result_type(*arrays), who, name)


def check(frame: Any, who: str, name: str) -> list[Array]:
    """Return the columns of a frame as arrays of numbers; raises as `numbers` does."""
    labels = [repr(label) for label in _names(frame) or ()]
    return _checked(_columns(frame), labels, frame, who, name)


def value(given: Any, row: int, column: int) -> Any:
    """Return a number of a frame, or of an array or a list of one or two dimensions."""
    if is_frame(given):
        return np.asarray(_columns(given)[column])[row]
    array = np.asarray(given)
    return array[(row, column)[: array.ndim]]


def _names(given: Any) -> list[Any] | None:
    """Return the names of a frame's columns, or None for what is no frame."""
    if not is_frame(given):
        return None
    return list(given.schema.names if hasattr(given, "num_columns") else given.columns)


def _columns(frame: Any) -> list[Any]:
    if hasattr(frame, "get_columns"):
        return list(frame.get_columns())
    if hasattr(frame, "iloc"):
        return [frame.iloc[:, j] for j in range(frame.shape[1])]
    # Of decimals NumPy makes objects.
    return [
        column.cast("float64") if str(column.type).startswith("decimal") else column
        for column in frame.columns
    ]


def _of_numpy(frame: Any, kind: np.dtype[Any] | None, who: str, name: str) -> Array | None:
    """Return the numbers of a pandas frame of NumPy's dtypes, a view if it has one; else None.

    By its blocks: 1.2 ns a number, and 4.1 ns column by column.
    """
    kinds = set(getattr(getattr(frame, "dtypes", None), "values", ()))
    if not kinds or not all(isinstance(one, np.dtype) and one.kind in "fiub" for one in kinds):
        return None
    if len(kinds) == 1:
        return np.asarray(frame)
    kind = kind or np.result_type(*kinds)
    memory.require(frame.size * kind.itemsize, who, f"{name} as {kind}, shape {frame.shape},")
    with np.errstate(over="ignore"):
        found: Array = frame.to_numpy(kind)
    return found


def _checked(series: list[Any], labels: list[str], given: Any, who: str, name: str) -> list[Array]:
    """Return columns as arrays of numbers."""
    columns = [_column(np.asarray(each), _nulls(each)) for each in series]
    for each, column, label in zip(series, columns, labels, strict=True):
        if column.example is not None:
            kind = getattr(each, "dtype", getattr(each, "type", None))
            told = hints.of_example(column.example, given, name, label)
            raise TypeError(f"{who}: {name} must hold real numbers, got dtype {kind}{told}")
    lacking = {
        label: column.n_missing
        for label, column in zip(labels, columns, strict=True)
        if column.n_missing
    }
    if lacking:
        each = [f"{label} ({n})" if len(lacking) > 1 else label for label, n in lacking.items()]
        where = f" in column{'s' * (len(each) > 1)} {listed(each)}" if is_frame(given) else ""
        told = count(sum(lacking.values()), "missing value")
        raise ValueError(f"{who}: {name} has {told}{where}; {hints.MISSING}")
    return [column.numbers for column in columns if column.numbers is not None]


def _nulls(series: Any) -> int | None:
    """Return how many values of a column of Arrow are missing, which it knows; None for another."""
    known = getattr(series, "null_count", None)
    return known if isinstance(known, int) else None


def _column(array: Array, nulls: int | None = None) -> Column:
    """Return the numbers of one column, or why it has none."""
    kind = array.dtype.kind
    if array.ndim != 1 or kind not in "fiubOmM":
        return Column(None, 0, array.reshape(-1)[0].item() if array.size else array.dtype)
    if kind in "iub":
        return Column(array)
    if kind == "f":
        return Column(array, int(np.count_nonzero(np.isnan(array))) if nulls is None else nulls)
    if kind in "mM":
        there = array[~np.isnat(array)]
        return Column(None, 0, there[0]) if len(there) else Column(None, len(array))
    return _of_objects(array)


def _of_objects(array: Array) -> Column:
    """Return the numbers of a column of Python objects: as bool, int64 or float64."""
    types = set(map(type, array))
    lacking = {each for each in types if each.__name__ in MISSING_TYPES}
    other = {each for each in types - lacking if not issubclass(each, (Real, Decimal, np.bool_))}
    if other:
        others = [each for each in array if type(each) in other]
        return Column(None, 0, next(hints.no_numbers(others), others[0]))
    if lacking:
        return Column(None, sum(type(each) in lacking or each != each for each in array))
    if types <= {bool, np.bool_}:
        return Column(array.astype(bool))
    if all(issubclass(each, Integral) for each in types):
        try:
            return Column(array.astype(np.int64))
        except OverflowError:
            pass
    return _column(array.astype(np.float64))


def _side_by_side(arrays: list[Array], kind: np.dtype[Any], who: str, name: str) -> Array:
    """Return columns as one C-contiguous array, shape (n_rows, n_columns)."""
    shape = (len(arrays[0]), len(arrays))
    memory.require(shape[0] * shape[1] * kind.itemsize, who, f"{name} as {kind}, shape {shape},")
    table = np.empty(shape, kind)
    # Numbers beyond float32's range become inf, which is reported later.
    with np.errstate(over="ignore"):
        for start in range(0, shape[0], STRIP):
            for j, array in enumerate(arrays):
                table[start : start + STRIP, j] = array[start : start + STRIP]
    return table
