"""The two phases of a step, and the matrix products of both."""

from functools import cache
from typing import Any, NamedTuple

from fastmlp.backends.cuda import rule_blocks
from fastmlp.backends.cuda.device import (
    SCALARS,
    cuda,
    device_function,
    is_finite,
    kernel,
    unsigned,
)
from fastmlp.backends.cuda.plan import (
    EVALUATE,
    N_PARTIAL_SUMS,
    NO_STEP,
    PREDICT,
    TRAIN,
    GridShape,
    KernelRules,
    Layer,
    Nets,
    TileShape,
)
from fastmlp.backends.cuda.rule_blocks import (
    Batch,
    Extent,
    Net,
    Operand,
    Product,
    Samples,
    Strip,
    batch_of,
    coefficients_at,
    end_batch,
    make_drawing,
    steps_per_epoch,
    sum_losses,
)
from fastmlp.rules.updates import FROZEN


class Update(NamedTuple):
    """The update of a result by a product.

    Attributes
    ----------
    accumulate : 1: add the product to the result; 0: overwrite it
    last_row, last_start : this row begins at `last_start`, apart from the other rows; -1: no row
    """

    accumulate: Any
    last_row: Any
    last_start: Any


def make_staged_product(rules: KernelRules, shape: TileShape) -> Any:
    """``product(staging, memory, a, b, extent, out, update, t)``, for at most one tile.

    Sums run over the depth, in its order. Elements outside the extent are staged as 0,
    in `staging`, shared memory of `shape.staging` numbers. All threads of the block
    take part.
    """
    scalar = SCALARS[rules.dtype]
    step = shape.depth
    n_sums = shape.rows * shape.columns
    b_place = step * (shape.tile_rows + 1)
    stage_a = _make_stage(rules, shape, shape.tile_rows, 0)
    stage_b = _make_stage(rules, shape, shape.tile_columns, b_place)
    begin = _make_begin(rules, shape)
    write = _make_write(shape)
    multiply = _make_multiply(shape, b_place)

    def product(
        staging: Any,
        memory: Any,
        a: Any,
        b: Operand,
        extent: Extent,
        out: Product,
        update: Update,
        t: int,
    ) -> None:
        sums = cuda.local.array(n_sums, scalar)
        begin(sums, memory, extent, out, update, t)
        for done in range(0, extent.depth, step):
            stage_a(staging, memory, a, extent.n_rows, done, extent.depth, t)
            stage_b(staging, memory, b, extent.n_columns, done, extent.depth, t)
            cuda.syncthreads()
            multiply(staging, sums, t)
            cuda.syncthreads()
        write(sums, memory, extent, out, update, t)

    return device_function(product)


def _make_stage(rules: KernelRules, shape: TileShape, size: int, place: int) -> Any:
    n_threads = shape.n_threads
    step = shape.depth
    stride = size + 1
    zero = rules.scalar(0)

    def stage(
        staging: Any,
        memory: Any,
        operand: Operand,
        n: int,
        done: Any,
        depth: Any,
        t: int,
    ) -> None:
        # A while loop: NVVM unrolls a range:
        # 255 registers and spills -> 228 without (float64, sm_75).
        q = t
        while q < size * step:
            # Neighbouring threads read neighbouring numbers:
            # along the depth, or else across it.
            d = q % step
            i = q // step
            if operand.depth_stride != 1:
                d = q // size
                i = q % size
            value = zero
            if i < n and done + d < depth:
                at = (
                    operand.start
                    + i * operand.stride
                    + (done + d) * operand.depth_stride
                )
                value = memory[unsigned(at)]
            staging[unsigned(place + d * stride + i)] = value
            q += n_threads

    return device_function(stage)


