"""Columns of Arrow as numbers, moments and texts; files as one table, or a sample of rows."""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from fastmlp._process import memory, warnings
from fastmlp.data.arrow import ROWS, Choose, Place, records_of
from fastmlp.data.columns import require_target
from fastmlp.tabular import dates
from fastmlp.validation.messages import listed

Array = NDArray[Any]
Kind = Literal["numbers", "levels", "texts", "others", "nothing"] | dates.Kind


def kind_of(kind: Any) -> Kind:
    """The kind of a data type of Arrow; levels are dictionaries and booleans."""
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
    """Return True for a data type of Arrow of numbers, true and false too."""
    return kind_of(kind) == "numbers" or str(kind) == "bool"


def numbers(column: Any, name: str, where: str) -> Array:
    """Return an Arrow column as float64, shape (n_rows,), NaN where values are missing."""
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
    """Return an Arrow column of dates, times or durations, or of their texts, shape (n_rows,)."""
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
    """Return places, -1 for a null, and the values of an Arrow column, each once."""
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
    """Return the values of a column of a dictionary's places; others as they are."""
    return column.dictionary_decode() if hasattr(column, "dictionary_decode") else column


def places(column: Any, values: tuple[Any, ...]) -> Array:
    """Return the places of an Arrow column's values among others, shape (n_rows,); else -1."""
    import pyarrow
    import pyarrow.compute as compute

    indices = compute.index_in(
        column, value_set=pyarrow.array(values, column.type), skip_nulls=True
    )
    codes: Array = indices.fill_null(-1).to_numpy(zero_copy_only=False)
    return codes.astype(np.int64)


# A fit grew by 4 to 7 bytes for each byte of the columns, 300,000 rows of 20 and of 10 numbers.
TIMES = 16


def read(
    data: Any,
    choose: Choose,
    who: str,
    seed: int,
    target: str | None = None,
    verb: str = "learned from",
    arrays: Sequence[str] = (),
) -> Any:
    """Return files, or the rows of a query, as a table of Arrow.

    Columns that take more than a 16th of the memory that is free are sampled, with a warning. Each
    row draws a number by the seed and its place, and stays if the number is below a share, which is
    halved whenever the rows that stay do not fit: one pass, and no row twice in memory.

    Parameters
    ----------
    data : what `records_of` takes
    choose : returns the columns to read, as for `records_of`
    target : the column in which no value may be missing
    verb : what becomes of the rows, in the warning
    arrays : words for arrays that have a value of each row, so that no row may be left out
    """
    import pyarrow

    free = memory.available()
    most = float("inf") if free is None else free // TIMES
    kept, share, n_rows, n_bytes = list[tuple[Any, Any]](), 1.0, 0, 0
    for number, (rows, place) in enumerate(records_of(data, choose, ROWS, who)):
        if not rows.num_rows:
            continue
        where = place.by(who)
        if target is not None:
            require_target(rows.column(target), target, where)
        _require_finite(rows, where)
        n_rows += rows.num_rows
        drawn = np.random.default_rng([seed, 3, number]).random(rows.num_rows)
        kept.append(_below(share, rows, drawn))
        n_bytes += kept[-1][0].nbytes
        if arrays and n_bytes > most:
            fit = f"rows are drawn, as {memory.readable(int(most))} of columns fit into memory"
            instead = f"name a column instead of an array: {listed([*arrays])}"
            raise ValueError(f"{who}: {fit}: {instead}")
        while n_bytes > most:
            share /= 2
            kept = [pair for pair in (_below(share, *each) for each in kept) if len(pair[1])]
            n_bytes = sum(each.nbytes for each, _ in kept)
    if not n_rows:
        raise ValueError(f"{who}: there are no rows")
    if not kept:
        lack = f"of {memory.readable(free or 0)} that are free no row of the table has a 16th"
        raise MemoryError(f"{who}: {lack}: choose fewer columns")
    table = pyarrow.concat_tables(
        [pyarrow.Table.from_batches([each]) for each, _ in kept], promote_options="permissive"
    )
    if share < 1:
        drawn_rows = f"{verb} {table.num_rows:,} of {n_rows:,} rows, drawn by the seed"
        fit = f"{memory.readable(int(most))} of columns fit into memory"
        warnings.warn(f"{who}: {drawn_rows}: {fit}", UserWarning)
    return table


def _below(share: float, rows: Any, drawn: Any) -> tuple[Any, Any]:
    """Return the rows whose number is below the share, and those numbers."""
    import pyarrow

    mask = drawn < share
    return (rows, drawn) if mask.all() else (rows.filter(pyarrow.array(mask)), drawn[mask])


def _require_finite(rows: Any, where: Place) -> None:
    """Raise for an infinite number here, where its row in the file is known."""
    import pyarrow.compute as compute

    for name, column in zip(rows.schema.names, rows.columns, strict=True):
        if str(column.type) in ("float", "double") and compute.any(compute.is_inf(column)).as_py():
            first = where.row(compute.index(compute.is_inf(column), True).as_py())
            raise ValueError(f"{where}: the column {name!r} is infinite in {first}; make NaN of it")
