"""Files of comma-separated values as record batches of Arrow."""

import re
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple

from fastmlp.data.encodings import encoding_of, require_no_mark, undecodable

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


class Chosen(NamedTuple):
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


def batches_of(path: str, schema: Any, chosen: Chosen, who: str) -> Iterator[Any]:
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
        found = INVALID.match(str(error))
        if found is not None and found.group(3, 4) == NOT_UTF8:
            raise undecodable(path, who, [names[int(found.group(1))]]) from None
        told = _of_value(found, names) or _of_row(str(error))
        if told is None:
            raise
        raise ValueError(f"{who}: {told}") from None


def _of_value(found: re.Match[str] | None, names: list[str]) -> str | None:
    if found is None:
        return None
    place, line, kind, what = found.groups()
    expected = VALUES.get(kind, f"of the type {kind}")
    return (
        f"{_line(line)}column {names[int(place)]!r}: {what}, but its values are {expected} in the "
        "first megabyte: correct the value, leave the column out, or convert the file to Parquet, "
        "whose columns have types"
    )


def _of_row(error: str) -> str | None:
    found = TORN.match(error)
    if found is None:
        return None
    line, expected, got, row = found.groups()
    few = "is the file cut, or a comma missing?"
    what = few if int(got) < int(expected) else 'a value with a comma needs quotes: "1,5"'
    return f"{_line(line)}{got} values for the {expected} columns of the header: {row!r}; {what}"


def _line(number: str | None) -> str:
    return f"line {number}, " if number else ""