def _make_begin(rules: KernelRules, shape: TileShape) -> Any:
    """The first values of a tile's sums: the bias of a column, the result of the chunk
    before, or 0.
    """
    zero = rules.scalar(0)
    across = shape.across
    down = shape.down
    rows = shape.rows
    columns = shape.columns

    def begin(
        sums: Any, memory: Any, extent: Extent, out: Product, update: Update, t: int
    ) -> None:
        tx = t % across
        ty = t // across
        for i in range(rows):
            for j in range(columns):
                r, c = ty + i * down, tx + j * across
                first = zero
                if r < extent.n_rows and c < extent.n_columns:
                    if out.initial >= 0:
                        first = memory[unsigned(out.initial + c)]
                    elif update.accumulate != 0:
                        at = update.last_start
                        if r != update.last_row:
                            at = out.start + r * out.stride
                        first = memory[unsigned(at + c)]
                sums[i * columns + j] = first

    return device_function(begin)


def _make_multiply(shape: TileShape, b_place: int) -> Any:
    across = shape.across
    down = shape.down
    rows = shape.rows
    columns = shape.columns
    step = shape.depth
    a_stride = shape.tile_rows + 1
    b_stride = shape.tile_columns + 1

    def multiply(staging: Any, sums: Any, t: int) -> None:
        tx = t % across
        ty = t // across
        # A while loop: NVVM makes 12 instructions a turn of a range.
        x_at = ty
        w_at = b_place + tx
        end = ty + step * a_stride
        while x_at < end:
            for i in range(rows):
                x = staging[unsigned(x_at + i * down)]
                for j in range(columns):
                    w = staging[unsigned(w_at + j * across)]
                    sums[i * columns + j] += x * w
            x_at += a_stride
            w_at += b_stride

    return device_function(multiply)


def _make_write(shape: TileShape) -> Any:
    """The tile's sums to memory; the last row of a gradient, which is the biases', has
    a place apart.
    """
    across = shape.across
    down = shape.down
    rows = shape.rows
    columns = shape.columns

    def write(
        sums: Any, memory: Any, extent: Extent, out: Product, update: Update, t: int
    ) -> None:
        tx = t % across
        ty = t // across
        for i in range(rows):
            for j in range(columns):
                r, c = ty + i * down, tx + j * across
                if r < extent.n_rows and c < extent.n_columns:
                    at = update.last_start
                    if r != update.last_row:
                        at = out.start + r * out.stride
                    memory[unsigned(at + c)] = sums[i * columns + j]

    return device_function(write)


def make_forward_backward(rules: KernelRules, shape: GridShape) -> Any:
    """``forward_backward(staging, rows, net, step)``; the plan's `mode`:
    train, predict into ``rows.y``, or evaluate.
    """
    strip_rows = shape.rows.tile_rows
    gather = _make_gather(rules, shape)
    mass_of = _make_mass(shape)
    begin_batch = _make_begin_batch(rules, shape)
    output_layer = _make_output_layer(rules, shape)
    layer_pass = _make_layer_pass(rules, shape)

    def forward_backward(staging: Any, rows: Samples, net: Net, step: int) -> None:
        plan = net.plan
        t = cuda.threadIdx.x
        n_layers = net.plan.n_layers
        # Phase two writes `diverged`,
        # and reads of the step only what phase one has written.
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
        for q in range(
            cuda.blockIdx.x, (n + strip_rows - 1) // strip_rows, cuda.gridDim.x
        ):
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
    """The sum of a batch's row weights: each block computes it, in the same order.

    For the gradient of a chunk, it is the mass of all chunks,
    which the host has written.
    """
    n_threads = shape.n_threads
    double = SCALARS["float64"]

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
    """The work of all blocks before a batch, while no block writes to the weights: the
    backup of the parameters at an epoch's beginning, and the partial sums of the
    penalties.
    """
    n_threads = shape.n_threads
    penalty = rule_blocks.penalty(rules)
    copy_average = rule_blocks.copy_average(rules)
    training = rules.update is not None

    def begin_batch(net: Net, step: int, start: int, mass: float, t: int) -> None:
        memory = net.memory
        sums = net.sums
        plan = net.plan
        progress = net.progress
        first = cuda.blockIdx.x * n_threads + t
        n_all = cuda.gridDim.x * n_threads
        if training and start == 0:
            for i in range(first, plan.n_parameters, n_all):
                memory[unsigned(plan.backup + i)] = memory[
                    unsigned(plan.parameters + i)
                ]
            average = plan.average
            backup = plan.average_backup
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
                    memory[unsigned(plan.parameters + i)],
                    sums,
                    plan.strengths,
                    1.0 / mass,
                )
                total += value
            sums[unsigned(plan.penalty_sums + s)] = total

    return device_function(begin_batch)


