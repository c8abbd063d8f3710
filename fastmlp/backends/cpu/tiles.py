"""Phase two, on a tile of weights: gradient, penalties and optimizer, one after the other."""

from typing import Any

import numpy as np

from fastmlp._compile import call, leaf, row
from fastmlp.backends.cpu.plan import LAYER, NET, TILE


@leaf
def _gradient_of_weights(net: Any, i: Any, first: Any, last: Any, like: Any) -> None:
    layers = row(net.layers, net.n_layers, LAYER)
    layer, size = layers[i], like.itemsize
    gradient, width = net.gradient + layer.offset * size, layer.n_out
    if not net.more:
        row(gradient + first * width * size, (last - first) * width, like.dtype)[:] = 0
    inputs, index = net.x, net.index
    if i > 0:
        inputs, index = layers[i - 1].outputs, net.identity
    a = (inputs, net.identity, 1, index, layer.n_in)
    call(net.product, (gradient, layer.deltas, width, *a, first, last, net.n_rows))


@leaf
def _gradient_of_biases(net: Any, layer: Any, like: Any) -> None:
    width, size = layer.n_out, like.itemsize
    gradient = row(net.gradient + layer.bias_offset * size, width, like.dtype)
    if not net.more:
        gradient[:] = 0
    for r in range(net.n_rows):
        delta = row(layer.deltas + r * width * size, width, like.dtype)
        for j in range(width):
            gradient[j] += delta[j]


@leaf
def _penalise(net: Any, t: Any, start: Any, n: Any, like: Any) -> None:
    """Add each penalty's slope to the gradient, and its value to the tile's."""
    size = like.itemsize
    penalties = row(net.penalties, net.n_penalties, np.int64)
    w, gradient = net.parameters + start * size, net.gradient + start * size
    total = net.tile_penalties + t * 8
    row(total, 1, np.float64)[0] = 0.0
    for p in range(net.n_penalties):
        call(penalties[p], (w, gradient, net.scales + p * 8, total, n))


@leaf
def _transpose(layer: Any, first: Any, last: Any, like: Any) -> None:
    """Copy rows first to last of W to the columns of its transpose."""
    size = like.itemsize
    for j in range(layer.n_out):
        column = row(layer.transposed + (j * layer.n_in + first) * size, last - first, like.dtype)
        start = layer.weights + (first * layer.n_out + j) * size
        source = row(start, (last - first - 1) * layer.n_out + 1, like.dtype)
        for k in range(last - first):
            column[k] = source[k * layer.n_out]


@leaf
def _work_on_tile(net: Any, t: Any, like: Any) -> None:
    piece = row(net.tiles, net.n_tiles, TILE)[t]
    layer = row(net.layers, net.n_layers, LAYER)[piece.layer]
    first, last, size = piece.first, piece.last, like.itemsize
    biases = first == layer.n_in
    start = layer.bias_offset if biases else layer.offset + first * layer.n_out
    n = (last - first) * layer.n_out
    if net.differentiate and biases:
        _gradient_of_biases(net, layer, like)
    elif net.differentiate:
        _gradient_of_weights(net, piece.layer, first, last, like)
    if net.penalise and not biases:
        _penalise(net, t, start, n, like)
    if net.update:
        skip = start * size
        w, g = net.parameters + skip, net.gradient + skip
        call(net.optimizer, (w, g, net.m + skip, net.v + skip, net.coefficients, n))
        if not biases:
            _transpose(layer, first, last, like)


def tile(scalar: type[np.floating[Any]]) -> Any:
    """Make the block that does with each of some tiles what the `NET` record asks for.

    `differentiate` sums the tile's gradient over the chunk of rows, from zero or, with `more`,
    going on from the chunk before; `penalise` adds the penalties; `update` applies the optimizer
    at once (the fused step), else the gradient is left whole for whom needs it.
    """

    def work_on_tiles(address: Any, first: Any, last: Any) -> None:
        net, like = row(address, 1, NET)[0], row(address, 0, scalar)
        for t in range(first, last):
            _work_on_tile(net, t, like)

    return work_on_tiles


def transpose(scalar: type[np.floating[Any]]) -> Any:
    """Make the block that brings every transpose in step with the parameters."""

    def transpose_all(address: Any) -> None:
        net, like = row(address, 1, NET)[0], row(address, 0, scalar)
        layers = row(net.layers, net.n_layers, LAYER)
        for i in range(net.n_layers):
            _transpose(layers[i], 0, layers[i].n_in, like)

    return transpose_all
