"""Rows of Arrow tables and streams, and of files that pyarrow reads; pyarrow is imported on use."""

import glob
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

from fastmlp.data import csv_files
from fastmlp.data.columns import ColumnNames, NamedBlocks, NamedColumns, Place, columns_of
from fastmlp.data.csv_files import CSV_FILES, CSVFile, encoding_of
from fastmlp.data.sources import Block
from fastmlp.validation.packages import needs

# Rows of a block of a table.
BLOCK_ROWS = 65536
# Bytes of a column of Parquet that are read at a time.
BUFFER_BYTES = 1 << 20
# What to pass instead of others' objects, by the names of their packages.
INSTEAD = {
    "dask": " of Dask: pass the files that X.to_parquet(folder) writes, or X.compute()",
    "duckdb": ': pass connection.sql("select ...")',
}
ARROW_FILES = (".arrow", ".feather", ".ipc")
FILES = (".parquet", *ARROW_FILES, *CSV_FILES)


def imported(who: str) -> Any:
    """Import pyarrow.

    Raises
    ------
    ImportError
        If it is not installed.
    """
    try:
        import pyarrow
    except ImportError as error:
        raise ImportError(needs(who, "pyarrow")) from error
    return pyarrow


def is_table(X: object) -> bool:
    """Return True if it is a table, a frame, a relation or a reader, from which Arrow can read."""
    return any(hasattr(X, one) for one in ("__arrow_c_stream__", "scanner", "to_reader"))


def is_lazy(X: object) -> bool:
    """Return True for a LazyFrame of polars."""
    return hasattr(X, "collect") and hasattr(X, "collect_schema")


def paths_of(X: Any) -> list[str] | None:
    """Return paths as a list; None if it is neither a path nor a list of paths."""
    paths = [X] if isinstance(X, str | os.PathLike) else X
    if not isinstance(paths, list | tuple) or not paths:
        return None
    return [os.fspath(one) for one in paths] if all(map(_is_path, paths)) else None


def expanded(paths: Sequence[str], who: str) -> list[str]:
    """Return the files of patterns, or in folders, sorted; paths of files as they are.

    Raises
    ------
    FileNotFoundError
        If there are none.
    """
    return [file for path in paths for file in _expanded(path, who)]


def _expanded(path: str, who: str) -> list[str]:
    files = [path]
    if os.path.isdir(path):
        # Names such as _SUCCESS are of those who write folders.
        names = [name for name in sorted(os.listdir(path)) if not name.startswith((".", "_"))]
        files = [os.path.join(path, name) for name in names if name.lower().endswith(FILES)]
        if not files:
            lack = f"has no files of {', '.join(FILES)}; of folders in it pass a pattern, or a "
            raise FileNotFoundError(f"{who}: the folder {path!r} {lack}pyarrow.dataset.dataset")
    elif not os.path.exists(path):
        files = sorted(glob.glob(path)) if glob.has_magic(path) else []
        if not files:
            raise FileNotFoundError(f"{who}: there is no file {path!r}")
    encoding = encoding_of(path)
    return files if encoding == "utf-8" else [CSVFile(one, encoding) for one in files]


def no_table(X: object, expected: str, who: str) -> TypeError:
    """The error for an object that is no table, with advice."""
    if is_lazy(X):
        return TypeError(f"{who}: a LazyFrame has no rows yet: pass X.collect(), or its files")
    return TypeError(f"{who}: {expected} got {type(X).__name__}{instead_of(X)}")


def instead_of(X: object) -> str:
    """The advice for an object of another library; "" for a table and for any other object."""
    return "" if is_table(X) else INSTEAD.get(type(X).__module__.split(".")[0].lstrip("_"), "")


def _is_path(value: object) -> bool:
    return isinstance(value, str | os.PathLike)


@contextmanager
def naming(path: str) -> Iterator[None]:
    """Return a context whose errors have a note that names the file."""
    try:
        yield
    except (ValueError, OSError) as error:
        error.add_note(f"in {path}")
        raise


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


def scanning(dataset: Any, rows: int, columns: Any = None) -> Any:
    """Return a reader of a data set's rows that does not read far ahead."""
    import pyarrow.dataset

    # Without limits it reads 16 batches ahead, of 4 files, and holds the bytes of whole files.
    limits = {"batch_readahead": 1, "fragment_readahead": 1}
    if isinstance(getattr(dataset, "format", None), pyarrow.dataset.ParquetFileFormat):
        parquet: Any = pyarrow.dataset.ParquetFragmentScanOptions
        options = parquet(pre_buffer=False, use_buffered_stream=True, buffer_size=BUFFER_BYTES)
        limits["fragment_scan_options"] = options
    scanner = dataset.scanner(columns=columns, batch_size=rows, use_threads=False, **limits)
    return scanner.to_reader()


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
