"""Tables in memory, column by column: numbers, dates,
and levels of categories; Arrow's columns.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from decimal import Decimal
from functools import cache, partial
from numbers import Real
from typing import Any, Literal, NamedTuple

import numpy as np

from fastmlp.extend import arrays, form_of, frames, messages
from fastmlp.tabular import dates
from fastmlp.typing import Array

Kind = Literal["numbers", "levels", "texts", "others", "nothing"] | dates.Kind
Level = str | bool | int | float
# Up to this number of values, a Python loop beats library calls for each column:
# 1.2 ms against 3.7 ms for 100 rows of 13 numbers and 7 categories.
ROWS_IN_PYTHON = 256
NUMBER_TYPES = (Real, Decimal, np.bool_)
ACCEPTED = "a frame of pandas or polars, a table of Arrow, an array of two dimensions, or a list "
ACCEPTED += "of lists or of dicts"


class MemoryTable(NamedTuple):
    """A table that returns columns by index.

    Attributes
    ----------
    names : texts that differ; None: the table does not have names
    numbered : True where names are the numbers that pandas gives, 0, 1 and so on
    column : from an index to an array, a series of pandas or a column of Arrow
    levels : as `column`, for values of any type
    block : from indices to float64, shape (n_rows, n_indices); None if some are not numbers
    """

    names: tuple[str, ...] | None
    n_columns: int
    n_rows: int
    column: Callable[[int], Any]
    levels: Callable[[int], Any]
    block: Callable[[Sequence[int]], Array | None]
    numbered: bool = False


def require(names: Sequence[str], known: Sequence[str], who: str) -> None:
    missing = [name for name in names if name not in known]
    if missing:
        others = [name for name in known if name not in names]
        suggested = [
            f"{name!r}{messages.suggestion(name, others).rstrip(';')}"
            for name in missing
        ]
        one = "there is no column"
        several = f"{len(missing)} columns are missing:"
        lacks = f"{one if len(missing) == 1 else several} {messages.listed(suggested)}"
        raise ValueError(
            f"{who}: {lacks}; known: {messages.listed([*map(repr, known)], 20)}"
        )


class LevelCodes(NamedTuple):
    """Distinct values of a column, and the index of each row's value:
    -1 where one is missing.
    """

    codes: Array
    values: list[Any]


def table_of(X: Any, who: str) -> MemoryTable:
    if isinstance(X, MemoryTable):
        return X
    if hasattr(X, "iloc") and hasattr(X, "columns"):
        return _of_pandas(X, who)
    if is_rows(X):
        return _of_rows(X, who)
    if isinstance(X, list | np.ndarray):
        return _of_array(_array(X, who))
    form = form_of(X)
    if form == "lazy":
        raise TypeError(f"{who}: a LazyFrame has no rows yet: pass X.collect()")
    # pandas before 3 lacks this stream of a series.
    if hasattr(X, "__arrow_c_stream__") or form == "series":
        if len(getattr(X, "shape", "XY")) != 2 or hasattr(X, "num_chunks"):
            got = f"got {type(X).__name__}: make a table of one column, as by X.to_frame()"
            raise TypeError(f"{who}: X must be {ACCEPTED}, {got}")
        return _of_arrow(messages.imported("pyarrow", who).table(X), who)
    return _of_array(_array(X, who))


def is_rows(X: Any) -> bool:
    """True for a list of mappings from names of columns to values, one per row."""
    return isinstance(X, list) and bool(X) and all(isinstance(x, Mapping) for x in X)


def _of_rows(rows: list[Mapping[Any, Any]], who: str) -> MemoryTable:
    """A table of mappings: a key that a row lacks is a missing value."""
    names = list(dict.fromkeys(name for row in rows for name in row))

    def column(j: int) -> Array:
        objects = np.empty(len(rows), object)
        objects[:] = [row.get(names[j]) for row in rows]
        return objects

    return MemoryTable(
        _distinct(map(str, names), who),
        len(names),
        len(rows),
        column,
        column,
        _no_block,
    )


def _distinct(texts: Iterable[str], who: str) -> tuple[str, ...]:
    """Names of columns, which may be texts of a MultiIndex; raises ValueError."""
    names = tuple(texts)
    if len({*names}) < len(names):
        frames.require_different(names, who)
    return names


def _of_pandas(frame: Any, who: str) -> MemoryTable:
    """Columns are read when asked for; a small frame is read whole, once, as objects."""
    n_rows, n_columns = frame.shape
    labels = [*frame.columns]
    by_name = bool(labels) and all(isinstance(label, str) for label in labels)
    names = _distinct(labels if by_name else map(str, labels), who)
    numbered = not by_name and labels == [*range(n_columns)]
    # Small frames at once: 20 columns take 48 us, and each column alone 13 to 40 us.
    if max(frame.shape) <= ROWS_IN_PYTHON:
        read_whole = cache(partial(frame.to_numpy, object))
    else:
        read_whole = None

    def column(j: int) -> Any:
        if by_name:
            return frame[names[j]]
        return frame.iloc[:, j]

    def levels(j: int) -> Any:
        if read_whole is None:
            return column(j)
        return read_whole()[:, j]

    def block(places: Sequence[int]) -> Array | None:
        kinds = frame.dtypes.tolist()
        if not all(
            isinstance(kinds[j], np.dtype) and kinds[j].kind in "fiu" for j in places
        ):
            return None
        if read_whole is not None:
            return read_whole()[:, places].astype(np.float64)
        # By blocks of the frame: 2 ms for a row of 2,000 columns; 90 ms by columns.
        if _are_all(places, n_columns):
            part = frame
        else:
            part = frame.iloc[:, places]
        values: Array = part.to_numpy(np.float64)
        return values

    return MemoryTable(names, n_columns, n_rows, column, levels, block, numbered)


def _of_arrow(table: Any, who: str) -> MemoryTable:
    names = _distinct(table.column_names, who)
    column = table.column
    return MemoryTable(
        names or None, table.num_columns, table.num_rows, column, column, _no_block
    )


def _of_array(array: Array) -> MemoryTable:
    def column(j: int) -> Array:
        return array[:, j]

    def block(places: Sequence[int]) -> Array | None:
        if array.dtype.kind not in "fiu":
            return None
        if _are_all(places, array.shape[1]):
            part = array
        else:
            part = array[:, places]
        return part.astype(np.float64, copy=False)

    return MemoryTable(None, array.shape[1], len(array), column, column, block)


def _are_all(places: Sequence[int], n: int) -> bool:
    return len(places) == n and all(j == place for j, place in enumerate(places))


def _no_block(places: Sequence[int]) -> None:
    return None


def _array(X: Any, who: str) -> Array:
    if hasattr(X, "toarray"):
        raise TypeError(f"{who}: X is a sparse matrix; use X.toarray()")
    if hasattr(X, "__next__") or isinstance(X, str | bytes | dict):
        if isinstance(X, dict):
            frame = ": pandas.DataFrame(X) of columns, [X] of a row"
        else:
            frame = ""
        raise TypeError(f"{who}: X must be {ACCEPTED}, got {type(X).__name__}{frame}")
    array = arrays.array_of(X, who, "X", "a table")
    if not isinstance(X, np.ndarray) and array.dtype.kind not in "fiub":
        # NumPy turns numbers beside texts into texts.
        array = np.array(X, dtype=object)
    if array.ndim != 2:
        one = "; for one row use [row]" if array.ndim == 1 else ""
        raise ValueError(f"{who}: X must be {ACCEPTED}, got shape {array.shape}{one}")
    return array


def kind_of(values: Any) -> Kind:
    """Return the kind of a column's values.

    Values of categorical types and booleans are levels;
    "nothing" is a column of missing values.
    """
    if _is_of_arrow(values):
        return arrow_kind_of(values.type)
    dtype = values.dtype
    if isinstance(dtype, np.dtype) and dtype.kind != "O":
        return _KINDS_BY_DTYPE.get(dtype.kind, "others")
    if hasattr(dtype, "categories"):
        return "levels"
    if isinstance(dtype, np.dtype) or str(dtype) == "object":
        return _kind_of_objects(values)
    if hasattr(dtype, "pyarrow_dtype"):
        return arrow_kind_of(dtype.pyarrow_dtype)
    if isinstance(dtype.type, type) and issubclass(dtype.type, str):
        return "texts"
    return _KINDS_BY_DTYPE.get(dtype.kind, "others")


_KINDS_BY_DTYPE: dict[str, Kind] = {
    **dict.fromkeys("fiu", "numbers"),
    "b": "levels",
    **dict.fromkeys("UT", "texts"),
    "M": "dates",
    "m": "durations",
}


def type_of(values: Any) -> str:
    """The type of a column as text: its dtype, or the types of its objects."""
    kind = str(getattr(values, "type", None) or values.dtype)
    if kind != "object":
        return kind
    return " and ".join(sorted(t.__name__ for t in _types_in(values)))


def _types_in(values: Any) -> set[type]:
    """Types of objects, without missing values."""
    # Iteration over a series of pandas takes twice as long.
    values = np.asarray(values, object)
    types = set()
    for kind in set(map(type, values)):
        if kind.__name__ in frames.MISSING_TYPES:
            continue
        if issubclass(kind, float | np.floating):
            # A missing value among texts is NaN, a float, and differs from itself.
            numbers = (value for value in values if type(value) is kind)
            if all(number != number for number in numbers):
                continue
        types.add(kind)
    return types


def _kind_of_objects(values: Any) -> Kind:
    """The kind of a column of objects, by the types of all values."""
    types = _types_in(values)
    if not types:
        return "nothing"
    if types <= {bool, np.bool_}:
        return "levels"
    if all(issubclass(each, NUMBER_TYPES) for each in types):
        return "numbers"
    if all(issubclass(each, (str, *NUMBER_TYPES)) for each in types):
        return "texts"
    known: dict[Kind, Any] = {
        "dates": dates.DATES,
        "times": dates.TIMES,
        "durations": dates.DURATIONS,
    }
    kinds = (
        kind
        for kind, some in known.items()
        if all(issubclass(each, some) for each in types)
    )
    return next(kinds, "others")


def is_missing(value: Any) -> bool:
    if value is None or type(value).__name__ in frames.MISSING_TYPES:
        return True
    # NaN and NaT differ from themselves.
    itself = isinstance(
        value, float | Decimal | np.floating | np.datetime64 | np.timedelta64
    )
    return itself and bool(value != value)


def numbers(values: Any, name: str, who: str) -> Array:
    """Column as float64, shape (n_rows,), NaN where values are missing."""
    if _is_of_arrow(values):
        return arrow_numbers(values, name, who)
    dtype = values.dtype
    if isinstance(dtype, np.dtype) and dtype.kind in "fiub":
        return np.asarray(values, np.float64)
    if (kind := kind_of(values)) not in ("numbers", "levels", "nothing"):
        if isinstance(dtype, np.dtype) and dtype.kind != "O":
            got = f"dtype {dtype}"
        else:
            got = kind
        raise TypeError(f"{who}: the column {name!r} must hold numbers, got {got}")
    if not isinstance(dtype, np.dtype) and kind == "numbers":
        array: Array = values.to_numpy(dtype=np.float64, na_value=np.nan)
        return array
    each = [np.nan if is_missing(value) else value for value in values]
    try:
        return np.array(each, np.float64)
    except ValueError as error:
        raise TypeError(
            f"{who}: the column {name!r} must hold numbers: {error}"
        ) from error


def moments(values: Any, kind: dates.Kind, name: str, who: str) -> Array:
    """Dates, times or durations of a column or of its texts, shape (n_rows,)."""
    if _is_of_arrow(values):
        return arrow_moments(values, kind, name, who)
    dtype = values.dtype
    kind_of_column = kind_of(values)
    if kind_of_column == "texts":
        levels = levels_in(values, name, who)
        each = ["" if is_missing(value) else value for value in levels.values]
        return dates.read(levels.codes, each, kind, name, who)
    if kind_of_column == "nothing" or (
        kind_of_column == "numbers" and np.isnan(numbers(values, name, who)).all()
    ):
        return dates.missing(len(values), kind)
    if kind_of_column != kind:
        raise TypeError(f"{who}: {dates.refused(name, kind, type_of(values))}")
    if hasattr(dtype, "pyarrow_dtype"):
        return dates.of_arrow(values.array.__arrow_array__())
    if str(dtype) == "object":
        return dates.of_objects(
            [None if is_missing(value) else value for value in values]
        )
    # Timezone-aware pandas columns are converted to UTC.
    unit = getattr(dtype, "unit", None)
    return np.asarray(values, None if unit is None else f"M8[{unit}]")


def has_zone(values: Any) -> bool | None:
    """True if dates have a time zone,
    by their type or the first date; None without a date.
    """
    dtype = getattr(values, "type", None) or values.dtype
    kind = getattr(dtype, "pyarrow_dtype", dtype)
    if getattr(kind, "tz", None) is not None or getattr(kind, "kind", "") == "M":
        return hasattr(kind, "tz")
    each = (value.as_py() if hasattr(value, "as_py") else value for value in values)
    first = next(
        (value for value in each if not is_missing(value) and value != ""), None
    )
    if isinstance(first, str):
        return dates.zone_of(first) is not None
    if first is None:
        return None
    return getattr(first, "tzinfo", None) is not None


def _is_of_arrow(values: Any) -> bool:
    return hasattr(values, "null_count")


def infinite(values: Any, name: str, who: str) -> ValueError:
    row = int(np.argmax(np.isinf(numbers(values, name, who))))
    return ValueError(
        f"{who}: the column {name!r} is infinite in row {row}; make NaN of it"
    )


def levels_in(values: Any, name: str, who: str) -> LevelCodes:
    try:
        return _levels_in(values)
    except TypeError as error:
        raise TypeError(f"{who}: {refused(name, str(error))}") from error


def refused(name: str, kind: str) -> str:
    return (
        f"the column {name!r} holds objects ({kind}); make numbers or texts of it, or "
        "leave it out"
    )


def _levels_in(values: Any) -> LevelCodes:
    of_arrow = _is_of_arrow(values)
    if hasattr(getattr(values, "dtype", None), "categories"):
        codes = values.array.codes
        categories = values.dtype.categories
        if len(values) > ROWS_IN_PYTHON:
            return LevelCodes(codes, categories.tolist())
        each = [categories[code] if code >= 0 else None for code in codes]
    elif len(values) > ROWS_IN_PYTHON and of_arrow:
        return _without_missing(*arrow_dictionary(values))
    elif len(values) > ROWS_IN_PYTHON and hasattr(values, "factorize"):
        codes, uniques = values.factorize()
        return LevelCodes(codes, uniques.tolist())
    else:
        # NumPy turns nanoseconds into integers.
        spans = isinstance(values, np.ndarray) and values.dtype.kind in "mM"
        if spans:
            values = values.astype(f"{values.dtype.kind}8[us]")
        if of_arrow:
            each = values.to_pylist()
        else:
            each = values.tolist()
    places: dict[Any, int] = {}
    codes = np.array(
        [places.setdefault(value, len(places)) for value in each], np.int64
    )
    return _without_missing(codes, list(places))


def places_in(values: Any, levels: Sequence[Any]) -> Array | None:
    """Index of each text among the levels, -1 for others, shape (n_rows,).

    None is returned for a column that is not many texts of Arrow.
    Four columns of 100,000 rows take 6 ms, and 31 ms by their distinct values.
    """
    dtype = getattr(values, "dtype", None)
    if getattr(dtype, "storage", "") == "pyarrow" or hasattr(dtype, "pyarrow_dtype"):
        values = values.array.__arrow_array__()
    if len(values) <= ROWS_IN_PYTHON or not _is_of_arrow(values):
        return None
    if str(values.type) not in ("string", "large_string") or not isinstance(
        levels[0], str
    ):
        return None
    # Python has texts that UTF-8 cannot hold; Arrow cannot hold such a level.
    with suppress(UnicodeEncodeError):
        return arrow_places(values, tuple(levels))
    return None


def _without_missing(codes: Array, values: list[Any]) -> LevelCodes:
    """Values with code -1 for None, NaN and alike."""
    missing = [
        k
        for k, value in enumerate(values)
        if type(value) is not str and is_missing(value)
    ]
    return LevelCodes(
        np.where(np.isin(codes, missing), -1, codes) if missing else codes, values
    )


def as_levels(values: Iterable[Any], *, numeric: bool) -> list[Level]:
    """Values as levels: numbers and booleans unchanged if `numeric`; others as texts.

    Whole numbers lose their point, so that 1 and 1.0 are one level.
    """
    return [value if type(value) is str else _level(value, numeric) for value in values]


def _level(value: Any, numeric: bool) -> Level:
    if isinstance(value, (*dates.DATES, dates.TIMES, *dates.DURATIONS)):
        return dates.text_of(value)
    if isinstance(value, np.generic):
        value = value.item()
    if (
        isinstance(value, float | Decimal)
        and value == value
        and float(value).is_integer()
    ):
        value = int(value)
    if isinstance(value, str) or (numeric and isinstance(value, bool | int | float)):
        return value
    return str(value)


def text_names(X: Any, who: str) -> list[str]:
    """Columns of a table that CSV holds as texts, whatever they look like."""
    table = table_of(X, who)
    columns = ((name, table.column(j)) for j, name in enumerate(table.names or ()))
    return [
        name
        for name, each in columns
        if _value_kind(each) in ("texts", "dates", "times")
    ]


def _value_kind(column: Any) -> Kind:
    """Kind of a column's values; for categories, the kind of the categories."""
    if hasattr(column, "null_count"):
        return arrow_kind_of(getattr(column.type, "value_type", column.type))
    return kind_of(getattr(column.dtype, "categories", column))


