"""One training step of one net, by one block: gather, forward, losses, backward, update.

The block's space has all but the data, the rows' weights and the optimizer's state. A barrier
separates a thread's writes from other threads' reads.
"""

from typing import Any

import numpy as np

from fastmlp.backends.cuda.device.adapter import cuda, device_function, unsigned
from fastmlp.backends.cuda.kernels import rule_blocks
from fastmlp.backends.cuda.kernels.arguments import (
    Batch,
    Extent,
    Net,
    Operand,
    OutputRow,
    Product,
    Samples,
    Space,
    end_batch,
    sum_losses,
)
from fastmlp.backends.cuda.kernels.dropout import make_drawing
from fastmlp.backends.cuda.kernels.gemm import make_register_product
from fastmlp.backends.cuda.plan.records import MASS_SUMS, N_PARTIAL_SUMS
from fastmlp.backends.cuda.plan.rules import KernelRules
from fastmlp.rules.groups import FROZEN


def make_step(rules: KernelRules, n_threads: int) -> Any:
    """Make ``step(rows, net, space, index, n, at, t)``: one step on n rows.

    The rows' numbers begin at ``net.orders[index]``, the coefficients at ``memory[at]``.
    """
    gather, mass_of = _make_gather(rules, n_threads), _make_mass(n_threads)
    forward, backward = _make_forward(rules, n_threads), _make_backward(rules, n_threads)
    losses, update = _make_losses(rules, n_threads), _make_update(rules, n_threads)

    def step(rows: Samples, net: Net, space: Space, index: int, n: int, at: int, t: int) -> None:
        plan, n_layers = net.plan, net.plan.n_layers
        batch = Batch(index, n, 1.0, at)
        gather(rows.x, net, space, batch, t)
        mass = mass_of(net, index, n, t)
        if mass == 0:
            # A batch of zero weights: no step, no loss.
            if t == 0:
                net.progress.batch_loss = 0.0
            return
        batch = Batch(index, n, mass, at)
        for i in range(n_layers):
            forward(net, space, i, batch, t)
            cuda.syncthreads()
        losses(rows.y, net, space, batch, t)
        for i in range(n_layers - 1, plan.lowest, -1):
            backward(net, space, i, n, t)
            cuda.syncthreads()
        for i in range(n_layers):
            update(net, space, i, batch, t)
        cuda.syncthreads()
        if t == 0:
            net.progress.batch_mass = mass
            end_batch(net, mass)

    return device_function(step)


def _make_gather(rules: KernelRules, n_threads: int) -> Any:
    """Make the copy of a batch's features to the block's space, with noise and dropout."""
    disturb, draws = make_drawing(rules).disturbed, rules.draws

    def gather(x: Any, net: Net, space: Space, batch: Batch, t: int) -> None:
        plan, index, n = net.plan, batch.order, batch.n_rows
        at, layer = batch.coefficients + plan.draws, net.layers[0]
        n_in, stride = layer.n_in, layer.input_stride
        inputs = space.base + layer.inputs
        for q in range(t, n * n_in, n_threads):
            r = q // n_in
            k = q - r * n_in
            value = x[net.orders[unsigned(index + r)], k]
            if draws:
                value = disturb(net.memory, at, value, r, k)
            space.numbers[unsigned(inputs + r * stride + k)] = value
        cuda.syncthreads()

    return device_function(gather)


def _make_mass(n_threads: int) -> Any:
    """Make the sum of a batch's row weights, which every thread gets."""

    def mass_of(net: Net, index: int, n: int, t: int) -> Any:
        memory, sums, plan = net.memory, net.sums, net.plan
        if plan.weighted == 0:
            return float(n)
        weights = plan.weights
        for s in range(t, N_PARTIAL_SUMS, n_threads):
            part = 0.0
            for r in range(s, n, N_PARTIAL_SUMS):
                part += memory[unsigned(weights + net.orders[unsigned(index + r)])]
            sums[unsigned(MASS_SUMS + s)] = part
        cuda.syncthreads()
        total = 0.0
        for s in range(N_PARTIAL_SUMS):
            total += sums[unsigned(MASS_SUMS + s)]
        return total

    return device_function(mass_of)


def _make_forward(rules: KernelRules, n_threads: int) -> Any:
    """Make ``forward(net, space, i, batch, t)``: layer i's values and derivatives of the rows."""
    product, activate = make_register_product(rules, n_threads), rule_blocks.activation(rules)
    kept, draws = make_drawing(rules).factor, rules.draws

    def forward(net: Net, space: Space, i: int, batch: Batch, t: int) -> None:
        plan, n, at = net.plan, batch.n_rows, batch.coefficients + net.plan.draws
        numbers, base = space.numbers, space.base
        layer, after = net.layers[i], net.layers[i + 1]
        n_in, n_out, code = layer.n_in, layer.n_out, layer.activation
        inputs = Operand(base + layer.inputs, layer.input_stride, 1)
        weights = Operand(base + layer.block_weights, 1, layer.block_stride)
        z, z_stride = base + after.inputs, after.input_stride
        # The biases are the last row of the weights, but the first term of a sum, as on the CPU.
        biases = weights.start + n_in * weights.depth_stride
        product(numbers, inputs, weights, Extent(n, n_out, n_in), Product(z, z_stride, biases), t)
        cuda.syncthreads()
        derivative = base + after.derivatives
        for q in range(t, n * n_out, n_threads):
            r = q // n_out
            place = r * z_stride + q - r * n_out
            value, slope = activate(code, numbers[unsigned(z + place)])
            if draws and i < plan.n_layers - 1:
                factor = kept(net.memory, at, i, r, q - r * n_out)
                value, slope = value * factor, slope * factor
            numbers[unsigned(z + place)], numbers[unsigned(derivative + place)] = value, slope

    return device_function(forward)


