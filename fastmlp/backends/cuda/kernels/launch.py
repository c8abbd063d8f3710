"""The launches of the compiled kernels."""

from fastmlp.backends.cuda.device.adapter import SIMULATED, configured, max_cooperative_blocks
from fastmlp.backends.cuda.kernels import gradient_update, grid
from fastmlp.backends.cuda.kernels.arguments import Samples
from fastmlp.backends.cuda.kernels.grid import END, FORWARD_BACKWARD, GRADIENT_UPDATE
from fastmlp.backends.cuda.plan.design import SIMULATED_THREADS, GridShape, KernelRules
from fastmlp.backends.cuda.plan.session import Session

# The simulator runs blocks one after the other: their barriers are the ends of launches there.
COOPERATIVE = not SIMULATED


def launch_steps(
    rules: KernelRules, shape: GridShape, session: Session, rows: Samples, n_steps: int
) -> None:
    """Launch the steps that the plans say, of which the longest has `n_steps`."""
    kernels, n_threads, arguments = (
        grid.make_kernels(rules, shape),
        shape.n_threads,
        (*rows, session.nets),
    )
    if COOPERATIVE:
        # All blocks must be resident at once. Two on one multiprocessor would share its arithmetic,
        # and reach the barrier later.
        resident = max_cooperative_blocks(kernels.run, (*arguments, n_steps), n_threads)
        blocks = blocks_of(session, min(resident, session.card.n_multiprocessors))
        run = configured(kernels.run, (*arguments, n_steps), blocks, n_threads)
        run(*arguments, n_steps)
        return
    phase = configured(kernels.phase, (*arguments, 0, 0), phase_blocks(session), n_threads)
    for step in range(n_steps):
        phase(*arguments, step, FORWARD_BACKWARD)
        phase(*arguments, step, GRADIENT_UPDATE)
    phase(*arguments, n_steps, END)


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


def phase_blocks(session: Session) -> tuple[int, int]:
    """Return the blocks of a phase's launch: two for each multiprocessor."""
    return blocks_of(session, 2 * session.card.n_multiprocessors)


def blocks_of(session: Session, most: int) -> tuple[int, int]:
    """Return how many blocks share a net, and how many nets are worked on at once."""
    n_nets = max(1, min(most, len(session.plans)))
    return max(1, most // n_nets), n_nets
