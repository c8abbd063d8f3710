"""One training step of one net, by one block: gather, forward, losses, backward, update.

The block's space has all but the data, the rows' weights and the optimizer's state. A barrier
separates a thread's writes from other threads' reads.
"""

from typing import Any

import numpy as np

from fastmlp.backends.cuda.device.adapter import cuda, device_function, unsigned
from fastmlp.backends.cuda.kernels import rule_blocks
from fastmlp.backends.cuda.kernels.arguments import Batch, Extent, Operand, OutputRow, Product
from fastmlp.backends.cuda.kernels.dropout import make_drawing
from fastmlp.backends.cuda.kernels.gemm import make_register_product
from fastmlp.backends.cuda.plan.plan import (
    ACTIVATION,
    AVERAGE,
    BATCH_LOSS,
    BATCH_MASS,
    BIAS_COEFFICIENTS,
    BLOCK_GRADIENT,
    BLOCK_STRIDE,
    BLOCK_WEIGHTS,
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
    N_OUT,
    N_OUTPUTS,
    N_PARTIAL_SUMS,
    N_PENALTIES,
    N_PENALTY_SUMS,
    PENALTY_SUMS,
    ROW_LOSSES,
    STRENGTHS,
    WEIGHT_COEFFICIENTS,
    WEIGHTED,
    WEIGHTS,
    B,
    M,
    V,
    W,
)
from fastmlp.backends.cuda.plan.rules import Rules
from fastmlp.rules.groups import FROZEN


def make_forward(rules: Rules, n_threads: int) -> Any:
    """Make ``forward(net, space, i, batch, t)``: layer i's values and derivatives of the rows."""
    product, activate = make_register_product(rules, n_threads), rule_blocks.activation(rules)
    kept, draws = make_drawing(rules).factor, rules.draws

    def forward(net: Any, space: Any, i: Any, batch: Any, t: Any) -> None:
        plan, n, at = net.plan, batch.n_rows, batch.coefficients + net.plan[DRAWS]
        numbers, base, a = space.numbers, space.base, LAYERS + i * LAYER_WORDS
        after = a + LAYER_WORDS
        n_in, n_out, code = plan[a + N_IN], plan[a + N_OUT], plan[a + ACTIVATION]
        inputs = Operand(base + plan[a + INPUT], plan[a + INPUT_STRIDE], 1)
        weights = Operand(base + plan[a + BLOCK_WEIGHTS], 1, plan[a + BLOCK_STRIDE])
        z, z_stride = base + plan[after + INPUT], plan[after + INPUT_STRIDE]
        # The biases are the last row of the weights, but the first term of a sum, as on the CPU.
        biases = weights.start + n_in * weights.depth_stride
        product(numbers, inputs, weights, Extent(n, n_out, n_in), Product(z, z_stride, biases), t)
        cuda.syncthreads()
        derivative = base + plan[after + DERIVATIVE]
        for q in range(t, n * n_out, n_threads):
            r = q // n_out
            place = r * z_stride + q - r * n_out
            value, slope = activate(code, numbers[unsigned(z + place)])
            if draws and i < plan[N_LAYERS] - 1:
                factor = kept(net.memory, at, i, r, q - r * n_out)
                value, slope = value * factor, slope * factor
            numbers[unsigned(z + place)], numbers[unsigned(derivative + place)] = value, slope

    return device_function(forward)


def make_backward(rules: Rules, n_threads: int) -> Any:
    """Make ``backward(plan, space, i, n, t)``: the deltas of the layer below layer i, n rows."""
    product = make_register_product(rules, n_threads)

    def backward(plan: Any, space: Any, i: Any, n: Any, t: Any) -> None:
        numbers, base, a = space.numbers, space.base, LAYERS + i * LAYER_WORDS
        before = a - LAYER_WORDS
        n_in, n_out = plan[a + N_IN], plan[a + N_OUT]
        deltas = Operand(base + plan[a + DELTA], plan[a + DELTA_STRIDE], 1)
        weights = Operand(base + plan[a + BLOCK_WEIGHTS], plan[a + BLOCK_STRIDE], 1)
        out, out_stride = base + plan[before + DELTA], plan[before + DELTA_STRIDE]
        product(numbers, deltas, weights, Extent(n, n_in, n_out), Product(out, out_stride, -1), t)
        cuda.syncthreads()
        derivative, derivative_stride = base + plan[a + DERIVATIVE], plan[a + INPUT_STRIDE]
        for q in range(t, n * n_in, n_threads):
            r = q // n_in
            k = q - r * n_in
            numbers[unsigned(out + r * out_stride + k)] *= numbers[
                unsigned(derivative + r * derivative_stride + k)
            ]

    return device_function(backward)


def make_update(rules: Rules, n_threads: int) -> Any:
    """Make ``update(net, space, i, batch, t)``: layer i's gradient, penalty, optimizer step."""
    scalar, product = np.dtype(rules.dtype).type, make_register_product(rules, n_threads)
    penalty, optimizer = rule_blocks.penalty(rules, scalar), rule_blocks.update(rules, scalar)
    follow = rule_blocks.follow(rules)

    def update(net: Any, space: Any, i: Any, batch: Any, t: Any) -> None:
        memory, sums, plan = net.memory, net.sums, net.plan
        numbers, base, a = space.numbers, space.base, LAYERS + i * LAYER_WORDS
        n_in, n_out = plan[a + N_IN], plan[a + N_OUT]
        inputs = Operand(base + plan[a + INPUT], 1, plan[a + INPUT_STRIDE])
        deltas = Operand(base + plan[a + DELTA], 1, plan[a + DELTA_STRIDE])
        weights, gradient = base + plan[a + BLOCK_WEIGHTS], base + plan[a + BLOCK_GRADIENT]
        stride = plan[a + BLOCK_STRIDE]
        of_weights, of_biases = plan[a + WEIGHT_COEFFICIENTS], plan[a + BIAS_COEFFICIENTS]
        if of_weights != FROZEN or of_biases != FROZEN:
            extent = Extent(n_in + 1, n_out, batch.n_rows)
            product(numbers, inputs, deltas, extent, Product(gradient, stride, -1), t)
        cuda.syncthreads()
        penalties, scale = 0.0, 1.0 / batch.mass
        for q in range(t, (n_in + 1) * n_out, n_threads):
            k = q // n_out
            j = q - k * n_out
            place = k * stride + j
            w, g = numbers[unsigned(weights + place)], numbers[unsigned(gradient + place)]
            flat, at = plan[a + W] + q, of_weights
            if k == n_in:
                flat, at = plan[a + B] + j, of_biases
            else:
                value, derivative = penalty(w, sums, plan[STRENGTHS], scale)
                penalties += value
                g += derivative
            if at == FROZEN:
                continue
            m, v, at = plan[M] + flat, plan[V] + flat, batch.coefficients + at
            numbers[unsigned(weights + place)], memory[unsigned(m)], memory[unsigned(v)] = (
                optimizer(memory, at, w, g, memory[unsigned(m)], memory[unsigned(v)])
            )
            follow(memory, plan[AVERAGE] + flat, at, numbers[unsigned(weights + place)])
        if plan[N_PENALTIES] > 0:
            part = plan[PENALTY_SUMS] + t
            sums[unsigned(part)] = penalties if i == 0 else sums[unsigned(part)] + penalties

    return device_function(update)


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
