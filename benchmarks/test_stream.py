"""Rows streamed from Parquet."""

from pathlib import Path

import numpy as np
import pytest

from benchmarks import bench_stream as stream
from benchmarks.bench_stream import STREAMS

SMALL = STREAMS[0]


def test_a_file_has_the_rows_of_its_workload(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow", reason="it writes the file")
    from fastmlp import Blocks

    load = SMALL.quick().workload
    stream.write(load, tmp_path / "rows.parquet")
    X, y, *_ = Blocks.from_parquet(tmp_path / "rows.parquet", target="y").read(0)
    assert np.array_equal(X, load.data()[0])
    assert np.array_equal(np.asarray(y)[:, None], load.data()[1])
