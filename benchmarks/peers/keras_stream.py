"""Keras over JAX: a PyDataset whose items are batches of a row group of Parquet."""

import os
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.bench_stream import Stream
from benchmarks.peers import Unsupported

VARIANTS = {
    "stream": (
        "PyDataset",
        "PyDataset, one worker thread",
        "PyDataset, 16 steps a call",
    )
}
MOST_ROWS = 256_000


class Streamed:
    """A model, and a data set for each call; calls return the number of rows."""

    def __init__(self, stream: Stream, path: Path, way: str, contestant: str) -> None:
        if find_spec("keras") is None:
            raise Unsupported("not installed: keras")
        os.environ["KERAS_BACKEND"] = "jax"
        import keras

        self.load = stream.workload
        self.path = path
        self.keras = keras
        self.x, self.y = (part[:MOST_ROWS] for part in self.load.data())
        self.options: dict[str, Any] = {}
        if way.endswith("thread"):
            self.options = {
                "workers": 1,
                "use_multiprocessing": False,
                "max_queue_size": 64,
            }
        _, *hidden, last = self.load.sizes
        layers = [
            keras.layers.Dense(size, activation=self.load.activation) for size in hidden
        ]
        self.model = keras.Sequential([*layers, keras.layers.Dense(last)])
        several = 16 if way.endswith("call") else 1
        self.model.compile("adam", "mse", steps_per_execution=several)

    def rows(self) -> Any:
        path = self.path
        batch = self.load.batch
        options = self.options

        class ParquetBatches(self.keras.utils.PyDataset):  # type: ignore[name-defined]
            def __init__(self) -> None:
                super().__init__(**options)
                from pyarrow.parquet import ParquetFile

                file = ParquetFile(path)
                sizes = [
                    file.metadata.row_group(i).num_rows
                    for i in range(file.num_row_groups)
                ]
                rng = np.random.default_rng()
                places = []
                for g in rng.permutation(len(sizes)):
                    places += [(g, k) for k in range(sizes[g] // batch)]
                self.places = places[: max(1, MOST_ROWS // batch)]

                @lru_cache(maxsize=2)
                def group(g: int) -> Any:
                    table = file.read_row_group(g)
                    order = rng.permutation(table.num_rows)
                    columns = [column.to_numpy() for column in table.columns]
                    x = np.stack(columns[:-1], 1)
                    y = columns[-1][:, None]
                    return x[order], y[order]

                self.group = group

            def __len__(self) -> int:
                return len(self.places)

            def __getitem__(self, i: int) -> Any:
                g, k = self.places[i]
                x, y = self.group(int(g))
                rows = slice(k * batch, (k + 1) * batch)
                return x[rows], y[rows]

        return ParquetBatches()

    def reading(self) -> int:
        rows = self.rows()
        return sum(len(rows[i][0]) for i in range(len(rows)))

    def memory(self) -> int:
        self.model.fit(self.x, self.y, batch_size=self.load.batch, epochs=1, verbose=0)
        return len(self.x)

    def streamed(self) -> int:
        rows = self.rows()
        # In the order of the data set, which has mixed its rows.
        self.model.fit(rows, epochs=1, shuffle=False, verbose=0)
        return len(rows) * self.load.batch