def _make_gather(rules: KernelRules, shape: GridShape) -> Any:
    """The copy of a strip's features to the first layer's inputs,
    with noise and dropout, and the columns of 1.
    """
    n_threads, draws = shape.n_threads, rules.draws
    disturb = make_drawing(rules).disturbed

    def gather(x: Any, net: Net, batch: Batch, strip: Strip, t: int) -> None:
        """Threads take the numbers of the strip in turns, so neighbours read
        neighbouring addresses.
        """
        memory = net.memory
        plan = net.plan
        low = strip.first
        n = strip.n_rows
        index = batch.order
        layer = net.layers[0]
        n_in, stride = layer.n_in, layer.input_stride
        inputs = layer.inputs + low * stride
        for q in range(t, n * n_in, n_threads):
            r = q // n_in
            k = q - r * n_in
            row = (
                net.orders[unsigned(index + low + r)]
                if index >= 0
                else plan.first_row + low + r
            )
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
    """A strip's pass through a layer: ``out = a b``,
    then the activation or its derivative.

    Attributes
    ----------
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
    """The pass of the strip that begins at row `low` through layer i.

    Forward: values and derivatives of layer i. Backward: deltas of the layer below.
    """
    plan = net.plan
    layer = net.layers[i]
    after = net.layers[i + 1]
    n_in, n_out = layer.n_in, layer.n_out
    w = plan.parameters + layer.w
    bias = plan.parameters + layer.b
    source = layer.inputs
    stride = layer.input_stride
    depth = n_in
    width = n_out
    column = 1
    down = n_out
    out = after.inputs
    out_stride = after.input_stride
    derivative = after.derivatives
    derivative_stride = out_stride
    if back:
        source = layer.deltas
        stride = layer.delta_stride
        depth = n_out
        width = n_in
        column = n_out
        down = 1
        before = net.layers[i - 1]
        out = before.deltas
        out_stride = before.delta_stride
        derivative = layer.derivatives
        derivative_stride = layer.input_stride
        bias = -1
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
    """A strip's pass through a layer, forward or backward:
    one product for both, compiled once.
    """
    product = make_staged_product(rules, shape.rows)
    activate = rule_blocks.activation(rules)
    tile_columns = shape.rows.tile_columns
    n_threads = shape.n_threads
    kept = make_drawing(rules).factor
    draws = rules.draws

    def layer_pass(
        staging: Any, net: Net, i: int, back: bool, strip: Strip, draws_at: int, t: int
    ) -> None:
        """The product of all tiles of columns first, then the activation or its slopes,
        number by number; the block's threads meet in between.
        """
        memory = net.memory
        plan = net.plan
        n = strip.n_rows
        layer = pass_of(net, i, back, strip.first)
        code = net.layers[i].activation
        a = layer.a
        b = layer.b
        out = layer.out
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
                memory[unsigned(at)] = value
                memory[unsigned(derivative_at)] = slope
        cuda.syncthreads()

    return device_function(layer_pass)


def _make_output_layer(rules: KernelRules, shape: GridShape) -> Any:
    """``output_layer(y, net, batch, strip, t)``; predictions are written to `y`."""
    n_threads = shape.n_threads
    loss = rule_blocks.output_loss(rules)
    link = rule_blocks.row_link(rules)

    def output_layer(y: Any, net: Net, batch: Batch, strip: Strip, t: int) -> None:
        memory = net.memory
        plan = net.plan
        index = batch.order
        outputs = net.layers[plan.n_layers]
        for r in range(strip.first + t, strip.first + strip.n_rows, n_threads):
            row = net.orders[unsigned(index + r)] if index >= 0 else plan.first_row + r
            if plan.mode == PREDICT:
                link(
                    memory,
                    outputs.inputs + r * outputs.input_stride,
                    y,
                    row,
                    plan.n_outputs,
                )
            else:
                loss(y, net, r, row, batch.mass)
        cuda.syncthreads()

    return device_function(output_layer)


class Tile(NamedTuple):
    layer: Layer
    top: int
    left: int
    height: int
    width: int


def make_gradient_update(rules: KernelRules, shape: GridShape) -> Any:
    """``gradient_update(staging, net, step)``, which also sums the batch's losses."""
    tile_update = _make_tile_update(rules, shape)
    batch_loss = _make_batch_loss(rules, shape)

    def gradient_update(staging: Any, net: Net, step: int) -> None:
        plan = net.plan
        t = cuda.threadIdx.x
        mass = net.progress.batch_mass
        if mass == NO_STEP:
            return
        _, n = batch_of(plan, step)
        batch = Batch(-1, n, mass, coefficients_at(plan, step))
        # The last block has no more tiles than the others.
        if cuda.blockIdx.x == cuda.gridDim.x - 1:
            batch_loss(net, step, batch, t)
        if mass == 0 or plan.mode == EVALUATE:
            return
        ends = (step + 1) % steps_per_epoch(plan) == 0
        for q in range(cuda.blockIdx.x, plan.n_tiles, cuda.gridDim.x):
            tile_update(staging, net, q, batch, ends, t)

    return device_function(gradient_update)