def arrow_kind_of(kind: Any) -> Kind:
    """Dictionaries and booleans are levels."""
    import pyarrow.types as kinds

    of_kind: dict[Kind, tuple[Any, ...]] = {
        "numbers": (kinds.is_floating, kinds.is_integer, kinds.is_decimal),
        "levels": (kinds.is_dictionary, kinds.is_boolean),
        "texts": (
            kinds.is_string,
            kinds.is_large_string,
            lambda one: str(one) == "string_view",
        ),
        "dates": (kinds.is_date, kinds.is_timestamp),
        "times": (kinds.is_time,),
        "durations": (kinds.is_duration,),
        "nothing": (kinds.is_null,),
    }
    known = (
        name for name, tests in of_kind.items() if any(test(kind) for test in tests)
    )
    return next(known, "others")


def arrow_numbers(column: Any, name: str, where: str) -> Array:
    """Arrow column as float64, shape (n_rows,); NaN where a value is missing."""
    import pyarrow.types as kinds

    kind = column.type
    if kinds.is_null(kind):
        return np.full(len(column), np.nan)
    if arrow_kind_of(kind) != "numbers" and str(kind) != "bool":
        raise TypeError(f"{where}: the column {name!r} must hold numbers, got {kind}")
    values: Array = column.cast("float64", safe=False).to_numpy(zero_copy_only=False)
    if np.isinf(values).any():
        row = int(np.argmax(np.isinf(values)))
        raise ValueError(f"{where}: the column {name!r} is infinite in row {row}")
    return values


