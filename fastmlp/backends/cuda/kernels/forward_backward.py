"""Phase one of the grid's step: strips of rows through forward pass, loss and backward pass."""

from typing import Any, NamedTuple

import numpy as np

from fastmlp.backends.cuda.device.adapter import SCALARS, cuda, device_function, unsigned
from fastmlp.backends.cuda.kernels import rule_blocks
from fastmlp.backends.cuda.kernels.arguments import (
    Batch,
    Extent,
    Operand,
    OutputRow,
    Product,
    Strip,
    batch_of,
)
from fastmlp.backends.cuda.kernels.dropout import make_drawing
from fastmlp.backends.cuda.kernels.gemm import Update, make_staged_product
from fastmlp.backends.cuda.plan.design import GridShape
from fastmlp.backends.cuda.plan.plan import (
    ACTIVATION,
    AVERAGE,
    AVERAGE_BACKUP,
    BACKUP,
    BATCH,
    BATCH_MASS,
    COEFFICIENTS,
    DELTA,
    DELTA_STRIDE,
    DERIVATIVE,
    DRAWS,
    EPOCH_LOSS,
    EPOCH_MASS,
    FIRST,
    FIRST_ROW,
    INPUT,
    INPUT_STRIDE,
    LAYER_WORDS,
    LAYERS,
    LOWEST,
    MODE,
    N_COEFFICIENTS,
    N_IN,
    N_LAYERS,
    N_ORDERS,
    N_OUT,
    N_OUTPUTS,
    N_PARAMETERS,
    N_PARTIAL_SUMS,
    N_PENALTIES,
    N_PENALTY_SUMS,
    N_ROWS,
    ORDERS,
    PARAMETERS,
    PENALTY_SUMS,
    PREDICT,
    ROW_LOSSES,
    STRENGTHS,
    TRAIN,
    WEIGHTED,
    WEIGHTS,
    B,
    W,
)
from fastmlp.backends.cuda.plan.rules import Rules


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


def make_output_layer(rules: Rules, shape: GridShape) -> Any:
    """Make ``output_layer(y, net, batch, strip, t)``; predictions are written to `y`."""
    n_threads = shape.n_threads
    row_loss = rule_blocks.row_loss(rules, np.dtype(rules.dtype).type)
    link = rule_blocks.row_link(rules)

    def output_layer(y: Any, net: Any, batch: Any, strip: Any, t: Any) -> None:
        memory, sums, plan = net.memory, net.sums, net.plan
        a = LAYERS + (plan[N_LAYERS] - 1) * LAYER_WORDS
        after, width, index = a + LAYER_WORDS, plan[N_OUTPUTS], batch.order
        for r in range(strip.first + t, strip.first + strip.n_rows, n_threads):
            row = plan[unsigned(index + r)] if index >= 0 else plan[FIRST_ROW] + r
            offset = r * plan[after + INPUT_STRIDE]
            outputs, derivatives = plan[after + INPUT] + offset, plan[after + DERIVATIVE] + offset
            if plan[MODE] == PREDICT:
                link(memory, outputs, y, row, width)
            else:
                weight = 1.0
                if plan[WEIGHTED] != 0:
                    weight = float(memory[unsigned(plan[WEIGHTS] + row)])
                deltas = plan[a + DELTA] + r * plan[a + DELTA_STRIDE]
                at, place = OutputRow(outputs, derivatives, deltas, width), plan[ROW_LOSSES] + r
                row_loss(memory, at, sums, place, y, row, weight / batch.mass)
                sums[unsigned(place)] *= weight
        cuda.syncthreads()

    return device_function(output_layer)