def _make_batch_loss(rules: KernelRules, shape: GridShape) -> Any:
    """A batch's losses, and the epoch's mean up to here. Training ends if it is not
    finite; an evaluation does not, since later calls have other parameters.
    """
    n_threads = shape.n_threads
    training = rules.update is not None

    def batch_loss(net: Net, step: int, batch: Batch, t: int) -> None:
        plan = net.plan
        progress = net.progress
        loss = 0.0
        sum_losses(net, batch.n_rows, t, n_threads)
        cuda.syncthreads()
        if t == 0 and batch.mass != 0:
            loss = end_batch(net, batch.mass)
        if t == 0 and training:
            at = plan.losses + step // steps_per_epoch(plan)
            net.sums[unsigned(at)] = progress.epoch_loss / progress.epoch_mass
            if not is_finite(loss):
                progress.diverged = 1

    return device_function(batch_loss)


def _make_tile_update(rules: KernelRules, shape: GridShape) -> Any:
    """The gradient of one tile of a layer's weights and biases, and its step."""
    product = make_staged_product(rules, shape.weights)
    finish = _make_finish(rules, shape)
    down = shape.weights.tile_rows
    across = shape.weights.tile_columns

    def tile_update(
        staging: Any, net: Net, q: int, batch: Batch, ends: bool, t: int
    ) -> None:
        """Tile q of the net. Biases are one more row of the weights, below the last
        input, whose value is 1.
        """
        plan, i = net.plan, 0
        while q >= net.layers[unsigned(i + 1)].first_tile:
            i += 1
        layer = net.layers[unsigned(i)]
        if layer.weight_coefficients == FROZEN and layer.bias_coefficients == FROZEN:
            return
        n_in, n_out = layer.n_in, layer.n_out
        columns = (n_out + across - 1) // across
        own = q - layer.first_tile
        top = own // columns * down
        left = own % columns * across
        tile = Tile(
            layer, top, left, min(down, n_in + 1 - top), min(across, n_out - left)
        )
        gradient = plan.gradient + layer.w + top * n_out + left
        product(
            staging,
            net.memory,
            Operand(layer.inputs + top, 1, layer.input_stride),
            Operand(layer.deltas + left, 1, layer.delta_stride),
            Extent(tile.height, tile.width, batch.n_rows),
            Product(gradient, n_out, -1),
            Update(plan.accumulate, n_in - top, plan.gradient + layer.b + left),
            t,
        )
        cuda.syncthreads()
        finish(net, tile, batch, ends, t)
        cuda.syncthreads()

    return device_function(tile_update)


