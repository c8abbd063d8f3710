"""Phase one, on strips of rows: forward, loss, and the chain of errors back through the layers."""

from typing import Any

import numpy as np

from fastmlp._compile import call, leaf, row, stack
from fastmlp.backends.cpu.microkernel import (
    RELU,
    ROW_BLOCK,
    STORE,
    TIMES,
    WHERE_POSITIVE,
    lanes_of,
)
from fastmlp.backends.cpu.outputs import error_unit, outputs
from fastmlp.backends.cpu.plan import BLOCK, LAYER, NET
from fastmlp.backends.cpu.plan import RELU as RELU_LAYER
from fastmlp.backends.cpu.product import LARGEST, next_panels
from fastmlp.backends.cpu.vectors import moves
from fastmlp.workspace import STRIP_ROWS

FORWARD, EVALUATE, TRAIN = range(3)
# What of it to do: all, or one of its stages.
WHOLE, GATHER, FORTH, SCORE, BACK = range(5)


@leaf
def n_strips_of(n_rows: Any) -> Any:
    """How many strips so many rows make."""
    return (n_rows + STRIP_ROWS - 1) // STRIP_ROWS


@leaf
def forward_layer(
    net: Any, layer: Any, inputs: Any, panel: Any, most: Any, at: Any, n: Any, z: Any, lanes: Any,
    vector: Any,
) -> None:  # fmt: skip
    """Outputs, and with an activation's block also slopes, of n rows from row `at` on.

    Of the layer's panels from `panel` on, those that there are of the most.
    """
    down, z_panel = at * vector, ROW_BLOCK * vector
    lanes_at_once = n * lanes
    waits, p, stop = layer.form == BLOCK, panel, min(panel + most, layer.n_panels)
    while p < stop:
        # Products wait on the stack for their activation: 12 or 16 KiB in the first-level cache.
        n_panels = stop - p
        if waits:
            n_panels = next_panels(n_panels)
        w = layer.weights + p * layer.weight_panel
        bias = layer.biases + p * layer.master_panel
        outputs = layer.outputs + p * net.panel + down
        to, panel = (z, z_panel) if waits else (outputs, net.panel)
        epilogue = RELU if layer.form == RELU_LAYER else STORE
        left = (inputs + down, net.panel, layer.n_in, epilogue, 0)
        shape = (min(n_panels * lanes, layer.n_out - p * lanes), n)
        weights = (w, layer.weight_panel)
        call(net.product, (to, panel, bias, 0, layer.master_panel, *weights, *left, *shape))
        if waits:
            for q in range(n_panels):
                slopes = layer.deltas + (p + q) * net.panel + down
                values = outputs + q * net.panel
                call(layer.activation, (z + q * z_panel, values, slopes, lanes_at_once))
        p += n_panels


