"""The check that all numbers of an array on the GPU are finite."""

from functools import cache
from typing import Any

import numpy as np

from fastmlp.backends.cuda import adapter
from fastmlp.backends.cuda.adapter import cuda, kernel, unsigned
from fastmlp.backends.cuda.launch_config import configured

N_BLOCKS, N_THREADS = (2, 8) if adapter.SIMULATED else (512, 256)


@cache
def _finite_kernel() -> Any:
    """Make the kernel ``check_finite(x, found)``; a number that is not finite sets `found`."""

    def check_finite(x: Any, found: Any) -> None:
        first, n_all = cuda.blockIdx.x * N_THREADS + cuda.threadIdx.x, N_BLOCKS * N_THREADS
        n_columns = x.shape[1]
        for q in range(first, x.shape[0] * n_columns, n_all):
            r = q // n_columns
            value = x[unsigned(r), unsigned(q - r * n_columns)]
            # For an infinity or a NaN, the difference is NaN.
            if not value - value == 0:
                found[0] = 1.0

    return kernel(check_finite)


def all_finite(x: Any) -> bool:
    """Return True if all numbers of a matrix on the GPU are finite."""
    found = adapter.MODULE.to_device(np.zeros(1))
    configured(_finite_kernel(), (x, found), N_BLOCKS, N_THREADS)(x, found)
    return not found.copy_to_host()[0]
