"""Phase two, on tiles of weights: gradient, penalties and optimizer while the tile is in cache."""

from typing import Any

import numpy as np

from fastmlp._compile import call, leaf, row, stack
from fastmlp.backends.cpu.microkernel import STORE, lanes_of
from fastmlp.backends.cpu.plan import LAYER, NET, TILE, TILE_PANELS, TILE_ROWS
from fastmlp.backends.cpu.vectors import moves
from fastmlp.workspace import STRIP_ROWS

# A tile's gradient on the stack: its rows rounded up, and the biases.
PANEL_ROWS = TILE_ROWS + STRIP_ROWS


@leaf
def _start(net: Any, piece: Any, layer: Any, vector: Any, like: Any) -> Any:
    """Where the tile's sums begin: address, and strides of rows and panels."""
    if net.more:
        return _place(net.gradient, piece, layer, vector, like), vector, layer.weight_panel
    return net.zeros, 0, 0


@leaf
def _differentiate(
    net: Any, piece: Any, layer: Any, inputs: Any, g: Any, vector: Any, like: Any
) -> None:
    """The gradient of the tile's weights over the chunk: from zero, or going on with `more`."""
    lanes, panel = vector // like.itemsize, PANEL_ROWS * vector
    n = piece.last - piece.first
    start = _start(net, piece, layer, vector, like)
    deltas = (layer.deltas + piece.panel * net.panel, net.panel)
    left = (inputs + piece.first // lanes * net.panel, net.panel, net.n_rows, STORE, 0)
    call(net.gradient_product, (g, panel, *start, *deltas, *left, piece.n_panels, n))


@leaf
def _place(base: Any, piece: Any, layer: Any, vector: Any, like: Any) -> Any:
    """Where a tile begins in a packed vector."""
    panel = layer.packed_offset * like.itemsize + piece.panel * layer.weight_panel
    return base + panel + piece.first * vector


@leaf
def _penalise(
    net: Any, piece: Any, layer: Any, w: Any, g: Any, total: Any, vector: Any, like: Any
) -> None:
    """Add each penalty's slope to the gradient, and its value to the total; padding has none."""
    lanes = vector // like.itemsize
    penalties = row(net.penalties, net.n_penalties, np.int64)
    row(total, 1, np.float64)[0] = 0.0
    rows = piece.last - piece.first
    for i in range(net.n_penalties):
        scale = net.scales + i * 8
        for p in range(piece.n_panels):
            w_panel, g_panel = w + p * layer.weight_panel, g + p * PANEL_ROWS * vector
            n = min(lanes, layer.n_out - (piece.panel + p) * lanes)
            if n == lanes:
                call(penalties[i], (w_panel, g_panel, scale, total, rows * lanes))
            else:
                for r in range(rows):
                    skip = r * vector
                    call(penalties[i], (w_panel + skip, g_panel + skip, scale, total, n))


@leaf
def _copy(source: Any, target: Any, n: Any, like: Any) -> None:
    a, b = row(source, n, like.dtype), row(target, n, like.dtype)
    for i in range(n):
        b[i] = a[i]


def tile(scalar: type[np.floating[Any]]) -> Any:
    """Make the block that does with tiles first to last what the `NET` record asks for.

    `differentiate` sums a tile's gradient over the chunk of rows, from zero or, with `more`,
    going on from the chunk before; `penalise` adds the penalties; `update` applies the optimizer
    at once (the fused step), else the gradient is left whole for whom needs it.
    """
    lanes = lanes_of(scalar)
    size = np.dtype(scalar).itemsize
    vector = lanes * size
    square = lanes * vector
    transpose, sum_rows = moves(scalar, lanes).transpose, moves(scalar, lanes).sum_rows
    panel_bytes = PANEL_ROWS * vector
    gradient_bytes = TILE_PANELS * panel_bytes

    def work_on_tiles(address: Any, begin: Any, end: Any, part: Any) -> None:
        g = stack(gradient_bytes)
        net, like = row(address, 1, NET)[0], row(address, 0, scalar)
        pieces, layers = row(net.tiles, net.n_tiles, TILE), row(net.layers, net.n_layers, LAYER)
        for t in range(begin, end):
            piece = pieces[t]
            layer = layers[piece.layer]
            inputs = layers[piece.layer - 1].outputs if piece.layer > 0 else net.inputs
            _differentiate(net, piece, layer, inputs, g, vector, like)
            w = _place(net.parameters, piece, layer, vector, like)
            if net.penalise:
                _penalise(net, piece, layer, w, g, net.tile_penalties + t * 8, vector, like)
            rows = piece.last - piece.first
            if piece.last == layer.n_in:
                first, row_stride, panel_stride = _start(net, piece, layer, vector, like)
                for p in range(piece.n_panels):
                    deltas = layer.deltas + (piece.panel + p) * net.panel
                    start = first + p * panel_stride + rows * row_stride
                    sum_rows(deltas, start, g + p * panel_bytes + rows * vector, net.n_rows)
                rows += 1
            for p in range(piece.n_panels):
                of_panel = p * layer.weight_panel
                if net.update:
                    skip = w - net.parameters + of_panel
                    state = (net.m + skip, net.v + skip, net.coefficients, rows * lanes)
                    call(net.optimizer, (w + of_panel, g + p * panel_bytes, *state))
                else:
                    target = _place(net.gradient, piece, layer, vector, like) + of_panel
                    _copy(g + p * panel_bytes, target, rows * lanes, like)
                if net.update and piece.layer > 0:
                    for r in range(piece.first, piece.last, lanes):
                        block = layer.transposed + r // lanes * layer.transposed_panel
                        source = w + of_panel + (r - piece.first) * vector
                        transpose(source, block + (piece.panel + p) * square, layer.n_in - r)

    return work_on_tiles
