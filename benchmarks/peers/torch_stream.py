"""PyTorch: a DataLoader over the row groups of a file of Parquet, eager or compiled steps.

A row group is read in random order, its rows are mixed, and cut into batches: by the loader, in the
process or in a worker's, or by the loop that trains.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, IterableDataset

from benchmarks.peers import load
from benchmarks.stream import Stream

WAYS = (
    "batches by the loader",
    "row groups by the loader",
    "row groups by the loader, one worker process",
)
# Rows that a call takes at most: an eager step takes 0.1 ms and more.
MOST_ROWS = 256_000
Pair = tuple[torch.Tensor, torch.Tensor]


def batches_of(x: torch.Tensor, y: torch.Tensor, batch: int) -> Iterator[Pair]:
    """Yield whole batches of mixed rows; a compiled step takes no other."""
    order = torch.randperm(len(x))
    x, y = x.index_select(0, order), y.index_select(0, order)
    n = len(x) // batch * batch
    yield from zip(x[:n].split(batch), y[:n].split(batch), strict=True)


class RowGroups(IterableDataset[Pair]):
    """The row groups of a file in random order, whole or in batches."""

    def __init__(self, path: Path, batch: int | None) -> None:
        self.path, self.batch = path, batch

    def __iter__(self) -> Iterator[Pair]:
        from pyarrow.parquet import ParquetFile

        with ParquetFile(self.path) as file:
            for group in np.random.default_rng().permutation(file.num_row_groups):
                table = file.read_row_group(int(group))
                columns = [torch.from_numpy(c.to_numpy()) for c in table.columns]
                x, y = torch.stack(columns[:-1], 1), columns[-1][:, None]
                if self.batch is None:
                    yield x, y
                else:
                    yield from batches_of(x, y, self.batch)


class Streamed:
    """A net, and a loader for each call; calls return the number of rows."""

    def __init__(self, stream: Stream, path: Path, way: str, contestant: str) -> None:
        self.load, self.groups = stream.workload, way.startswith("row groups")
        module, variant = load(contestant), {"torch": "gather each epoch", "compile": "whole step"}
        in_memory = self.load._replace(n_rows=min(self.load.n_rows, MOST_ROWS))
        self.run: Any = module.make(in_memory, variant[contestant])
        rows = RowGroups(path, None if self.groups else self.load.batch)
        workers = {"num_workers": 1, "prefetch_factor": 2} if way.endswith("process") else {}
        self.loader: Any = DataLoader(rows, batch_size=None, **workers)

    def batches(self) -> Iterator[Pair]:
        n = 0
        for x, y in self.loader:
            for pair in batches_of(x, y, self.load.batch) if self.groups else ((x, y),):
                yield pair
                n += self.load.batch
                if n >= MOST_ROWS:
                    return

    def reading(self) -> int:
        return sum(len(x) for x, _ in self.batches())

    def memory(self) -> int:
        self.run.reset()
        self.run.epochs(1)
        return int(self.run.workload.n_rows)

    def streamed(self) -> int:
        self.run.reset()
        n = 0
        for x, y in self.batches():
            self.run.step(x, y)
            n += len(x)
        return n
