"""Orders of the rows, made on the host, or on the device if there are many at once."""

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastmlp.backends.cpu.kernels.shuffle import shuffle
from fastmlp.backends.cpu.plan.records import address
from fastmlp.backends.cuda import adapter
from fastmlp.backends.cuda.adapter import Card, cuda, kernel, unsigned
from fastmlp.backends.cuda.plan import N_ORDERS, N_ROWS, ORDER, SHUFFLED
from fastmlp.compiler import block_of

Words = NDArray[np.uint32]
N_THREADS = 8 if adapter.SIMULATED else 128
# Orders from which on the device makes them. A thread of the device takes about 0.5 us a row, the
# host 5 ns with the copy: estimated, not measured on a card. The simulator takes 10 us.
ENOUGH = 1 << 62 if adapter.SIMULATED else 256


def orders_of(words: Words) -> NDArray[np.int64]:
    """Return an order of the rows for each row of random words, shape (n_orders, n_rows)."""
    words, result = np.ascontiguousarray(words), np.empty(words.shape, np.int64)
    n_orders, n = words.shape
    block_of(shuffle, np.int64)(address(words), address(result), n, n_orders)
    return result


@cache
def _arrange() -> Any:
    """Make the kernel ``arrange(words, rows, plans, most)``: a thread for each order."""

    def arrange(words: Any, rows: Any, plans: Any, most: Any) -> None:
        first, n_all = cuda.blockIdx.x * N_THREADS + cuda.threadIdx.x, cuda.gridDim.x * N_THREADS
        for q in range(first, plans.shape[0] * most, n_all):
            net = q // most
            order, n = q - net * most, plans[net, N_ROWS]
            if order < plans[net, N_ORDERS]:
                at = plans[net, ORDER] + order * n
                shuffled, word = plans[net, SHUFFLED] != 0, order * n
                for i in range(n):
                    j: Any = i
                    if shuffled:
                        # As on the CPU: see `backends.cpu.kernels.shuffle`.
                        wide = np.uint64(words[net, unsigned(word + i)]) * np.uint64(i + 1)
                        j = np.int64(wide >> np.uint64(32))
                    plans[net, unsigned(at + i)] = plans[net, unsigned(at + j)]
                    plans[net, unsigned(at + j)] = rows[net, unsigned(i)]

    return kernel(arrange)


def packed(arrays: Sequence[NDArray[Any]], dtype: Any) -> NDArray[Any]:
    """Return flattened arrays as the rows of one matrix, padded with zeros."""
    result = np.zeros((len(arrays), max(1, *(array.size for array in arrays))), dtype)
    for row, array in zip(result, arrays, strict=True):
        row[: array.size] = array.reshape(-1)
    return result


def arrange(card: Card, words: Sequence[Words], rows: Any, plans: Any, most: int) -> None:
    """Make up to `most` orders for each net on the device, behind the head of its plan.

    `words` are each net's random words, empty for a net that does not shuffle; `rows` are each
    net's rows, on the device.
    """
    arguments = (card.copied(packed(words, np.uint32)), rows, plans, most)
    n_blocks = min(-(-len(words) * most // N_THREADS), 1 << 16)
    adapter.configured(_arrange(), arguments, n_blocks, N_THREADS)(*arguments)
