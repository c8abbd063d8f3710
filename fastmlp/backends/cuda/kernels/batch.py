"""The batch of a step of the grid: its rows, its mass, and what precedes its forward pass."""

from typing import Any

import numpy as np

from fastmlp.backends.cuda.adapter import SCALARS, cuda, device_function, unsigned
from fastmlp.backends.cuda.kernels import rule_blocks
from fastmlp.backends.cuda.kernels.rule_blocks import Rules
from fastmlp.backends.cuda.launch_shape import GridShape
from fastmlp.backends.cuda.plan import (
    AVERAGE,
    AVERAGE_BACKUP,
    BACKUP,
    BATCH,
    BATCH_MASS,
    EPOCH_LOSS,
    EPOCH_MASS,
    LAYERS,
    N_ORDERS,
    N_PARAMETERS,
    N_PARTIAL_SUMS,
    N_PENALTIES,
    N_PENALTY_SUMS,
    N_ROWS,
    PARAMETERS,
    PENALTY_SUMS,
    STRENGTHS,
    WEIGHTED,
    WEIGHTS,
    B,
)


def batch_of(plan: Any, step: Any) -> Any:
    """Return the first row of a step's batch in its epoch, and the number of its rows."""
    per_epoch = (plan[N_ROWS] + plan[BATCH] - 1) // plan[BATCH]
    start = step % per_epoch * plan[BATCH]
    return start, min(plan[BATCH], plan[N_ROWS] - start)


def make_mass(shape: GridShape) -> Any:
    """Make the sum of a batch's row weights: each block computes it, in the same order.

    For the gradient of a chunk, it is the mass of all chunks, which the host has written.
    """
    n_threads, double = shape.n_threads, SCALARS["float64"]

    def mass_of(net: Any, index: Any, n: Any, t: Any) -> Any:
        memory, plan = net.memory, net.plan
        if index < 0:
            return net.sums[BATCH_MASS]
        if plan[WEIGHTED] == 0:
            return float(n)
        parts = cuda.shared.array(N_PARTIAL_SUMS, double)
        for s in range(t, N_PARTIAL_SUMS, n_threads):
            part = 0.0
            for r in range(s, n, N_PARTIAL_SUMS):
                part += memory[unsigned(plan[WEIGHTS] + plan[unsigned(index + r)])]
            parts[s] = part
        cuda.syncthreads()
        total = 0.0
        for s in range(N_PARTIAL_SUMS):
            total += parts[s]
        cuda.syncthreads()
        return total

    return device_function(mass_of)


def make_begin_batch(rules: Rules, shape: GridShape) -> Any:
    """Make the work of all blocks before a batch, while no block writes to the weights: the backup
    of the parameters at an epoch's beginning, and the partial sums of the penalties."""
    scalar, n_threads = np.dtype(rules.dtype).type, shape.n_threads
    penalty, copy_average = rule_blocks.penalty(rules, scalar), rule_blocks.copy_average(rules)

    def begin_batch(net: Any, start: Any, mass: Any, t: Any) -> None:
        memory, sums, plan = net.memory, net.sums, net.plan
        first, n_all = cuda.blockIdx.x * n_threads + t, cuda.gridDim.x * n_threads
        if start == 0 and plan[N_ORDERS] > 0:
            for i in range(first, plan[N_PARAMETERS], n_all):
                memory[unsigned(plan[BACKUP] + i)] = memory[unsigned(plan[PARAMETERS] + i)]
            average, backup = plan[AVERAGE], plan[AVERAGE_BACKUP]
            copy_average(memory, backup, average, first, plan[N_PARAMETERS], n_all)
            if first == 0:
                sums[EPOCH_LOSS] = 0.0
                sums[EPOCH_MASS] = 0.0
        if first == 0:
            sums[BATCH_MASS] = mass
        if plan[N_PENALTIES] == 0 or mass == 0:
            return
        # Partial sum s has the weights s, s + N_PENALTY_SUMS, ...
        n_weights = plan[LAYERS + B]
        for s in range(first, plan[N_PENALTY_SUMS], n_all):
            total = 0.0
            for i in range(s, n_weights, plan[N_PENALTY_SUMS]):
                value, _ = penalty(
                    memory[unsigned(plan[PARAMETERS] + i)], sums, plan[STRENGTHS], 1.0 / mass
                )
                total += value
            sums[unsigned(plan[PENALTY_SUMS] + s)] = total

    return device_function(begin_batch)
