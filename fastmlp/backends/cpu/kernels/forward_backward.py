"""Phase one: forward pass, loss,
and the deltas back through the layers, by blocks of rows.

Read this first, then gradient_update.py (phase two), step.py and epoch.py. A block of
up to `ROW_BLOCK` rows passes all layers while its values are in the first-level cache.
The output layer has columns: one output of a block of rows. Losses run along rows.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from fastmlp.backends.cpu.kernels import Kernel, Scalar, Span, rows_of_part
from fastmlp.backends.cpu.kernels.memory_traffic import pair_deltas, pair_outputs
from fastmlp.backends.cpu.plan import records
from fastmlp.backends.cpu.plan.packing import row_offset
from fastmlp.backends.cpu.plan.records import Layer, Net, batch_of, blocks_of, layers_of
from fastmlp.backends.cpu.simd.gemm import Shape, next_panels, packs
from fastmlp.backends.cpu.simd.microkernel import (
    PLUS,
    RELU,
    RELU_PLUS,
    STORE,
    TIMES,
    WHERE_POSITIVE,
    Epilogue,
    Operands,
    Start,
    delta_unit,
    skinny,
)
from fastmlp.backends.cpu.simd.pack import moves
from fastmlp.backends.cpu.simd.vector import Panels
from fastmlp.backends.cpu.tuning import LARGEST_TILE, ROW_BLOCK, STRIP_ROWS
from fastmlp.compiler import call, hinted, njit, prange, thread_number
from fastmlp.compiler.memory import record_at, records_at, row, stack
from fastmlp.compiler.target import lanes_of

# Predictions, losses, or losses and deltas.
FORWARD, EVALUATE, TRAIN = range(3)


def losses(scalar: Scalar) -> tuple[Kernel, Kernel, Kernel]:
    """Functions that gather targets, sum losses by strips, and scale the deltas.

    `skip` is the offset in bytes of the thread's columns in the buffers of the output
    layer.
    """
    size = np.dtype(scalar).itemsize
    lanes = lanes_of(scalar)
    gather_columns = moves(scalar, lanes).gather_columns

    @njit
    def gather_targets(net: Net, rows: Span, skip: int) -> int:
        batch = batch_of(net)
        n_targets = net.n_targets
        place = net.targets + skip
        (first, n) = rows
        if n_targets >= lanes:
            gather_columns(batch.y, batch.index + first * 8, place, n_targets, n)
            return place
        targets = row(place, n * n_targets, scalar)
        index = row(batch.index + first * 8, n, np.int64)
        for r in range(n):
            y = row(batch.y + index[r] * n_targets * size, n_targets, scalar)
            for j in range(n_targets):
                targets[j * n + r] = y[j]
        return place

    @njit
    def sum_losses(net: Net, rows: Span, at: int, skip: int) -> None:
        batch = batch_of(net)
        (first, n) = rows
        n_strips = (n + STRIP_ROWS - 1) // STRIP_ROWS
        # The losses of heads follow their sums.
        for h in range(1 + net.n_heads):
            loss = row(net.row_losses + skip + h * n * 8, n, np.float64)
            place = net.strip_losses + h * net.head_strips + at // STRIP_ROWS * 8
            sums = row(place, n_strips, np.float64)
            if batch.weight:
                index = row(batch.index + first * 8, n, np.int64)
                for r in range(n):
                    loss[r] *= row(batch.weight + index[r] * size, 1, scalar)[0]
            for strip in range(n_strips):
                # A local sum stays in a register;
                # in memory it took 5 % of a step (4-16-3@32).
                total = 0.0
                for r in range(strip * STRIP_ROWS, min((strip + 1) * STRIP_ROWS, n)):
                    total += loss[r]
                sums[strip] = total

    @njit
    def scale_deltas(net: Net, outer: Layer, rows: Span, skip: int) -> None:
        """Slopes of the loss times the activation's slope and the row's weight."""
        batch = batch_of(net)
        width = net.n_out
        (first, n) = rows
        count = n * width
        deltas = row(net.loss_slope + skip, count, scalar)
        factor = scalar(batch.scale)
        if outer.activation:
            slope = row(net.slope + skip, count, scalar)
            for i in range(count):
                deltas[i] *= slope[i]
        if batch.weight == 0:
            for i in range(count):
                deltas[i] *= factor
            return
        index = row(batch.index + first * 8, n, np.int64)
        for r in range(n):
            weight = float(row(batch.weight + index[r] * size, 1, scalar)[0])
            share = scalar(batch.scale * weight)
            for j in range(width):
                deltas[j * n + r] *= share

    return gather_targets, sum_losses, scale_deltas


def _values(scalar: Scalar) -> Kernel:
    """The function that writes n rows' raw outputs, from row `at`, in columns.

    A transposed output layer is multiplied here; another one's panels are unpacked.
    """
    lanes = lanes_of(scalar)
    vector = lanes * np.dtype(scalar).itemsize
    dots = skinny(scalar, lanes).dots
    unpack_columns = moves(scalar, lanes).unpack_columns

    @njit
    def write_values(net: Net, outer: Layer, n: int, at: int, values: int) -> None:
        if outer.is_transposed:
            inputs = net.inputs
            if net.n_layers > 1:
                inputs = layers_of(net)[net.n_layers - 2].outputs
            weights = (outer.packed, outer.biases)
            shape = (outer.n_in, net.n_out, n)
            dots(Panels(inputs + at * vector, net.panel), *weights, values, *shape)
        else:
            unpack_columns(outer.outputs + at * vector, net.panel, values, net.n_out, n)

    return write_values


def _predictions(scalar: Scalar) -> Kernel:
    lanes = lanes_of(scalar)
    size = np.dtype(scalar).itemsize
    vector = lanes * size
    vector_moves = moves(scalar, lanes)
    pack_columns = vector_moves.pack_columns
    unpack_row = vector_moves.unpack_row

    @njit
    def write_predictions(
        net: Net, outer: Layer, rows: Span, at: int, values: int, place: int
    ) -> None:
        start, n = rows
        link = blocks_of(net).link
        settings = blocks_of(net).link_settings
        if net.n_out == 1:
            # A single column has the order of the rows.
            call(link, (values, batch_of(net).out + start * size, settings, n, 1))
            return
        call(link, (values, place, settings, n, net.n_out))
        # From columns to rows through panels: one by one a number took 4 ns.
        panels = outer.outputs + at * vector
        pack_columns(place, panels, net.panel, net.n_out, n)
        for r in range(n):
            target = batch_of(net).out + (start + r) * net.n_out * size
            unpack_row(panels + r * vector, net.panel, target, net.n_out)

    return write_predictions


def deltas_to_columns(scalar: Scalar) -> Kernel:
    """Make the function that moves the output layer's deltas from columns, one output
    of all rows each, to panels; deltas of a transposed layer go to squares of `lanes`
    rows.
    """
    lanes = lanes_of(scalar)
    size = np.dtype(scalar).itemsize
    vector = lanes * size
    unit = delta_unit(lanes)
    vector_moves = moves(scalar, lanes)
    pack_columns = vector_moves.pack_columns
    unpack_row = vector_moves.unpack_row

    @njit
    def place_deltas(net: Net, outer: Layer, n: int, at: int, deltas: int) -> None:
        if outer.is_transposed == 0:
            pack_columns(deltas, outer.deltas + at * vector, net.panel, net.n_out, n)
            return
        for r in range(0, n, unit):
            place = (
                outer.deltas
                + (at + r) // lanes * net.delta_panel
                + (at + r) % lanes * size
            )
            for j in range(net.n_out):
                unpack_row(deltas + (j * n + r) * size, 0, place + j * vector, unit)

    return place_deltas


def output_layer(scalar: Scalar) -> Kernel:
    """Finishes the output layer of n rows, as far as `mode` asks.

    Each thread has its columns. Predictions are written to the batch's `out`, if set.
    """
    lanes = lanes_of(scalar)
    write_values = _values(scalar)
    write_predictions = _predictions(scalar)
    gather_targets, sum_losses, scale_deltas = losses(scalar)
    place_deltas = deltas_to_columns(scalar)

    @njit
    def finish(net: Net, rows: Span, at: int, mode: int, thread: int) -> None:
        """Rows (start, n) of the chunk are buffer rows `at` and following."""
        outer = layers_of(net)[net.n_layers - 1]
        skip = thread * net.output_bytes
        n = rows[1]
        values, slopes = net.raw + skip, net.loss_slope + skip
        write_values(net, outer, n, at, values)
        if outer.activation:
            place = net.value + skip
            # Whole vectors, for which there is room:
            # a remainder would be done one by one.
            count = (n * net.n_out + lanes - 1) // lanes * lanes
            call(outer.activation, (values, place, net.slope + skip, count))
            values = place
        if mode != FORWARD:
            targets = gather_targets(net, rows, skip)
            row_losses = net.row_losses + skip
            shape = (n, net.n_out, net.n_targets)
            blocks = blocks_of(net)
            call(
                blocks.loss,
                (values, targets, slopes, row_losses, blocks.loss_settings, *shape),
            )
            sum_losses(net, rows, at, skip)
        if batch_of(net).out:
            write_predictions(net, outer, rows, at, values, slopes)
        if mode == TRAIN:
            scale_deltas(net, outer, rows, skip)
            place_deltas(net, outer, n, at, slopes)
            pair_deltas(net, outer, (0, net.max_width), (at, n))

    return finish


class LayerKernels(NamedTuple):
    """The functions of one layer and dtype, for n rows from buffer row `at` on.

    Attributes
    ----------
    gather : (net, inputs, (start, n), at, (low, high)): features low to high of rows to panels
    forward : (net, layer, inputs, middle, (panel, n_panels), (at, n), (z, packed)): outputs and
        slopes; the thread's pre-activations, and its packed rows
    add_partial_sums : (net, layer, (panel, n_panels), (at, n), z): outputs and slopes of a split
        layer, from the sums of its two halves
    backward : (net, i, (panel, n_panels), (at, n), packed): deltas of layer i - 1, from
        deltas of layer i
    """

    gather: Kernel
    forward: Kernel
    add_partial_sums: Kernel
    backward: Kernel


@njit
def slope_epilogue(below: Layer) -> Span:
    """The epilogue that multiplies a layer's deltas by its slopes,
    and their address.
    """
    if below.form == records.RELU:
        return WHERE_POSITIVE, below.outputs
    has_slopes = below.form == records.BLOCK or below.form == records.RELU_DROPPED
    return TIMES if has_slopes else STORE, below.deltas


@njit
def packed_of(net: Net, thread: int) -> int:
    return net.row_copy + thread * net.row_copy_bytes


_packs = njit(packs)


@njit
def product_of(
    blocks: records.BlockAddresses, pairs: int, depth: Any, shape: Shape
) -> int:
    if pairs:
        return blocks.pair_product
    fits = _packs(shape.n_columns, shape.n_rows, depth)
    packed = blocks.packed_product != 0 and fits
    return blocks.packed_product if packed else blocks.product


def layer_kernels(scalar: Scalar) -> LayerKernels:
    return LayerKernels(
        gathering(scalar),
        _forward(scalar),
        _add_partial_sums(scalar),
        _backward(scalar),
    )


def gathering(scalar: Scalar) -> Kernel:
    """Make the function that copies rows of X to panels, disturbs them by noise and
    dropout, and rounds them to pairs if the first layer takes pairs.
    """
    lanes = lanes_of(scalar)
    size = np.dtype(scalar).itemsize
    pack_row = moves(scalar, lanes).pack_row

    @njit
    def gather(net: Net, inputs: int, rows: Span, at: int, features: Span) -> None:
        """Copy features low to high of rows to panels; low is the first of a panel."""
        batch, (start, n), (low, high) = batch_of(net), rows, features
        index = row(batch.index + start * 8, n, np.int64)
        panels = inputs + low // lanes * net.panel
        for r in range(n):
            place = index[r] if batch.index else start + r
            source = batch.x + (place * net.n_in + low) * size
            pack_row(source, panels + (at + r) * lanes * size, net.panel, high - low)
        group = (low // lanes, (high - low + lanes - 1) // lanes)
        if net.disturbs:
            call(blocks_of(net).disturb, (net.address, inputs, *group, at, n))
        first = layers_of(net)[0]
        if first.pairs:
            values = (
                inputs,
                net.panel,
                first.inputs_along,
                first.inputs_across,
                net.n_in,
            )
            call(blocks_of(net).pair_rows, (*values, *group, at, n))

    return gather


def _forward(scalar: Scalar) -> Kernel:
    lanes = lanes_of(scalar)
    vector = lanes * np.dtype(scalar).itemsize
    z_panel = ROW_BLOCK * vector

    @njit
    def forward_layer(
        net: Net,
        layer: Layer,
        inputs: int,
        middle: int,
        panels: Span,
        rows: Span,
        scratch: Span,
    ) -> None:
        """f(bias + A W) for some panels, and the slopes of an f that has a block.

        If `middle` > 0, inputs from `middle` on are summed separately and added
        (split-K).
        """
        blocks, (at, n), (p, most) = blocks_of(net), rows, panels
        # Stages finish the sums of a layer that has some.
        form = records.LINEAR if layer.stages else layer.form
        down = at * vector
        waits = form == records.BLOCK
        pairs = layer.pairs
        z, packed = scratch
        is_relu = form == records.RELU or form == records.RELU_DROPPED
        products = layer.sums if layer.stages else layer.outputs
        stop = min(p + most, layer.n_panels)
        while p < stop:
            # Pre-activations wait on the stack, 12 or 16 KiB in the first-level cache.
            in_turn = waits or layer.dropped or layer.outputs_along
            n_panels = next_panels(stop - p) if in_turn else stop - p
            outputs = products + p * net.panel + down
            c = Panels(z, z_panel) if waits else Panels(outputs, net.panel)
            start = Start(layer.biases + p * layer.packed_panel, 0, layer.packed_panel)
            shape = Shape(min(n_panels * lanes, layer.n_out - p * lanes), n)
            weights = layer.weights + p * layer.weight_panel
            a = inputs + (down >> pairs)
            panel = net.panel >> pairs
            depth = (layer.n_in + pairs) >> pairs
            number = STORE
            operand = 0
            if middle > 0:
                half = Operands(weights, layer.weight_panel, a, panel, middle)
                product = product_of(blocks, pairs, middle, shape)
                call(product, (c, start, half, Epilogue(STORE, 0), shape, packed))
                start = Start(net.zeros, 0, 0)
                depth = depth - middle
                weights += row_offset(layer, middle, vector)
                a += middle // lanes * panel
                number = RELU_PLUS if is_relu else PLUS
                operand = z if waits else outputs
            elif is_relu:
                number = RELU
            factors = Operands(weights, layer.weight_panel, a, panel, depth)
            epilogue = Epilogue(number, operand)
            product = product_of(blocks, pairs, depth, shape)
            call(product, (c, start, factors, epilogue, shape, packed))
            if waits:
                for q in range(n_panels):
                    slopes = layer.deltas + (p + q) * net.panel + down
                    values = outputs + q * net.panel
                    call(layer.activation, (z + q * z_panel, values, slopes, n * lanes))
            complete(net, layer, (p, n_panels), rows)
            p += n_panels

    return forward_layer


@njit
def complete(net: Net, layer: Layer, panels: Span, rows: Span) -> None:
    """Drop outputs of some panels in training,
    and round them if the next layer takes pairs.
    """
    if layer.dropped and layer.stages == 0:
        which = (net.address, layer.dropped - 1, *panels, *rows)
        call(blocks_of(net).drop, which)
    pair_outputs(net, layer, panels, rows)


@njit
def pass_stages(net: Net, i: int, rows: Span) -> None:
    if layers_of(net)[i].stages:
        call(blocks_of(net).stages_forward, (net.address, i, *rows))


@njit
def inputs_of(net: Net, i: int) -> int:
    layers = layers_of(net)
    if layers[i].pairs:
        return layers[i].inputs_along
    return layers[i - 1].outputs if i > 0 else net.inputs


def _add_partial_sums(scalar: Scalar) -> Kernel:
    """Make the function that finishes a layer computed by split-K. The first half's
    sums, with biases, are in its outputs, the second half's in its deltas.
    """
    lanes = lanes_of(scalar)
    vector = lanes * np.dtype(scalar).itemsize

    @njit
    def add_partial_sums(
        net: Net, layer: Layer, panels: Span, rows: Span, z: int
    ) -> None:
        """Add a split layer's two sums,
        from its outputs and deltas; apply the activation.
        """
        (at, n), (first, most) = rows, panels
        count = n * lanes
        for p in range(first, min(first + most, layer.n_panels)):
            skip = p * net.panel + at * vector
            to = z if layer.form == records.BLOCK else layer.outputs + skip
            sums = row(to, count, scalar)
            first_half = row(layer.outputs + skip, count, scalar)
            second_half = row(layer.deltas + skip, count, scalar)
            if layer.form == records.RELU or layer.form == records.RELU_DROPPED:
                for i in range(count):
                    total = first_half[i] + second_half[i]
                    sums[i] = scalar(0) if total < 0 else total
            else:
                for i in range(count):
                    sums[i] = first_half[i] + second_half[i]
            if layer.form == records.BLOCK:
                call(
                    layer.activation,
                    (z, layer.outputs + skip, layer.deltas + skip, count),
                )
        complete(net, layer, panels, rows)

    return add_partial_sums


def _backward(scalar: Scalar) -> Kernel:
    lanes = lanes_of(scalar)
    size = np.dtype(scalar).itemsize
    vector = lanes * size

    @njit
    def multiply(
        net: Net, layer: Layer, below: Layer, panels: Span, rows: Span, packed: int
    ) -> None:
        """D W^T, times the slopes of the layer below, for some panels of its deltas."""
        at, n = rows
        panel, most = panels
        down = at * vector + panel * net.panel
        n_columns = min(most * lanes, below.n_out - panel * lanes)
        number, operand = slope_epilogue(below)
        weights = layer.transposed + panel * layer.transposed_panel
        blocks = blocks_of(net)
        pairs = layer.pairs
        deltas = layer.deltas
        if pairs:
            deltas = layer.deltas_along
        left = deltas + (at * vector >> pairs)
        depth = (layer.n_out + pairs) >> pairs
        stride = layer.transposed_panel
        factors = Operands(weights, stride, left, net.panel >> pairs, depth)
        c = Panels(below.deltas + down, net.panel)
        start = Start(net.zeros, 0, 0)
        epilogue = Epilogue(number, operand + down)
        shape = Shape(n_columns, n)
        product = product_of(blocks, pairs, depth, shape)
        call(product, (c, start, factors, epilogue, shape, packed))

    @njit
    def multiply_transposed(
        net: Net, layer: Layer, below: Layer, panels: Span, rows: Span
    ) -> None:
        """For an output layer of few outputs, whose deltas lie transposed."""
        at, n = rows
        panel, most = panels
        n_columns = min(most * lanes, below.n_out - panel * lanes)
        number, operand = slope_epilogue(below)
        weights = layer.transposed + panel * layer.transposed_panel
        stride = layer.transposed_panel
        product = blocks_of(net).gradient_product
        start = Start(net.zeros, 0, 0)
        r = at
        stop = at + n
        while r < stop:
            # First to the end of a panel of deltas, then whole panels.
            lane = r % lanes
            count = min(stop - r, lanes - lane) if lane > 0 else stop - r
            down = r * vector + panel * net.panel
            deltas = layer.deltas + r // lanes * net.delta_panel + lane * size
            factors = Operands(weights, stride, deltas, net.delta_panel, layer.n_out)
            c = Panels(below.deltas + down, net.panel)
            epilogue = Epilogue(number, operand + down)
            call(product, (c, start, factors, epilogue, Shape(n_columns, count), 0))
            r += count

    @njit
    def backward_layer(net: Net, i: int, panels: Span, rows: Span, packed: int) -> None:
        layers = layers_of(net)
        (p, most) = panels
        layer = layers[i]
        below = layers[i - 1]
        if layer.transposed == 0:
            call(blocks_of(net).row_backward, (net.address, i, *panels))
            return
        stop = min(p + most, below.n_panels)
        while p < stop:
            group = (p, next_panels(stop - p) if below.pairs else most)
            if i == net.n_layers - 1 and layer.is_transposed:
                multiply_transposed(net, layer, below, group, rows)
            else:
                multiply(net, layer, below, group, rows, packed)
            pair_deltas(net, below, group, rows)
            p += group[1]

    return backward_layer


def forward_backward(scalar: Scalar, plain: bool = False) -> Kernel:
    """Phase one by rows; with `plain` for nets without `FEATURES`."""
    gather, forward_layer, add_partial_sums, backward_layer = layer_kernels(scalar)
    finish = output_layer(scalar)
    z_bytes = LARGEST_TILE[1] * ROW_BLOCK * lanes_of(scalar) * np.dtype(scalar).itemsize

    @njit
    def begin(net: Net, rows: Span, at: int, split: int) -> int:
        """Gather the rows, unless split-K did; return the first layer to compute."""
        sparse = blocks_of(net).sparse_forward
        (start, n) = rows
        if sparse != 0:
            call(sparse, (net.address, start, start + n, at))
            complete(net, layers_of(net)[0], (0, net.max_width), (at, n))
            pass_stages(net, 0, (at, n))
            return 1
        if split == 0:
            gather(net, net.inputs, rows, at, (0, net.n_in))
        return max(split - 1, 0)

    @njit(parallel=True)
    def forward_backward(
        team: int, nets: Sequence[Net], n_parts: int, mode: int, split: int
    ) -> None:
        """Phase one of a chunk of rows, as far as `mode` asks:
        values, losses, or deltas too.

        `split`, from 1 or 0: a team computed the two sums of this layer by split-K;
        they are added here.
        """
        for part in prange(n_parts):
            z = stack(z_bytes)
            net = nets[0]
            packed = packed_of(net, thread_number())
            layers = layers_of(net)
            (low, stop) = rows_of_part(net, part, n_parts)
            # `finish` computes a transposed output layer.
            n_forward = net.n_layers - layers[net.n_layers - 1].is_transposed
            for start in range(low, stop, ROW_BLOCK):
                n = min(ROW_BLOCK, stop - start)
                # Predictions keep no outputs:
                # a thread's blocks of rows share one block of buffers.
                at = thread_number() * ROW_BLOCK if mode == FORWARD else start
                for i in range(begin(net, (start, n), at, split), n_forward):
                    if i + 1 == split:
                        add_partial_sums(net, layers[i], (0, net.max_width), (at, n), z)
                    else:
                        inputs = inputs_of(net, i)
                        middle = net.middle if i + 1 == net.split_layer else 0
                        panels = (0, net.max_width)
                        scratch = (z, packed)
                        forward_layer(
                            net, layers[i], inputs, middle, panels, (at, n), scratch
                        )
                        pass_stages(net, i, (at, n))
                finish(net, (start, n), at, mode, thread_number())
                above = max(split - 1, net.lowest)
                for i in range(net.n_layers - 1 if mode == TRAIN else 0, above, -1):
                    backward_layer(net, i, (0, net.max_width), (at, n), packed)
                    if layers[i - 1].stages:
                        below = (net.address, i - 1, at, n)
                        call(blocks_of(net).stages_backward, below)

    @hinted(control=True, zeros=records.FEATURES if plain else {})
    def enter(team: int, net: int, n_parts: int, mode: int, split: int) -> None:
        forward_backward(team, records_at(net, 1, Net), n_parts, mode, split)

    return enter


def row_backward(scalar: Scalar) -> Kernel:
    """One row's deltas of layer i - 1, for some panels.

    Few nets need it, and it takes a fifth of phase one's compile time.
    """
    lanes = lanes_of(scalar)
    backward_dots = skinny(scalar, lanes).backward_dots
    vector = lanes * np.dtype(scalar).itemsize

    def backward(address: int, i: int, panel: int, most: int) -> None:
        net = record_at(address, Net)
        layers = layers_of(net)
        layer = layers[i]
        below = layers[i - 1]
        first = panel * lanes
        count = min(most, below.n_panels - panel) * lanes
        weights = Panels(layer.packed + first * vector, layer.packed_panel)
        (number, operand), down = slope_epilogue(below), panel * net.panel
        deltas = Panels(layer.deltas, net.panel)
        epilogue = Epilogue(number, operand + down)
        shape = (layer.n_out, min(count, layer.n_in - first))
        backward_dots(weights, deltas, below.deltas + down, epilogue, *shape)

    return backward