def make_forward_backward(rules: Rules, shape: GridShape) -> Any:
    """Make ``forward_backward(staging, rows, net, step)``; `MODE` says whether it trains, predicts
    into ``rows.y``, or evaluates."""
    strip_rows = shape.rows.tile_rows
    gather, mass_of = _make_gather(rules, shape), make_mass(shape)
    begin_batch, find_batch = make_begin_batch(rules, shape), device_function(batch_of)
    layer_pass, output_layer = _make_layer_pass(rules, shape), make_output_layer(rules, shape)

    def forward_backward(staging: Any, rows: Any, net: Any, step: Any) -> None:
        plan, t, n_layers = net.plan, cuda.threadIdx.x, net.plan[N_LAYERS]
        start, n = find_batch(plan, step)
        index = -1
        if plan[N_ORDERS] > 0:
            per_epoch = (plan[N_ROWS] + plan[BATCH] - 1) // plan[BATCH]
            index = plan[ORDERS] + step // per_epoch % plan[N_ORDERS] * plan[N_ROWS] + start
        training = plan[MODE] == TRAIN
        mass = 1.0
        if training:
            mass = mass_of(net, index, n, t)
            begin_batch(net, start, mass, t)
        if mass == 0:
            return
        at = plan[COEFFICIENTS] + (step - plan[FIRST]) * plan[N_COEFFICIENTS] + plan[DRAWS]
        batch = Batch(index, n, mass, at)
        for q in range(cuda.blockIdx.x, (n + strip_rows - 1) // strip_rows, cuda.gridDim.x):
            low = q * strip_rows
            strip = Strip(low, min(strip_rows, n - low))
            gather(rows.x, net, batch, strip, t)
            n_passes = 2 * n_layers - 1 - plan[LOWEST] if training else n_layers
            for p in range(n_passes):
                back = p >= n_layers
                i = 2 * n_layers - 1 - p if back else p
                layer_pass(staging, net, i, back, strip, at, t)
                if p == n_layers - 1:
                    output_layer(rows.y, net, batch, strip, t)

    return device_function(forward_backward)


def _make_gather(rules: Rules, shape: GridShape) -> Any:
    """Make the copy of a strip's features to the first layer's inputs, with noise and dropout, and
    the columns of 1."""
    n_threads, draws = shape.n_threads, rules.draws
    disturb = make_drawing(rules).disturbed

    def gather(x: Any, net: Any, batch: Any, strip: Any, t: Any) -> None:
        memory, plan, low, n = net.memory, net.plan, strip.first, strip.n_rows
        index = batch.order
        n_in, stride = plan[LAYERS + N_IN], plan[LAYERS + INPUT_STRIDE]
        inputs = plan[LAYERS + INPUT] + low * stride
        for q in range(t, n * n_in, n_threads):
            r = q // n_in
            k = q - r * n_in
            row = plan[unsigned(index + low + r)] if index >= 0 else plan[FIRST_ROW] + low + r
            value = x[row, k]
            if draws:
                value = disturb(memory, batch.coefficients, value, low + r, k)
            memory[unsigned(inputs + r * stride + k)] = value
        for i in range(plan[N_LAYERS]):
            a = LAYERS + i * LAYER_WORDS
            for r in range(t, n, n_threads):
                at = plan[a + INPUT] + (low + r) * plan[a + INPUT_STRIDE] + plan[a + N_IN]
                memory[unsigned(at)] = 1
        cuda.syncthreads()

    return device_function(gather)


class LayerPass(NamedTuple):
    """A strip's pass through a layer: ``out = a b``, then the activation or its derivative.

    Attributes
    ----------
    a, b : Operand
    out : Product
    width, depth : columns of the result, and the sums' length
    derivative, derivative_stride : offset of the derivatives' first row, and of the next row
    """

    a: Any
    b: Any
    out: Any
    width: Any
    depth: Any
    derivative: Any
    derivative_stride: Any


def pass_of(plan: Any, i: Any, back: Any, low: Any) -> Any:
    """Return the pass of the strip that begins at row `low` through layer i.

    Forward: values and derivatives of layer i. Backward: deltas of the layer below.
    """
    a = LAYERS + i * LAYER_WORDS
    after, before = a + LAYER_WORDS, a - LAYER_WORDS
    n_in, n_out = plan[a + N_IN], plan[a + N_OUT]
    w, bias = plan[PARAMETERS] + plan[a + W], plan[PARAMETERS] + plan[a + B]
    source, stride = plan[a + INPUT], plan[a + INPUT_STRIDE]
    depth, width, column, down = n_in, n_out, 1, n_out
    out, out_stride = plan[after + INPUT], plan[after + INPUT_STRIDE]
    derivative, derivative_stride = plan[after + DERIVATIVE], out_stride
    if back:
        source, stride = plan[a + DELTA], plan[a + DELTA_STRIDE]
        depth, width, column, down = n_out, n_in, n_out, 1
        out, out_stride = plan[before + DELTA], plan[before + DELTA_STRIDE]
        derivative, derivative_stride, bias = plan[a + DERIVATIVE], plan[a + INPUT_STRIDE], -1
    return LayerPass(
        Operand(source + low * stride, stride, 1),
        Operand(w, column, down),
        Product(out + low * out_stride, out_stride, bias),
        width,
        depth,
        derivative + low * derivative_stride,
        derivative_stride,
    )


def _make_layer_pass(rules: Rules, shape: GridShape) -> Any:
    """Make the pass of a strip through a layer, forward or backward: one product for both, which
    is compiled once."""
    product, activate = make_staged_product(rules, shape.rows), rule_blocks.activation(rules)
    tile_columns, n_threads = shape.rows.tile_columns, shape.n_threads
    kept, draws = make_drawing(rules).factor, rules.draws
    find_pass = device_function(pass_of)

    def layer_pass(
        staging: Any, net: Any, i: Any, back: Any, strip: Any, draws_at: Any, t: Any
    ) -> None:
        memory, plan, n = net.memory, net.plan, strip.n_rows
        layer = find_pass(plan, i, back, strip.first)
        a, b, out, code = layer.a, layer.b, layer.out, plan[LAYERS + i * LAYER_WORDS + ACTIVATION]
        for left in range(0, layer.width, tile_columns):
            initial = out.initial + left if out.initial >= 0 else -1
            product(
                staging,
                memory,
                a,
                Operand(b.start + left * b.stride, b.stride, b.depth_stride),
                Extent(n, layer.width - left, layer.depth),
                Product(out.start + left, out.stride, initial),
                Update(0, -1, 0),
                t,
            )
        cuda.syncthreads()
        for q in range(t, n * layer.width, n_threads):
            r = q // layer.width
            j = q - r * layer.width
            at = out.start + r * out.stride + j
            derivative_at = layer.derivative + r * layer.derivative_stride + j
            if back:
                memory[unsigned(at)] *= memory[unsigned(derivative_at)]
            else:
                value, slope = activate(code, memory[unsigned(at)])
                if draws and i < plan[N_LAYERS] - 1:
                    factor = kept(memory, draws_at, i, strip.first + r, j)
                    value, slope = value * factor, slope * factor
                memory[unsigned(at)], memory[unsigned(derivative_at)] = value, slope
        cuda.syncthreads()

    return device_function(layer_pass)
