"""Phase two: weights in parallel. Gradient, penalty and optimizer, one tile after the other."""

from typing import Any, NamedTuple

from numba import prange

from fastmlp._compile import call, leaf, row
from fastmlp.backends.cpu.product import Left, add_product


class Work(NamedTuple):
    """What phase two does with each tile.

    Attributes
    ----------
    gradient : the tile's gradient over the chunk of rows, from zero
    more : ... going on from the chunk before
    penalise : add the penalties to it
    update : apply the optimizer, to a gradient that is then complete
    """

    gradient: Any
    more: Any
    penalise: Any
    update: Any


@leaf
def _gradient_of_weights(
    plan: Any, rows: Any, i: Any, first: Any, last: Any, more: Any, like: Any
) -> None:
    layer, n = plan.layers[i], rows.index.size
    gradient = plan.net[0].gradient + layer.offset * like.itemsize
    if not more:
        skip = first * layer.n_out
        row(gradient + skip * like.itemsize, (last - first) * layer.n_out, like.dtype)[:] = 0
    if i == 0:
        left = Left(rows.x, plan.identity, 1, rows.index, layer.n_in)
        add_product(gradient, layer.deltas, layer.n_out, left, first, last, n, like)
    else:
        inputs = row(plan.layers[i - 1].outputs, n * layer.n_in, like.dtype)
        hidden = Left(inputs, plan.identity, 1, plan.identity, layer.n_in)
        add_product(gradient, layer.deltas, layer.n_out, hidden, first, last, n, like)


@leaf
def _gradient_of_biases(plan: Any, rows: Any, i: Any, more: Any, like: Any) -> None:
    layer = plan.layers[i]
    width = layer.n_out
    address = plan.net[0].gradient + layer.bias_offset * like.itemsize
    gradient = row(address, width, like.dtype)
    if not more:
        gradient[:] = 0
    for r in range(rows.index.size):
        delta = row(layer.deltas + r * width * like.itemsize, width, like.dtype)
        for j in range(width):
            gradient[j] += delta[j]


@leaf
def _penalise(plan: Any, t: Any, start: Any, n: Any, like: Any) -> None:
    net, size = plan.net[0], like.itemsize
    total = plan.tile_penalties.ctypes.data + t * 8
    for p in range(plan.penalties.size):
        scale = plan.penalty_scales.ctypes.data + p * size
        w, gradient = net.parameters + start * size, net.gradient + start * size
        call(plan.penalties[p], (w, gradient, scale, total, n))


@leaf
def _update(plan: Any, start: Any, n: Any, coefficients: Any, like: Any) -> None:
    net, skip = plan.net[0], start * like.itemsize
    call(
        net.update,
        (
            net.parameters + skip,
            net.gradient + skip,
            net.m + skip,
            net.v + skip,
            coefficients.ctypes.data,
            n,
        ),
    )


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
def transpose_all(plan: Any, like: Any) -> None:
    """Bring every transpose in step with the parameters, which users may have edited."""
    for i in range(plan.layers.size):
        _transpose(plan.layers[i], 0, plan.layers[i].n_in, like)


@leaf
def _tile(plan: Any, rows: Any, t: Any, work: Any, coefficients: Any, like: Any) -> None:
    i, first, last = plan.tiles[t].layer, plan.tiles[t].first, plan.tiles[t].last
    layer = plan.layers[i]
    biases = first == layer.n_in
    start, n = layer.offset + first * layer.n_out, (last - first) * layer.n_out
    if biases:
        start = layer.bias_offset
    if work.gradient and biases:
        _gradient_of_biases(plan, rows, i, work.more, like)
    elif work.gradient:
        _gradient_of_weights(plan, rows, i, first, last, work.more, like)
    plan.tile_penalties[t] = 0.0
    if work.penalise and not biases:
        _penalise(plan, t, start, n, like)
    if work.update:
        _update(plan, start, n, coefficients, like)
        if not biases:
            _transpose(layer, first, last, like)


def work_on_tiles(plan: Any, rows: Any, work: Any, coefficients: Any, like: Any) -> None:
    """Run phase two on every tile: all that `work` asks for on one before the next."""
    for t in prange(plan.tiles.size):
        _tile(plan, rows, t, work, coefficients, like)
