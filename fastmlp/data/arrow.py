"""Record batches of files and tables. pyarrow is imported on use."""

import glob
import os
import re
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self, final

import numpy as np

from fastmlp.validation import messages, scalars
from fastmlp.validation.calls import assignable, explained
from fastmlp.validation.frames import is_lazy, is_series, is_table

Form = Literal["files", "lazy", "table", "series", "other"]
CSV_FILES = (".csv", ".csv.gz")
# pyarrow's errors of a value and of a row. With one thread it counts rows,
# including the header, without empty lines.
INVALID = re.compile(
    r"In CSV column #(\d+): (?:Row #(\d+): )?CSV conversion error to (.+?): (.*)",
    re.DOTALL,
)
TORN = re.compile(
    r"CSV parse error: (?:Row #(\d+): )?Expected (\d+) columns, got (\d+): (.*)",
    re.DOTALL,
)
VALUE_WORDS = {"double": "numbers", "int64": "whole numbers", "bool": "true or false"}
# Bytes of a Parquet column per read.
BUFFER_BYTES = 1 << 20
# Advice for objects of other libraries, by package.
INSTEAD_OF_LIBRARIES = {
    "dask": " of Dask: pass the files that X.to_parquet(folder) writes, or X.compute()",
    "duckdb": ': pass connection.sql("select ...")',
}
ARROW_FILES = (".arrow", ".feather", ".ipc")
FILE_ENDINGS = (".parquet", *ARROW_FILES, *CSV_FILES)
Batches = Iterator[Any]
ROWS = 65536


@final
@assignable("encoding")
class CSVFile(str):
    """The path of a CSV file that is not UTF-8, for any argument that takes a path.

    Parameters
    ----------
    path : path
        A file, or a pattern of files, that ends in .csv or .csv.gz.
    encoding : str, default "utf-8"
        One of Python's `standard encodings`_, such as "cp1252",
        which Excel writes in Western Europe, or "utf-16".

    Attributes
    ----------
    encoding : str

    Raises
    ------
    TypeError, ValueError
        If the encoding is unknown, or the path is not of a CSV file.

    Notes
    -----
    .. _standard encodings: https://docs.python.org/3/library/codecs.html#standard-encodings

    Examples
    --------
    >>> import os, tempfile
    >>> from fastmlp import MLP, CSVFile
    >>> path = os.path.join(tempfile.mkdtemp(), "rows.csv")
    >>> with open(path, "w", encoding="cp1252") as file:
    ...     _ = file.write("höhe,y\\n1.5,0\\n2.5,1\\n")
    >>> net = MLP((1, 4, 1), seed=0)
    >>> _ = net.fit(CSVFile(path, encoding="cp1252"), target="y", epochs=1)
    >>> net.feature_names
    ('höhe',)
    """

    encoding: str

    @explained
    def __new__(cls, path: str | os.PathLike[str], encoding: str = "utf-8") -> Self:
        who = "CSVFile"
        scalars.path(who, "path", path)
        text = os.fspath(path)
        if not text.lower().endswith(CSV_FILES):
            raise ValueError(
                f"{who}: the path must end in {' or '.join(CSV_FILES)}, got {text!r}"
            )
        made = super().__new__(cls, text)
        made.encoding = _known(encoding, who)
        return made

    def __repr__(self) -> str:
        return f"CSVFile({str(self)!r}, encoding={self.encoding!r})"


def _known(encoding: str, who: str) -> str:
    if not isinstance(encoding, str):
        raise TypeError(
            f"{who}: encoding must be a name, such as 'cp1252', got {encoding!r}"
        )
    try:
        "a".encode(encoding)
    except (LookupError, ValueError):
        some = "some that are known: cp1252, latin-1, utf-16, gb18030, shift_jis"
        raise ValueError(f"{who}: there is no encoding {encoding!r}; {some}") from None
    return encoding


def encoding_of(path: str) -> str:
    return getattr(path, "encoding", "utf-8")


def not_text(encoding: str, where: str, reason: str = "") -> ValueError:
    return ValueError(
        f"{where}: the text is not {encoding}{reason}: give its encoding, such as "
        "fastmlp.CSVFile(path, encoding='cp1252'), or --encoding cp1252 of the command"
    )


