"""Phase two, on tiles of weights: gradient, penalties and optimizer while the tile is in cache."""

from typing import Any

import numpy as np

from fastmlp._compile import call, fence, leaf, row, stack
from fastmlp.backends.cpu.ahead import STREAMS_BYTES
from fastmlp.backends.cpu.epilogue import STORE
from fastmlp.backends.cpu.outputs import skinny
from fastmlp.backends.cpu.plan import ALL, LAYER, NET, NONE, OTHERS, TILE, TILE_ROWS
from fastmlp.backends.cpu.product import LARGEST
from fastmlp.backends.cpu.registers import lanes_of
from fastmlp.backends.cpu.vectors import moves
from fastmlp.backends.cpu.wanted import want
from fastmlp.workspace import STRIP_ROWS

# A tile's gradient on the stack: its rows rounded up, and the biases.
PANEL_ROWS = TILE_ROWS + STRIP_ROWS


@leaf
def _has_few_outputs(net: Any, piece: Any, layer: Any) -> Any:
    """Whether a piece is of a last layer that is turned."""
    return layer.turned and piece.layer == net.n_layers - 1


@leaf
def _differentiate(
    net: Any, t: Any, piece: Any, layer: Any, inputs: Any, w: Any, g: Any, wanted: Any,
    vector: Any, lanes: Any,
) -> None:  # fmt: skip
    """The gradient of the tile's weights over the chunk: from zero, or going on with `more`.

    By X^T D, or by D^T X where the layer is turned; of the last one, D^T is there.
    """
    left, right = (layer.deltas, inputs) if layer.turned else (inputs, layer.deltas)
    start, start_row, start_panel = net.zeros, 0, 0
    if net.more:
        start, start_row = w - net.parameters + net.gradient, vector
        start_panel = layer.master_panel
    to = (g, PANEL_ROWS * vector, start, start_row, start_panel)
    b = (right + piece.panel * net.panel, net.panel)
    width = (layer.n_in if layer.turned else layer.n_out) - piece.panel * lanes
    shape = (min(piece.n_panels * lanes, width), piece.last - piece.first)
    if _has_few_outputs(net, piece, layer):
        errors = layer.deltas + piece.first * vector
        call(net.product, (*to, *b, errors, net.error_panel, net.n_rows, STORE, 0, *shape, 0))
        return
    columns = left + piece.first // lanes * net.panel + piece.first % lanes * (vector // lanes)
    asked = want(net, t, piece, layer, w, wanted, vector, lanes)
    a = (columns, net.panel, net.n_rows, STORE, 0)
    call(net.gradient_product, (*to, *b, *a, *shape, asked))


@leaf
def copy(source: Any, target: Any, n: Any, like: Any) -> None:
    """Copy n numbers."""
    a, b = row(source, n, like.dtype), row(target, n, like.dtype)
    for i in range(n):
        b[i] = a[i]


@leaf
def _recall(
    net: Any, layer: Any, w: Any, g: Any, n: Any, n_panels: Any, vector: Any, like: Any
) -> None:
    """The gradient of the tile's weights that has been summed before."""
    for p in range(n_panels):
        panel = w + p * layer.master_panel
        copy(panel - net.parameters + net.gradient, g + p * PANEL_ROWS * vector, n, like)


@leaf
def _penalise(
    net: Any, piece: Any, layer: Any, w: Any, g: Any, values: Any, vector: Any, lanes: Any
) -> None:
    """Add each penalty's slope to the gradient, and its values to the tile's sum."""
    penalties = row(net.penalties, net.n_penalties, np.int64)
    total = net.tile_penalties + piece.slot * 8
    row(total, 1, np.float64)[0] = 0.0
    rows, width = piece.last - piece.first, layer.n_in if layer.turned else layer.n_out
    for i in range(net.n_penalties):
        scale = net.scales + i * 8
        for p in range(piece.n_panels):
            weights = (w + p * layer.master_panel, g + p * PANEL_ROWS * vector)
            n = min(lanes, width - (piece.panel + p) * lanes)
            call(penalties[i], (*weights, scale, total, values, net.zeros, rows, n))


