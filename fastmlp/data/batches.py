"""Rows to predict, batch by batch, from files, tables, sources and memory."""

from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np

from fastmlp._process import memory, warn
from fastmlp.data import arrow
from fastmlp.data.columns import names_in, require_target
from fastmlp.data.sources import Piece, is_source, opened
from fastmlp.validation import frames, messages
from fastmlp.validation.frames import is_lazy, is_table
from fastmlp.validation.messages import listed

T = TypeVar("T")
# Libraries whose tables in memory can be sliced by rows.
FRAMES = ("pandas", "polars", "pyarrow")


def blocks_of(X: Any, who: str) -> Iterator[Piece]:
    """Yield X of each block of rows.

    X is a source, of blocks of (X, ...) or of X; a list of such blocks;
    or rows in memory: an array, a list of rows, a frame.
    """
    if is_source(X):
        pieces = opened(X, who).blocks(0, mixed=False)
    elif isinstance(X, list | tuple) and _is_block(X[0] if X else None):
        pieces = (Piece(f"block {i}", None, block) for i, block in enumerate(X))
    else:
        yield Piece("", None, X)
        return
    for piece in pieces:
        content = piece.content
        yield piece._replace(
            content=content[0] if isinstance(content, tuple) else content
        )


def _is_block(value: Any) -> bool:
    first = value[0] if isinstance(value, tuple) and value else value
    return not isinstance(first, list | tuple) and np.ndim(first) == 2


class PredictBatch(NamedTuple):
    """Rows to predict.

    Attributes
    ----------
    rows : array, frame or Arrow table
    where : name of the rows in errors; "" for rows in memory
    kept : record batch of the columns to keep, or None
    """

    rows: Any
    where: arrow.Place
    kept: Any = None


def names_of_model(model: Any) -> frames.Names:
    """Names of the columns a model was trained on, or None."""
    for attribute in ("feature_names", "_read_names", "feature_names_in_"):
        names = getattr(model, attribute, None)
        if names is not None:
            return tuple(names)
    return None


def batches_of(
    X: Any, names: frames.Names, rows: int, who: str, texts: Collection[str] = ()
) -> Iterator[PredictBatch]:
    """Yield the rows of X in order, in batches of at most `rows`.

    Parameters
    ----------
    X : array, frame, table, source as `fit` takes it, path or list of paths
    names : of the columns of X, if known
    rows : int of 1 or more
    texts : columns read as texts from CSV
    """
    if arrow.instead_of(X):
        raise arrow.no_table(X, "expected rows, files or a table,", who)
    streamed = is_table(X) and not _is_in_memory(X)
    if arrow.paths_of(X) is not None or streamed or is_lazy(X):
        yield from named_batches(X, Choice(names, (), texts), rows, who)
        return
    if is_source(X):
        source_names = getattr(X, "feature_names", None)
    else:
        source_names = None
    if names is None or source_names is None:
        order = None
    else:
        order = _order(tuple(source_names), names, who)
    for piece in blocks_of(X, who):
        content = frames.selected(piece.content, names, who)
        for part in _slices(content, rows):
            ordered = part if order is None else np.take(part, order, axis=1)
            yield PredictBatch(ordered, arrow.Place(piece.name))


def _order(
    source_names: tuple[str, ...], names: tuple[str, ...], who: str
) -> list[int] | None:
    """Indices of the model's columns in a source, None for equal order."""
    missing = [repr(name) for name in names if name not in source_names]
    if missing:
        raise ValueError(
            f"{who}: the source lacks the columns {listed(missing)}; it has "
            f"{listed(list(map(repr, source_names)))}"
        )
    if source_names == names:
        return None
    return [source_names.index(name) for name in names]


class Choice:
    """The columns to read of files or of a table.

    Parameters
    ----------
    names : of columns of X; None: all but `keep` and `ignore`, in order
    keep : columns to pass on with the predictions
    texts : columns read as texts from CSV
    nulls : True if texts of CSV such as NA are missing, False if they remain texts
    """

    def __init__(
        self,
        names: frames.Names,
        keep: Sequence[str],
        texts: Collection[str] = (),
        *,
        nulls: bool = False,
        ignore: Sequence[str] = (),
    ) -> None:
        self.features: list[str] = list(names or ())
        self.keep: list[str] = list(keep)
        self._texts = texts
        self._nulls = nulls
        self._ignore = ignore

    def __call__(self, schema: Any, who: str) -> arrow.ChosenColumns:
        """Return the columns to read, which must exist once each."""
        kept = names_in(self.keep, "keep", schema.names, who)
        names_in([*self._ignore], "ignore", schema.names, who)
        for name in kept:
            if schema.names.count(name) > 1:
                raise ValueError(
                    f"{who}: there are several columns of the name {name!r}"
                )
        # Without names, the columns of the first file are read in all files.
        out = {*kept, *self._ignore}
        self.features = self.features or [
            name for name in schema.names if name not in out
        ]
        frames.selected(schema.empty_table(), tuple(self.features), who)
        numbers = {*self.features} - {*self._texts}
        all_names = list(dict.fromkeys([*self.features, *kept]))
        return arrow.ChosenColumns(all_names, numbers, self._texts, nulls=self._nulls)


