"""Launches of kernels for a range of steps, by design."""

from typing import Any

from fastmlp.backends.cuda import adapter, wide
from fastmlp.backends.cuda.design import Design, small_kernel, wide_kernels
from fastmlp.backends.cuda.launch_shape import Form
from fastmlp.backends.cuda.plan import BATCH, N_ROWS
from fastmlp.backends.cuda.rules import Rules
from fastmlp.backends.cuda.session import Session


def launch(
    design: Design, rules: Rules, session: Session, x: Any, y: Any, first: int, last: int
) -> None:
    """Launch the steps from first to last, exclusive."""
    if design.kind == "small":
        launch_small(design, rules, session, x, y)
        return
    kernels = wide_kernels(rules, design.wide)
    arguments = (x, y, session.memory[0], session.sums[0], session.device_plans[0])
    n_threads = design.wide.n_threads
    if design.kind == "wide":
        n_blocks = resident_blocks(session, kernels.run, arguments, n_threads)
        adapter.configured(kernels.run, arguments, n_blocks, n_threads)(*arguments)
        return
    per_epoch = -(-int(session.plans[0, N_ROWS]) // int(session.plans[0, BATCH]))
    n_blocks = blocks_for(session)
    phase = adapter.configured(kernels.phase, (*arguments, 0, 0), n_blocks, n_threads)
    for step in range(first, last):
        phase(*arguments, step, wide.ROWS_PHASE)
        phase(*arguments, step, wide.WEIGHTS_PHASE)
        if (step + 1) % per_epoch == 0:
            phase(*arguments, step, wide.SETTLE_PHASE)
            phase(*arguments, step, wide.END_PHASE)
    phase(*arguments, last, wide.END_PHASE)


def launch_small(design: Design, rules: Rules, session: Session, x: Any, y: Any) -> None:
    """Launch the small design: a block for each net of the session."""
    kernel = small_kernel(rules, design.small)
    arguments = (x, y, session.memory, session.sums, session.device_plans)
    n_bytes = session.sizes.space * session.memory.dtype.itemsize if design.small.shared else 0
    adapter.lift_shared_limit(kernel, arguments, n_bytes)
    n_blocks, n_threads = len(session.plans), design.small.threads
    adapter.configured(kernel, arguments, n_blocks, n_threads, n_bytes)(*arguments)


def launch_chunk(
    rules: Rules, form: Form, session: Session, x: Any, y: Any, *, train: bool
) -> None:
    """Launch phase one on a chunk of rows and, unless they are predictions, phase two."""
    kernel = wide_kernels(rules, form).phase
    arguments = (x, y, session.memory[0], session.sums[0], session.device_plans[0])
    phase = adapter.configured(kernel, (*arguments, 0, 0), blocks_for(session), form.n_threads)
    phase(*arguments, 0, wide.ROWS_PHASE)
    if train:
        phase(*arguments, 0, wide.WEIGHTS_PHASE)


def blocks_for(session: Session) -> int:
    """Return the number of blocks of a launch by phases: two for each multiprocessor."""
    return 2 * session.card.n_multiprocessors


def resident_blocks(
    session: Session, kernel: Any, arguments: tuple[Any, ...], n_threads: int
) -> int:
    """Return the number of blocks of a cooperative launch: one for each multiprocessor.

    All must be resident at once; two on one multiprocessor share its arithmetic, and reach barriers
    later.
    """
    most = adapter.most_cooperative_blocks(kernel, arguments, n_threads)
    return max(1, min(most, session.card.n_multiprocessors))
