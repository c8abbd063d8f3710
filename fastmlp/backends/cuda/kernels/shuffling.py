"""The orders of the rows of many nets, made on the GPU."""

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastmlp.backends.cuda.device import adapter
from fastmlp.backends.cuda.device.adapter import configured, cuda, kernel, unsigned
from fastmlp.backends.cuda.device.arrays import packed
from fastmlp.backends.cuda.device.card import Card
from fastmlp.backends.cuda.plan.records import Nets

Words = NDArray[np.uint32]
N_THREADS = 8 if adapter.SIMULATED else 128
# From so many orders on, the GPU makes them. A GPU thread takes about 0.5 us a row, the host 5 ns
# with the copy: an estimate, not yet measured on a GPU. The simulator takes 10 us a row.
MIN_DEVICE_ORDERS = 1 << 62 if adapter.SIMULATED else 256


@cache
def _order_kernel() -> Any:
    """Make the kernel ``make_orders(words, rows, plans, orders, most)``, a thread an order."""

    def make_orders(words: Any, rows: Any, plans: Any, orders: Any, most: int) -> None:
        first, n_all = cuda.blockIdx.x * N_THREADS + cuda.threadIdx.x, cuda.gridDim.x * N_THREADS
        for q in range(first, plans.shape[0] * most, n_all):
            net = q // most
            plan, order = plans[net], q - net * most
            if order < plan.n_orders:
                n = plan.n_rows
                at, shuffled = order * n, plan.shuffled != 0
                for i in range(n):
                    j: Any = i
                    if shuffled:
                        # The formula of `backends.shuffle`.
                        wide = np.uint64(words[net, unsigned(at + i)]) * np.uint64(i + 1)
                        j = np.int64(wide >> np.uint64(32))
                    orders[net, unsigned(at + i)] = orders[net, unsigned(at + j)]
                    orders[net, unsigned(at + j)] = rows[net, unsigned(i)]

    return kernel(make_orders)


def make_orders(card: Card, words: Sequence[Words], rows: Any, nets: Nets, most: int) -> None:
    """Make up to `most` orders for each net on the GPU.

    Parameters
    ----------
    words : each net's random words, empty for a net whose rows keep their order
    rows : int64, shape (n_nets, n_rows), on the GPU: each net's rows
    nets : with plans that say how many orders, of how many rows
    """
    arguments = (card.copied(packed(words, np.uint32)), rows, nets.plans, nets.orders, most)
    n_blocks = min(-(-len(words) * most // N_THREADS), 1 << 16)
    configured(_order_kernel(), arguments, n_blocks, N_THREADS)(*arguments)
