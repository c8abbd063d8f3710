"""Rows to predict, a batch at a time: of files, tables, sources, and rows in memory."""

from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np

from fastmlp import validation
from fastmlp.data import csv_files
from fastmlp.data.arrow import (
    ARROW_FILES,
    BUFFER_BYTES,
    FILES,
    expanded,
    imported,
    instead_of,
    is_lazy,
    is_table,
    naming,
    no_table,
    paths_of,
    scanning,
)
from fastmlp.data.columns import Place, names_in
from fastmlp.data.csv_files import CSV_FILES, ChosenColumns
from fastmlp.data.sources import Piece, is_source, opened
from fastmlp.validation import frames
from fastmlp.validation.suggestions import listed

# Returns the columns to read, of a schema; the text is what errors call the table.
Choose = Callable[[Any, str], csv_files.ChosenColumns]
Batches = Iterator[Any]
T = TypeVar("T")
# The most rows of a batch, where nothing else is said.
ROWS = 65536
# Libraries whose tables in memory have slices of rows.
FRAMES = ("pandas", "polars", "pyarrow")


def records_of(X: Any, choose: Choose, rows: int, who: str) -> Iterator[tuple[Any, Place]]:
    """Yield record batches of at most so many rows, and their places.

    One batch is in memory at a time. A table without rows has one batch, without rows.

    Parameters
    ----------
    X : path or list of paths, table, frame, reader, relation or data set

    Raises
    ------
    TypeError, ValueError, OSError
        If it is of an unknown kind, or cannot be read.
    ImportError
        If pyarrow is not installed.
    """
    imported(who)
    paths = paths_of(X)
    if paths is None:
        yield from _cut(_of_table(X, choose, rows, who), "", rows)
        return
    for path in expanded(paths, who):
        with naming(path):
            yield from _cut(_reader_of(path, who)(path, choose, rows, who), f" of {path}", rows)


def _cut(batches: Batches, of: str, rows: int) -> Iterator[tuple[Any, Place]]:
    """Yield batches in parts of at most so many rows, and their places."""
    n, place_of = 0, Place.in_csv if of.lower().endswith(CSV_FILES) else Place
    for batch in batches:
        for first in range(0, max(batch.num_rows, 1), rows):
            part = batch.slice(first, rows)
            if part.num_rows or not n:
                yield part, place_of(f"rows {n} to {n + max(part.num_rows, 1) - 1}{of}", n, of)
            n += part.num_rows


def _of_table(X: Any, choose: Choose, rows: int, who: str) -> Batches:
    arrow = imported(who)
    if is_lazy(X) or not is_table(X):
        raise no_table(X, "expected files, a table or a frame,", who)
    if hasattr(X, "scanner"):
        reader = scanning(X, rows, choose(X.schema, who).names)
    elif type(X).__module__.startswith("pandas"):
        # With its index, a frame of pandas would have a column more.
        reader = arrow.Table.from_pandas(X, preserve_index=False).to_reader()
    elif isinstance(X, arrow.RecordBatchReader):
        reader = X  # by its stream an error would lose its type
    elif hasattr(X, "to_reader"):
        reader = X.to_reader()
    else:
        reader = arrow.RecordBatchReader.from_stream(X)
    # A database refuses a second query until the first is read to its end, or closed.
    try:
        names = choose(reader.schema, who).names
        yield from (batch.select(names) for batch in _with_an_end(reader))
    finally:
        reader.close()


def _with_an_end(reader: Any) -> Batches:
    """Yield a reader's batches, and at the end one without rows, for what has none at all."""
    import pyarrow

    yield from reader
    yield pyarrow.RecordBatch.from_pylist([], schema=reader.schema)


def _reader_of(path: str, who: str) -> Callable[[str, Choose, int, str], Batches]:
    end = next((end for end in FILES if path.lower().endswith(end)), None)
    if end is None:
        raise ValueError(f"{who}: files must be {', '.join(FILES)}, got {Path(path).name}")
    return _of_parquet if end == ".parquet" else _of_arrow if end in ARROW_FILES else _of_csv


def _of_parquet(path: str, choose: Choose, rows: int, who: str) -> Batches:
    import pyarrow.parquet

    # With `pre_buffer` it holds the bytes of all row groups that it has read, to the end. With a
    # buffer it reads pieces of a row group: one of a million rows took 136 MB, else 230 MB.
    with pyarrow.parquet.ParquetFile(path, pre_buffer=False, buffer_size=BUFFER_BYTES) as file:
        names = choose(file.schema_arrow, who).names
        yield from file.iter_batches(batch_size=rows, columns=names)
        yield pyarrow.RecordBatch.from_pylist([], schema=file.schema_arrow).select(names)


def _of_arrow(path: str, choose: Choose, rows: int, who: str) -> Batches:
    import pyarrow

    # Read, not mapped: of a map that is cut a fault ends the process.
    with pyarrow.OSFile(path) as source:
        schema = pyarrow.ipc.open_file(source).schema
        names = choose(schema, who).names
        places = [schema.get_field_index(name) for name in names]
        options = pyarrow.ipc.IpcReadOptions(included_fields=places)
        file = pyarrow.ipc.open_file(source, options=options)
        for k in range(file.num_record_batches):
            yield file.get_batch(k).select(names)
        yield pyarrow.RecordBatch.from_pylist([], schema=file.schema).select(names)


def _of_csv(path: str, choose: Choose, rows: int, who: str) -> Batches:
    schema = csv_files.schema_of(path, who)
    yield from csv_files.batches_of(path, schema, choose(schema, who), who)


