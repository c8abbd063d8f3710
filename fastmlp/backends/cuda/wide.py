"""The wide design: many blocks train one net.

A step has two phases with a grid barrier between them. In the first, each block takes strips of
rows through forward pass, loss and backpropagation. In the second, each block takes tiles of
weights and computes gradient, penalty and update together. One thread computes each number, as a
sum in order of the depth: the bits depend on no tile, block or launch, and there are no atomic
additions. The phases are launched one by one, or many steps in one cooperative launch.
"""

from typing import Any, NamedTuple

import numpy as np

from fastmlp.backends.cuda import rules as device_rules
from fastmlp.backends.cuda.adapter import SCALARS, cuda, device_function, kernel, unsigned
from fastmlp.backends.cuda.launch_shape import Form
from fastmlp.backends.cuda.plan import (
    BACKUP,
    BAD,
    BATCH,
    COEFFICIENTS,
    DIVERGED,
    EPOCH_LOSS,
    EPOCH_MASS,
    FIRST,
    GRADIENT,
    LAST,
    LOSSES,
    N_PARAMETERS,
    N_ROWS,
    PARAMETERS,
    REACHED,
    M,
    V,
)
from fastmlp.backends.cuda.rows import make_rows_phase
from fastmlp.backends.cuda.rules import Rules
from fastmlp.backends.cuda.weights import make_weights_phase

ROWS_PHASE, WEIGHTS_PHASE, SETTLE_PHASE, END_PHASE = 0, 1, 2, 3


class Kernels(NamedTuple):
    """The kernels of the wide design.

    Attributes
    ----------
    phase : ``f(x, y, memory, sums, plan, step, phase)``, one phase of one step
    run : ``f(x, y, memory, sums, plan)``, steps first to last in one cooperative launch
    """

    phase: Any
    run: Any


def make_kernels(rules: Rules, form: Form) -> Kernels:
    """Make the kernels for these rules."""
    rows_phase, weights_phase = make_rows_phase(rules, form), make_weights_phase(rules, form)
    settle, end = _make_settle(form), _make_end(form)
    training = rules.update is not None
    scalar, size = SCALARS[rules.dtype], form.staging

    def phase(x: Any, y: Any, memory: Any, sums: Any, plan: Any, step: Any, which: Any) -> None:
        staging = cuda.shared.array(size, scalar)
        # In the phase that sets BAD, a block may see it or not: its writes are undone at the end.
        # But all threads of a block must see the same value, or some would wait at a barrier for
        # ever.
        if training and which != END_PHASE and cuda.syncthreads_or(int(sums[BAD] != 0)) != 0:
            return
        if which == ROWS_PHASE:
            rows_phase(staging, x, y, memory, sums, plan, step)
        elif which == WEIGHTS_PHASE:
            weights_phase(staging, memory, sums, plan, step)
        elif training and which == SETTLE_PHASE:
            settle(memory, sums, plan)
        elif training:
            end(memory, sums, plan)

    def run(x: Any, y: Any, memory: Any, sums: Any, plan: Any) -> None:
        staging = cuda.shared.array(size, scalar)
        grid = cuda.cg.this_grid()
        if sums[BAD] != 0:
            return
        per_epoch = (plan[N_ROWS] + plan[BATCH] - 1) // plan[BATCH]
        for step in range(plan[FIRST], plan[LAST]):
            rows_phase(staging, x, y, memory, sums, plan, step)
            grid.sync()
            weights_phase(staging, memory, sums, plan, step)
            grid.sync()
            if (step + 1) % per_epoch == 0:
                settle(memory, sums, plan)
                grid.sync()
                end(memory, sums, plan)
                grid.sync()
            if sums[BAD] != 0:
                break
        if sums[BAD] != 0:
            end(memory, sums, plan)

    return Kernels(kernel(phase), kernel(run) if training else None)


def _make_settle(form: Form) -> Any:
    """Make the check, at the end of an epoch, that all parameters are finite."""
    n_threads = form.n_threads

    def settle(memory: Any, sums: Any, plan: Any) -> None:
        first, n_all = cuda.blockIdx.x * n_threads + cuda.threadIdx.x, cuda.gridDim.x * n_threads
        for i in range(first, plan[N_PARAMETERS], n_all):
            w = memory[unsigned(plan[PARAMETERS] + i)]
            if not w - w == 0:
                sums[BAD] = 1.0

    return device_function(settle)


def _make_end(form: Form) -> Any:
    """Make the end of an epoch, which writes its loss. If a number was not finite, it ends the
    training: it restores the parameters of the epoch's start and clears the state."""
    n_threads = form.n_threads

    def end(memory: Any, sums: Any, plan: Any) -> None:
        first, n_all = cuda.blockIdx.x * n_threads + cuda.threadIdx.x, cuda.gridDim.x * n_threads
        bad = sums[BAD] != 0
        if bad:
            for i in range(first, plan[N_PARAMETERS], n_all):
                memory[unsigned(plan[PARAMETERS] + i)] = memory[unsigned(plan[BACKUP] + i)]
                memory[unsigned(plan[M] + i)] = 0
                memory[unsigned(plan[V] + i)] = 0
        if first == 0 and sums[DIVERGED] == 0:
            per_epoch = (plan[N_ROWS] + plan[BATCH] - 1) // plan[BATCH]
            done = int(sums[REACHED])
            if bad or done % per_epoch == 0:
                sums[unsigned(plan[LOSSES] + (done - 1) // per_epoch)] = (
                    sums[EPOCH_LOSS] / sums[EPOCH_MASS]
                )
            if bad:
                sums[REACHED] = done - 1
                sums[DIVERGED] = 1.0

    return device_function(end)


def make_apply(rules: Rules, n_threads: int) -> Any:
    """Make the kernel ``apply(memory, plan)``: one step with the gradient in memory."""
    change = device_rules.update(rules, np.dtype(rules.dtype).type)

    def apply(memory: Any, plan: Any) -> None:
        first = cuda.blockIdx.x * n_threads + cuda.threadIdx.x
        for i in range(first, plan[N_PARAMETERS], cuda.gridDim.x * n_threads):
            w, m, v = plan[PARAMETERS] + i, plan[M] + i, plan[V] + i
            g = memory[unsigned(plan[GRADIENT] + i)]
            memory[unsigned(w)], memory[unsigned(m)], memory[unsigned(v)] = change(
                memory, plan[COEFFICIENTS], memory[unsigned(w)], g, memory[unsigned(m)],
                memory[unsigned(v)],
            )  # fmt: skip

    return kernel(apply)