class ChosenColumns(NamedTuple):
    """The columns to read of a file or table.

    Attributes
    ----------
    names : all columns to read
    numbers : names; integers in the first megabyte may precede fractions
    texts : columns read as texts, whatever the first megabyte looks like
    labels : names among `numbers`; batches without fractions have integers
    nulls : True if empty texts, NA and alike are missing in texts, as in numbers
    """

    names: list[str]
    numbers: Collection[str] = ()
    texts: Collection[str] = ()
    labels: Collection[str] = ()
    nulls: bool = False


# The columns to read of a schema. The text is the caller's name in errors.
Choose = Callable[[Any, str], ChosenColumns]


class Place(str):
    """The name of some rows in errors, such as "rows 0 to 99 of a.csv".

    Attributes
    ----------
    first : number of the first row, from 0; in CSV the line, from 1
    unit : "row" or "line"
    """

    first: int
    unit: str

    def __new__(cls, text: str, first: int = 0, unit: str = "row") -> Self:
        made = super().__new__(cls, text)
        made.first = first
        made.unit = unit
        return made

    def by(self, who: str) -> "Place":
        return Place(f"{who}: {self}", self.first, self.unit)

    def row(self, i: int) -> str:
        return f"{self.unit} {self.first + i}"


def paths_of(X: Any) -> list[str] | None:
    paths = [X] if isinstance(X, str | os.PathLike) else X
    if not isinstance(paths, list | tuple) or not paths:
        return None
    are_paths = all(isinstance(one, str | os.PathLike) for one in paths)
    return [os.fspath(one) for one in paths] if are_paths else None


def ending_of(path: str) -> str | None:
    return next((end for end in FILE_ENDINGS if path.lower().endswith(end)), None)


def are_files(X: Any) -> bool:
    """True for a path, or a list of paths of files or folders."""
    paths = paths_of(X)
    if paths is None or not isinstance(X, list | tuple):
        return paths is not None
    return all(
        path.lower().endswith(FILE_ENDINGS) or os.path.isdir(path) for path in paths
    )


def form_of(X: Any) -> Form:
    """What X is to a reader of columns: other objects are arrays, or rows of a list."""
    if are_files(X):
        return "files"
    if isinstance(X, list | tuple | np.ndarray):
        return "other"
    # An attribute that a frame of pandas lacks takes 3 us.
    if hasattr(X, "iloc"):
        return "table" if hasattr(X, "columns") else "series"
    if is_lazy(X):
        return "lazy"
    if is_table(X):
        return "table"
    return "series" if is_series(X) else "other"


def expanded(paths: Sequence[str], who: str) -> list[str]:
    return [file for path in paths for file in _expanded(path, who)]


def _expanded(path: str, who: str) -> list[str]:
    files = [path]
    if os.path.isdir(path):
        # Spark and others write files such as _SUCCESS.
        names = [
            name for name in sorted(os.listdir(path)) if not name.startswith((".", "_"))
        ]
        files = [
            os.path.join(path, name)
            for name in names
            if name.lower().endswith(FILE_ENDINGS)
        ]
        if not files:
            raise FileNotFoundError(
                f"{who}: the folder {path!r} has no files of "
                f"{', '.join(FILE_ENDINGS)}; for folders in it pass a pattern or a "
                "pyarrow.dataset.dataset"
            )
    elif not os.path.exists(path):
        if glob.has_magic(path):
            files = sorted(glob.glob(path))
        else:
            files = []
        if not files:
            raise FileNotFoundError(f"{who}: there is no file {path!r}")
    encoding = encoding_of(path)
    if encoding == "utf-8":
        return files
    return [CSVFile(one, encoding) for one in files]


def no_table(X: object, expected: str, who: str) -> TypeError:
    if is_lazy(X):
        return TypeError(
            f"{who}: a LazyFrame has no rows yet: pass X.collect(), or its files"
        )
    return TypeError(f"{who}: {expected} got {type(X).__name__}{instead_of(X)}")


