"""Forward pass, backward pass and update of one layer, by one block."""

from typing import Any

import numpy as np

from fastmlp.backends.cuda.adapter import cuda, device_function, unsigned
from fastmlp.backends.cuda.kernels import rule_blocks
from fastmlp.backends.cuda.kernels.arguments import Extent, Operand, Product
from fastmlp.backends.cuda.kernels.dropout import make_drawing
from fastmlp.backends.cuda.kernels.register_gemm import make_product
from fastmlp.backends.cuda.kernels.rule_blocks import Rules
from fastmlp.backends.cuda.plan import (
    ACTIVATION,
    AVERAGE,
    BIAS_COEFFICIENTS,
    BLOCK_GRADIENT,
    BLOCK_STRIDE,
    BLOCK_WEIGHTS,
    DELTA,
    DELTA_STRIDE,
    DERIVATIVE,
    DRAWS,
    INPUT,
    INPUT_STRIDE,
    LAYER_WORDS,
    LAYERS,
    N_IN,
    N_LAYERS,
    N_OUT,
    N_PENALTIES,
    PENALTY_SUMS,
    STRENGTHS,
    WEIGHT_COEFFICIENTS,
    B,
    M,
    V,
    W,
)
from fastmlp.rules.groups import FROZEN


def make_forward(rules: Rules, n_threads: int) -> Any:
    """Make ``forward(net, space, i, batch, t)``: layer i's values and derivatives of the rows."""
    product, activate = make_product(rules, n_threads), rule_blocks.activation(rules)
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
    product = make_product(rules, n_threads)

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
    scalar, product = np.dtype(rules.dtype).type, make_product(rules, n_threads)
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