def named_batches(
    data: Any, choice: Choice, rows: int, who: str
) -> Iterator[PredictBatch]:
    table = messages.imported("pyarrow", who).Table
    for batch, where in arrow.records_of(data, choice, rows, who):
        # scikit-learn finds names in a table, but not in a record batch.
        X = table.from_batches([batch.select(choice.features)])
        yield PredictBatch(X, where, batch.select(choice.keep))


def predicted(
    method: Callable[[Any], T], batch: PredictBatch, *, named: bool, who: str
) -> T:
    """The result of a model's method for a batch; notes of errors name the rows.

    `named` is True if the model knows names of columns.
    """
    try:
        if named or not frames.is_frame(batch.rows):
            return method(batch.rows)
        # An estimator without names would warn of names.
        return method(frames.numbers(batch.rows, None, who, "X"))
    except (TypeError, ValueError) as error:
        if batch.where:
            error.add_note(f"in {batch.where}")
        raise


def has_names(X: Any) -> bool:
    return not is_source(X) and (arrow.paths_of(X) is not None or is_table(X))


def _is_in_memory(X: Any) -> bool:
    ours = type(X).__module__.split(".")[0] in FRAMES
    return ours and (hasattr(X, "iloc") or hasattr(X, "slice"))


def _slices(X: Any, rows: int) -> Iterator[Any]:
    """Yield batches of rows;
    an object without a length is left to the model to refuse.
    """
    shape = getattr(X, "shape", None)
    if shape:
        n = shape[0]
    elif hasattr(X, "__len__"):
        n = len(X)
    else:
        n = None
    if n is None:
        yield X
        return
    places = getattr(X, "iloc", X)
    for first in range(0, n, rows):
        yield places[first : first + rows]


# A fit grew by 4 to 7 bytes for each byte of the columns,
# 300,000 rows of 20 and of 10 numbers.
PARTS_OF_MEMORY = 16


def read_table(
    data: Any,
    who: str,
    seed: int,
    *,
    columns: Sequence[str] = (),
    others: Sequence[str] = (),
    ignore: Sequence[str] = (),
    texts: Collection[str] = (),
    target: str | None = None,
    verb: str = "learned from",
    arrays: Sequence[str] = (),
) -> Any:
    """Return files, or the rows of a query, as a table of Arrow.

    Columns that take more than a 16th of the free memory are sampled, with a warning.
    The seed gives each row a number; rows below a share are kept, and the share is
    halved whenever they do not fit. One pass suffices, without a row twice in memory.

    Parameters
    ----------
    data : path or list of paths, table, frame, reader, relation or data set
    columns : columns to read; empty: all but the others and `ignore`
    others : columns to read beside these
    texts : columns read as texts from CSV
    target : column in which no value may be missing
    verb : use of the rows, in the warning
    arrays : names of arrays with a value for each row, which forbid a sample
    """
    import pyarrow

    choose = Choice(tuple(columns) or None, others, texts, nulls=True, ignore=ignore)
    free = memory.available()
    if free is None:
        most = float("inf")
    else:
        most = free // PARTS_OF_MEMORY
    kept = list[tuple[Any, Any]]()
    share = 1.0
    n_rows = 0
    n_bytes = 0
    for number, (rows, place) in enumerate(
        arrow.records_of(data, choose, arrow.ROWS, who)
    ):
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
            kept = [
                pair for pair in (_below(share, *each) for each in kept) if len(pair[1])
            ]
            n_bytes = sum(each.nbytes for each, _ in kept)
    if not n_rows:
        raise ValueError(f"{who}: there are no rows")
    if not kept:
        lack = f"of {memory.readable(free or 0)} that are free no row of the table has a 16th"
        raise MemoryError(f"{who}: {lack}: choose fewer columns")
    table = pyarrow.concat_tables(
        [pyarrow.Table.from_batches([each]) for each, _ in kept],
        promote_options="permissive",
    )
    if share < 1:
        drawn_rows = f"{verb} {table.num_rows:,} of {n_rows:,} rows, drawn by the seed"
        fit = f"{memory.readable(int(most))} of columns fit into memory"
        warn(f"{who}: {drawn_rows}: {fit}", UserWarning)
    return table


def _below(share: float, rows: Any, drawn: Any) -> tuple[Any, Any]:
    """Rows whose number is below the share, and those numbers."""
    import pyarrow

    mask = drawn < share
    if mask.all():
        return (rows, drawn)
    return (rows.filter(pyarrow.array(mask)), drawn[mask])


def _require_finite(rows: Any, where: arrow.Place) -> None:
    """Raise for an infinite number here, where its row in the file is known."""
    import pyarrow.compute as compute

    for name, column in zip(rows.schema.names, rows.columns, strict=True):
        if (
            str(column.type) in ("float", "double")
            and compute.any(compute.is_inf(column)).as_py()
        ):
            first = where.row(compute.index(compute.is_inf(column), True).as_py())
            raise ValueError(
                f"{where}: the column {name!r} is infinite in {first}; make NaN of it"
            )