def instead_of(X: object) -> str:
    if is_table(X):
        return ""
    return INSTEAD_OF_LIBRARIES.get(type(X).__module__.split(".")[0].lstrip("_"), "")


@contextmanager
def naming(path: str) -> Iterator[None]:
    """A context whose errors get a note with the path."""
    try:
        yield
    except (ValueError, OSError) as error:
        error.add_note(f"in {path}")
        raise


def scanning(dataset: Any, rows: int, columns: Any) -> Any:
    """A reader of a data set that reads one batch ahead."""
    import pyarrow.dataset

    # The default reads 16 batches of 4 files ahead, and holds the bytes of whole files.
    limits = {"batch_readahead": 1, "fragment_readahead": 1}
    if isinstance(getattr(dataset, "format", None), pyarrow.dataset.ParquetFileFormat):
        parquet: Any = pyarrow.dataset.ParquetFragmentScanOptions
        options = parquet(
            pre_buffer=False, use_buffered_stream=True, buffer_size=BUFFER_BYTES
        )
        limits["fragment_scan_options"] = options
    scanner = dataset.scanner(
        columns=columns, batch_size=rows, use_threads=False, **limits
    )
    return scanner.to_reader()


def records_of(
    X: Any, choose: Choose, rows: int, who: str
) -> Iterator[tuple[Any, Place]]:
    """Yield record batches of at most `rows` rows,
    with their places, one in memory at a time.

    A table without rows has one empty batch. X is a path or list of paths,
    table, frame, reader, relation or data set.
    """
    messages.imported("pyarrow", who)
    paths = paths_of(X)
    if paths is None:
        yield from _cut(_of_table(X, choose, rows, who), "", rows)
        return
    for path in expanded(paths, who):
        with naming(path):
            yield from _cut(
                _reader_of(path, who)(path, choose, rows, who), f" of {path}", rows
            )


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
    """A reader of record batches, for a data set with batches of `rows` rows."""
    import pyarrow

    if hasattr(X, "scanner"):
        return scanning(X, rows, columns)
    if type(X).__module__.startswith("pandas"):
        # The index of a pandas frame would be one more column.
        return pyarrow.Table.from_pandas(X, preserve_index=False).to_reader()
    if isinstance(X, pyarrow.RecordBatchReader):
        return X  # its stream would lose the type of an error
    if hasattr(X, "to_reader"):
        return X.to_reader()
    return pyarrow.RecordBatchReader.from_stream(X)


def _of_table(X: Any, choose: Choose, rows: int, who: str) -> Batches:
    import pyarrow

    if is_lazy(X) or not is_table(X):
        raise no_table(X, "expected files, a table or a frame,", who)
    if hasattr(X, "scanner"):
        columns = choose(X.schema, who).names
    else:
        columns = None
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
    if (end := ending_of(path)) is None:
        raise ValueError(
            f"{who}: files must be {', '.join(FILE_ENDINGS)}, got {Path(path).name}"
        )
    if end == ".parquet":
        return _of_parquet
    if end in ARROW_FILES:
        return _of_arrow
    return _of_csv


def _of_parquet(path: str, choose: Choose, rows: int, who: str) -> Batches:
    import pyarrow.parquet

    # `pre_buffer` would hold the bytes of all row groups to the end.
    # A buffer reads pieces of a row group: a million rows 230 -> 136 MB.
    with pyarrow.parquet.ParquetFile(
        path, pre_buffer=False, buffer_size=BUFFER_BYTES
    ) as file:
        names = choose(file.schema_arrow, who).names
        yield from file.iter_batches(batch_size=rows, columns=names)
        yield pyarrow.RecordBatch.from_pylist([], schema=file.schema_arrow).select(
            names
        )


@contextmanager
def arrow_file(
    path: str, choose: Callable[[Any], list[str]]
) -> Iterator[tuple[Any, list[str]]]:
    """Open an Arrow file to read the chosen columns, and return their names."""
    import pyarrow

    # A memory map of a truncated file would end the process, so the file is read.
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
    schema = csv_schema(path, who)
    yield from _csv_batches(path, schema, choose(schema, who), who)