def blocks_of(X: Any, who: str) -> Iterator[Piece]:
    """Yield X of each block of rows.

    Parameters
    ----------
    X : one of
        - a source, of blocks of (X, ...) or of X
        - a list of such blocks
        - rows in memory: an array, a list of rows, a frame
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
        yield piece._replace(content=content[0] if isinstance(content, tuple) else content)


def _is_block(value: Any) -> bool:
    """Return True for a block of rows, False for one row."""
    first = value[0] if isinstance(value, tuple) and value else value
    return not isinstance(first, list | tuple) and np.ndim(first) == 2


class PredictBatch(NamedTuple):
    """Rows to predict.

    Attributes
    ----------
    rows : array, frame or table of Arrow's
    where : their name in errors; "" for rows in memory
    kept : record batch of the columns to keep, or None
    """

    rows: Any
    where: str
    kept: Any = None


def names_of_model(model: Any) -> validation.Names:
    """Return the names of the columns that a model was trained on, or None."""
    for attribute in ("feature_names", "_read_names", "feature_names_in_"):
        names = getattr(model, attribute, None)
        if names is not None:
            return tuple(names)
    return None


def batches_of(
    X: Any, names: validation.Names, rows: int, who: str, texts: Collection[str] = ()
) -> Iterator[PredictBatch]:
    """Yield the rows of X in their order, at most so many at a time.

    Parameters
    ----------
    X : array, frame, table, source as `fit` takes it, path or list of paths
    names : names of the columns of X, where they are known
    rows : int of 1 or more
    texts : columns that are texts in CSV, whatever they look like
    """
    if instead_of(X):
        raise no_table(X, "expected rows, files or a table,", who)
    streamed = is_table(X) and not _is_in_memory(X)
    if paths_of(X) is not None or streamed or is_lazy(X):
        yield from named_batches(X, Choice(names, (), texts), rows, who)
        return
    source_names = getattr(X, "feature_names", None) if is_source(X) else None
    order = (
        None if names is None or source_names is None else _order(tuple(source_names), names, who)
    )
    for piece in blocks_of(X, who):
        content = validation.selected(piece.content, names, who)
        for part in _slices(content, rows):
            yield PredictBatch(part if order is None else np.take(part, order, axis=1), piece.name)


def _order(source_names: tuple[str, ...], names: tuple[str, ...], who: str) -> list[int] | None:
    """Return the places of the model's columns in those of a source; None: they are the same."""
    missing = [repr(name) for name in names if name not in source_names]
    if missing:
        raise ValueError(
            f"{who}: the source lacks the columns {listed(missing)}; it has "
            f"{listed(list(map(repr, source_names)))}"
        )
    return None if source_names == names else [source_names.index(name) for name in names]


class Choice:
    """Chooses the columns to read of files or of a table: those of X, and those to keep.

    Parameters
    ----------
    names : of the columns of X; None: all but those to keep, in their order
    keep : names of the columns to keep
    texts : columns that are texts in CSV, whatever they look like
    nulls : bool, texts of CSV such as NA are missing; else they are passed on as they are
    """

    def __init__(
        self,
        names: validation.Names,
        keep: Sequence[str],
        texts: Collection[str] = (),
        *,
        nulls: bool = False,
    ) -> None:
        self.features, self.keep, self._texts = list(names or ()), list(keep), texts
        self._nulls = nulls

    def __call__(self, schema: Any, who: str) -> ChosenColumns:
        """Return the columns to read of a schema.

        Raises
        ------
        ValueError
            If one is missing, or there are several of its name.
        """
        kept = names_in(self.keep, "keep", schema.names, who)
        for name in kept:
            if schema.names.count(name) > 1:
                raise ValueError(f"{who}: there are several columns of the name {name!r}")
        # Of all files; without names of features they are those of the first.
        self.features = self.features or [name for name in schema.names if name not in kept]
        validation.selected(schema.empty_table(), tuple(self.features), who)
        numbers = {*self.features} - {*self._texts}
        all_names = list(dict.fromkeys([*self.features, *kept]))
        return ChosenColumns(all_names, numbers, self._texts, nulls=self._nulls)


def named_batches(data: Any, choice: Choice, rows: int, who: str) -> Iterator[PredictBatch]:
    """Yield the rows of files or of a table, at most so many at a time."""
    table = imported(who).Table
    for batch, where in records_of(data, choice, rows, who):
        # A table: scikit-learn finds no names in a record batch.
        X = table.from_batches([batch.select(choice.features)])
        yield PredictBatch(X, where, batch.select(choice.keep))


def predicted(method: Callable[[Any], T], batch: PredictBatch, *, named: bool, who: str) -> T:
    """The result of a model's method for a batch; errors have a note that names the rows.

    Parameters
    ----------
    named : bool, the model knows names of columns
    """
    try:
        if named or not frames.is_frame(batch.rows):
            return method(batch.rows)
        # To an estimator that knows no names they would be a warning.
        return method(frames.numbers(batch.rows, None, who, "X"))
    except (TypeError, ValueError) as error:
        if batch.where:
            error.add_note(f"in {batch.where}")
        raise


def has_names(X: Any) -> bool:
    """Return True for files, tables and frames, whose columns have names."""
    return not is_source(X) and (paths_of(X) is not None or is_table(X))


def _is_in_memory(X: Any) -> bool:
    ours = type(X).__module__.split(".")[0] in FRAMES
    return ours and (hasattr(X, "iloc") or hasattr(X, "slice"))


def _slices(X: Any, rows: int) -> Iterator[Any]:
    """Yield so many rows at a time; what has no length is yielded whole: the model refuses it."""
    shape = getattr(X, "shape", None)
    n = shape[0] if shape else len(X) if hasattr(X, "__len__") else None
    if n is None:
        yield X
        return
    places = getattr(X, "iloc", X)
    for first in range(0, n, rows):
        yield places[first : first + rows]
