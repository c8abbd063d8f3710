"""The rows of a training or an evaluation, on the host or on the GPU."""

import numpy as np

from fastmlp.backends.cuda.device_arrays import to_host
from fastmlp.backends.protocol import Data


def host_bytes(data: Data) -> int:
    """Return the bytes of x and y that are on the host and must be copied to the GPU."""
    return sum(a.nbytes for a in (data.x, data.y) if isinstance(a, np.ndarray))


def gathered(data: Data) -> Data:
    """Return the rows in use as all rows, copied to the host if `rows` is a subset."""
    if data.rows is None:
        return data
    weight = data.weight[data.rows] if data.weight.size else data.weight
    return Data(to_host(data.x)[data.rows], to_host(data.y)[data.rows], weight)
