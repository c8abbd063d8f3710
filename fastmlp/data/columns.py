"""Columns of files and tables by their names, and the sources that are made of them."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from copy import copy
from pathlib import Path
from typing import Any, NamedTuple, Self

from numpy.typing import NDArray

from fastmlp.data import csv_files
from fastmlp.data.arrow import (
    ARROW_FILES,
    FILES,
    Place,
    expanded,
    imported,
    is_lazy,
    is_table,
    naming,
    no_table,
    paths_of,
    scanning,
)
from fastmlp.data.sources import Block
from fastmlp.validation import frames, hints
from fastmlp.validation.suggestions import count, suggestion

Array = NDArray[Any]
# Rows of a block of a table.
BLOCK_ROWS = 65536


def missing_in(column: Any) -> tuple[int, int]:
    """The number of missing values of an Arrow column, NaN too, and the row of the first."""
    import pyarrow.compute as compute

    missing = compute.is_null(column, nan_is_null=True)
    return int(compute.sum(missing).as_py() or 0), int(compute.index(missing, True).as_py())


def lacking(name: str, n: int, first: str) -> str:
    """The message of `n` missing targets; `first` is the place of the first."""
    lack = f"{count(n, 'missing value')}, the first in {first}"
    return f"the target {name!r} has {lack}; fill them in, or leave their rows out"


def require_target(column: Any, name: str, where: str) -> None:
    """Check that no target in an Arrow column is missing.

    Raises
    ------
    ValueError
        If one is; the message has how many, and the row, or the line, of the first.
    """
    n, first = missing_in(column)
    if n:
        place = where if isinstance(where, Place) else Place(where)
        raise ValueError(f"{where}: {lacking(name, n, place.row(first))}")


class NamedColumns(NamedTuple):
    """The columns that rows are made of, by their names.

    Attributes
    ----------
    target : one name, for y of shape (n_rows,), or several, for a column each
    weight : a name, or None
    """

    features: tuple[str, ...]
    target: str | tuple[str, ...]
    weight: str | None

    @property
    def of_targets(self) -> "NamedColumns":
        """The columns of y alone."""
        return self._replace(features=(), weight=None)

    @property
    def names(self) -> list[str]:
        """The names of all columns, each once."""
        weights = [] if self.weight is None else [self.weight]
        return list(dict.fromkeys([*self.features, *self.targets, *weights]))

    @property
    def targets(self) -> list[str]:
        """The names of the columns of y."""
        return [self.target] if isinstance(self.target, str) else list(self.target)

    @property
    def wanted(self) -> "ColumnNames":
        """The same columns, to be found in another table."""
        return ColumnNames(self.target, self.features, self.weight)

    def block(self, batch: Any, where: Place) -> Any:
        """Return the rows of a record batch; `where` is what errors call it.

        Raises
        ------
        TypeError, ValueError
            If a column is no column of numbers, or has nulls; labels of y may be texts.
        """
        for name in self.targets:
            require_target(batch.column(name), name, where)
        try:
            X = frames.numbers(batch.select(list(self.features)), None, where, "X")
        except (TypeError, ValueError) as error:
            raise type(error)(f"{error}{hints.A_TABLE}") from None
        y = _labels(batch.column(self.target)) if isinstance(self.target, str) else None
        if y is None:
            y = frames.numbers(batch.select(self.targets), None, where, "y")
            y = y[:, 0] if isinstance(self.target, str) else y
        if self.weight is None:
            return X, y
        return X, y, frames.numbers(batch.select([self.weight]), None, where, "sample_weight")[:, 0]


class NamedBlocks:
    """Blocks of columns that are known by their names."""

    _columns: NamedColumns | None

    @property
    def feature_names(self) -> tuple[str, ...] | None:
        """The names of the columns of X."""
        return None if self._columns is None else self._columns.features

    def _of_targets(self) -> Self:
        """Return the same blocks, whose X has no columns."""
        made = copy(self)
        made._columns = None if self._columns is None else self._columns.of_targets
        return made


class ColumnNames(NamedTuple):
    """Names of columns as they are given; without `features` all but the others are features."""

    target: Any
    features: Any = None
    weight: Any = None


def columns_of(schema: Any, column_names: ColumnNames, who: str) -> NamedColumns:
    """Return the columns of a table by their names.

    Raises
    ------
    TypeError, ValueError
        If they are no names, or there are no such columns, or several of a name.
    """
    (target, features, weight), known = column_names, list(schema.names)
    several = not isinstance(target, str)
    targets = names_in(target, "target", known, who)
    weights = [] if weight is None else names_in(weight, "weight", known, who)
    others = [name for name in known if name not in (*targets, *weights)]
    chosen = others if features is None else names_in(features, "features", known, who)
    if not chosen:
        raise ValueError(f"{who}: there are no columns beside target={target!r}")
    within = next((name for name in chosen if name in targets), None)
    if within is not None:
        raise ValueError(f"{who}: the column {within!r} is the target, and among the features")
    wanted_names = {*chosen, *targets, *weights}
    if twice := frames.repeated(name for name in known if name in wanted_names):
        raise ValueError(f"{who}: there are several columns of the name {twice}; {hints.RENAME}")
    return NamedColumns(tuple(chosen), tuple(targets) if several else target, weight)


def names_in(value: Any, what: str, known: list[str], who: str) -> list[str]:
    names = [value] if isinstance(value, str) else value
    if not isinstance(names, list | tuple) or not all(isinstance(one, str) for one in names):
        short = names is None or isinstance(names, str | int | float | list | tuple)
        shown = repr(value) if short else hints.a_kind(value)
        raise TypeError(f"{who}: {what} must be a column's name, or several, got {shown}")
    for name in names:
        if name not in known:
            shown = ", ".join(map(repr, known[:20])) + (", ..." if len(known) > 20 else "")
            raise ValueError(
                f"{who}: there is no column {name!r}{suggestion(name, known)} known: {shown}"
            )
    return list(names)


def _labels(column: Any) -> Array | None:
    """Return a column of texts as an array of them; None for another."""
    import pyarrow.types as kinds

    values = column.dictionary_decode() if kinds.is_dictionary(column.type) else column
    is_text = kinds.is_string(values.type) or kinds.is_large_string(values.type)
    if not (is_text or str(values.type) == "string_view"):
        return None
    texts: Array = values.to_numpy(zero_copy_only=False)
    return texts


class ParquetBlocks(NamedBlocks):
    """Row groups of Parquet files, or pieces of them, as blocks.

    Attributes
    ----------
    block_sizes : tuple of int
    """

    def __init__(
        self, paths: list[str], column_names: ColumnNames, rows: int | None, who: str
    ) -> None:
        imported(who)
        import pyarrow.parquet

        self._open = pyarrow.parquet.ParquetFile
        # Files, row groups, their pieces, and the numbers of these pieces' first rows.
        self._places: list[tuple[str, int, int, int]] = []
        self._metadata: dict[str, Any] = {}
        sizes = []
        self._rows = rows
        self._columns: NamedColumns | None = None
        for path in paths:
            with naming(path), self._open(path) as file:
                columns = columns_of(file.schema_arrow, column_names, f"{who}: {path}")
                # Of all files; without names of features they are those of the first.
                self._columns = self._columns or columns
                column_names = self._columns.wanted
                self._metadata[path] = metadata = file.metadata
            before = 0
            for group in range(metadata.num_row_groups):
                n = metadata.row_group(group).num_rows
                for piece, first in enumerate(range(0, n, rows or max(n, 1))):
                    self._places.append((path, group, piece, before + first))
                    sizes.append(min(rows or n, n - first))
                before += n
        self.block_sizes = tuple(sizes)

    def read(self, i: int) -> Block:
        """Return the rows of block i."""
        path, group, piece, first = self._places[i]
        columns, n = self._columns, self._rows or self.block_sizes[i]
        assert columns is not None
        # Threads of pyarrow would compete with those that train.
        file = self._open(path, metadata=self._metadata[path], pre_buffer=True)
        with naming(path), file:
            options = {"row_groups": [group], "columns": columns.names, "use_threads": False}
            batches = file.iter_batches(batch_size=n, **options)
            batch = next(batch for k, batch in enumerate(batches) if k == piece)
        return columns.block(batch, Place(f"row group {group} of {path}", first, f" of {path}"))


class ArrowFileBlocks(NamedBlocks):
    """Record batches of Arrow files, or pieces of them, as blocks.

    Attributes
    ----------
    block_sizes : tuple of int
    """

    def __init__(self, paths: list[str], column_names: ColumnNames, rows: int, who: str) -> None:
        self._ipc, self._source = imported(who).ipc, imported(who).OSFile
        # Files, batches, the first row in a batch, and in the file.
        self._places: list[tuple[str, int, int, int]] = []
        self._columns: NamedColumns | None = None
        sizes = []
        for path in paths:
            with self._opened(path, ()) as file:
                columns = columns_of(file.schema, column_names, f"{who}: {path}")
                self._columns = self._columns or columns
                column_names, before = self._columns.wanted, 0
                for k in range(file.num_record_batches):
                    n = file.get_batch(k).num_rows
                    for first in range(0, n, rows):
                        self._places.append((path, k, first, before + first))
                        sizes.append(min(rows, n - first))
                    before += n
        self.block_sizes = tuple(sizes)

    @contextmanager
    def _opened(self, path: str, names: Sequence[str]) -> Iterator[Any]:
        """Open a file to read some columns."""
        with naming(path), self._source(path) as source:
            schema = self._ipc.open_file(source).schema
            places = [schema.get_field_index(name) for name in names]
            yield self._ipc.open_file(
                source, options=self._ipc.IpcReadOptions(included_fields=places)
            )

    def read(self, i: int) -> Block:
        """Return the rows of block i."""
        (path, k, first, row), columns = self._places[i], self._columns
        assert columns is not None
        # Read, not mapped: of a map that is cut a fault ends the process.
        with self._opened(path, columns.names) as file:
            batch = file.get_batch(k).slice(first, self.block_sizes[i])
            return columns.block(batch, Place(f"batch {k} of {path}", row, f" of {path}"))


class TableBlocks(NamedBlocks):
    """Slices of a table in memory as blocks.

    Attributes
    ----------
    block_sizes : tuple of int
    """

    def __init__(self, batches: list[tuple[Any, Place]], columns: NamedColumns) -> None:
        self._batches, self._columns = batches, columns
        self.block_sizes = tuple(batch.num_rows for batch, _ in batches)

    def read(self, i: int) -> Block:
        """Return the rows of block i."""
        assert self._columns is not None
        return self._columns.block(*self._batches[i])


def table_blocks(table: Any, column_names: ColumnNames, rows: int, who: str) -> TableBlocks:
    """Return blocks of a table in memory: of pyarrow, pandas, polars, or alike."""
    arrow = imported(who)
    if type(table).__module__.startswith("pandas"):
        # With its index, a frame of pandas would have a column more.
        table = arrow.Table.from_pandas(table, preserve_index=False)
    elif not isinstance(table, arrow.Table):
        table = arrow.RecordBatchReader.from_stream(table).read_all()
    columns, batches, n = columns_of(table.schema, column_names, who), [], 0
    for batch in table.select(columns.names).to_batches(max_chunksize=rows):
        batches.append((batch, Place(f"rows {n} to {n + batch.num_rows - 1}", n)))
        n += batch.num_rows
    return TableBlocks(batches, columns)


class Passes(NamedBlocks):
    """Begins passes over batches.

    Parameters
    ----------
    batches : callable
        Yields record batches, what errors call each, and the columns.
    columns : NamedColumns, or None if they are known once the first batch has been read
    """

    def __init__(
        self,
        batches: Callable[[], Iterator[tuple[Any, Place, NamedColumns]]],
        columns: NamedColumns | None,
    ) -> None:
        self._batches, self._columns = batches, columns

    def __call__(self) -> Iterator[Block]:
        for batch, where, columns in self._batches():
            self._columns = self._columns or columns
            yield columns.block(batch, where)

    def _of_targets(self) -> "Passes":
        begin = self._batches
        return Passes(
            lambda: ((batch, where, all_.of_targets) for batch, where, all_ in begin()), None
        )


class ReadOnce:
    """An iterator over the blocks of a reader of Arrow."""

    instead = "pass reader.read_all(), which is a table in memory, its files,"

    def __init__(self, reader: Any, blocks: Iterator[Block]) -> None:
        self.kind, self._blocks = type(reader).__name__, blocks

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Block:
        return next(self._blocks)


def stream_of(table: Any, column_names: ColumnNames, who: str) -> Passes:
    """A source that reads a table anew for each pass, as a stream of batches."""
    arrow = imported(who)

    def begin() -> Iterator[tuple[Any, Place, NamedColumns]]:
        if hasattr(table, "scanner"):
            reader = scanning(table, BLOCK_ROWS)
        elif hasattr(table, "to_reader"):
            reader = table.to_reader()
        else:
            reader = arrow.RecordBatchReader.from_stream(table)
        # A database refuses a second query until the first is read to its end, or closed.
        try:
            columns, before = columns_of(reader.schema, column_names, who), 0
            for k, batch in enumerate(reader):
                for first in range(0, batch.num_rows, BLOCK_ROWS):
                    place = Place(f"batch {k}", before + first)
                    yield batch.slice(first, BLOCK_ROWS), place, columns
                before += batch.num_rows
        finally:
            reader.close()

    # Without a schema, as of a relation, names are known once the first batch has been read.
    schema = getattr(table, "schema", None)
    known = isinstance(getattr(schema, "names", None), list)
    return Passes(begin, columns_of(schema, column_names, who) if known else None)


def csv_stream(paths: list[str], column_names: ColumnNames, who: str) -> Passes:
    """A source that reads files of comma-separated values anew for each pass."""
    imported(who)
    with naming(paths[0]):
        schema = csv_files.schema_of(paths[0], who)
        first = columns_of(schema, column_names, f"{who}: {paths[0]}")

    def begin() -> Iterator[tuple[Any, Place, NamedColumns]]:
        for path in paths:
            with naming(path):
                schema_of_file = schema if path == paths[0] else csv_files.schema_of(path, who)
                columns = columns_of(schema_of_file, first.wanted, f"{who}: {path}")
                names, before = columns.names, 0
                chosen = csv_files.ChosenColumns(names, names, labels=columns.targets, nulls=True)
                for k, batch in enumerate(csv_files.batches_of(path, schema_of_file, chosen, who)):
                    if batch.num_rows:
                        text, of = f"batch {k} of {path}", f" of {path}"
                        yield batch, Place.in_csv(text, before, of), columns
                    before += batch.num_rows

    return Passes(begin, first)


def source_of(X: Any, target: Any, who: str, features: Sequence[str] | None = None) -> Any:
    """Return the source of files or tables, by the name of the target's column or columns.

    Without `features` all other columns are those of X.

    Raises
    ------
    TypeError, ValueError
        If they are neither, or of an unknown kind, or have no such columns.
    """
    column_names = ColumnNames(target, features)
    paths = paths_of(X)
    if paths is not None:
        return _of_paths(expanded(paths, who), column_names, who)
    if is_lazy(X) or not is_table(X):
        raise no_table(X, "target= goes with paths, a table or a frame;", who)
    in_memory = type(X).__module__.split(".")[0] in ("pandas", "polars")
    if in_memory or isinstance(X, imported(who).Table):
        return table_blocks(X, column_names, BLOCK_ROWS, who)
    begin = stream_of(X, column_names, who)
    return ReadOnce(X, begin()) if hasattr(X, "read_next_batch") else begin


def _of_paths(paths: list[str], column_names: ColumnNames, who: str) -> Any:
    by_kind: dict[str | None, str] = {}
    for path in paths:
        by_kind.setdefault(next((end for end in FILES if path.lower().endswith(end)), None), path)
    if len(by_kind) > 1 or None in by_kind:
        shown = ", ".join(Path(path).name or repr(path) for path in by_kind.values())
        raise ValueError(f"{who}: files must be of one kind of {', '.join(FILES)}, got {shown}")
    (end,) = by_kind
    if end == ".parquet":
        return ParquetBlocks(paths, column_names, None, who)
    if end in ARROW_FILES:
        return ArrowFileBlocks(paths, column_names, BLOCK_ROWS, who)
    return csv_stream(paths, column_names, who)
