"""CSV files as Arrow record batches, and the encodings of texts."""

import os
import re
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple, Self, final

from fastmlp.validation import scalars
from fastmlp.validation.calls import explained

CSV_FILES = (".csv", ".csv.gz")
# pyarrow's errors of a value and of a row. With one thread it counts rows, the header included,
# but not empty lines.
INVALID = re.compile(
    r"In CSV column #(\d+): (?:Row #(\d+): )?CSV conversion error to (.+?): (.*)", re.DOTALL
)
TORN = re.compile(
    r"CSV parse error: (?:Row #(\d+): )?Expected (\d+) columns, got (\d+): (.*)", re.DOTALL
)
VALUES = {"double": "numbers", "int64": "whole numbers", "bool": "true or false"}


@final
class CSVFile(str):
    """The path of a CSV file that is not UTF-8. It goes where a path goes.

    Parameters
    ----------
    path : path
        A file, or a pattern of files, that ends in .csv or .csv.gz.
    encoding : str, default "utf-8"
        One of Python's `standard encodings`_, such as "cp1252", which Excel writes in Western
        Europe, or "utf-16".

    Attributes
    ----------
    encoding : str

    Raises
    ------
    TypeError, ValueError
        If the encoding is unknown, or the path is not one of a CSV file.

    Notes
    -----
    .. _standard encodings: https://docs.python.org/3/library/codecs.html#standard-encodings

    Examples
    --------
    >>> import os, tempfile
    >>> from fastmlp import MLP, CSVFile
    >>> path = os.path.join(tempfile.mkdtemp(), "rows.csv")
    >>> with open(path, "w", encoding="cp1252") as file:
    ...     _ = file.write("höhe,y\n1.5,0\n2.5,1\n")
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
        made.encoding = _known(encoding, who)
        return made

    def __repr__(self) -> str:
        return f"CSVFile({str(self)!r}, encoding={self.encoding!r})"


def _known(encoding: str, who: str) -> str:
    """Check the name of an encoding."""
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


def not_text(encoding: str, where: str, reason: str = "") -> ValueError:
    """Return the error for text in another encoding. `where` has the caller and the place."""
    return ValueError(
        f"{where}: the text is not {encoding}{reason}: give its encoding, such as "
        "fastmlp.CSVFile(path, encoding='cp1252'), or --encoding cp1252 of the command"
    )


class ChosenColumns(NamedTuple):
    """The columns to read of a file or table.

    Attributes
    ----------
    names : all columns to read
    numbers : names; integers in the first megabyte may be followed by fractions
    texts : names of columns that are texts, whatever the first megabyte looks like
    labels : names among `numbers`; batches without fractions have integers
    nulls : True if empty texts, NA and alike are missing in texts, as in numbers
    """

    names: list[str]
    numbers: Collection[str] = ()
    texts: Collection[str] = ()
    labels: Collection[str] = ()
    nulls: bool = False


def schema_of(path: str, who: str) -> Any:
    """Return the columns of a file, with types by the first megabyte."""
    import pyarrow.csv
    import pyarrow.types as kinds

    with _located([], path, who), pyarrow.csv.open_csv(path, **_read(path)) as reader:
        # Bytes that are not UTF-8 become an error with a line when they are read as text.
        columns = [
            (field.name, pyarrow.string() if kinds.is_binary(field.type) else field.type)
            for field in reader.schema
        ]
    one = columns[0][0] if len(columns) == 1 else ""
    if mark := next((mark for mark in ";\t|" if mark in one), None):
        raise ValueError(f"{who}: values are separated by {mark!r}, and must be by commas")
    return pyarrow.schema(columns)


def batches_of(path: str, schema: Any, chosen: ChosenColumns, who: str) -> Iterator[Any]:
    """Yield record batches of the chosen columns, and at the end one without rows.

    An error of a later value or row has the line.

    Parameters
    ----------
    schema : the result of `schema_of`
    """
    import pyarrow.csv
    import pyarrow.types as kinds

    kept = {name: schema.field(name).type for name in chosen.names}
    integers = {name for name, kind in kept.items() if kinds.is_integer(kind)}
    empty = [name for name, kind in kept.items() if kinds.is_null(kind)]
    # A column without a value in the first megabyte is a number as an input, else a text.
    types = dict.fromkeys(empty, pyarrow.string())
    guessed = {*integers, *empty} & {*chosen.numbers}
    types |= dict.fromkeys(guessed, pyarrow.float64())
    types = kept | types | dict.fromkeys(chosen.texts, pyarrow.string())
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

    # Threads make it no faster, and lose the line of a wrong value.
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
    """Return a context whose errors have the line and the column, and say what to do."""
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
            expected = VALUES.get(kind, f"of the type {kind}")
            raise ValueError(
                f"{where}: {what}, but its values are {expected} in the first megabyte: correct "
                "the value, leave the column out, or convert the file to Parquet, whose columns "
                "have types"
            ) from None
        if match := TORN.match(str(error)):
            line, expected, got, row = match.groups()
            if "\0" in row:
                raise not_text("utf-8", who, ", but perhaps utf-16") from None
            few = "is the file cut, or a comma missing?"
            what = few if int(got) < int(expected) else 'a value with a comma needs quotes: "1,5"'
            raise ValueError(
                f"{who}: {_line(line)}{got} values for the {expected} columns of the header: "
                f"{row!r}; {what}"
            ) from None
        raise


def _line(number: str | None) -> str:
    return f"line {number}, " if number else ""
