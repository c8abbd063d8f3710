"""Files of comma-separated values as record batches of Arrow, and the encodings of texts."""

import codecs
import csv
import gzip
import os
import re
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from typing import IO, Any, NamedTuple, Self, final

from fastmlp.validation import scalars
from fastmlp.validation.calls import explained

CSV_FILES = (".csv", ".csv.gz")
# UTF-32 before UTF-16, whose mark is its beginning.
MARKS = {
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
# What pyarrow says of a value, and of a row. By one thread it counts the rows, the header too, but
# not empty lines.
INVALID = re.compile(
    r"In CSV column #(\d+): (?:Row #(\d+): )?CSV conversion error to (.+?): (.*)", re.DOTALL
)
TORN = re.compile(
    r"CSV parse error: (?:Row #(\d+): )?Expected (\d+) columns, got (\d+): (.*)", re.DOTALL
)
# The kind of value, and what it says of it, where text is not UTF-8.
NOT_UTF8 = "string", "invalid UTF8 data"
VALUES = {"double": "numbers", "int64": "whole numbers", "bool": "true or false"}


@final
class CSVFile(str):
    """The path of a CSV file whose text is not UTF-8, wherever a path is taken.

    Parameters
    ----------
    path : path
        Of a file, or a pattern of them, that ends in .csv or .csv.gz.
    encoding : str, default "utf-8"
        One of Python's `standard encodings`_, such as "cp1252", which Excel writes in Western
        Europe, or "utf-16".

    Attributes
    ----------
    encoding : str

    Raises
    ------
    TypeError, ValueError
        If there is no such encoding, or it is not the path of a CSV file.

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
            raise ValueError(f"{who}: the path must end in {' or '.join(CSV_FILES)}, got {text!r}")
        made = super().__new__(cls, text)
        made.encoding = known(encoding, who)
        return made

    def __repr__(self) -> str:
        return f"CSVFile({str(self)!r}, encoding={self.encoding!r})"


def known(encoding: str, who: str) -> str:
    """Check that there is an encoding of text of this name.

    Raises
    ------
    TypeError, ValueError
        If there is none.
    """
    if not isinstance(encoding, str):
        raise TypeError(f"{who}: encoding must be a name, such as 'cp1252', got {encoding!r}")
    try:
        "a".encode(encoding)
    except (LookupError, ValueError):
        some = "some that are known: cp1252, latin-1, utf-16, gb18030, shift_jis"
        raise ValueError(f"{who}: there is no encoding {encoding!r}; {some}") from None
    return encoding


def encoding_of(path: str) -> str:
    """Return the encoding of a CSV file."""
    return getattr(path, "encoding", "utf-8")


def require_no_mark(path: str, who: str) -> None:
    """Check that a file that is read as UTF-8 does not begin as one of UTF-16 or UTF-32 does.

    Raises
    ------
    ValueError
        If it does.
    """
    if encoding_of(path) != "utf-8":
        return
    with _opened(path) as file:
        head = file.read(4)
    for mark, name in MARKS.items():
        if head.startswith(mark):
            raise ValueError(f"{who}: the file is not utf-8 but {name}: {_advice(name)}")


def undecodable(path: str, who: str, columns: Collection[str] = ()) -> ValueError:
    """Return the error of a file that is no text in its encoding, with the first such value.

    Parameters
    ----------
    columns : names of those to look at; none: all, and the header
    """
    encoding = encoding_of(path)
    for line, name, value in _faults(path, encoding):
        if not columns or name in columns:
            column = f"column {name!r}" if line > 1 else "the header"
            return _error(value, encoding, f"{who}: line {line}, {column}: ")
    where = f"column {next(iter(columns))!r}: " if columns else ""
    return ValueError(f"{who}: {where}the text is not {encoding}: {_advice(None)}")


def require_text(table: Any, who: str) -> None:
    """Check that a table of CSV that was read as UTF-8 has no column of other bytes.

    Raises
    ------
    ValueError
        If it has one.
    """
    import pyarrow.types as kinds

    for name, column in zip(table.column_names, table.columns, strict=True):
        if kinds.is_binary(column.type):
            value = next(one for one in column.to_pylist() if one and not _is_text(one, "utf-8"))
            raise _error(value, "utf-8", f"{who}: column {name!r}: ")


def _faults(path: str, encoding: str) -> Iterator[tuple[int, str, bytes]]:
    """Yield the line, the column and the bytes of each value that is not in an encoding."""
    if not _is_text(b",", encoding):
        return
    names: list[str] = []
    with _opened(path) as file:
        for number, line in enumerate(file, 1):
            if names and _is_text(line, encoding):
                continue
            # Of bytes as latin-1 has them, whatever they are, csv finds the values.
            values = next(csv.reader([line.decode("latin-1")]), [])
            encoded = [value.encode("latin-1") for value in values]
            names = names or [one.decode(encoding, "replace").lstrip("\ufeff") for one in encoded]
            for name, value in zip(names, encoded, strict=False):
                if not _is_text(value, encoding):
                    yield number, name, value


def _error(value: bytes, encoding: str, where: str) -> ValueError:
    guess = _likely(value)
    perhaps = f", perhaps {guess} ({value.decode(guess)!r})" if guess else ""
    return ValueError(f"{where}{value!r} is not {encoding}{perhaps}: {_advice(guess)}")


def _likely(value: bytes) -> str | None:
    """Return the likely encoding of a value that is not ASCII; None: unknown."""
    if _is_text(value, "utf-8"):
        return "utf-8"
    # In Western Europe letters beyond ASCII stand alone.
    if re.search(rb"[\x80-\xff]{3}", value):
        return None
    return "cp1252" if _is_text(value, "cp1252") else "latin-1"


def _advice(encoding: str | None) -> str:
    name = encoding or "..."
    known = f"CSVFile(path, encoding={name!r}), or --encoding {name} of the command"
    return f"pass fastmlp.{known}" if encoding else f"give its encoding: fastmlp.{known}"


def _is_text(value: bytes, encoding: str) -> bool:
    try:
        value.decode(encoding)
    except UnicodeError:
        return False
    return True


def _opened(path: str) -> IO[bytes]:
    return gzip.open(path) if path.lower().endswith(".gz") else open(path, "rb")  # type: ignore[return-value]


class ChosenColumns(NamedTuple):
    """The columns to read of a file or table.

    Attributes
    ----------
    names : of all columns to read
    numbers : names; where the first megabyte has integers or nothing, fractions may follow
    texts : names; they are texts, whatever the first megabyte looks like
    labels : names; among `numbers`, but batches without fractions have integers
    nulls : bool; empty texts, NA and alike are missing values, as they are among numbers
    """

    names: list[str]
    numbers: Collection[str] = ()
    texts: Collection[str] = ()
    labels: Collection[str] = ()
    nulls: bool = False


def schema_of(path: str, who: str) -> Any:
    """Return the names of a file's columns, and their types by its first megabyte.

    Raises
    ------
    ValueError, OSError
        If it cannot be read, its names are not in its encoding, or its values are not separated by
        commas.
    """
    import pyarrow.csv

    require_no_mark(path, who)
    with _located([], path, who), pyarrow.csv.open_csv(path, **_read(path)) as reader:
        schema = reader.schema
        names = schema.names
    one = names[0] if len(names) == 1 else ""
    if mark := next((mark for mark in ";\t|" if mark in one), None):
        raise ValueError(f"{who}: values are separated by {mark!r}, and must be by commas")
    return schema


def batches_of(path: str, schema: Any, chosen: ChosenColumns, who: str) -> Iterator[Any]:
    """Yield record batches of chosen columns, and at the end one without rows.

    Parameters
    ----------
    schema : what `schema_of` returns

    Raises
    ------
    ValueError
        If a later value does not suit its column, or is not in the encoding, or a row has more or
        fewer values than there are columns; the message has the line.
    """
    import pyarrow.csv
    import pyarrow.types as kinds

    kept = {name: schema.field(name).type for name in chosen.names}
    integers = {name for name, kind in kept.items() if kinds.is_integer(kind)}
    empty = [name for name, kind in kept.items() if kinds.is_null(kind)]
    # Of what has no value in the first megabyte, an input is a number, and else a text.
    types = dict.fromkeys(empty, pyarrow.string())
    guessed = {*integers, *empty} & {*chosen.numbers}
    types |= dict.fromkeys(guessed, pyarrow.float64())
    types = kept | types | dict.fromkeys(chosen.texts, pyarrow.string())
    if no_texts := [name for name, kind in types.items() if kinds.is_binary(kind)]:
        raise undecodable(path, who, no_texts)
    options = _read(path)
    options["convert_options"] = pyarrow.csv.ConvertOptions(
        include_columns=chosen.names, column_types=types, strings_can_be_null=chosen.nulls
    )
    whole = integers & {*chosen.labels}
    with _located(schema.names, path, who), pyarrow.csv.open_csv(path, **options) as reader:
        for batch in reader:
            yield _with_integers(batch, whole) if whole else batch
    yield pyarrow.RecordBatch.from_pylist([], schema=pyarrow.schema(types))


def _read(path: str) -> dict[str, Any]:
    import pyarrow.csv

    # With threads it is not faster, and does not tell the line of a wrong value.
    options = pyarrow.csv.ReadOptions(use_threads=False, encoding=encoding_of(path))
    return {"read_options": options}


def _with_integers(batch: Any, names: Collection[str]) -> Any:
    """Return a batch whose columns of these names are integers, where they have no fractions."""
    import pyarrow

    columns = dict(zip(batch.schema.names, batch.columns, strict=True))
    for name in names:
        with suppress(pyarrow.ArrowInvalid):
            columns[name] = columns[name].cast("int64")
    return pyarrow.RecordBatch.from_pydict(columns)


@contextmanager
def _located(names: list[str], path: str, who: str) -> Iterator[None]:
    """Return a context whose errors name the line, and the column of a value, and what to do."""
    try:
        yield
    except UnicodeError:
        raise undecodable(path, who) from None
    except ValueError as error:
        match = INVALID.match(str(error))
        if match is not None and match.group(3, 4) == NOT_UTF8:
            raise undecodable(path, who, [names[int(match.group(1))]]) from None
        message = _of_value(match, names) or _of_row(str(error))
        if message is None:
            raise
        raise ValueError(f"{who}: {message}") from None


def _of_value(match: re.Match[str] | None, names: list[str]) -> str | None:
    if match is None:
        return None
    place, line, kind, what = match.groups()
    expected = VALUES.get(kind, f"of the type {kind}")
    return (
        f"{_line(line)}column {names[int(place)]!r}: {what}, but its values are {expected} in the "
        "first megabyte: correct the value, leave the column out, or convert the file to Parquet, "
        "whose columns have types"
    )


def _of_row(error: str) -> str | None:
    match = TORN.match(error)
    if match is None:
        return None
    line, expected, got, row = match.groups()
    few = "is the file cut, or a comma missing?"
    what = few if int(got) < int(expected) else 'a value with a comma needs quotes: "1,5"'
    return f"{_line(line)}{got} values for the {expected} columns of the header: {row!r}; {what}"


def _line(number: str | None) -> str:
    return f"line {number}, " if number else ""
