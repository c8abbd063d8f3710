"""Record batches of files and tables. pyarrow is imported on use."""

import glob
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

from fastmlp.data import csv_files
from fastmlp.data.csv_files import CSV_FILES, CSVFile, encoding_of
from fastmlp.validation.suggestions import needs

# Bytes of a Parquet column per read.
BUFFER_BYTES = 1 << 20
# Advice for objects of other libraries, by package.
INSTEAD = {
    "dask": " of Dask: pass the files that X.to_parquet(folder) writes, or X.compute()",
    "duckdb": ': pass connection.sql("select ...")',
}
ARROW_FILES = (".arrow", ".feather", ".ipc")
FILES = (".parquet", *ARROW_FILES, *CSV_FILES)
# Columns to read of a schema. The text is the name of the caller in errors.
Choose = Callable[[Any, str], csv_files.ChosenColumns]
Batches = Iterator[Any]
# Default number of rows of a batch.
ROWS = 65536


class Place(str):
    """The name of some rows in errors, such as "rows 0 to 99 of a.csv".

    Attributes
    ----------
    first : the number of the first row, from 0; in CSV the line, from 1
    unit : "row" or "line"
    """

    first: int
    unit: str

    def __new__(cls, text: str, first: int = 0, unit: str = "row") -> Self:
        made = super().__new__(cls, text)
        made.first, made.unit = first, unit
        return made

    def by(self, who: str) -> "Place":
        """Return the place after the caller's name."""
        return Place(f"{who}: {self}", self.first, self.unit)

    def row(self, i: int) -> str:
        """Return the name of row i in errors."""
        return f"{self.unit} {self.first + i}"


def imported(who: str) -> Any:
    """Import pyarrow, or raise an ImportError that names it."""
    try:
        import pyarrow
    except ImportError as error:
        raise ImportError(needs(who, "pyarrow")) from error
    return pyarrow


def is_table(X: object) -> bool:
    """Return True for a table, frame, relation or reader that Arrow can read."""
    return any(hasattr(X, one) for one in ("__arrow_c_stream__", "scanner", "to_reader"))


def is_lazy(X: object) -> bool:
    """Return True for a LazyFrame of polars."""
    return hasattr(X, "collect") and hasattr(X, "collect_schema")


def paths_of(X: Any) -> list[str] | None:
    """Return paths as a list, and None for anything else."""
    paths = [X] if isinstance(X, str | os.PathLike) else X
    if not isinstance(paths, list | tuple) or not paths:
        return None
    are_paths = all(isinstance(one, str | os.PathLike) for one in paths)
    return [os.fspath(one) for one in paths] if are_paths else None


def expanded(paths: Sequence[str], who: str) -> list[str]:
    """Return the files of patterns and folders, sorted. Other paths stay."""
    return [file for path in paths for file in _expanded(path, who)]


def _expanded(path: str, who: str) -> list[str]:
    files = [path]
    if os.path.isdir(path):
        # Spark and others write files such as _SUCCESS.
        names = [name for name in sorted(os.listdir(path)) if not name.startswith((".", "_"))]
        files = [os.path.join(path, name) for name in names if name.lower().endswith(FILES)]
        if not files:
            lack = f"has no files of {', '.join(FILES)}; for folders in it pass a pattern or a "
            raise FileNotFoundError(f"{who}: the folder {path!r} {lack}pyarrow.dataset.dataset")
    elif not os.path.exists(path):
        files = sorted(glob.glob(path)) if glob.has_magic(path) else []
        if not files:
            raise FileNotFoundError(f"{who}: there is no file {path!r}")
    encoding = encoding_of(path)
    return files if encoding == "utf-8" else [CSVFile(one, encoding) for one in files]


def no_table(X: object, expected: str, who: str) -> TypeError:
    """Return the error for an object that is not a table, with advice."""
    if is_lazy(X):
        return TypeError(f"{who}: a LazyFrame has no rows yet: pass X.collect(), or its files")
    return TypeError(f"{who}: {expected} got {type(X).__name__}{instead_of(X)}")


def instead_of(X: object) -> str:
    """Return advice for an object of another library, "" for a table."""
    return "" if is_table(X) else INSTEAD.get(type(X).__module__.split(".")[0].lstrip("_"), "")


@contextmanager
def naming(path: str) -> Iterator[None]:
    """Return a context whose errors get a note with the path."""
    try:
        yield
    except (ValueError, OSError) as error:
        error.add_note(f"in {path}")
        raise