@leaf
def _add_halves(
    net: Any, layer: Any, panel: Any, most: Any, at: Any, n: Any, z: Any, vector: Any, like: Any
) -> None:
    """The same, of a layer of which both halves of the sums are there."""
    count = n * (vector // like.itemsize)
    for p in range(panel, min(panel + most, layer.n_panels)):
        there = p * net.panel + at * vector
        to = z if layer.form == BLOCK else layer.outputs + there
        sums = row(to, count, like.dtype)
        one = row(layer.outputs + there, count, like.dtype)
        other = row(layer.deltas + there, count, like.dtype)
        if layer.form == RELU_LAYER:
            for i in range(count):
                total = one[i] + other[i]
                sums[i] = like.dtype.type(0) if total < 0 else total
        else:
            for i in range(count):
                sums[i] = one[i] + other[i]
        if layer.form == BLOCK:
            call(layer.activation, (z, layer.outputs + there, layer.deltas + there, count))


@leaf
def _gather_targets(net: Any, first: Any, n: Any, at: Any, like: Any) -> Any:
    """Copy the rows' targets to columns in their part of the buffer, and return where that is."""
    n_targets, size = net.n_targets, like.itemsize
    place = net.targets + at * n_targets * size
    targets, index = row(place, n * n_targets, like.dtype), row(net.index + first * 8, n, np.int64)
    for r in range(n):
        y = row(net.y + index[r] * n_targets * size, n_targets, like.dtype)
        for j in range(n_targets):
            targets[j * n + r] = y[j]
    return place


@leaf
def _sum_losses(net: Any, first: Any, n: Any, at: Any, like: Any) -> None:
    """The weighted loss of each strip of rows."""
    loss = row(net.row_losses + at * 8, n, np.float64)
    n_strips = n_strips_of(n)
    sums = row(net.strip_losses + at // STRIP_ROWS * 8, n_strips, np.float64)
    if net.weight:
        index = row(net.index + first * 8, n, np.int64)
        for r in range(n):
            loss[r] *= row(net.weight + index[r] * like.itemsize, 1, like.dtype)[0]
    for strip in range(n_strips):
        # In a register: through memory, 32 rows took 5 % of a step of 4-16-3.
        total = 0.0
        for r in range(strip * STRIP_ROWS, min((strip + 1) * STRIP_ROWS, n)):
            total += loss[r]
        sums[strip] = total


@leaf
def _scale_errors(net: Any, outer: Any, first: Any, n: Any, skip: Any, like: Any) -> None:
    """Turn the slopes of the loss into errors: times the activation's, and the row's share."""
    width, size = net.n_out, like.itemsize
    count = n * width
    errors, factor = row(net.loss_slope + skip, count, like.dtype), like.dtype.type(net.scale)
    if outer.activation:
        slope = row(net.slope + skip, count, like.dtype)
        for i in range(count):
            errors[i] *= slope[i]
    if net.weight == 0:
        for i in range(count):
            errors[i] *= factor
        return
    index = row(net.index + first * 8, n, np.int64)
    for r in range(n):
        weight = float(row(net.weight + index[r] * size, 1, like.dtype)[0])
        factor = like.dtype.type(net.scale * weight)
        for j in range(width):
            errors[j * n + r] *= factor


@leaf
def _slopes(below: Any) -> Any:
    """By which epilogue a layer's slopes go into its errors, and where they lie."""
    if below.form == RELU_LAYER:
        return WHERE_POSITIVE, below.outputs
    return TIMES if below.form == BLOCK else STORE, below.deltas


@leaf
def _backward_layer(
    net: Any,
    layer: Any,
    below: Any,
    panel: Any,
    most: Any,
    n: Any,
    at: Any,
    lanes: Any,
    vector: Any,
) -> None:
    """Errors of the layer below: the product with W transposed, times that layer's slopes."""
    down, n_columns = (
        at * vector + panel * net.panel,
        min(most * lanes, below.n_out - panel * lanes),
    )
    epilogue, operand = _slopes(below)
    weights = (layer.transposed + panel * layer.transposed_panel, layer.transposed_panel)
    right = (*weights, layer.deltas + at * vector, net.panel, layer.n_out)
    last = (epilogue, operand + down, n_columns, n)
    call(net.product, (below.deltas + down, net.panel, net.zeros, 0, 0, *right, *last))


@leaf
def _backward_few(
    net: Any, layer: Any, below: Any, panel: Any, most: Any, n: Any, at: Any, lanes: Any,
    vector: Any,
) -> None:  # fmt: skip
    """The same where the errors lie as panels of D transposed."""
    n_columns = min(most * lanes, below.n_out - panel * lanes)
    epilogue, operand = _slopes(below)
    weights = (layer.transposed + panel * layer.transposed_panel, layer.transposed_panel)
    r, stop = at, at + n
    while r < stop:
        # From where a panel begins, but for the first rows.
        lane = r % lanes
        count = min(stop - r, lanes - lane) if lane > 0 else stop - r
        down, size = r * vector + panel * net.panel, vector // lanes
        errors = layer.deltas + r // lanes * net.error_panel + lane * size
        right = (*weights, errors, net.error_panel, layer.n_out)
        last = (epilogue, operand + down, n_columns, count)
        call(net.gradient_product, (below.deltas + down, net.panel, net.zeros, 0, 0, *right, *last))
        r += count


def rows(scalar: type[np.floating[Any]]) -> Any:
    """Make the block that runs phase one on strips first to last, as far as the mode asks for.

    Where nothing is to be kept, all rows of a team's part go through the same few rows of the
    buffers, which stay in cache. Predictions are written where the record says, if it does.

    A stage is a part of it: of one layer, forth or back, first to last are groups of panels.
    """
    lanes = lanes_of(scalar)
    its, dots = moves(scalar, lanes), outputs(scalar, lanes).dots
    back_dots = outputs(scalar, lanes).back_dots
    spread, collect, columns_of, rows_of = its.spread, its.collect, its.columns_of, its.rows_of
    size = np.dtype(scalar).itemsize
    vector = lanes * size
    unit = error_unit(lanes)
    waiting = LARGEST[1] * ROW_BLOCK * vector

    def work_on_rows(address: Any, first: Any, last: Any, part: Any) -> None:
        z = stack(waiting)
        net, like = row(address, 1, NET)[0], row(address, 0, scalar)
        layers = row(net.layers, net.n_layers, LAYER)
        outer, sparse, stage = layers[net.n_layers - 1], net.sparse_forward != 0, net.stage
        few = outer.turned != 0
        begin, stop = first * STRIP_ROWS, min(last * STRIP_ROWS, net.n_rows)
        panel, n_panels = 0, net.max_width
        if stage == FORTH or stage == BACK:
            begin, stop = 0, net.n_rows
            panel, n_panels = first * LARGEST[1], (last - first) * LARGEST[1]
        for start in range(begin, stop, ROW_BLOCK):
            n = min(ROW_BLOCK, stop - start)
            at = part * ROW_BLOCK if net.mode == FORWARD else start
            if sparse:
                call(net.sparse_forward, (address, start, start + n, at))
            elif stage == GATHER or (stage == WHOLE and net.halved == 0):
                index = row(net.index + start * 8, n, np.int64)
                for r in range(n):
                    place = index[r] if net.index else start + r
                    source = net.x + place * net.n_in * size
                    spread(source, net.inputs + (at + r) * vector, net.panel, net.n_in)
            low, high = (1 if sparse else max(net.halved - 1, 0)), net.n_layers
            if stage != WHOLE:
                low, high = net.layer, net.layer + (1 if stage == FORTH else 0)
            for i in range(low, min(high, net.n_layers - outer.turned)):
                if i + 1 == net.halved:
                    _add_halves(net, layers[i], panel, n_panels, at, n, z, vector, like)
                    continue
                inputs = layers[i - 1].outputs if i > 0 else net.inputs
                forward_layer(net, layers[i], inputs, panel, n_panels, at, n, z, lanes, vector)
            if stage == WHOLE or stage == SCORE:
                skip = at * net.n_out * size + at // STRIP_ROWS * vector
                values = net.raw + skip
                if few:
                    inputs = layers[net.n_layers - 2].outputs if net.n_layers > 1 else net.inputs
                    weights = (outer.master, outer.biases)
                    shape = (outer.n_in, net.n_out, n)
                    dots(inputs + at * vector, net.panel, *weights, values, *shape)
                else:
                    columns_of(outer.outputs + at * vector, net.panel, values, net.n_out, n)
                if outer.activation:
                    place = net.value + skip
                    # Whole vectors, for which there is room: what is left is done one by one.
                    count = (n * net.n_out + lanes - 1) // lanes * lanes
                    call(outer.activation, (values, place, net.slope + skip, count))
                    values = place
                if net.mode != FORWARD:
                    targets = _gather_targets(net, start, n, at, like)
                    losses, shape = net.row_losses + at * 8, (n, net.n_out, net.n_targets)
                    call(net.loss, (values, targets, net.loss_slope + skip, losses, *shape))
                    _sum_losses(net, start, n, at, like)
                if net.out:
                    place = net.loss_slope + skip
                    call(net.link, (values, place, n, net.n_out))
                    # Back to rows by way of the panels: number by number took 4 ns each.
                    panels = outer.outputs + at * vector
                    rows_of(place, panels, net.panel, net.n_out, n)
                    for r in range(n):
                        target = net.out + (start + r) * net.n_out * size
                        collect(panels + r * vector, net.panel, target, net.n_out)
                if net.mode == TRAIN:
                    _scale_errors(net, outer, start, n, skip, like)
                    errors = net.loss_slope + skip
                    if few:
                        for r in range(0, n, unit):
                            place = outer.deltas + (at + r) // lanes * net.error_panel
                            place += (at + r) % lanes * size
                            for j in range(net.n_out):
                                numbers = errors + (j * n + r) * size
                                collect(numbers, 0, place + j * vector, unit)
                    else:
                        rows_of(errors, outer.deltas + at * vector, net.panel, net.n_out, n)
            high, low = (net.n_layers - 1 if net.mode == TRAIN else 0), max(net.halved - 1, 0)
            if stage != WHOLE:
                high, low = net.layer, net.layer - (1 if stage == BACK else 0)
            for i in range(high, low, -1):
                layer, below = layers[i], layers[i - 1]
                if layer.transposed == 0:
                    # One row, back through W as it lies.
                    first_row, count = panel * lanes, min(n_panels, below.n_panels - panel) * lanes
                    weights = (layer.master + first_row * vector, layer.master_panel)
                    (epilogue, operand), down = _slopes(below), panel * net.panel
                    places = (layer.deltas, below.deltas + down, operand + down, net.panel)
                    shape = (epilogue, layer.n_out, min(count, layer.n_in - first_row))
                    back_dots(*weights, *places, *shape)
                elif few and i == net.n_layers - 1:
                    _backward_few(net, layer, below, panel, n_panels, n, at, lanes, vector)
                else:
                    _backward_layer(net, layer, below, panel, n_panels, n, at, lanes, vector)

    return work_on_rows
