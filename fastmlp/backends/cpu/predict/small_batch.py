"""Predictions for few rows: straight from the flat parameters, for packing them would cost more.

One row of 16-64-64-2 takes 5,000 multiply-adds; copying its weights into panels, as many moves.
Up to four go one by one, more by vectors of them. The sums run in the order of the panels' kernels,
so the bits are those of any other call.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastmlp.backends.cpu.plan.records import address
from fastmlp.backends.cpu.predict.records import FLAT, FLAT_LAYER, make_flat
from fastmlp.backends.cpu.predict.row_blocks import n_vectors, stream
from fastmlp.backends.cpu.simd.target import lanes_of
from fastmlp.compiler import (
    block_of,
    call,
    flush_denormals,
    fma,
    kernel,
    njit,
    restore_denormals,
    row,
)
from fastmlp.network.parameter_layout import Layout
from fastmlp.network.spec import Network

Array = NDArray[Any]
# Up to so many rows take less time one by one than as a vector of them, 1.1 and 1.4 us of
# 16-64-64-2; and of any net less than packing its weights.
FEW_ROWS = 4
MOST_ROWS = 1024
# The GIL is held for at most so many multiply-adds: about 30 us, row by row and by vectors.
FEW_PRODUCTS, STREAM_PRODUCTS = 500_000, 1_600_000


@njit
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


@njit
def _products(net: Any, layer: Any, inputs: Any, z: Any, like: Any) -> None:
    """Pre-activations of one row, or their positive parts."""
    size, width, n_in = like.itemsize, layer.n_out, layer.n_in
    biases = row(net.parameters + layer.biases, width, like.dtype)
    sums, x = row(z, width, like.dtype), row(inputs, n_in, like.dtype)
    for j in range(width):
        sums[j] = biases[j]
    weights = net.parameters + layer.weights
    whole = n_in - n_in % 4
    for k in range(0, whole, 4):
        four = row(inputs + k * size, 4, like.dtype)
        _add_four(z, weights + k * width * size, width, four, like)
    for k in range(whole, n_in):
        w = row(weights + k * width * size, width, like.dtype)
        for j in range(width):
            sums[j] = fma(x[k], w[j], sums[j])
    if layer.positive:
        zero = like.dtype.type(0)
        for j in range(width):
            # NaN stays NaN.
            sums[j] = zero if sums[j] < zero else sums[j]


def few(scalar: type[np.floating[Any]]) -> Any:
    """Make the block that writes the predictions of rows first to last."""
    size = np.dtype(scalar).itemsize

    def predict_few(address: Any, first: Any, last: Any, part: Any) -> None:
        net, like = row(address, 1, FLAT)[0], row(address, 0, scalar)
        layers = row(net.layers, net.n_layers, FLAT_LAYER)
        one, other = net.room, net.room + net.value_bytes
        slopes = other + net.value_bytes
        for r in range(first, last):
            inputs, z = net.x + r * net.n_in * size, one
            for i in range(net.n_layers):
                layer = layers[i]
                _products(net, layer, inputs, z, like)
                inputs = z
                z = other if z == one else one
                if layer.activation:
                    call(layer.activation, (inputs, z, slopes, layer.n_out))
                    inputs, z = z, inputs
            place = net.out + r * net.n_out * size
            if net.link:
                call(net.link, (inputs, place, 1, net.n_out))
            else:
                raw, out = row(inputs, net.n_out, scalar), row(place, net.n_out, scalar)
                for j in range(net.n_out):
                    out[j] = raw[j]

    return predict_few


def whole(scalar: type[np.floating[Any]]) -> Any:
    """Make the driver that predicts all rows of a `FLAT` record on one thread, one by one or by
    vectors of them."""
    lanes = lanes_of(scalar)

    def predict_all(address: Any) -> None:
        mode = flush_denormals()
        net = row(address, 1, FLAT)[0]
        if net.rows == 0 or net.n_rows <= FEW_ROWS:
            call(net.few, (address, 0, net.n_rows, 0))
        else:
            call(net.rows, (address, 0, n_vectors(net.n_rows, lanes), 0))
        restore_denormals(mode)

    return predict_all


def most_rows(layout: Layout) -> int:
    """Return how many rows at once may hold the GIL."""
    one_by_one = FEW_PRODUCTS // layout.n_weights
    if one_by_one <= FEW_ROWS:
        return max(1, one_by_one)
    return max(FEW_ROWS, min(MOST_ROWS, STREAM_PRODUCTS // layout.n_weights))


def are_few(n_rows: int, layout: Layout) -> bool:
    """Whether so many rows are best predicted by one thread from the live parameters."""
    return n_rows <= max(FEW_ROWS, most_rows(layout))


class FewRows:
    """Predicts few rows of one network, with all that a call needs made beforehand.

    Parameters
    ----------
    network : Network
    parameters : flat array, alive and live: changes count
    n_rows : int, how many may be asked for: to take vectors of them compiles 0.3 s more

    Attributes
    ----------
    most : int, the rows of a call at most
    """

    def __init__(self, network: Network, parameters: Array, n_rows: int = MOST_ROWS) -> None:
        layout, dtype = network.layout, network.dtype
        self.parameters, self.dtype, self._n_out = parameters, dtype, layout.sizes[-1]
        self.most = most_rows(layout)
        streams = self.most > FEW_ROWS and n_rows > FEW_ROWS
        self._flat = make_flat(network, parameters, blocks=streams)
        net = self._flat.net[0]
        self._whole = block_of(whole, dtype)
        net.few, net.whole = block_of(few, dtype).address, self._whole.address
        if streams:
            net.rows = block_of(stream, dtype).address
        else:
            self.most = min(self.most, FEW_ROWS)
        self._address = address(self._flat.net)

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
        """Write predictions of up to `most` rows, the GIL released: for one thread only."""
        net = self._flat.net[0]
        net.x, net.out, net.n_rows = address(x), address(out), len(x)
        self._whole(self._address)


@njit
def _finite(place: Any, n: Any, like: Any) -> Any:
    """Whether all numbers are: by bits that vectorise, where a sum is one chain."""
    numbers, zero, faults = row(place, n, like.dtype), like.dtype.type(0), 0
    for i in range(n):
        faults |= numbers[i] * zero != zero
    return faults == 0


@kernel("cpu.predict_few", nogil=False)
def predict_few(place: Any, x: Any, out: Any) -> Any:
    """Write the predictions, or return False: wrong shapes, rows that would be written over before
    they are read, or numbers that are not finite."""
    net = row(place, 1, FLAT)[0]
    n = x.shape[0]
    net.x, net.out, net.n_rows = x.ctypes.data, out.ctypes.data, n
    if n == 0 or x.shape[1] != net.n_in or out.shape != (n, net.n_out):
        return False
    if net.x < net.out + out.size * out.itemsize and net.out < net.x + x.size * x.itemsize:
        return False
    if not _finite(net.x, x.size, x):
        return False
    call(net.whole, (place,))
    return _finite(net.out, out.size, out)