@leaf
def _step_penalised(
    net: Any, piece: Any, layer: Any, p: Any, w: Any, g: Any, values: Any, lanes: Any
) -> None:
    """Add a penalty to panel p of the tile's gradient and take the optimizer's step, in one."""
    total, skip = net.tile_penalties + piece.slot * 8, w - net.parameters
    if p == 0:
        row(total, 1, np.float64)[0] = 0.0
    rows, width = piece.last - piece.first, layer.n_in if layer.turned else layer.n_out
    n = min(lanes, width - (piece.panel + p) * lanes)
    state = (net.m + skip, net.v + skip, net.coefficients)
    call(net.penalised, (w, g, *state, net.scales, total, values, net.zeros, rows, n))


@leaf
def _finish(net: Any, w: Any, g: Any, n: Any, like: Any) -> None:
    """Take the optimizer's step with n numbers of the gradient, or leave them for whom needs it."""
    skip = w - net.parameters
    if net.update:
        call(net.optimizer, (w, g, net.m + skip, net.v + skip, net.coefficients, n))
    else:
        copy(g, net.gradient + skip, n, like)


def _gradients(scalar: type[np.floating[Any]]) -> Any:
    """Make the function that brings a tile's gradient to the stack, but for its biases."""
    lanes = lanes_of(scalar)
    vector = lanes * np.dtype(scalar).itemsize
    outer = moves(scalar, lanes).outer

    def find_gradient(
        address: Any, net: Any, t: Any, piece: Any, layer: Any, inputs: Any, w: Any, g: Any,
        wanted: Any, like: Any,
    ) -> None:  # fmt: skip
        rows = piece.last - piece.first
        if net.sparse_gradient and piece.layer == 0:
            call(net.sparse_gradient, (address, t, g, PANEL_ROWS * vector))
        elif net.n_rows == 0:
            _recall(net, layer, w, g, rows * lanes, piece.n_panels, vector, like)
        elif net.n_rows == 1 and not net.more and not _has_few_outputs(net, piece, layer):
            # 32-64-32-1 at 1 row: 1.7 us a step so, as a product of matrices 2.2.
            left, right = (layer.deltas, inputs) if layer.turned else (inputs, layer.deltas)
            numbers = left + piece.first // lanes * net.panel
            for p in range(piece.n_panels):
                errors = right + (piece.panel + p) * net.panel
                outer(numbers, net.panel, errors, g + p * PANEL_ROWS * vector, rows)
        else:
            _differentiate(net, t, piece, layer, inputs, w, g, wanted, vector, lanes)

    return leaf(find_gradient)


def _steps(scalar: type[np.floating[Any]]) -> Any:
    """Make the function that takes the step with one panel of a tile, and with its biases."""
    lanes = lanes_of(scalar)
    vector = lanes * np.dtype(scalar).itemsize
    sum_rows = moves(scalar, lanes).sum_rows

    def step(
        net: Any, piece: Any, layer: Any, p: Any, w: Any, g: Any, values: Any, like: Any
    ) -> None:
        n = (piece.last - piece.first) * lanes
        in_one = net.penalise and net.update and net.penalised != 0
        if in_one:
            _step_penalised(net, piece, layer, p, w, g, values, lanes)
        n_before = n if in_one else 0
        if piece.last == layer.master_rows and not layer.turned:
            # The biases are one row more.
            biases, slopes = w + n // lanes * vector, g + n // lanes * vector
            start = biases - net.parameters + net.gradient if net.more else net.zeros
            sum_rows(layer.deltas + (piece.panel + p) * net.panel, start, slopes, net.n_rows)
            n += lanes
        if n > n_before:
            skip = n_before // lanes * vector
            _finish(net, w + skip, g + skip, n - n_before, like)

    return leaf(step)