def _make_backward(rules: KernelRules, n_threads: int) -> Any:
    """Make ``backward(net, space, i, n, t)``: the deltas of the layer below layer i, n rows."""
    product = make_register_product(rules, n_threads)

    def backward(net: Net, space: Space, i: int, n: int, t: int) -> None:
        numbers, base = space.numbers, space.base
        layer, before = net.layers[i], net.layers[i - 1]
        n_in, n_out = layer.n_in, layer.n_out
        deltas = Operand(base + layer.deltas, layer.delta_stride, 1)
        weights = Operand(base + layer.block_weights, layer.block_stride, 1)
        out, out_stride = base + before.deltas, before.delta_stride
        product(numbers, deltas, weights, Extent(n, n_in, n_out), Product(out, out_stride, -1), t)
        cuda.syncthreads()
        derivative, derivative_stride = base + layer.derivatives, layer.input_stride
        for q in range(t, n * n_in, n_threads):
            r = q // n_in
            k = q - r * n_in
            numbers[unsigned(out + r * out_stride + k)] *= numbers[
                unsigned(derivative + r * derivative_stride + k)
            ]

    return device_function(backward)


def _make_update(rules: KernelRules, n_threads: int) -> Any:
    """Make ``update(net, space, i, batch, t)``: layer i's gradient, penalty, optimizer step."""
    scalar, product = np.dtype(rules.dtype).type, make_register_product(rules, n_threads)
    penalty, optimizer = rule_blocks.penalty(rules, scalar), rule_blocks.update(rules, scalar)
    follow = rule_blocks.follow(rules)

    def update(net: Net, space: Space, i: int, batch: Batch, t: int) -> None:
        memory, sums, plan = net.memory, net.sums, net.plan
        numbers, base, layer = space.numbers, space.base, net.layers[i]
        n_in, n_out = layer.n_in, layer.n_out
        inputs = Operand(base + layer.inputs, 1, layer.input_stride)
        deltas = Operand(base + layer.deltas, 1, layer.delta_stride)
        weights, gradient = base + layer.block_weights, base + layer.block_gradient
        stride = layer.block_stride
        of_weights, of_biases = layer.weight_coefficients, layer.bias_coefficients
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
            flat, at = layer.w + q, of_weights
            if k == n_in:
                flat, at = layer.b + j, of_biases
            else:
                value, derivative = penalty(w, sums, plan.strengths, scale)
                penalties += value
                g += derivative
            if at == FROZEN:
                continue
            m, v, at = plan.m + flat, plan.v + flat, batch.coefficients + at
            numbers[unsigned(weights + place)], memory[unsigned(m)], memory[unsigned(v)] = (
                optimizer(memory, at, w, g, memory[unsigned(m)], memory[unsigned(v)])
            )
            follow(memory, plan.average + flat, at, numbers[unsigned(weights + place)])
        if plan.n_penalties > 0:
            part = plan.penalty_sums + t
            sums[unsigned(part)] = penalties if i == 0 else sums[unsigned(part)] + penalties

    return device_function(update)


def _make_losses(rules: KernelRules, n_threads: int) -> Any:
    """Make the rows' losses, the deltas of the output layer, and the partial sums of the losses."""
    row_loss = rule_blocks.row_loss(rules, np.dtype(rules.dtype).type)

    def losses(y: Any, net: Net, space: Space, batch: Batch, t: int) -> None:
        memory, sums, plan, base = net.memory, net.sums, net.plan, space.base
        layer, after = net.layers[plan.n_layers - 1], net.layers[plan.n_layers]
        values = plan.row_losses
        for r in range(t, batch.n_rows, n_threads):
            row = net.orders[unsigned(batch.order + r)]
            weight = 1.0
            if plan.weighted != 0:
                weight = float(memory[unsigned(plan.weights + row)])
            offset = r * after.input_stride
            at = OutputRow(
                base + after.inputs + offset,
                base + after.derivatives + offset,
                base + layer.deltas + r * layer.delta_stride,
                plan.n_outputs,
            )
            row_loss(space.numbers, at, sums, values + r, y, row, weight / batch.mass)
            sums[unsigned(values + r)] *= weight
        cuda.syncthreads()
        sum_losses(net, batch.n_rows, t, n_threads)

    return device_function(losses)
