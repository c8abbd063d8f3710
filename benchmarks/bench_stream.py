"""Rows streamed from a Parquet file:
fastmlp beside the peers' loaders, and beside its own limits.

The forms "reading" and "memory" read all rows without training, and train on them from
memory. Nothing is faster than the slower of the two. A unit is a row.
"""

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from benchmarks.bench_train import Race
from benchmarks.machine import memory
from benchmarks.race import Ways
from benchmarks.workloads import Workload, sized

MODULES = {
    "fastmlp": "fastmlp_nets",
    "torch": "torch_nets",
    "compile": "torch_nets",
    "jax": "keras_stream",
}
GROUP_ROWS = 100_000


class Stream(NamedTuple):
    """A net, the file's rows, and how many of them are held at a time to be mixed."""

    workload: Workload
    buffer_rows: int
    epochs: int = 1

    @property
    def name(self) -> str:
        """The net, its batch, and the thousands of rows."""
        return f"{self.workload.name}-{self.workload.n_rows // 1000:g}k-rows"

    def quick(self) -> "Stream":
        n = 64 * self.workload.batch
        workload = self.workload._replace(n_rows=n)
        return self._replace(workload=workload, buffer_rows=n // 4)


STREAMS = (
    Stream(Workload((20, 16, 1), 256, 4_096_000), 1_024_000),
    Stream(Workload((20, 64, 64, 1), 256, 4_096_000), 1_024_000),
    Stream(Workload((20, 128, 128, 1), 64, 2_048_000), 512_000),
    Stream(Workload((20, 256, 256, 1), 64, 1_024_000), 256_000),
)
BY_NAME = {stream.name: stream for stream in STREAMS}


def write(workload: Workload, path: Path) -> None:
    """Write a workload's rows as columns of Parquet,
    uncompressed, X first and then y.
    """
    import pyarrow
    from pyarrow.parquet import ParquetWriter

    x, y = workload.data()
    names = [*(f"x{j}" for j in range(x.shape[1])), "y"]
    kind = pyarrow.from_numpy_dtype(x.dtype)
    schema = pyarrow.schema([(name, kind) for name in names])
    with ParquetWriter(path, schema, compression="none", use_dictionary=False) as file:
        for first in range(0, len(x), GROUP_ROWS):
            rows = slice(first, first + GROUP_ROWS)
            columns = [*np.ascontiguousarray(x[rows].T), y[rows, 0]]
            table = pyarrow.table(columns, schema=schema)
            file.write_table(table, row_group_size=GROUP_ROWS)


class Work(Ways):
    """A library's ways to train on rows as they are read, or the form of fastmlp's."""

    def __init__(
        self, worker: Any, quick: bool, name: str, path: str, form: str | None = None
    ) -> None:
        module = import_module(f"benchmarks.peers.{MODULES[worker.name]}")
        load = sized(BY_NAME[name], quick)
        file = Path(path)
        if not file.exists():
            write(load.workload, file)
        ways = module.VARIANTS["stream"]
        if quick:
            ways = ways[:1]
        calls = {}
        for way in ways:
            run = module.Streamed(load, file, way, worker.name)
            calls[way] = repeated_rows(run, form)
        before = memory(reset=True)
        n_rows = [call(1) for call in calls.values()]
        grown = memory() - before
        super().__init__(worker, quick, calls, units=max(n_rows), warm=False)
        self.about["megabytes"] = grown / 1e6


def repeated_rows(run: Any, form: str | None) -> Callable[[int], int]:
    """A function that goes n times through the rows,
    and returns their number in one.
    """
    call: Callable[[], int] = getattr(run, form or "streamed")

    def calls(n: int) -> int:
        n_rows = 0
        for _ in range(n):
            n_rows = call()
        return n_rows

    return calls


@pytest.mark.libraries(
    "fastmlp", "fastmlp-reading", "fastmlp-memory", "torch", "compile", "jax"
)
@pytest.mark.parametrize("name", BY_NAME)
def test_stream(race: Race, name: str, tmp_path: Path) -> None:
    pytest.importorskip("pyarrow", reason="it writes the file")
    race(Work, rows=1, name=name, path=str(tmp_path / "rows.parquet"))
