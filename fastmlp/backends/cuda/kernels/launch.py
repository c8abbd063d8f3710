"""The compiled kernels, cached, and their launches; the orders of rows, made on the GPU."""

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastmlp.backends.cuda.device import adapter
from fastmlp.backends.cuda.device.adapter import (
    SIMULATED,
    allow_shared_bytes,
    configured,
    cuda,
    kernel,
    max_cooperative_blocks,
    unsigned,
)
from fastmlp.backends.cuda.device.arrays import packed
from fastmlp.backends.cuda.device.card import Card
from fastmlp.backends.cuda.kernels import gradient_update, grid, single_block
from fastmlp.backends.cuda.kernels.arguments import Samples
from fastmlp.backends.cuda.kernels.grid import (
    CHECK_FINITE,
    END_EPOCH,
    FORWARD_BACKWARD,
    GRADIENT_UPDATE,
)
from fastmlp.backends.cuda.plan.design import (
    SIMULATED_THREADS,
    BlockShape,
    Design,
    GridShape,
    KernelRules,
)
from fastmlp.backends.cuda.plan.plan import Nets
from fastmlp.backends.cuda.plan.session import Session


def launch_steps(
    design: Design, rules: KernelRules, session: Session, rows: Samples, first: int, last: int
) -> None:
    """Launch the steps first to last of a training."""
    if design.kind == "single_block":
        launch_single_block(design.block, rules, session, rows)
        return
    kernels, n_threads = grid.make_kernels(rules, design.grid), design.grid.n_threads
    arguments = (*rows, session.nets)
    if design.kind == "grid":
        n_blocks = resident_blocks(session, kernels.run, arguments, n_threads)
        configured(kernels.run, arguments, n_blocks, n_threads)(*arguments)
        return
    plan = session.plans[0]
    per_epoch = -(-int(plan["n_rows"]) // int(plan["batch"]))
    phase = configured(kernels.phase, (*arguments, 0, 0), phase_blocks(session), n_threads)
    for step in range(first, last):
        phase(*arguments, step, FORWARD_BACKWARD)
        phase(*arguments, step, GRADIENT_UPDATE)
        if (step + 1) % per_epoch == 0:
            phase(*arguments, step, CHECK_FINITE)
            phase(*arguments, step, END_EPOCH)
    phase(*arguments, last, END_EPOCH)


def launch_single_block(
    shape: BlockShape, rules: KernelRules, session: Session, rows: Samples
) -> None:
    """Launch the steps of all nets of a session, one block a net."""
    kernel = single_block.make_kernel(rules, shape)
    arguments = (*rows, session.nets)
    n_bytes = session.sizes.space * session.nets.memory.dtype.itemsize if shape.shared else 0
    allow_shared_bytes(kernel, arguments, n_bytes)
    n_blocks = len(session.plans)
    configured(kernel, arguments, n_blocks, shape.n_threads, n_bytes)(*arguments)


def launch_chunk(
    rules: KernelRules, shape: GridShape, session: Session, rows: Samples, *, losses: bool
) -> None:
    """Launch the forward pass of a chunk of rows; with `losses`, their sum, and the gradient if
    the plan's mode is TRAIN."""
    kernel = grid.make_kernels(rules, shape).phase
    arguments = (*rows, session.nets)
    phase = configured(kernel, (*arguments, 0, 0), phase_blocks(session), shape.n_threads)
    phase(*arguments, 0, FORWARD_BACKWARD)
    if losses:
        phase(*arguments, 0, GRADIENT_UPDATE)


def launch_update(rules: KernelRules, session: Session) -> None:
    """Launch one optimizer step by the gradient in memory."""
    kernel = gradient_update.make_apply(rules, n_threads := SIMULATED_THREADS if SIMULATED else 256)
    configured(kernel, (session.nets,), phase_blocks(session), n_threads)(session.nets)


def phase_blocks(session: Session) -> int:
    """Return the number of blocks of a phase's launch: two for each multiprocessor."""
    return 2 * session.card.n_multiprocessors


def resident_blocks(
    session: Session, kernel: Any, arguments: tuple[Any, ...], n_threads: int
) -> int:
    """Return the number of blocks of a cooperative launch: at most one for each multiprocessor.

    All blocks must be resident at once. Two on one multiprocessor would share its arithmetic, and
    reach the barrier later.
    """
    most = max_cooperative_blocks(kernel, arguments, n_threads)
    return max(1, min(most, session.card.n_multiprocessors))


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
