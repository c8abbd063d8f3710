"""A check, on the device, that all numbers of an array there are finite."""

from functools import cache
from typing import Any

import numpy as np

from fastmlp.backends.cuda import adapter
from fastmlp.backends.cuda.adapter import cuda, kernel, unsigned

N_BLOCKS, N_THREADS = (2, 8) if adapter.SIMULATED else (512, 256)


@cache
def _look() -> Any:
    def look(x: Any, bad: Any) -> None:
        first, n_all = cuda.blockIdx.x * N_THREADS + cuda.threadIdx.x, N_BLOCKS * N_THREADS
        n_columns = x.shape[1]
        for q in range(first, x.shape[0] * n_columns, n_all):
            r = q // n_columns
            value = x[unsigned(r), unsigned(q - r * n_columns)]
            # For infinities and NaN the difference is NaN.
            if not value - value == 0:
                bad[0] = 1.0

    return kernel(look)


def all_finite(x: Any) -> bool:
    """Return True if all numbers of a matrix on the device are finite."""
    bad = adapter.MODULE.to_device(np.zeros(1))
    adapter.configured(_look(), (x, bad), N_BLOCKS, N_THREADS)(x, bad)
    return not bad.copy_to_host()[0]
