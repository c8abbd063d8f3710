"""Files of comma-separated values as record batches of Arrow."""

import re
from collections.abc import Collection, Iterator
from typing import Any, NamedTuple

# What pyarrow says of a value; by one thread it tells the line.
INVALID = re.compile(
    r"In CSV column #(\d+): (?:Row #(\d+): )?CSV conversion error to (\S+): (.*)", re.DOTALL
)


class Chosen(NamedTuple):
    """The columns to read of a file or table.

    Attributes
    ----------
    names : of all columns to read
    numbers : names; where the first megabyte has integers or nothing, fractions may follow
    texts : names; they are texts, whatever the first megabyte looks like
    """

    names: list[str]
    numbers: Collection[str] = ()
    texts: Collection[str] = ()


def schema_of(path: str, who: str) -> Any:
    """Return the names of a file's columns, and their types by its first megabyte.

    Raises
    ------
    ValueError, OSError
        If it cannot be read, or its values are not separated by commas.
    """
    import pyarrow.csv

    with pyarrow.csv.open_csv(path) as reader:
        schema = reader.schema
    one = schema.names[0] if len(schema.names) == 1 else ""
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
        If a later value does not suit its column; the message has both and the line.
    """
    import pyarrow.csv
    import pyarrow.types as kinds

    kept = {name: schema.field(name).type for name in chosen.names}
    guessed = [name for name in chosen.numbers if kinds.is_integer(kept[name])]
    empty = [name for name, kind in kept.items() if kinds.is_null(kind)]
    # Of what has no value in the first megabyte, an input is a number, and else a text.
    types = dict.fromkeys(empty, pyarrow.string())
    types |= dict.fromkeys([*guessed, *(set(empty) & {*chosen.numbers})], pyarrow.float64())
    types = kept | types | dict.fromkeys(chosen.texts, pyarrow.string())
    options = {
        # With threads it is not faster, and does not tell the line of a wrong value.
        "read_options": pyarrow.csv.ReadOptions(use_threads=False),
        "convert_options": pyarrow.csv.ConvertOptions(
            include_columns=chosen.names, column_types=types
        ),
    }
    try:
        with pyarrow.csv.open_csv(path, **options) as reader:
            yield from reader
    except pyarrow.ArrowInvalid as error:
        raise _located(error, schema.names, who) from None
    yield pyarrow.RecordBatch.from_pylist([], schema=pyarrow.schema(types))


def _located(error: ValueError, names: list[str], who: str) -> ValueError:
    """Return an error that names the column and the line of a value, and what to do."""
    found = INVALID.match(str(error))
    if found is None:
        return error
    place, line, kind, what = found.groups()
    where = f"line {line}, " if line else ""
    return ValueError(
        f"{who}: {where}column {names[int(place)]!r}: {what} for {kind}, its type by the first "
        "megabyte: correct the value, leave the column out, or convert the file to Parquet, "
        "whose columns have types"
    )
