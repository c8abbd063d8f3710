"""A table of Arrow as files of each kind that can be read, in small pieces."""

from pathlib import Path

import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet as pq

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
