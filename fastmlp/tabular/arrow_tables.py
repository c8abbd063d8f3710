"""Columns of Arrow as numbers, moments and texts; files as one table, or a sample of rows."""

from typing import Any, Literal

import numpy as np

from fastmlp.tabular import dates
from fastmlp.typing import Array

Kind = Literal["numbers", "levels", "texts", "others", "nothing"] | dates.Kind


def kind_of(kind: Any) -> Kind:
    """Dictionaries and booleans are levels."""
    import pyarrow.types as kinds

    of_kind: dict[Kind, tuple[Any, ...]] = {
        "numbers": (kinds.is_floating, kinds.is_integer, kinds.is_decimal),
        "levels": (kinds.is_dictionary, kinds.is_boolean),
        "texts": (kinds.is_string, kinds.is_large_string, lambda one: str(one) == "string_view"),
        "dates": (kinds.is_date, kinds.is_timestamp),
        "times": (kinds.is_time,),
        "durations": (kinds.is_duration,),
        "nothing": (kinds.is_null,),
    }
    known = (name for name, tests in of_kind.items() if any(test(kind) for test in tests))
    return next(known, "others")


def is_number(kind: Any) -> bool:
    """Booleans count as numbers."""
    return kind_of(kind) == "numbers" or str(kind) == "bool"


def numbers(column: Any, name: str, where: str) -> Array:
    """Arrow column as float64, shape (n_rows,); NaN where a value is missing."""
    import pyarrow.types as kinds

    kind = column.type
    if kinds.is_null(kind):
        return np.full(len(column), np.nan)
    if not is_number(kind):
        raise TypeError(f"{where}: the column {name!r} must hold numbers, got {kind}")
    values: Array = column.cast("float64", safe=False).to_numpy(zero_copy_only=False)
    if np.isinf(values).any():
        row = int(np.argmax(np.isinf(values)))
        raise ValueError(f"{where}: the column {name!r} is infinite in row {row}")
    return values


def moments(column: Any, kind: dates.Kind, name: str, where: str) -> Array:
    """Dates, times or durations of an Arrow column or of its texts, shape (n_rows,)."""
    column = decoded(column)
    kind_of_column = kind_of(column.type)
    if kind_of_column == kind:
        return dates.of_arrow(column)
    if kind_of_column == "nothing":
        return dates.missing(len(column), kind)
    if kind_of_column != "texts":
        raise TypeError(f"{where}: {dates.refused(name, kind, str(column.type))}")
    return dates.read(*dictionary(column), kind, name, where)


def dictionary(column: Any) -> tuple[Array, list[Any]]:
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


def decoded(column: Any) -> Any:
    """Values of a dictionary column; another column is unchanged."""
    return column.dictionary_decode() if hasattr(column, "dictionary_decode") else column


def places(column: Any, values: tuple[Any, ...]) -> Array:
    """Index of each row's value in `values`, shape (n_rows,); -1 for another value."""
    import pyarrow
    import pyarrow.compute as compute

    indices = compute.index_in(
        column, value_set=pyarrow.array(values, column.type), skip_nulls=True
    )
    codes: Array = indices.fill_null(-1).to_numpy(zero_copy_only=False)
    return codes.astype(np.int64)
