"""Phase one, on a block of rows: forward, loss, and the chain of errors back through the layers."""

from typing import Any

import numpy as np

from fastmlp._compile import call, leaf, row
from fastmlp.backends.cpu.plan import LAYER, NET, ROW_BLOCK

FORWARD, EVALUATE, TRAIN = 0, 1, 2


@leaf
def _forward(net: Any, first: Any, last: Any, like: Any) -> None:
    n, size = last - first, like.itemsize
    layers = row(net.layers, net.n_layers, LAYER)
    block = net.raw + first * net.max_width * size
    inputs, index = net.x, net.index
    for i in range(net.n_layers):
        layer = layers[i]
        width = layer.n_out
        z, biases = row(block, n * width, like.dtype), row(layer.biases, width, like.dtype)
        for r in range(n):
            for j in range(width):
                z[r * width + j] = biases[j]
        # The matrix whose row `first` is the block's first row.
        matrix = block - first * width * size
        a = (inputs, index, layer.n_in, net.identity, 1)
        call(net.product, (matrix, layer.weights, width, *a, first, last, layer.n_in))
        skip = first * width * size
        call(layer.activation, (block, layer.outputs + skip, layer.deltas + skip, n * width))
        inputs, index = layer.outputs, net.identity


@leaf
def _gather_targets(net: Any, first: Any, last: Any, like: Any) -> Any:
    """Copy the block's targets to its part of the buffer, and return where that is."""
    n_targets = net.n_targets
    place = net.targets + first * n_targets * like.itemsize
    targets, index = (
        row(place, (last - first) * n_targets, like.dtype),
        row(net.index, last, np.int64),
    )
    for r in range(first, last):
        y = row(net.y + index[r] * n_targets * like.itemsize, n_targets, like.dtype)
        for j in range(n_targets):
            targets[(r - first) * n_targets + j] = y[j]
    return place


@leaf
def _loss(net: Any, first: Any, last: Any, like: Any) -> None:
    """Write the scaled errors of the last layer, and the block's weighted loss."""
    n, size, width = last - first, like.itemsize, net.n_out
    targets = _gather_targets(net, first, last, like)
    outer = row(net.layers, net.n_layers, LAYER)[net.n_layers - 1]
    skip = first * width * size
    losses, slopes = net.row_losses + first * 8, net.raw + first * net.max_width * size
    call(net.loss, (outer.outputs + skip, targets, slopes, losses, n, width, net.n_targets))
    loss, index = row(losses, n, np.float64), row(net.index, last, np.int64)
    slope, delta = (
        row(slopes, n * width, like.dtype),
        row(outer.deltas + skip, n * width, like.dtype),
    )
    total = 0.0
    for r in range(n):
        weight = 1.0
        if net.weight:
            weight = float(row(net.weight + index[first + r] * size, 1, like.dtype)[0])
        total += loss[r] * weight
        factor = like.dtype.type(net.scale * weight)
        for j in range(r * width, (r + 1) * width):
            delta[j] *= slope[j] * factor
    row(net.block_losses + first // ROW_BLOCK * 8, 1, np.float64)[0] = total


@leaf
def _backward(net: Any, first: Any, last: Any, like: Any) -> None:
    size, n = like.itemsize, last - first
    layers = row(net.layers, net.n_layers, LAYER)
    block = net.raw + first * net.max_width * size
    for i in range(net.n_layers - 1, 0, -1):
        layer = layers[i]
        width = layer.n_in
        errors = row(block, n * width, like.dtype)
        errors[:] = 0
        matrix = block - first * width * size
        a = (layer.deltas, net.identity, layer.n_out, net.identity, 1)
        call(net.product, (matrix, layer.transposed, width, *a, first, last, layer.n_out))
        delta = row(layers[i - 1].deltas + first * width * size, n * width, like.dtype)
        for j in range(n * width):
            delta[j] *= errors[j]


def rows(scalar: type[np.floating[Any]]) -> Any:
    """Make the block that runs phase one on blocks of rows, as far as the mode asks for."""

    def work_on_rows(address: Any, first_block: Any, last_block: Any) -> None:
        net, like = row(address, 1, NET)[0], row(address, 0, scalar)
        for block in range(first_block, last_block):
            first = block * ROW_BLOCK
            last = min(first + ROW_BLOCK, net.n_rows)
            _forward(net, first, last, like)
            if net.mode != FORWARD:
                _loss(net, first, last, like)
            if net.mode == TRAIN:
                _backward(net, first, last, like)

    return work_on_rows
