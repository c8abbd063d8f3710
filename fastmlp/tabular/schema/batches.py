"""Files and queries as one table in memory; of larger ones rows that are drawn by a seed."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from fastmlp._process import memory, warnings
from fastmlp.data.arrow import ROWS, Choose, Place, records_of
from fastmlp.data.columns import require_target
from fastmlp.tabular.schema import arrow_columns
from fastmlp.tabular.schema.in_memory import kind_of, table_of
from fastmlp.tabular.schema.rule import Kind
from fastmlp.validation.suggestions import listed, suggestion

# A fit grew by 4 to 7 bytes for each byte of the columns, 300,000 rows of 20 and of 10 numbers.
TIMES = 16


def require(names: Sequence[str], known: Sequence[str], who: str) -> None:
    """Check that there are columns of these names.

    Raises
    ------
    ValueError
        If there are not; the message has all that are missing.
    """
    missing = [name for name in names if name not in known]
    if missing:
        others = [name for name in known if name not in names]
        suggested = [f"{name!r}{suggestion(name, others).rstrip(';')}" for name in missing]
        one, several = "there is no column", f"{len(missing)} columns are missing:"
        lacks = f"{one if len(missing) == 1 else several} {listed(suggested)}"
        raise ValueError(f"{who}: {lacks}; known: {listed([*map(repr, known)], 20)}")


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

    Raises
    ------
    MemoryError
        If not even one row fits.
    TypeError, ValueError, ImportError, OSError
        If there are no rows or no such columns, they cannot be read, or rows beside arrays do not
        fit.
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


def text_names(X: Any, who: str) -> list[str]:
    """Return the columns of a table that CSV holds as texts, whatever they look like."""
    table = table_of(X, who)
    columns = ((name, table.column(j)) for j, name in enumerate(table.names or ()))
    return [name for name, each in columns if _value_kind(each) in ("texts", "dates", "times")]


def _value_kind(column: Any) -> Kind:
    """Return the kind of a column's values; of a type of categories, that of the categories."""
    if hasattr(column, "null_count"):
        return arrow_columns.kind_of(getattr(column.type, "value_type", column.type))
    return kind_of(getattr(column.dtype, "categories", column))


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