def scanning(dataset: Any, rows: int, columns: Any) -> Any:
    """Return a reader of a data set that reads one batch ahead."""
    import pyarrow.dataset

    # The default reads 16 batches of 4 files ahead, and holds the bytes of whole files.
    limits = {"batch_readahead": 1, "fragment_readahead": 1}
    if isinstance(getattr(dataset, "format", None), pyarrow.dataset.ParquetFileFormat):
        parquet: Any = pyarrow.dataset.ParquetFragmentScanOptions
        options = parquet(pre_buffer=False, use_buffered_stream=True, buffer_size=BUFFER_BYTES)
        limits["fragment_scan_options"] = options
    scanner = dataset.scanner(columns=columns, batch_size=rows, use_threads=False, **limits)
    return scanner.to_reader()


def records_of(X: Any, choose: Choose, rows: int, who: str) -> Iterator[tuple[Any, Place]]:
    """Yield record batches of at most `rows` rows, with their places.

    One batch is in memory at a time. A table without rows has one batch, without rows.

    Parameters
    ----------
    X : path or list of paths, table, frame, reader, relation or data set
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
    n = 0
    # Line 1 of CSV is the header.
    unit, before = ("line", 2) if of.lower().endswith(CSV_FILES) else ("row", 0)
    for batch in batches:
        for first in range(0, max(batch.num_rows, 1), rows):
            part = batch.slice(first, rows)
            if part.num_rows or not n:
                text = f"rows {n} to {n + max(part.num_rows, 1) - 1}{of}"
                yield part, Place(text, n + before, unit)
            n += part.num_rows


def reader_of_table(X: Any, rows: int, columns: Sequence[str] | None = None) -> Any:
    """Return a reader of record batches. A data set has batches of `rows` rows."""
    import pyarrow

    if hasattr(X, "scanner"):
        return scanning(X, rows, columns)
    if type(X).__module__.startswith("pandas"):
        # The index of a pandas frame would be one more column.
        return pyarrow.Table.from_pandas(X, preserve_index=False).to_reader()
    if isinstance(X, pyarrow.RecordBatchReader):
        return X  # its stream would lose the type of an error
    return X.to_reader() if hasattr(X, "to_reader") else pyarrow.RecordBatchReader.from_stream(X)


def _of_table(X: Any, choose: Choose, rows: int, who: str) -> Batches:
    import pyarrow

    if is_lazy(X) or not is_table(X):
        raise no_table(X, "expected files, a table or a frame,", who)
    columns = choose(X.schema, who).names if hasattr(X, "scanner") else None
    reader = reader_of_table(X, rows, columns)
    # A database refuses a second query until the first is read to its end, or closed.
    try:
        names = columns or choose(reader.schema, who).names
        for batch in reader:
            yield batch.select(names)
        yield pyarrow.RecordBatch.from_pylist([], schema=reader.schema).select(names)
    finally:
        reader.close()


def _reader_of(path: str, who: str) -> Callable[[str, Choose, int, str], Batches]:
    end = next((end for end in FILES if path.lower().endswith(end)), None)
    if end is None:
        raise ValueError(f"{who}: files must be {', '.join(FILES)}, got {Path(path).name}")
    return _of_parquet if end == ".parquet" else _of_arrow if end in ARROW_FILES else _of_csv


def _of_parquet(path: str, choose: Choose, rows: int, who: str) -> Batches:
    import pyarrow.parquet

    # `pre_buffer` would hold the bytes of all row groups to the end. A buffer reads pieces of a
    # row group: a million rows 230 -> 136 MB.
    with pyarrow.parquet.ParquetFile(path, pre_buffer=False, buffer_size=BUFFER_BYTES) as file:
        names = choose(file.schema_arrow, who).names
        yield from file.iter_batches(batch_size=rows, columns=names)
        yield pyarrow.RecordBatch.from_pylist([], schema=file.schema_arrow).select(names)


@contextmanager
def arrow_file(path: str, choose: Callable[[Any], list[str]]) -> Iterator[tuple[Any, list[str]]]:
    """Open an Arrow file to read the chosen columns, and return their names too."""
    import pyarrow

    # A map of a file that is cut would end the process by a fault, so the file is read.
    with pyarrow.OSFile(path) as source:
        schema = pyarrow.ipc.open_file(source).schema
        names = choose(schema)
        places = [schema.get_field_index(name) for name in names]
        options = pyarrow.ipc.IpcReadOptions(included_fields=places)
        yield pyarrow.ipc.open_file(source, options=options), names


def _of_arrow(path: str, choose: Choose, rows: int, who: str) -> Batches:
    import pyarrow

    with arrow_file(path, lambda schema: choose(schema, who).names) as (file, names):
        for k in range(file.num_record_batches):
            yield file.get_batch(k).select(names)
        yield pyarrow.RecordBatch.from_pylist([], schema=file.schema).select(names)


def _of_csv(path: str, choose: Choose, rows: int, who: str) -> Batches:
    schema = csv_files.schema_of(path, who)
    yield from csv_files.batches_of(path, schema, choose(schema, who), who)
