"""The kernels of a grid: many blocks train one net.

A step has two phases; between them all blocks wait for each other. In phase one, each block takes
strips of rows through forward pass, loss and backward pass. In phase two, each block takes tiles of
weights through gradient, penalty and update. Each number is one sum, in the order of its depth, by
one thread: the bits are independent of tiles, blocks and launches, and there are no atomic sums. A
launch runs one phase of a step, or a cooperative launch runs many steps.
"""

from functools import cache
from typing import Any, NamedTuple

from fastmlp.backends.cuda.device.adapter import (
    SCALARS,
    cuda,
    device_function,
    is_finite,
    kernel,
    unsigned,
)
from fastmlp.backends.cuda.kernels import rule_blocks
from fastmlp.backends.cuda.kernels.arguments import Net, Samples, steps_per_epoch
from fastmlp.backends.cuda.kernels.forward_backward import make_forward_backward
from fastmlp.backends.cuda.kernels.gradient_update import make_gradient_update
from fastmlp.backends.cuda.plan.design import GridShape, KernelRules
from fastmlp.backends.cuda.plan.plan import Nets

FORWARD_BACKWARD, GRADIENT_UPDATE, CHECK_FINITE, END_EPOCH = 0, 1, 2, 3


class Kernels(NamedTuple):
    """The kernels for some rules and shapes, on the first net.

    Attributes
    ----------
    phase : ``phase(x, y, nets, step, which)``, one phase of one step
    run : ``run(x, y, nets)``, the plan's steps in one cooperative launch; None without an
        optimizer
    """

    phase: Any
    run: Any


@cache
def make_kernels(rules: KernelRules, shape: GridShape) -> Kernels:
    """Make the kernels for these rules and shapes, once per process."""
    forward_backward = make_forward_backward(rules, shape)
    gradient_update = make_gradient_update(rules, shape)
    check_finite, end_epoch = _make_finite_check(shape), _make_end_epoch(rules, shape)
    training = rules.update is not None
    scalar, size = SCALARS[rules.dtype], shape.staging

    def phase(x: Any, y: Any, nets: Nets, step: int, which: int) -> None:
        staging, progress = cuda.shared.array(size, scalar), nets.progress[0]
        memory, sums, plan, orders = nets.memory[0], nets.sums[0], nets.plans[0], nets.orders[0]
        net = Net(memory, sums, progress, plan, nets.layers, orders)
        # Other blocks of the launch that sets `non_finite` may see it or not: END_EPOCH undoes
        # their writes. All threads of one block must see the same, or some would wait at a barrier
        # for threads that have returned.
        if training and which != END_EPOCH:
            if cuda.syncthreads_or(int(progress.non_finite != 0)) != 0:
                return
        if which == FORWARD_BACKWARD:
            forward_backward(staging, Samples(x, y), net, step)
        elif which == GRADIENT_UPDATE:
            gradient_update(staging, net, step)
        elif training and which == CHECK_FINITE:
            check_finite(net)
        elif training:
            end_epoch(net)

    def run(x: Any, y: Any, nets: Nets) -> None:
        staging, progress = cuda.shared.array(size, scalar), nets.progress[0]
        memory, sums, plan, orders = nets.memory[0], nets.sums[0], nets.plans[0], nets.orders[0]
        net, grid = Net(memory, sums, progress, plan, nets.layers, orders), cuda.cg.this_grid()
        if progress.non_finite != 0:
            return
        per_epoch = steps_per_epoch(plan)
        for step in range(plan.first, plan.last):
            forward_backward(staging, Samples(x, y), net, step)
            grid.sync()
            gradient_update(staging, net, step)
            grid.sync()
            if (step + 1) % per_epoch == 0:
                check_finite(net)
                grid.sync()
                end_epoch(net)
                grid.sync()
            if progress.non_finite != 0:
                break
        if progress.non_finite != 0:
            end_epoch(net)

    return Kernels(kernel(phase), kernel(run) if training else None)


def _make_finite_check(shape: GridShape) -> Any:
    """Make the check, at the end of an epoch, that all parameters are finite."""
    n_threads = shape.n_threads

    def check_finite(net: Net) -> None:
        memory, plan = net.memory, net.plan
        first, n_all = cuda.blockIdx.x * n_threads + cuda.threadIdx.x, cuda.gridDim.x * n_threads
        for i in range(first, plan.n_parameters, n_all):
            if not is_finite(memory[unsigned(plan.parameters + i)]):
                net.progress.non_finite = 1

    return device_function(check_finite)


def _make_end_epoch(rules: KernelRules, shape: GridShape) -> Any:
    """Make the end of an epoch, which writes its loss, or goes back if training has diverged."""
    n_threads, restore = shape.n_threads, rule_blocks.restore(rules)

    def end_epoch(net: Net) -> None:
        plan, progress = net.plan, net.progress
        first, n_all = cuda.blockIdx.x * n_threads + cuda.threadIdx.x, cuda.gridDim.x * n_threads
        diverged = progress.non_finite != 0
        if diverged:
            restore(net.memory, plan, first, n_all)
        if first == 0 and progress.diverged == 0:
            per_epoch, done = steps_per_epoch(plan), progress.reached
            if diverged or done % per_epoch == 0:
                mean = progress.epoch_loss / progress.epoch_mass
                net.sums[unsigned(plan.losses + (done - 1) // per_epoch)] = mean
            if diverged:
                progress.reached = done - 1
                progress.diverged = 1

    return device_function(end_epoch)