def arrow_moments(column: Any, kind: dates.Kind, name: str, where: str) -> Array:
    """Dates, times or durations of an Arrow column or of its texts, shape (n_rows,)."""
    if hasattr(column, "dictionary_decode"):
        column = column.dictionary_decode()
    kind_of_column = arrow_kind_of(column.type)
    if kind_of_column == kind:
        return dates.of_arrow(column)
    if kind_of_column == "nothing":
        return dates.missing(len(column), kind)
    if kind_of_column != "texts":
        raise TypeError(f"{where}: {dates.refused(name, kind, str(column.type))}")
    return dates.read(*arrow_dictionary(column), kind, name, where)


def arrow_dictionary(column: Any) -> tuple[Array, list[Any]]:
    """Index of each row's value, -1 for a null, and the distinct values."""
    import pyarrow.types as kinds

    if not kinds.is_dictionary(column.type):
        if str(column.type) == "string_view":
            column = column.cast("large_string")
        column = column.dictionary_encode()
    if hasattr(column, "num_chunks"):
        column = column.unify_dictionaries().combine_chunks()
    if hasattr(column, "num_chunks"):
        column = column.chunk(0)
    codes = column.indices.cast("int64").fill_null(-1).to_numpy(zero_copy_only=False)
    return codes, column.dictionary.to_pylist()


def arrow_places(column: Any, values: tuple[Any, ...]) -> Array:
    """Index of each row's value in `values`, shape (n_rows,); -1 for another value."""
    import pyarrow
    import pyarrow.compute as compute

    indices = compute.index_in(
        column, value_set=pyarrow.array(values, column.type), skip_nulls=True
    )
    codes: Array = indices.fill_null(-1).to_numpy(zero_copy_only=False)
    return codes.astype(np.int64)
