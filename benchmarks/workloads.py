"""Nets and data that the benchmarks share."""

from typing import Any, NamedTuple

import numpy as np

from fastmlp import MLP


class Workload(NamedTuple):
    """A net, its batch size and the number of rows that it trains on."""

    layer_sizes: tuple[int, ...]
    batch_size: int
    n_rows: int
    settings: dict[str, Any]

    @property
    def name(self) -> str:
        """Sizes and batch, such as 16-64-64-2@64."""
        return "-".join(map(str, self.layer_sizes)) + f"@{self.batch_size}"

    def net(self) -> MLP:
        """Return a new net, float32, trained by Adam."""
        return MLP(self.layer_sizes, seed=0, **self.settings)

    def data(self) -> tuple[Any, Any]:
        """Return X and y of random numbers, float32."""
        rng = np.random.default_rng(0)
        x = rng.standard_normal((self.n_rows, self.layer_sizes[0]), dtype=np.float32)
        return x, rng.standard_normal((self.n_rows, self.layer_sizes[-1]), dtype=np.float32)


WORKLOADS = [
    Workload((2, 4, 1), 4, 400, {"activation": "sigmoid"}),
    Workload((16, 64, 64, 2), 64, 3_200, {}),
    Workload((17, 64, 64, 6), 64, 3_200, {"activation": "tanh"}),
    Workload((32, 256, 256, 10), 256, 5_120, {}),
    Workload((784, 128, 10), 128, 2_560, {}),
]
