"""The kernels of a grid, which train one net or many, and their launches.

Blocks (i, k) share net k. A step has two phases; between them all blocks wait for each other. In
phase one, each block takes strips of rows through forward pass, loss and backward pass. In phase
two, each block takes tiles of weights through gradient, penalty and update. Each number is one sum,
in the order of its depth, by one thread: the bits are independent of tiles, blocks, launches and
other nets. A launch runs one phase of a step, or a cooperative launch many steps.
"""

from functools import cache
from typing import Any, NamedTuple

from fastmlp.backends.cuda import kernels, rule_blocks
from fastmlp.backends.cuda.device import (
    SCALARS,
    SIMULATED,
    configured,
    cuda,
    device_function,
    kernel,
    max_cooperative_blocks,
)
from fastmlp.backends.cuda.kernels import make_forward_backward, make_gradient_update
from fastmlp.backends.cuda.plan import SIMULATED_THREADS, GridShape, KernelRules, Nets, Session
from fastmlp.backends.cuda.rule_blocks import Net, Samples

FORWARD_BACKWARD, GRADIENT_UPDATE, END = 0, 1, 2


class Kernels(NamedTuple):
    """The kernels for some rules and shapes.

    Attributes
    ----------
    phase : ``phase(x, y, nets, step, which)``, one phase of each net's step, counted from the first
        of the launch
    run : ``run(x, y, nets, n_steps)``, each net's steps, at most `n_steps`, in one cooperative
    launch; None without an optimizer
    """

    phase: Any
    run: Any


@cache
def make_kernels(rules: KernelRules, shape: GridShape) -> Kernels:
    forward_backward = make_forward_backward(rules, shape)
    gradient_update = make_gradient_update(rules, shape)
    end, training = _make_end(rules, shape), rules.update is not None
    scalar, size = SCALARS[rules.dtype], shape.staging

    def of_nets(staging: Any, rows: Samples, nets: Nets, step: int, which: int) -> None:
        for k in range(cuda.blockIdx.y, nets.plans.shape[0], cuda.gridDim.y):
            plan, progress, orders = nets.plans[k], nets.progress[k], nets.orders[k]
            net = Net(nets.memory[k], nets.sums[k], progress, plan, nets.layers, orders)
            if which == FORWARD_BACKWARD:
                forward_backward(staging, rows, net, plan.first + step)
            elif which == GRADIENT_UPDATE:
                gradient_update(staging, net, plan.first + step)
            elif training:
                end(net)

    each = device_function(of_nets)

    def phase(x: Any, y: Any, nets: Nets, step: int, which: int) -> None:
        each(cuda.shared.array(size, scalar), Samples(x, y), nets, step, which)

    def run(x: Any, y: Any, nets: Nets, n_steps: int) -> None:
        staging, grid = cuda.shared.array(size, scalar), cuda.cg.this_grid()
        for q in range(2 * n_steps + 1):
            which = q % 2 if q < 2 * n_steps else END
            each(staging, Samples(x, y), nets, q // 2, which)
            grid.sync()

    return Kernels(kernel(phase), kernel(run) if training else None)


def _make_end(rules: KernelRules, shape: GridShape) -> Any:
    """The end of a net's launch: a training that has diverged goes back to its epoch."""
    n_threads, restore = shape.n_threads, rule_blocks.restore(rules)

    def end(net: Net) -> None:
        plan, progress = net.plan, net.progress
        first, n_all = cuda.blockIdx.x * n_threads + cuda.threadIdx.x, cuda.gridDim.x * n_threads
        if progress.diverged != 0:
            restore(net.memory, plan, first, n_all)
        elif first == 0:
            progress.reached = plan.last

    return device_function(end)


# The simulator runs blocks one after the other: barriers are the ends of launches there.
COOPERATIVE = not SIMULATED


def launch_steps(
    rules: KernelRules, shape: GridShape, session: Session, rows: Samples, n_steps: int
) -> None:
    """Launch the plans' steps, at most `n_steps` for a net."""
    kernels, n_threads, arguments = (
        make_kernels(rules, shape),
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
    """The forward pass of a chunk of rows; with `losses`, their sum, and the gradient if the
    plan's mode is TRAIN."""
    kernel = make_kernels(rules, shape).phase
    arguments = (*rows, session.nets)
    phase = configured(kernel, (*arguments, 0, 0), phase_blocks(session), shape.n_threads)
    phase(*arguments, 0, FORWARD_BACKWARD)
    if losses:
        phase(*arguments, 0, GRADIENT_UPDATE)


def launch_update(rules: KernelRules, session: Session) -> None:
    """One optimizer step by the gradient in memory."""
    kernel = kernels.make_apply(rules, n_threads := SIMULATED_THREADS if SIMULATED else 256)
    configured(kernel, (session.nets,), phase_blocks(session), n_threads)(session.nets)


def phase_blocks(session: Session) -> tuple[int, int]:
    """Two for each multiprocessor."""
    return blocks_of(session, 2 * session.card.n_multiprocessors)


def blocks_of(session: Session, most: int) -> tuple[int, int]:
    """How many blocks share a net, and how many nets are worked on at once."""
    n_nets = max(1, min(most, len(session.plans)))
    return max(1, most // n_nets), n_nets
