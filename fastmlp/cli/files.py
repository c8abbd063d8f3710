"""The files that the commands read and write."""

import os
import sys
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fastmlp import CSVFile
from fastmlp.data import outputs
from fastmlp.data.arrow import CSV_FILES, FILES, expanded, imported, naming, not_text


def data_of(
    arguments: Sequence[str],
    who: str,
    texts: Collection[str] = (),
    *,
    encoding: str | None = None,
    nulls: bool = True,
) -> Any:
    """Return the data of the arguments DATA: paths, or a table.

    Parameters
    ----------
    texts : columns of standard input that are texts, whatever they look like
    encoding : the encoding of CSV; None: UTF-8
    nulls : True if texts of standard input such as NA are missing, False if they stay texts
    """
    imported(f"fastmlp {who}")
    if list(arguments) == ["-"]:
        return _of_standard_input(who, texts, encoding or "utf-8", nulls)
    paths = expanded(arguments, who)
    if all(path.lower().endswith(".npz") for path in paths):
        import pyarrow

        return pyarrow.concat_tables([_of_arrays(path, who) for path in paths])
    known = (*FILES, ".npz")
    for path in paths:
        if not path.lower().endswith(known):
            raise ValueError(f"{who}: {path!r} must end in {', '.join(known)}")
    if encoding is None:
        return paths
    return [CSVFile(path, encoding) if path.lower().endswith(CSV_FILES) else path for path in paths]


def _of_standard_input(who: str, texts: Collection[str], encoding: str, nulls: bool) -> Any:
    import pyarrow
    import pyarrow.csv

    who = f"{who}: standard input"
    types = dict.fromkeys(texts, pyarrow.string())
    options = {
        "read_options": pyarrow.csv.ReadOptions(encoding=encoding),
        "convert_options": pyarrow.csv.ConvertOptions(
            column_types=types, strings_can_be_null=nulls
        ),
    }
    try:
        table = pyarrow.csv.read_csv(sys.stdin.buffer, **options)
    except UnicodeError as error:
        raise not_text(encoding, who, f" ({error})") from None
    except pyarrow.ArrowInvalid as error:
        if "\0" in str(error):
            raise not_text(encoding, who, ", but perhaps utf-16") from None
        raise ValueError(f"{who}: {error}") from None
    for field in table.schema:
        if pyarrow.types.is_binary(field.type):
            raise not_text(encoding, f"{who}: column {field.name!r}")
    return table


def _of_arrays(path: str, who: str) -> Any:
    """Return the arrays of a .npz file as a table. Columns of X are x0, x1 and so on."""
    import pyarrow

    columns: dict[str, Any] = {}
    with naming(path), np.load(path, allow_pickle=False) as arrays:
        for name, array in arrays.items():
            if array.ndim not in (1, 2):
                raise ValueError(f"{who}: {name!r} has {array.ndim} dimensions, not 1 or 2")
            names = (
                [f"{name.lower()}{j}" for j in range(array.shape[1])] if array.ndim > 1 else [name]
            )
            columns |= dict(zip(names, array.reshape(len(array), -1).T, strict=True))
        return pyarrow.table(columns)


def require_new(path: str, *, force: bool, who: str) -> None:
    """Check before any work that an output can be written."""
    if os.path.exists(path) and not force:
        raise FileExistsError(f"{who}: {path!r} exists; --force overwrites it")
    folder = Path(path).absolute().parent
    if not folder.is_dir():
        raise FileNotFoundError(f"{who}: there is no folder {str(Path(path).parent)!r}")
    if not os.access(folder, os.W_OK):
        raise PermissionError(f"{who}: the folder {str(folder)!r} cannot be written to")


def write_rows(reader: Any, path: str | None) -> None:
    """Write the batches of an Arrow reader to a file, whole or not at all.

    Parameters
    ----------
    path : None: CSV to standard output
    """
    import pyarrow.csv

    if path is not None:
        outputs.write(reader, path, outputs.writer_of(path, "predict"))
        return
    sys.stdout.flush()
    with pyarrow.csv.CSVWriter(sys.stdout.buffer, reader.schema) as writer:
        for batch in reader:
            writer.write_batch(batch)