def csv_schema(path: str, who: str) -> Any:
    """Columns of a file, with types by the first megabyte."""
    import pyarrow.csv
    import pyarrow.types as kinds

    with _located([], path, who), pyarrow.csv.open_csv(path, **_read(path)) as reader:
        # Bytes that are not UTF-8 become an error with a line when read as text.
        columns = [
            (
                field.name,
                pyarrow.string() if kinds.is_binary(field.type) else field.type,
            )
            for field in reader.schema
        ]
    one = columns[0][0] if len(columns) == 1 else ""
    if mark := next((mark for mark in ";\t|" if mark in one), None):
        raise ValueError(
            f"{who}: values are separated by {mark!r}, and must be by commas"
        )
    return pyarrow.schema(columns)


def _csv_batches(
    path: str, schema: Any, chosen: ChosenColumns, who: str
) -> Iterator[Any]:
    """Yield record batches of the chosen columns, and at the end an empty one.

    Errors of later values or rows name the line.
    `schema` is the result of `csv_schema`.
    """
    import pyarrow.csv
    import pyarrow.types as kinds

    kept = {name: schema.field(name).type for name in chosen.names}
    integers = {name for name, kind in kept.items() if kinds.is_integer(kind)}
    empty = [name for name, kind in kept.items() if kinds.is_null(kind)]
    # A column without a value in the first megabyte is a number if it is an input, else
    # a text.
    types = dict.fromkeys(empty, pyarrow.string())
    guessed = {*integers, *empty} & {*chosen.numbers}
    types |= dict.fromkeys(guessed, pyarrow.float64())
    types = kept | types | dict.fromkeys(chosen.texts, pyarrow.string())
    options = _read(path)
    options["convert_options"] = pyarrow.csv.ConvertOptions(
        include_columns=chosen.names,
        column_types=types,
        strings_can_be_null=chosen.nulls,
    )
    whole = integers & {*chosen.labels}
    with (
        _located(schema.names, path, who),
        pyarrow.csv.open_csv(path, **options) as reader,
    ):
        for batch in reader:
            yield _with_integers(batch, whole) if whole else batch
    yield pyarrow.RecordBatch.from_pylist([], schema=pyarrow.schema(types))


def _read(path: str) -> dict[str, Any]:
    import pyarrow.csv

    # Threads do not make it faster, and lose the line of a wrong value.
    options = pyarrow.csv.ReadOptions(use_threads=False, encoding=encoding_of(path))
    return {"read_options": options}


def _with_integers(batch: Any, names: Collection[str]) -> Any:
    import pyarrow

    columns = dict(zip(batch.schema.names, batch.columns, strict=True))
    for name in names:
        with suppress(pyarrow.ArrowInvalid):
            columns[name] = columns[name].cast("int64")
    return pyarrow.RecordBatch.from_pydict(columns)


@contextmanager
def _located(names: list[str], path: str, who: str) -> Iterator[None]:
    """A context whose errors name line and column, and advise."""
    try:
        yield
    except UnicodeError as error:
        raise not_text(encoding_of(path), who, f" ({error})") from None
    except ValueError as error:
        if match := INVALID.match(str(error)):
            place, line, kind, what = match.groups()
            where = f"{who}: {_line(line)}column {names[int(place)]!r}"
            if what.startswith("invalid UTF8"):
                raise not_text("utf-8", where) from None
            expected = VALUE_WORDS.get(kind, f"of the type {kind}")
            raise ValueError(
                f"{where}: {what}, but its values are {expected} in the first "
                "megabyte: correct the value, leave the column out, or convert the "
                "file to Parquet, whose columns have types"
            ) from None
        if match := TORN.match(str(error)):
            line, expected, got, row = match.groups()
            if "\0" in row:
                raise not_text("utf-8", who, ", but perhaps utf-16") from None
            few = "is the file cut, or a comma missing?"
            if int(got) < int(expected):
                what = few
            else:
                what = 'a value with a comma needs quotes: "1,5"'
            raise ValueError(
                f"{who}: {_line(line)}{got} values for the {expected} columns of the "
                f"header: {row!r}; {what}"
            ) from None
        raise


def _line(number: str | None) -> str:
    return f"line {number}, " if number else ""
