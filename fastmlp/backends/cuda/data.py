"""The rows of a training or an evaluation, on the host or on the GPU."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastmlp.backends.cuda.device_arrays import to_host

Array = NDArray[Any]


class Data(NamedTuple):
    """Validated rows, on the host or on the GPU.

    Attributes
    ----------
    x : shape (n_rows, n_features)
    y : shape (n_rows, n_targets)
    weight : shape (n_rows,), or (0,) for rows that count alike; on the host
    rows : int64, the rows in use, in their order; None: all rows
    """

    x: Any
    y: Any
    weight: Array
    rows: NDArray[np.int64] | None = None

    @property
    def n_rows(self) -> int:
        """The number of rows in use."""
        return len(self.x if self.rows is None else self.rows)

    @property
    def mass(self) -> float:
        """The number of rows in use, or the sum of their weights."""
        if not self.weight.size:
            return float(self.n_rows)
        weight = self.weight if self.rows is None else self.weight[self.rows]
        return float(weight.sum(dtype=np.float64))

    @property
    def host_bytes(self) -> int:
        """The bytes of x and y that are on the host and must be copied to the GPU."""
        return sum(a.nbytes for a in (self.x, self.y) if isinstance(a, np.ndarray))

    def gathered(self) -> "Data":
        """Return the rows in use as all rows, copied to the host if `rows` is a subset."""
        if self.rows is None:
            return self
        weight = self.weight[self.rows] if self.weight.size else self.weight
        return Data(to_host(self.x)[self.rows], to_host(self.y)[self.rows], weight)
