"""Phase one of the grid's step: strips of rows through forward pass, loss and backward pass."""

from typing import Any, NamedTuple

from fastmlp.backends.cuda.device.adapter import SCALARS, cuda, device_function, unsigned
from fastmlp.backends.cuda.kernels import rule_blocks
from fastmlp.backends.cuda.kernels.arguments import (
    Batch,
    Extent,
    Net,
    Operand,
    Product,
    Samples,
    Strip,
    batch_of,
    coefficients_at,
    steps_per_epoch,
)
from fastmlp.backends.cuda.kernels.dropout import make_drawing
from fastmlp.backends.cuda.kernels.gemm import Update, make_staged_product
from fastmlp.backends.cuda.plan.design import GridShape, KernelRules
from fastmlp.backends.cuda.plan.plan import N_PARTIAL_SUMS, NO_STEP, PREDICT, TRAIN


def make_forward_backward(rules: KernelRules, shape: GridShape) -> Any:
    """Make ``forward_backward(staging, rows, net, step)``; the plan's `mode` says whether it
    trains, predicts into ``rows.y``, or evaluates."""
    strip_rows = shape.rows.tile_rows
    gather, mass_of = _make_gather(rules, shape), _make_mass(shape)
    begin_batch, output_layer = _make_begin_batch(rules, shape), _make_output_layer(rules, shape)
    layer_pass = _make_layer_pass(rules, shape)

    def forward_backward(staging: Any, rows: Samples, net: Net, step: int) -> None:
        plan, t, n_layers = net.plan, cuda.threadIdx.x, net.plan.n_layers
        # Phase two writes `diverged`, and reads of the step only what phase one has written.
        if step >= plan.last or net.progress.diverged != 0:
            if cuda.blockIdx.x == 0 and t == 0:
                net.progress.batch_mass = NO_STEP
            return
        start, n = batch_of(plan, step)
        index = -1
        if plan.n_orders > 0:
            index = step // steps_per_epoch(plan) % plan.n_orders * plan.n_rows + start
        training = plan.mode == TRAIN
        mass = 1.0
        if training:
            mass = mass_of(net, index, n, t)
            begin_batch(net, step, start, mass, t)
        if mass == 0:
            return
        at = coefficients_at(plan, step) + plan.draws
        batch = Batch(index, n, mass, at)
        for q in range(cuda.blockIdx.x, (n + strip_rows - 1) // strip_rows, cuda.gridDim.x):
            low = q * strip_rows
            strip = Strip(low, min(strip_rows, n - low))
            gather(rows.x, net, batch, strip, t)
            n_passes = 2 * n_layers - 1 - plan.lowest if training else n_layers
            for p in range(n_passes):
                back = p >= n_layers
                i = 2 * n_layers - 1 - p if back else p
                layer_pass(staging, net, i, back, strip, at, t)
                if p == n_layers - 1:
                    output_layer(rows.y, net, batch, strip, t)

    return device_function(forward_backward)


def _make_mass(shape: GridShape) -> Any:
    """Make the sum of a batch's row weights: each block computes it, in the same order.

    For the gradient of a chunk, it is the mass of all chunks, which the host has written.
    """
    n_threads, double = shape.n_threads, SCALARS["float64"]

    def mass_of(net: Net, index: int, n: int, t: int) -> Any:
        memory, plan = net.memory, net.plan
        if index < 0:
            return net.progress.batch_mass
        if plan.weighted == 0:
            return float(n)
        parts = cuda.shared.array(N_PARTIAL_SUMS, double)
        for s in range(t, N_PARTIAL_SUMS, n_threads):
            part = 0.0
            for r in range(s, n, N_PARTIAL_SUMS):
                part += memory[unsigned(plan.weights + net.orders[unsigned(index + r)])]
            parts[s] = part
        cuda.syncthreads()
        total = 0.0
        for s in range(N_PARTIAL_SUMS):
            total += parts[s]
        cuda.syncthreads()
        return total

    return device_function(mass_of)


def _make_begin_batch(rules: KernelRules, shape: GridShape) -> Any:
    """Make the work of all blocks before a batch, while no block writes to the weights: the backup
    of the parameters at an epoch's beginning, and the partial sums of the penalties."""
    n_threads, penalty = shape.n_threads, rule_blocks.penalty(rules)
    copy_average, training = rule_blocks.copy_average(rules), rules.update is not None

    def begin_batch(net: Net, step: int, start: int, mass: float, t: int) -> None:
        memory, sums, plan, progress = net.memory, net.sums, net.plan, net.progress
        first, n_all = cuda.blockIdx.x * n_threads + t, cuda.gridDim.x * n_threads
        if training and start == 0:
            for i in range(first, plan.n_parameters, n_all):
                memory[unsigned(plan.backup + i)] = memory[unsigned(plan.parameters + i)]
            average, backup = plan.average, plan.average_backup
            copy_average(memory, backup, average, first, plan.n_parameters, n_all)
            if first == 0:
                progress.epoch_loss = 0.0
                progress.epoch_mass = 0.0
        if first == 0:
            progress.batch_mass = mass
            progress.reached = step
        if plan.n_penalties == 0 or mass == 0:
            return
        # Partial sum s has the weights s, s + N_PENALTY_SUMS, ...
        n_weights = net.layers[0].b
        for s in range(first, plan.n_penalty_sums, n_all):
            total = 0.0
            for i in range(s, n_weights, plan.n_penalty_sums):
                value, _ = penalty(
                    memory[unsigned(plan.parameters + i)], sums, plan.strengths, 1.0 / mass
                )
                total += value
            sums[unsigned(plan.penalty_sums + s)] = total

    return device_function(begin_batch)


def _make_gather(rules: KernelRules, shape: GridShape) -> Any:
    """Make the copy of a strip's features to the first layer's inputs, with noise and dropout, and
    the columns of 1."""
    n_threads, draws = shape.n_threads, rules.draws
    disturb = make_drawing(rules).disturbed

    def gather(x: Any, net: Net, batch: Batch, strip: Strip, t: int) -> None:
        memory, plan, low, n = net.memory, net.plan, strip.first, strip.n_rows
        index, layer = batch.order, net.layers[0]
        n_in, stride = layer.n_in, layer.input_stride
        inputs = layer.inputs + low * stride
        for q in range(t, n * n_in, n_threads):
            r = q // n_in
            k = q - r * n_in
            row = net.orders[unsigned(index + low + r)] if index >= 0 else plan.first_row + low + r
            value = x[row, k]
            if draws:
                value = disturb(memory, batch.coefficients, value, low + r, k)
            memory[unsigned(inputs + r * stride + k)] = value
        for i in range(plan.n_layers):
            layer = net.layers[i]
            for r in range(t, n, n_threads):
                at = layer.inputs + (low + r) * layer.input_stride + layer.n_in
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

    a: Operand
    b: Operand
    out: Product
    width: int
    depth: int
    derivative: int
    derivative_stride: int


@device_function
def pass_of(net: Net, i: int, back: bool, low: int) -> LayerPass:
    """Return the pass of the strip that begins at row `low` through layer i.

    Forward: values and derivatives of layer i. Backward: deltas of the layer below.
    """
    plan, layer, after = net.plan, net.layers[i], net.layers[i + 1]
    n_in, n_out = layer.n_in, layer.n_out
    w, bias = plan.parameters + layer.w, plan.parameters + layer.b
    source, stride = layer.inputs, layer.input_stride
    depth, width, column, down = n_in, n_out, 1, n_out
    out, out_stride = after.inputs, after.input_stride
    derivative, derivative_stride = after.derivatives, out_stride
    if back:
        source, stride = layer.deltas, layer.delta_stride
        depth, width, column, down = n_out, n_in, n_out, 1
        before = net.layers[i - 1]
        out, out_stride = before.deltas, before.delta_stride
        derivative, derivative_stride, bias = layer.derivatives, layer.input_stride, -1
    return LayerPass(
        Operand(source + low * stride, stride, 1),
        Operand(w, column, down),
        Product(out + low * out_stride, out_stride, bias),
        width,
        depth,
        derivative + low * derivative_stride,
        derivative_stride,
    )


def _make_layer_pass(rules: KernelRules, shape: GridShape) -> Any:
    """Make the pass of a strip through a layer, forward or backward: one product for both, which
    is compiled once."""
    product, activate = make_staged_product(rules, shape.rows), rule_blocks.activation(rules)
    tile_columns, n_threads = shape.rows.tile_columns, shape.n_threads
    kept, draws = make_drawing(rules).factor, rules.draws

    def layer_pass(
        staging: Any, net: Net, i: int, back: bool, strip: Strip, draws_at: int, t: int
    ) -> None:
        memory, plan, n = net.memory, net.plan, strip.n_rows
        layer, code = pass_of(net, i, back, strip.first), net.layers[i].activation
        a, b, out = layer.a, layer.b, layer.out
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
                if draws and i < plan.n_layers - 1:
                    factor = kept(memory, draws_at, i, strip.first + r, j)
                    value, slope = value * factor, slope * factor
                memory[unsigned(at)], memory[unsigned(derivative_at)] = value, slope
        cuda.syncthreads()

    return device_function(layer_pass)


def _make_output_layer(rules: KernelRules, shape: GridShape) -> Any:
    """Make ``output_layer(y, net, batch, strip, t)``; predictions are written to `y`."""
    n_threads = shape.n_threads
    loss, link = rule_blocks.output_loss(rules), rule_blocks.row_link(rules)

    def output_layer(y: Any, net: Net, batch: Batch, strip: Strip, t: int) -> None:
        memory, plan, index = net.memory, net.plan, batch.order
        outputs = net.layers[plan.n_layers]
        for r in range(strip.first + t, strip.first + strip.n_rows, n_threads):
            row = net.orders[unsigned(index + r)] if index >= 0 else plan.first_row + r
            if plan.mode == PREDICT:
                link(memory, outputs.inputs + r * outputs.input_stride, y, row, plan.n_outputs)
            else:
                loss(y, net, r, row, batch.mass)
        cuda.syncthreads()

    return device_function(output_layer)
