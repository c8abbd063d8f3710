"""The kernels of a grid, which train one net or many: blocks (i, k) share net k.

A step has two phases; between them all blocks wait for each other. In phase one, each block takes
strips of rows through forward pass, loss and backward pass. In phase two, each block takes tiles of
weights through gradient, penalty and update. Each number is one sum, in the order of its depth, by
one thread: the bits are independent of tiles, blocks, launches and other nets, and there are no
atomic sums. A launch runs one phase of a step, or a cooperative launch runs many steps.
"""

from functools import cache
from typing import Any, NamedTuple

from fastmlp.backends.cuda.device.adapter import SCALARS, cuda, device_function, kernel
from fastmlp.backends.cuda.kernels import rule_blocks
from fastmlp.backends.cuda.kernels.arguments import Net, Samples
from fastmlp.backends.cuda.kernels.forward_backward import make_forward_backward
from fastmlp.backends.cuda.kernels.gradient_update import make_gradient_update
from fastmlp.backends.cuda.plan.design import GridShape, KernelRules
from fastmlp.backends.cuda.plan.plan import Nets

FORWARD_BACKWARD, GRADIENT_UPDATE, END = 0, 1, 2


class Kernels(NamedTuple):
    """The kernels for some rules and shapes.

    Attributes
    ----------
    phase : ``phase(x, y, nets, step, which)``, one phase of each net's step, counted from the first
        of the launch
    run : ``run(x, y, nets, n_steps)``, each net's steps in one cooperative launch, of which the
        longest has `n_steps`; None without an optimizer
    """

    phase: Any
    run: Any


@cache
def make_kernels(rules: KernelRules, shape: GridShape) -> Kernels:
    """Make the kernels for these rules and shapes, once per process."""
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
    """Make the end of a net's launch: a training that has diverged goes back to its epoch."""
    n_threads, restore = shape.n_threads, rule_blocks.restore(rules)

    def end(net: Net) -> None:
        plan, progress = net.plan, net.progress
        first, n_all = cuda.blockIdx.x * n_threads + cuda.threadIdx.x, cuda.gridDim.x * n_threads
        if progress.diverged != 0:
            restore(net.memory, plan, first, n_all)
        elif first == 0:
            progress.reached = plan.last

    return device_function(end)
