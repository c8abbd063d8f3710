"""Phase one: rows in parallel. Forward, loss and the chain of errors back through the layers."""

from typing import Any, NamedTuple

from numba import prange

from fastmlp._compile import call, leaf, row
from fastmlp.backends.cpu.product import Left, add_product

ROW_BLOCK = 32
FORWARD, EVALUATE, TRAIN = 0, 1, 2


class Rows(NamedTuple):
    """The rows that a call of phase one works on.

    Attributes
    ----------
    x : flat view of X, shape (n_rows * n_features,)
    y : flat view of the targets, shape (n_rows * n_targets,)
    weight : sample weights, shape (n_rows,), or empty
    index : int64, shape (n,), which rows of X and y make the chunk
    """

    x: Any
    y: Any
    weight: Any
    index: Any


@leaf
def _forward(plan: Any, rows: Any, first: Any, last: Any, like: Any) -> None:
    n, size = last - first, like.itemsize
    net = plan.net[0]
    for i in range(net.n_layers):
        layer = plan.layers[i]
        width = layer.n_out
        block = net.raw + first * net.max_width * size
        biases = row(layer.biases, width, like.dtype)
        for r in range(n):
            z = row(block + r * width * size, width, like.dtype)
            for j in range(width):
                z[j] = biases[j]
        matrix = block - first * width * size
        if i == 0:
            left = Left(rows.x, rows.index, layer.n_in, plan.identity, 1)
            add_product(matrix, layer.weights, width, left, first, last, layer.n_in, like)
        else:
            outputs = row(plan.layers[i - 1].outputs, last * layer.n_in, like.dtype)
            hidden = Left(outputs, plan.identity, layer.n_in, plan.identity, 1)
            add_product(matrix, layer.weights, width, hidden, first, last, layer.n_in, like)
        skip = first * width * size
        call(layer.activation, (block, layer.outputs + skip, layer.deltas + skip, n * width))


@leaf
def _loss(plan: Any, rows: Any, first: Any, last: Any, scale: Any, like: Any) -> Any:
    """Write the errors of the last layer, scaled, and return the weighted sum of the losses."""
    net, n, size = plan.net[0], last - first, like.itemsize
    n_targets, width = net.n_targets, net.n_out
    targets = net.targets + first * n_targets * size
    losses = net.row_losses + first * 8
    target = row(targets, n * n_targets, like.dtype)
    for r in range(n):
        start = rows.index[first + r] * n_targets
        for j in range(n_targets):
            target[r * n_targets + j] = rows.y[start + j]
    outer = plan.layers[net.n_layers - 1]
    skip = first * width * size
    slopes = net.raw + first * net.max_width * size
    call(net.loss, (outer.outputs + skip, targets, slopes, losses, n, width, n_targets))
    slope, delta = row(slopes, n * width, like.dtype), row(outer.deltas + skip, n * width, like.dtype)
    return _weigh(rows, row(losses, n, plan.block_losses.dtype), slope, delta, first, width, scale)


@leaf
def _weigh(
    rows: Any, losses: Any, slope: Any, delta: Any, first: Any, width: Any, scale: Any
) -> Any:
    total = 0.0
    for r in range(losses.size):
        factor = scale
        if rows.weight.size:
            weight = rows.weight[rows.index[first + r]]
            factor = scale * weight
            total += losses[r] * weight
        else:
            total += losses[r]
        for j in range(r * width, (r + 1) * width):
            delta[j] *= slope[j] * factor
    return total


@leaf
def _backward(plan: Any, first: Any, last: Any, like: Any) -> None:
    net, size, n = plan.net[0], like.itemsize, last - first
    block = net.raw + first * net.max_width * size
    for i in range(net.n_layers - 1, 0, -1):
        layer = plan.layers[i]
        width = layer.n_in
        product = row(block, n * width, like.dtype)
        product[:] = 0
        errors = row(layer.deltas, last * layer.n_out, like.dtype)
        left = Left(errors, plan.identity, layer.n_out, plan.identity, 1)
        matrix = block - first * width * size
        add_product(matrix, layer.transposed, width, left, first, last, layer.n_out, like)
        delta = row(plan.layers[i - 1].deltas + first * width * size, n * width, like.dtype)
        for j in range(n * width):
            delta[j] *= product[j]


@leaf
def _block(
    plan: Any, rows: Any, first: Any, last: Any, mode: Any, scale: Any, like: Any
) -> Any:
    _forward(plan, rows, first, last, like)
    if mode == FORWARD:
        return 0.0
    loss = _loss(plan, rows, first, last, scale, like)
    if mode == TRAIN:
        _backward(plan, first, last, like)
    return loss


def work_on_rows(plan: Any, rows: Any, mode: Any, scale: Any, like: Any) -> None:
    """Run phase one on the rows of `rows.index`, in blocks of `ROW_BLOCK`.

    `scale` is one over the rows of the batch, or over the sum of their weights. Each block's loss
    goes to ``plan.block_losses``.
    """
    n = rows.index.size
    for block in prange((n + ROW_BLOCK - 1) // ROW_BLOCK):
        first = block * ROW_BLOCK
        last = min(first + ROW_BLOCK, n)
        plan.block_losses[block] = _block(plan, rows, first, last, mode, scale, like)
