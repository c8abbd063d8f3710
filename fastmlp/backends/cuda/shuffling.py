"""Orders of the rows: made on the host, or on the device, where there are many at once."""

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastmlp.backends.cuda import adapter
from fastmlp.backends.cuda.adapter import Card, cuda, kernel, unsigned
from fastmlp.backends.cuda.plan import N_ORDERS, N_ROWS, ORDER, SHUFFLED

Words = NDArray[np.uint32]
N_THREADS = 8 if adapter.SIMULATED else 128
# A thread of the device makes an order in about 0.5 us a row, the host in 5 ns, its copy included:
# an estimate, until a card has measured it. The simulator's takes 10 us.
ENOUGH = 1 << 62 if adapter.SIMULATED else 256


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
                        # See `backends.shuffle`.
                        wide = np.uint64(words[net, unsigned(word + i)]) * np.uint64(i + 1)
                        j = np.int64(wide >> np.uint64(32))
                    plans[net, unsigned(at + i)] = plans[net, unsigned(at + j)]
                    plans[net, unsigned(at + j)] = rows[net, unsigned(i)]

    return kernel(arrange)


def packed(arrays: Sequence[NDArray[Any]], dtype: Any) -> NDArray[Any]:
    """Return arrays, flat, as the rows of one matrix, 0 behind those that are shorter."""
    result = np.zeros((len(arrays), max(1, *(array.size for array in arrays))), dtype)
    for row, array in zip(result, arrays, strict=True):
        row[: array.size] = array.reshape(-1)
    return result


def arrange(card: Card, words: Sequence[Words], rows: Any, plans: Any, most: int) -> None:
    """Make up to so many orders of each net on the device, behind the heads of its plan.

    `words` are each net's random words, none for one whose rows stay as they are; `rows` each net's
    rows, on the device.
    """
    arguments = (card.copied(packed(words, np.uint32)), rows, plans, most)
    n_blocks = min(-(-len(words) * most // N_THREADS), 1 << 16)
    adapter.configured(_arrange(), arguments, n_blocks, N_THREADS)(*arguments)
