"""One training step of one net, by one block: gather, forward, losses, backward, update.

The block's space has all but the data, the rows' weights and the optimizer's state. A barrier
separates a thread's writes from other threads' reads.
"""

from typing import Any

import numpy as np

from fastmlp.backends.cuda.adapter import cuda, device_function, unsigned
from fastmlp.backends.cuda.kernels import rule_blocks
from fastmlp.backends.cuda.kernels.arguments import Batch, OutputRow
from fastmlp.backends.cuda.kernels.dropout import make_drawing
from fastmlp.backends.cuda.kernels.rule_blocks import Rules
from fastmlp.backends.cuda.kernels.single_block_layers import (
    make_backward,
    make_forward,
    make_update,
)
from fastmlp.backends.cuda.plan import (
    BATCH_LOSS,
    BATCH_MASS,
    DELTA,
    DELTA_STRIDE,
    DERIVATIVE,
    DRAWS,
    EPOCH_LOSS,
    EPOCH_MASS,
    INPUT,
    INPUT_STRIDE,
    LAYER_WORDS,
    LAYERS,
    LOSS_SUMS,
    LOWEST,
    MASS_SUMS,
    N_IN,
    N_LAYERS,
    N_OUTPUTS,
    N_PARTIAL_SUMS,
    N_PENALTIES,
    N_PENALTY_SUMS,
    PENALTY_SUMS,
    ROW_LOSSES,
    WEIGHTED,
    WEIGHTS,
)


def make_step(rules: Rules, n_threads: int) -> Any:
    """Make ``step(rows, net, space, index, n, at, t)``: one step on n rows.

    The rows' numbers begin at ``plan[index]``, the coefficients at ``memory[at]``.
    """
    gather, mass_of = _make_gather(rules, n_threads), _make_mass(n_threads)
    forward, backward = make_forward(rules, n_threads), make_backward(rules, n_threads)
    losses, update = _make_losses(rules, n_threads), make_update(rules, n_threads)
    end_batch = _make_end_batch()

    def step(rows: Any, net: Any, space: Any, index: Any, n: Any, at: Any, t: Any) -> None:
        plan, n_layers = net.plan, net.plan[N_LAYERS]
        batch = Batch(index, n, 1.0, at)
        gather(rows.x, net, space, batch, t)
        mass = mass_of(net, index, n, t)
        if mass == 0:
            # A batch of zero weights: no step, no loss.
            if t == 0:
                net.sums[BATCH_LOSS] = 0.0
            return
        batch = Batch(index, n, mass, at)
        for i in range(n_layers):
            forward(net, space, i, batch, t)
            cuda.syncthreads()
        losses(rows.y, net, space, batch, t)
        for i in range(n_layers - 1, plan[LOWEST], -1):
            backward(plan, space, i, n, t)
            cuda.syncthreads()
        for i in range(n_layers):
            update(net, space, i, batch, t)
        cuda.syncthreads()
        end_batch(net.sums, plan, mass, t)

    return device_function(step)


def _make_gather(rules: Rules, n_threads: int) -> Any:
    """Make the copy of a batch's features to the block's space, with noise and dropout."""
    disturb, draws = make_drawing(rules).disturbed, rules.draws

    def gather(x: Any, net: Any, space: Any, batch: Any, t: Any) -> None:
        plan, index, n = net.plan, batch.order, batch.n_rows
        at = batch.coefficients + plan[DRAWS]
        n_in, stride = plan[LAYERS + N_IN], plan[LAYERS + INPUT_STRIDE]
        inputs = space.base + plan[LAYERS + INPUT]
        for q in range(t, n * n_in, n_threads):
            r = q // n_in
            k = q - r * n_in
            value = x[plan[unsigned(index + r)], k]
            if draws:
                value = disturb(net.memory, at, value, r, k)
            space.numbers[unsigned(inputs + r * stride + k)] = value
        cuda.syncthreads()

    return device_function(gather)


def _make_mass(n_threads: int) -> Any:
    """Make the sum of a batch's row weights, which every thread gets."""

    def mass_of(net: Any, index: Any, n: Any, t: Any) -> Any:
        memory, sums, plan = net.memory, net.sums, net.plan
        if plan[WEIGHTED] == 0:
            return float(n)
        weights = plan[WEIGHTS]
        for s in range(t, N_PARTIAL_SUMS, n_threads):
            part = 0.0
            for r in range(s, n, N_PARTIAL_SUMS):
                part += memory[unsigned(weights + plan[unsigned(index + r)])]
            sums[unsigned(MASS_SUMS + s)] = part
        cuda.syncthreads()
        total = 0.0
        for s in range(N_PARTIAL_SUMS):
            total += sums[unsigned(MASS_SUMS + s)]
        return total

    return device_function(mass_of)


def _make_losses(rules: Rules, n_threads: int) -> Any:
    """Make the rows' losses, the deltas of the output layer, and the partial sums of the losses."""
    row_loss = rule_blocks.row_loss(rules, np.dtype(rules.dtype).type)

    def losses(y: Any, net: Any, space: Any, batch: Any, t: Any) -> None:
        memory, sums, plan, base = net.memory, net.sums, net.plan, space.base
        a = LAYERS + (plan[N_LAYERS] - 1) * LAYER_WORDS
        after, values = a + LAYER_WORDS, plan[ROW_LOSSES]
        for r in range(t, batch.n_rows, n_threads):
            row = plan[unsigned(batch.order + r)]
            weight = 1.0
            if plan[WEIGHTED] != 0:
                weight = float(memory[unsigned(plan[WEIGHTS] + row)])
            offset = r * plan[after + INPUT_STRIDE]
            at = OutputRow(
                base + plan[after + INPUT] + offset,
                base + plan[after + DERIVATIVE] + offset,
                base + plan[a + DELTA] + r * plan[a + DELTA_STRIDE],
                plan[N_OUTPUTS],
            )
            row_loss(space.numbers, at, sums, values + r, y, row, weight / batch.mass)
            sums[unsigned(values + r)] *= weight
        cuda.syncthreads()
        for s in range(t, N_PARTIAL_SUMS, n_threads):
            part = 0.0
            for r in range(s, batch.n_rows, N_PARTIAL_SUMS):
                part += sums[unsigned(values + r)]
            sums[unsigned(LOSS_SUMS + s)] = part

    return device_function(losses)


def _make_end_batch() -> Any:
    """Make the loss of a batch, added to the epoch's."""

    def end_batch(sums: Any, plan: Any, mass: Any, t: Any) -> None:
        if t == 0:
            total = 0.0
            for s in range(N_PARTIAL_SUMS):
                total += sums[unsigned(LOSS_SUMS + s)]
            loss = total / mass
            if plan[N_PENALTIES] > 0:
                for s in range(plan[N_PENALTY_SUMS]):
                    loss += sums[unsigned(plan[PENALTY_SUMS] + s)]
            sums[BATCH_MASS] = mass
            sums[BATCH_LOSS] = loss
            sums[EPOCH_LOSS] += loss * mass
            sums[EPOCH_MASS] += mass

    return device_function(end_batch)
