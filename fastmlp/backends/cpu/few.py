"""Predictions for few rows: straight from the flat parameters, for packing them would cost more.

One row of 16-64-64-2 takes 5,000 multiply-adds; copying its weights into panels, as many moves.
The sums run in the order of the panels' kernels, so the bits are those of any other call.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastmlp._compile import (
    block_of,
    call,
    flush_denormals,
    fma,
    kernel,
    leaf,
    restore_denormals,
    row,
)
from fastmlp.backends.cpu import rules
from fastmlp.backends.cpu.microkernel import lanes_of
from fastmlp.backends.cpu.plan import LAYER, NET, Addresses, address, make_plan
from fastmlp.layout import Layout
from fastmlp.network import Network
from fastmlp.workspace import aligned, make_workspace

Array = NDArray[Any]
# Of any net, up to so many rows cost less than packing its weights.
FEW_ROWS = 4
# Up to so many of a small net, where the other way's fixed 40 us are what counts: 64 rows of
# 16-64-64-2 take 31 us, and 55 in panels.
MOST_ROWS = 64
# The GIL is held for at most so many multiply-adds: about 30 us.
FEW_PRODUCTS = 500_000


@leaf
def _add_four(z: Any, weights: Any, width: Any, x: Any, like: Any) -> None:
    """Add four rows of W, times four inputs, to the sums."""
    stride = width * like.itemsize
    z = row(z, width, like.dtype)
    w0, w1 = row(weights, width, like.dtype), row(weights + stride, width, like.dtype)
    w2 = row(weights + 2 * stride, width, like.dtype)
    w3 = row(weights + 3 * stride, width, like.dtype)
    x0, x1, x2, x3 = x[0], x[1], x[2], x[3]
    for j in range(width):
        z[j] = fma(x3, w3[j], fma(x2, w2[j], fma(x1, w1[j], fma(x0, w0[j], z[j]))))


@leaf
def _products(net: Any, layer: Any, inputs: Any, z: Any, like: Any) -> None:
    """Pre-activations of one row."""
    size, width, n_in = like.itemsize, layer.n_out, layer.n_in
    biases = row(net.unpacked + layer.bias_offset * size, width, like.dtype)
    sums, x = row(z, width, like.dtype), row(inputs, n_in, like.dtype)
    for j in range(width):
        sums[j] = biases[j]
    weights = net.unpacked + layer.offset * size
    whole = n_in - n_in % 4
    for k in range(0, whole, 4):
        four = row(inputs + k * size, 4, like.dtype)
        _add_four(z, weights + k * width * size, width, four, like)
    for k in range(whole, n_in):
        w = row(weights + k * width * size, width, like.dtype)
        for j in range(width):
            sums[j] = fma(x[k], w[j], sums[j])


def few(scalar: type[np.floating[Any]]) -> Any:
    """Make the block that writes the predictions of rows first to last."""
    size = np.dtype(scalar).itemsize

    def predict_few(address: Any, first: Any, last: Any, part: Any) -> None:
        mode = flush_denormals()
        net, like = row(address, 1, NET)[0], row(address, 0, scalar)
        layers = row(net.layers, net.n_layers, LAYER)
        step = net.max_width * size
        values, slopes = net.scratch + 2 * step, net.scratch + 3 * step
        for r in range(first, last):
            inputs = net.x + r * net.n_in * size
            for i in range(net.n_layers):
                layer, z = layers[i], net.scratch + i % 2 * step
                _products(net, layer, inputs, z, like)
                inputs = z
                if layer.activation:
                    call(layer.activation, (z, values, slopes, layer.n_out))
                    inputs = values
            call(net.link, (inputs, net.out + r * net.n_out * size, 1, net.n_out))
        restore_denormals(mode)

    return predict_few


def most_rows(layout: Layout) -> int:
    """Return how many rows at once may hold the GIL."""
    return max(1, min(MOST_ROWS, FEW_PRODUCTS // layout.n_weights))


def are_few(n_rows: int, layout: Layout) -> bool:
    """Whether so many rows are best predicted straight from the flat parameters."""
    return n_rows <= max(FEW_ROWS, most_rows(layout))


class FewRows:
    """Predicts few rows of one network, with all that a call needs made beforehand.

    Parameters
    ----------
    network : Network
    parameters : flat array, alive and live: changes count
    """

    def __init__(self, network: Network, parameters: Array) -> None:
        layout, dtype = network.layout, network.dtype
        self.parameters, self.dtype, self._n_out = parameters, dtype, layout.sizes[-1]
        self._scratch = aligned(4 * max(layout.sizes), dtype)
        self._workspace = make_workspace(layout, 1, 0, dtype, lanes_of(dtype.type), train=False)
        blocks = Addresses(*rules.activations(network, fused=False), link=rules.link(network))
        self._plan = make_plan(layout, self._workspace, blocks)
        net = self._plan.net[0]
        net.unpacked, net.scratch = address(parameters), address(self._scratch)
        self._block = block_of(few, dtype)
        net.rows = self._block.address
        self._address = address(self._plan.net)
        self.most = most_rows(layout)

    def __reduce__(self) -> Any:
        """Addresses mean nothing in a copy or in another process."""
        return type(None), ()

    def __call__(self, x: object, out: object) -> Array | None:
        """Return the predictions, or None where x or out is not as plain as this way needs it.

        Holds the GIL, so that no two threads use the buffers at a time.
        """
        dtype = self.dtype
        # An array that was pickled has a dtype of its own: equal, not the same.
        if type(x) is not np.ndarray or x.dtype != dtype or x.ndim != 2 or len(x) > self.most:
            return None
        if out is None:
            result = np.empty((len(x), self._n_out), dtype)
        elif type(out) is np.ndarray and out.dtype == dtype and out.ndim == 2:
            result, flags = out, out.flags
            if not (flags.c_contiguous and flags.writeable):
                return None
        else:
            return None
        flags = x.flags
        if flags.c_contiguous and flags.writeable and predict_few(self._address, x, result):
            return result
        return None

    def write(self, x: Array, out: Array) -> None:
        """Write predictions of any number of rows, the GIL released: for one thread only."""
        net = self._plan.net[0]
        net.x, net.out = address(x), address(out)
        self._block(self._address, 0, len(x), 0)


@leaf
def _finite(numbers: Any) -> Any:
    zero = numbers.dtype.type(0)
    total = zero
    for number in numbers.flat:
        total += number * zero
    return total == zero


@kernel("cpu.predict_few", nogil=False)
def predict_few(place: Any, x: Any, out: Any) -> Any:
    """Write the predictions, or return False: wrong shapes, or numbers that are not finite."""
    net = row(place, 1, NET)[0]
    n = x.shape[0]
    if n == 0 or x.shape[1] != net.n_in or out.shape != (n, net.n_out) or not _finite(x):
        return False
    net.x, net.out = x.ctypes.data, out.ctypes.data
    call(net.rows, (place, 0, n, 0))
    return _finite(out)