def _turned_biases(scalar: type[np.floating[Any]]) -> Any:
    """Make the function that takes the step with the biases of a layer that is turned."""
    lanes = lanes_of(scalar)
    size = np.dtype(scalar).itemsize
    vector = lanes * size
    its, add_row = moves(scalar, lanes), skinny(scalar, lanes).add_row
    pack_row, sum_rows = its.pack_row, its.sum_rows

    def step(net: Any, piece: Any, layer: Any, g: Any, like: Any) -> None:
        start = layer.biases - net.parameters + net.gradient if net.more else net.zeros
        if _has_few_outputs(net, piece, layer):
            pack_row(net.zeros, g, 0, lanes)
            for j in range(layer.n_out):
                skip = j * size if net.more else 0
                errors, total = layer.deltas + j * vector, g + j * size
                add_row(errors, net.error_panel, start + skip, total, net.n_rows)
        else:
            sum_rows(layer.deltas, start, g, net.n_rows)
        _finish(net, layer.biases, g, lanes, like)

    return leaf(step)


def _twins(scalar: type[np.floating[Any]]) -> Any:
    """Make the function that brings the other form of the weights in step with a tile's panel."""
    lanes = lanes_of(scalar)
    vector = lanes * np.dtype(scalar).itemsize
    square, its = lanes * vector, moves(scalar, lanes)
    transpose, transpose_past = its.transpose, its.transpose_non_temporal

    def bring_in_step(piece: Any, layer: Any, p: Any, w: Any, past: Any) -> None:
        for r in range(piece.first, piece.last, lanes):
            source, left = w + (r - piece.first) * vector, layer.master_rows - r
            target = layer.twin + r // lanes * layer.twin_panel + (piece.panel + p) * square
            if past == ALL or (past == OTHERS and (r < piece.kept or r >= piece.kept_last)):
                transpose_past(source, target, left)
            else:
                transpose(source, target, left)

    return leaf(bring_in_step)


def tile(scalar: type[np.floating[Any]]) -> Any:
    """Make the block that does with tiles first to last what the `NET` record asks for.

    It sums a tile's gradient over the chunk of rows, from zero or, with `more`, going on from the
    chunk before; `penalise` adds the penalties; `update` applies the optimizer at once (the fused
    step), else the gradient is left whole for whom needs it. With `more` and no rows, it is as it
    has been left.
    """
    lanes = lanes_of(scalar)
    vector = lanes * np.dtype(scalar).itemsize
    panel_bytes = PANEL_ROWS * vector
    gradient_bytes = LARGEST[1] * panel_bytes
    find_gradient, step, bring_in_step = _gradients(scalar), _steps(scalar), _twins(scalar)
    step_with_turned_biases = _turned_biases(scalar)

    def work_on_tiles(address: Any, begin: Any, end: Any, part: Any) -> None:
        g, values, wanted = stack(gradient_bytes), stack(panel_bytes), stack(STREAMS_BYTES)
        net, like = row(address, 1, NET)[0], row(address, 0, scalar)
        pieces, layers = row(net.tiles, net.n_tiles, TILE), row(net.layers, net.n_layers, LAYER)
        # One thread alone has no others. A team without halves, whose transposes are few, counts as
        # one.
        past = NONE if net.past == OTHERS and net.divided == 0 else net.past
        for t in range(begin, end):
            piece = pieces[t]
            if piece.first == piece.last:
                continue
            layer = layers[piece.layer]
            inputs = layers[piece.layer - 1].outputs if piece.layer > 0 else net.inputs
            if piece.layer == 0 and net.divided > 1 and piece.panel * lanes >= net.middle:
                inputs = net.second_inputs
            w = net.parameters + piece.down
            find_gradient(address, net, t, piece, layer, inputs, w, g, wanted, like)
            if net.penalise and not (net.update and net.penalised):
                _penalise(net, piece, layer, w, g, values, vector, lanes)
            for p in range(piece.n_panels):
                panel = w + p * layer.master_panel
                step(net, piece, layer, p, panel, g + p * panel_bytes, values, like)
                if net.update and layer.twin:
                    bring_in_step(piece, layer, p, panel, past)
            last = piece.panel + piece.n_panels == layer.master_panels
            if layer.turned and last and piece.last == layer.master_rows:
                step_with_turned_biases(net, piece, layer, g, like)
        if past != NONE:
            fence()

    return work_on_tiles