def _make_finish(rules: KernelRules, shape: GridShape) -> Any:
    """The penalty's part of a tile's gradient, and the optimizer step;
    training ends if a parameter is not finite where an epoch ends.
    """
    n_threads = shape.n_threads
    training = rules.update is not None
    penalty = rule_blocks.penalty(rules)
    take_step = _make_step(rules)

    def finish(net: Net, tile: Tile, batch: Batch, ends: bool, t: int) -> None:
        """A thread steps every `n_threads`-th number of the tile; frozen numbers are
        passed over.
        """
        memory = net.memory
        plan = net.plan
        layer = tile.layer
        n_in, n_out = layer.n_in, layer.n_out
        for q in range(t, tile.height * tile.width, n_threads):
            k = tile.top + q // tile.width
            j = tile.left + q % tile.width
            flat = layer.w + k * n_out + j
            at = layer.weight_coefficients
            if k == n_in:
                flat = layer.b + j
                at = layer.bias_coefficients
            if at == FROZEN:
                continue
            gradient = memory[unsigned(plan.gradient + flat)]
            if k < n_in and plan.last_chunk != 0:
                w = memory[unsigned(plan.parameters + flat)]
                _, derivative = penalty(w, net.sums, plan.strengths, 1.0 / batch.mass)
                gradient += derivative
            if training:
                take_step(net, flat, batch.coefficients + at, gradient)
                if ends and not is_finite(memory[unsigned(plan.parameters + flat)]):
                    net.progress.diverged = 1
            else:
                memory[unsigned(plan.gradient + flat)] = gradient

    return device_function(finish)


def _make_step(rules: KernelRules) -> Any:
    """``take_step(net, i, at, gradient)``: parameter i's step, by the coefficients from
    ``memory[at]`` on; nothing without an optimizer."""
    optimizer = rule_blocks.update(rules)
    follow = rule_blocks.follow(rules)

    def take_step(net: Net, i: int, at: int, gradient: Any) -> None:
        memory, plan = net.memory, net.plan
        w = unsigned(plan.parameters + i)
        m = unsigned(plan.m + i)
        v = unsigned(plan.v + i)
        memory[w], memory[m], memory[v] = optimizer(
            memory, at, memory[w], gradient, memory[m], memory[v]
        )
        follow(memory, plan.average + i, at, memory[w])

    return device_function(take_step)


@device_function
def _coefficients_of(net: Net, i: int) -> int:
    """The offset of parameter i's coefficients in a step's, or FROZEN."""
    offset = FROZEN
    for j in range(net.plan.n_layers):
        layer = net.layers[j]
        if 0 <= i - layer.w < layer.n_in * layer.n_out:
            offset = layer.weight_coefficients
        if 0 <= i - layer.b < layer.n_out:
            offset = layer.bias_coefficients
    return offset


@cache
def make_apply(rules: KernelRules, n_threads: int) -> Any:
    """The kernel ``apply(nets)``: a step of the first net,
    by the gradient in memory.
    """
    take_step = _make_step(rules)

    def apply(nets: Nets) -> None:
        progress, plan = nets.progress[0], nets.plans[0]
        net = Net(
            nets.memory[0], nets.sums[0], progress, plan, nets.layers, nets.orders[0]
        )
        first = cuda.blockIdx.x * n_threads + cuda.threadIdx.x
        for i in range(first, plan.n_parameters, cuda.gridDim.x * n_threads):
            at = _coefficients_of(net, i)
            if at != FROZEN:
                gradient = net.memory[unsigned(plan.gradient + i)]
                take_step(net, i, plan.coefficients + at, gradient)

    return kernel(apply)
