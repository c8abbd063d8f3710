"""Tables of Arrow as files of each kind, and models that have been through a file."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet as pq

import fastmlp

PIECE_ROWS = 170


def in_pieces(table: pa.Table) -> pa.Table:
    """Return the table in chunks."""
    starts = range(0, len(table), PIECE_ROWS)
    return pa.concat_tables([table.slice(first, PIECE_ROWS) for first in starts])


def written(table: pa.Table, folder: Path, end: str) -> list[Path]:
    """Write a table to two files of a kind, the first 600 rows and the others."""
    paths = [folder / f"{i}{end}" for i in range(2)]
    for path, part in zip(paths, (table.slice(0, 600), table.slice(600)), strict=True):
        if end == ".parquet":
            pq.write_table(part, path, row_group_size=PIECE_ROWS)
        elif end == ".csv":
            part.to_pandas().to_csv(path, index=False)
        else:
            pyarrow.feather.write_feather(part, path, chunksize=PIECE_ROWS)
    return paths


def reloaded(model: Any, path: Path, *, training: bool = False, **options: Any) -> Any:
    """Save a model, and return what is loaded from there, by these options."""
    fastmlp.save(model, path, include_training_state=training)
    return fastmlp.load(path, **options)
