"""Phase one, on strips of rows: forward, loss, and the chain of errors back through the layers."""

from typing import Any

import numpy as np

from fastmlp._compile import call, leaf, row, stack
from fastmlp.backends.cpu.epilogue import PLUS, RELU, RELU_PLUS, STORE, TIMES, WHERE_POSITIVE
from fastmlp.backends.cpu.panels import down_to
from fastmlp.backends.cpu.plan import BLOCK, LAYER, NET
from fastmlp.backends.cpu.plan import RELU as RELU_LAYER
from fastmlp.backends.cpu.product import LARGEST, next_panels
from fastmlp.backends.cpu.registers import lanes_of
from fastmlp.backends.cpu.scores import FORWARD, TRAIN, scores
from fastmlp.backends.cpu.vectors import moves
from fastmlp.workspace import ROW_BLOCK, STRIP_ROWS

# What of it to do: all, or one of its stages.
WHOLE, GATHER, FORTH, SCORE, BACK = range(5)


@leaf
def _multiply(
    net: Any, layer: Any, a: Any, middle: Any, p: Any, n_panels: Any, c: Any, n: Any, lanes: Any,
    vector: Any,
) -> None:  # fmt: skip
    """Sums of n rows of panels p and following, or their positive parts, to `c`, panels so far from
    each other. With a `middle`, those from there on are chains of their own, and added up."""
    is_relu = layer.form == RELU_LAYER
    shape = (min(n_panels * lanes, layer.n_out - p * lanes), n, 0)
    start = (layer.biases + p * layer.master_panel, 0, layer.master_panel)
    w, n_in = layer.weights + p * layer.weight_panel, layer.n_in
    epilogue, operand = (RELU if is_relu else STORE), 0
    if middle > 0:
        left = (a, net.panel, middle, STORE, 0)
        call(net.product, (*c, *start, w, layer.weight_panel, *left, *shape))
        start, n_in = (net.zeros, 0, 0), n_in - middle
        w += down_to(layer, middle, vector)
        a += middle // lanes * net.panel
        epilogue, operand = (RELU_PLUS if is_relu else PLUS), c[0]
    left = (a, net.panel, n_in, epilogue, operand)
    call(net.product, (*c, *start, w, layer.weight_panel, *left, *shape))


