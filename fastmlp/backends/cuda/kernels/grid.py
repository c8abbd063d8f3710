"""The kernels of a grid: many blocks train one net.

A step has two phases; between them all blocks wait for each other. In phase one, each block takes
strips of rows through forward pass, loss and backward pass. In phase two, each block takes tiles of
weights through gradient, penalty and update. Each number is one sum, in the order of its depth, by
one thread: the bits are independent of tiles, blocks and launches, and there are no atomic sums. A
launch runs one phase of a step, or a cooperative launch runs many steps.
"""

from typing import Any, NamedTuple

from fastmlp.backends.cuda.device.adapter import SCALARS, cuda, device_function, kernel, unsigned
from fastmlp.backends.cuda.kernels import rule_blocks
from fastmlp.backends.cuda.kernels.arguments import Net, Rows
from fastmlp.backends.cuda.kernels.forward_backward import make_forward_backward
from fastmlp.backends.cuda.kernels.gradient_update import make_gradient_update
from fastmlp.backends.cuda.plan.design import GridShape
from fastmlp.backends.cuda.plan.plan import (
    AVERAGE,
    AVERAGE_BACKUP,
    BACKUP,
    BATCH,
    DIVERGED,
    EPOCH_LOSS,
    EPOCH_MASS,
    FIRST,
    LAST,
    LOSSES,
    N_PARAMETERS,
    N_ROWS,
    NON_FINITE,
    PARAMETERS,
    REACHED,
    M,
    V,
)
from fastmlp.backends.cuda.plan.rules import Rules

FORWARD_BACKWARD, GRADIENT_UPDATE, CHECK_FINITE, END_EPOCH = 0, 1, 2, 3


class Kernels(NamedTuple):
    """The kernels for some rules and shapes.

    Attributes
    ----------
    phase : ``phase(x, y, memory, sums, plan, step, which)``, one phase of one step
    run : ``run(x, y, memory, sums, plan)``, the steps FIRST to LAST in one cooperative launch; None
        without an optimizer
    """

    phase: Any
    run: Any


def make_kernels(rules: Rules, shape: GridShape) -> Kernels:
    """Make the kernels for these rules and shapes."""
    forward_backward = make_forward_backward(rules, shape)
    gradient_update = make_gradient_update(rules, shape)
    check_finite, end_epoch = _make_finite_check(shape), _make_end_epoch(rules, shape)
    training = rules.update is not None
    scalar, size = SCALARS[rules.dtype], shape.staging

    def phase(x: Any, y: Any, memory: Any, sums: Any, plan: Any, step: Any, which: Any) -> None:
        staging, net = cuda.shared.array(size, scalar), Net(memory, sums, plan)
        # Other blocks of the launch that sets NON_FINITE may see it or not: END_EPOCH undoes their
        # writes. All threads of one block must see the same, or some would wait at a barrier
        # for threads that have returned.
        if training and which != END_EPOCH and cuda.syncthreads_or(int(sums[NON_FINITE] != 0)) != 0:
            return
        if which == FORWARD_BACKWARD:
            forward_backward(staging, Rows(x, y), net, step)
        elif which == GRADIENT_UPDATE:
            gradient_update(staging, net, step)
        elif training and which == CHECK_FINITE:
            check_finite(net)
        elif training:
            end_epoch(net)

    def run(x: Any, y: Any, memory: Any, sums: Any, plan: Any) -> None:
        staging, rows, net = cuda.shared.array(size, scalar), Rows(x, y), Net(memory, sums, plan)
        grid = cuda.cg.this_grid()
        if sums[NON_FINITE] != 0:
            return
        per_epoch = (plan[N_ROWS] + plan[BATCH] - 1) // plan[BATCH]
        for step in range(plan[FIRST], plan[LAST]):
            forward_backward(staging, rows, net, step)
            grid.sync()
            gradient_update(staging, net, step)
            grid.sync()
            if (step + 1) % per_epoch == 0:
                check_finite(net)
                grid.sync()
                end_epoch(net)
                grid.sync()
            if sums[NON_FINITE] != 0:
                break
        if sums[NON_FINITE] != 0:
            end_epoch(net)

    return Kernels(kernel(phase), kernel(run) if training else None)


def _make_finite_check(shape: GridShape) -> Any:
    """Make the check, at the end of an epoch, that all parameters are finite."""
    n_threads = shape.n_threads

    def check_finite(net: Any) -> None:
        memory, plan = net.memory, net.plan
        first, n_all = cuda.blockIdx.x * n_threads + cuda.threadIdx.x, cuda.gridDim.x * n_threads
        for i in range(first, plan[N_PARAMETERS], n_all):
            w = memory[unsigned(plan[PARAMETERS] + i)]
            if not w - w == 0:
                net.sums[NON_FINITE] = 1.0

    return device_function(check_finite)


def _make_end_epoch(rules: Rules, shape: GridShape) -> Any:
    """Make the end of an epoch, which writes its loss.

    If a number is not finite, training has diverged: the parameters from before the epoch are
    restored, and the optimizer's state is set to zeros.
    """
    n_threads, copy_average = shape.n_threads, rule_blocks.copy_average(rules)

    def end_epoch(net: Any) -> None:
        memory, sums, plan = net.memory, net.sums, net.plan
        first, n_all = cuda.blockIdx.x * n_threads + cuda.threadIdx.x, cuda.gridDim.x * n_threads
        diverged = sums[NON_FINITE] != 0
        if diverged:
            for i in range(first, plan[N_PARAMETERS], n_all):
                memory[unsigned(plan[PARAMETERS] + i)] = memory[unsigned(plan[BACKUP] + i)]
                memory[unsigned(plan[M] + i)] = 0
                memory[unsigned(plan[V] + i)] = 0
            average, backup = plan[AVERAGE], plan[AVERAGE_BACKUP]
            copy_average(memory, average, backup, first, plan[N_PARAMETERS], n_all)
        if first == 0 and sums[DIVERGED] == 0:
            per_epoch = (plan[N_ROWS] + plan[BATCH] - 1) // plan[BATCH]
            done = int(sums[REACHED])
            if diverged or done % per_epoch == 0:
                sums[unsigned(plan[LOSSES] + (done - 1) // per_epoch)] = (
                    sums[EPOCH_LOSS] / sums[EPOCH_MASS]
                )
            if diverged:
                sums[REACHED] = done - 1
                sums[DIVERGED] = 1.0

    return device_function(end_epoch)
