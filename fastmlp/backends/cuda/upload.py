"""One copy to the device for many nets: values are packed on the host and scattered there.

A copy costs some 10 us, and 60 us of Python with the slice of its target. For 64 nets, each with
coefficients and a plan of its own, separate copies take longer than the nets' steps.
"""

from functools import cache
from typing import Any

from fastmlp.backends.cuda import adapter
from fastmlp.backends.cuda.adapter import Card, cuda, kernel, unsigned

N_THREADS = 8 if adapter.SIMULATED else 256


@cache
def _spread() -> Any:
    def spread(packed: Any, target: Any, start: Any) -> None:
        first, n_all = cuda.blockIdx.x * N_THREADS + cuda.threadIdx.x, cuda.gridDim.x * N_THREADS
        width = packed.shape[1]
        for q in range(first, packed.shape[0] * width, n_all):
            net = q // width
            i = q - net * width
            target[unsigned(net), unsigned(start + i)] = packed[unsigned(net), unsigned(i)]

    return kernel(spread)


def spread(card: Card, values: Any, target: Any, start: int) -> None:
    """Copy a matrix on the host to columns of a matrix on the device, from `start` on."""
    if not values.size:
        return
    packed = card.copied(values)
    arguments = (packed, target, start)
    n_blocks = min(-(-values.size // N_THREADS), 2 * card.n_multiprocessors)
    adapter.configured(_spread(), arguments, n_blocks, N_THREADS)(*arguments)