@leaf
def forward_layer(
    net: Any, layer: Any, inputs: Any, middle: Any, panel: Any, most: Any, at: Any, n: Any, z: Any,
    lanes: Any, vector: Any,
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
        outputs = layer.outputs + p * net.panel + down
        c = (z, z_panel) if waits else (outputs, net.panel)
        _multiply(net, layer, inputs + down, middle, p, n_panels, c, n, lanes, vector)
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
def slopes_of(below: Any) -> Any:
    """By which epilogue a layer's slopes go into its errors, and where they lie."""
    if below.form == RELU_LAYER:
        return WHERE_POSITIVE, below.outputs
    return TIMES if below.form == BLOCK else STORE, below.deltas


@leaf
def _backward_layer(
    net: Any, layer: Any, below: Any, panel: Any, most: Any, n: Any, at: Any, lanes: Any,
    vector: Any,
) -> None:  # fmt: skip
    """Errors of the layer below: the product with W transposed, times that layer's slopes."""
    down = at * vector + panel * net.panel
    n_columns = min(most * lanes, below.n_out - panel * lanes)
    epilogue, operand = slopes_of(below)
    weights = (layer.transposed + panel * layer.transposed_panel, layer.transposed_panel)
    right = (*weights, layer.deltas + at * vector, net.panel, layer.n_out)
    last = (epilogue, operand + down, n_columns, n, 0)
    call(net.product, (below.deltas + down, net.panel, net.zeros, 0, 0, *right, *last))


@leaf
def _backward_few(
    net: Any, layer: Any, below: Any, panel: Any, most: Any, n: Any, at: Any, lanes: Any,
    vector: Any,
) -> None:  # fmt: skip
    """The same where the errors lie as panels of D transposed."""
    n_columns = min(most * lanes, below.n_out - panel * lanes)
    epilogue, operand = slopes_of(below)
    weights = (layer.transposed + panel * layer.transposed_panel, layer.transposed_panel)
    r, stop = at, at + n
    while r < stop:
        # From where a panel begins, but for the first rows.
        lane = r % lanes
        count = min(stop - r, lanes - lane) if lane > 0 else stop - r
        down, size = r * vector + panel * net.panel, vector // lanes
        errors = layer.deltas + r // lanes * net.error_panel + lane * size
        right = (*weights, errors, net.error_panel, layer.n_out)
        last = (epilogue, operand + down, n_columns, count, 0)
        call(net.gradient_product, (below.deltas + down, net.panel, net.zeros, 0, 0, *right, *last))
        r += count


def gathering(scalar: type[np.floating[Any]]) -> Any:
    """Make the function that copies numbers low to high of n rows' features to their panels; low
    is where a panel begins."""
    lanes = lanes_of(scalar)
    size = np.dtype(scalar).itemsize
    pack_row = moves(scalar, lanes).pack_row

    def gather(net: Any, inputs: Any, start: Any, n: Any, at: Any, low: Any, high: Any) -> None:
        index = row(net.index + start * 8, n, np.int64)
        panels = inputs + low // lanes * net.panel
        for r in range(n):
            place = index[r] if net.index else start + r
            source = net.x + (place * net.n_in + low) * size
            pack_row(source, panels + (at + r) * lanes * size, net.panel, high - low)

    return leaf(gather)


def rows(scalar: type[np.floating[Any]]) -> Any:
    """Make the block that runs phase one on strips first to last, as far as the mode asks for.

    Where nothing is to be kept, all rows of a team's part go through the same few rows of the
    buffers, which stay in cache. Predictions are written where the record says, if it does.

    A stage is a part of it: of one layer, forth or back, first to last are groups of panels.
    """
    lanes = lanes_of(scalar)
    vector = lanes * np.dtype(scalar).itemsize
    gather, score = gathering(scalar), scores(scalar)
    waiting = LARGEST[1] * ROW_BLOCK * vector

    def work_on_rows(address: Any, first: Any, last: Any, part: Any) -> None:
        z = stack(waiting)
        net, like = row(address, 1, NET)[0], row(address, 0, scalar)
        layers = row(net.layers, net.n_layers, LAYER)
        outer, sparse, stage = layers[net.n_layers - 1], net.sparse_forward != 0, net.stage
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
            elif stage == GATHER or (stage == WHOLE and net.divided == 0):
                gather(net, net.inputs, start, n, at, 0, net.n_in)
            low, high = (1 if sparse else max(net.divided - 1, 0)), net.n_layers
            if stage != WHOLE:
                low, high = net.layer, net.layer + (1 if stage == FORTH else 0)
            for i in range(low, min(high, net.n_layers - outer.turned)):
                if i + 1 == net.divided:
                    _add_halves(net, layers[i], panel, n_panels, at, n, z, vector, like)
                    continue
                inputs = layers[i - 1].outputs if i > 0 else net.inputs
                middle = net.middle if i + 1 == net.halved else 0
                of = (panel, n_panels, at, n)
                forward_layer(net, layers[i], inputs, middle, *of, z, lanes, vector)
            if stage == WHOLE or stage == SCORE:
                score(net, layers, start, n, at, part, like)
            high, low = (net.n_layers - 1 if net.mode == TRAIN else 0), max(net.divided - 1, 0)
            if stage != WHOLE:
                high, low = net.layer, net.layer - (1 if stage == BACK else 0)
            for i in range(high, low, -1):
                layer, below = layers[i], layers[i - 1]
                if layer.transposed == 0:
                    call(net.row_back, (address, i, panel, n_panels))
                elif i == net.n_layers - 1 and outer.turned:
                    _backward_few(net, layer, below, panel, n_panels, n, at, lanes, vector)
                else:
                    _backward_layer(net, layer, below, panel, n_panels, n, at, lanes, vector)

    return work_on_rows
