"""The compiled kernels, cached, and their launches."""

from functools import cache
from typing import Any

from fastmlp.backends.cuda.device.adapter import (
    SIMULATED,
    allow_shared_bytes,
    configured,
    max_cooperative_blocks,
)
from fastmlp.backends.cuda.kernels import gradient_update, grid, single_block
from fastmlp.backends.cuda.kernels.arguments import Samples
from fastmlp.backends.cuda.kernels.grid import (
    CHECK_FINITE,
    END_EPOCH,
    FORWARD_BACKWARD,
    GRADIENT_UPDATE,
)
from fastmlp.backends.cuda.plan.design import SIMULATED_THREADS, BlockShape, Design, GridShape
from fastmlp.backends.cuda.plan.rules import KernelRules
from fastmlp.backends.cuda.plan.session import Session


@cache
def single_block_kernel(rules: KernelRules, shape: BlockShape) -> Any:
    """Return the kernel of one block, made once per process and rules."""
    return single_block.make_kernel(rules, shape)


@cache
def grid_kernels(rules: KernelRules, shape: GridShape) -> grid.Kernels:
    """Return the kernels of a grid, made once per process and rules."""
    return grid.make_kernels(rules, shape)


@cache
def apply_kernel(rules: KernelRules, n_threads: int) -> Any:
    """Return the kernel of one optimizer step, made once per process and rules."""
    return gradient_update.make_apply(rules, n_threads)


def launch_steps(
    design: Design, rules: KernelRules, session: Session, rows: Samples, first: int, last: int
) -> None:
    """Launch the steps first to last of a training."""
    if design.kind == "single_block":
        launch_single_block(design.block, rules, session, rows)
        return
    kernels, n_threads = grid_kernels(rules, design.grid), design.grid.n_threads
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
    kernel = single_block_kernel(rules, shape)
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
    kernel = grid_kernels(rules, shape).phase
    arguments = (*rows, session.nets)
    phase = configured(kernel, (*arguments, 0, 0), phase_blocks(session), shape.n_threads)
    phase(*arguments, 0, FORWARD_BACKWARD)
    if losses:
        phase(*arguments, 0, GRADIENT_UPDATE)


def launch_update(rules: KernelRules, session: Session) -> None:
    """Launch one optimizer step by the gradient in memory."""
    kernel = apply_kernel(rules, n_threads := SIMULATED_THREADS if SIMULATED else 256)
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
