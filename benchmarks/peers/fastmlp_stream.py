"""fastmlp: `fit` over a file of Parquet."""

from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.peers.fastmlp_fit import FastmlpFit
from benchmarks.stream import Stream
from fastmlp import Blocks

WAYS = ("Blocks.from_parquet",)


class Streamed:
    """A new net for each call; calls return the number of rows."""

    def __init__(self, stream: Stream, path: Path, way: str, contestant: str) -> None:
        self.load, self.stream = stream.workload, stream
        self.run = FastmlpFit(stream.workload)
        self.source = Blocks.from_parquet(path, target="y")

    def reading(self) -> int:
        blocks = (self.source.read(i) for i in range(len(self.source.block_sizes)))
        return sum(len(np.asarray(x)) for x, *_ in blocks)

    def memory(self) -> int:
        self.run.reset()
        self.run.epochs(self.stream.epochs)
        return self.stream.epochs * self.load.n_rows

    def streamed(self) -> int:
        options: dict[str, Any] = {"epochs": self.stream.epochs, "batch_size": self.load.batch}
        self.run.made().fit(self.source, buffer_rows=self.stream.buffer_rows, **options)
        return self.stream.epochs * self.load.n_rows
