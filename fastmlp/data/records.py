"""Record batches of Arrow of chosen columns, one at a time: of files, tables and streams."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from fastmlp.data import csv_files
from fastmlp.data.arrow import (
    ARROW_FILES,
    BUFFER_BYTES,
    FILES,
    expanded,
    imported,
    is_lazy,
    is_table,
    naming,
    no_table,
    paths_of,
    scanning,
)
from fastmlp.data.encodings import CSV_FILES
from fastmlp.data.places import Place

# Returns the columns to read, of a schema; the text is what errors call the table.
Choose = Callable[[Any, str], csv_files.Chosen]
Batches = Iterator[Any]


def records_of(given: Any, choose: Choose, rows: int, who: str) -> Iterator[tuple[Any, Place]]:
    """Yield record batches of at most so many rows, and what errors call each.

    One batch is in memory at a time. A table without rows has one batch, without rows.

    Parameters
    ----------
    given : path or list of paths, table, frame, reader, relation or data set

    Raises
    ------
    TypeError, ValueError, OSError
        If it is of an unknown kind, or cannot be read.
    ImportError
        If pyarrow is not installed.
    """
    imported(who)
    paths = paths_of(given)
    if paths is None:
        yield from _cut(_of_table(given, choose, rows, who), "", rows)
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


def _of_table(given: Any, choose: Choose, rows: int, who: str) -> Batches:
    arrow = imported(who)
    if is_lazy(given) or not is_table(given):
        raise no_table(given, "expected files, a table or a frame,", who)
    if hasattr(given, "scanner"):
        names = choose(given.schema, who).names
        reader = scanning(given, rows, names)
    elif type(given).__module__.startswith("pandas"):
        # With its index, a frame of pandas would have a column more.
        reader = arrow.Table.from_pandas(given, preserve_index=False).to_reader()
    elif isinstance(given, arrow.RecordBatchReader):
        reader = given  # by its stream an error would lose its type
    elif hasattr(given, "to_reader"):
        reader = given.to_reader()
    else:
        reader = arrow.RecordBatchReader.from_stream(given)
    names = choose(reader.schema, who).names
    # A database refuses a second query until the first is read to its end, or closed.
    try:
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
