"""Copies to the GPU for many nets at once: packed on the host, distributed on the GPU.

A copy takes 10 us, and 60 us with the Python of its slice. For 64 nets with different coefficients
and plans, separate copies take longer than the steps.
"""

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastmlp.backends.cuda import adapter
from fastmlp.backends.cuda.adapter import cuda, kernel, unsigned
from fastmlp.backends.cuda.card import Card
from fastmlp.backends.cuda.launch_config import configured

N_THREADS = 8 if adapter.SIMULATED else 256


def packed(arrays: Sequence[NDArray[Any]], dtype: Any) -> NDArray[Any]:
    """Return arrays, flat, as the rows of one matrix; zeros pad the shorter ones."""
    result = np.zeros((len(arrays), max(1, *(array.size for array in arrays))), dtype)
    for row, array in zip(result, arrays, strict=True):
        row[: array.size] = array.reshape(-1)
    return result


@cache
def _distribution_kernel() -> Any:
    """Make the kernel ``distribute(packed, target, start)``."""

    def distribute(packed: Any, target: Any, start: Any) -> None:
        first, n_all = cuda.blockIdx.x * N_THREADS + cuda.threadIdx.x, cuda.gridDim.x * N_THREADS
        width = packed.shape[1]
        for q in range(first, packed.shape[0] * width, n_all):
            net = q // width
            i = q - net * width
            target[unsigned(net), unsigned(start + i)] = packed[unsigned(net), unsigned(i)]

    return kernel(distribute)


def upload(card: Card, values: Any, target: Any, start: int) -> None:
    """Copy a host matrix to the columns from `start` on of a matrix on the GPU, row by row."""
    if not values.size:
        return
    arguments = (card.copied(values), target, start)
    n_blocks = min(-(-values.size // N_THREADS), 2 * card.n_multiprocessors)
    configured(_distribution_kernel(), arguments, n_blocks, N_THREADS)(*arguments)
