"""Derivatives of outputs by inputs, by blocks of rows or of one:
forward as predictions, then back.

The slopes of all layers are kept. For each output the first deltas are a column of the
last weights times slopes; the others are products by the tiles of predictions, which
read the weights the other way. One output takes 1.5 times as long as its prediction
(16-64-64-1, 20,000 rows, 1 thread).

For one row, the sums are dot products with rows of weights,
by vectors, whose bits differ from the product of many rows.
"""

from collections.abc import Callable
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from fastmlp._process.locks import publish
from fastmlp.backends.cpu.dispatch import Runner
from fastmlp.backends.cpu.plan.records import address
from fastmlp.backends.cpu.predict.row_blocks import (
    SLOPES,
    VECTORS,
    FlatLayer,
    FlatNet,
    RowBlocks,
    lane_pass,
    on_all_rows,
    products,
)
from fastmlp.backends.cpu.predict.small_batch import row_pass
from fastmlp.backends.cpu.simd.flat_weights import batch_in_lanes, row_dots
from fastmlp.backends.cpu.simd.vector import Scalar
from fastmlp.compiler import flush_denormals, njit, restore_denormals
from fastmlp.compiler.memory import record_at, records_at, row
from fastmlp.compiler.target import lanes_of
from fastmlp.network.spec import Network
from fastmlp.rules.elementary import exp
from fastmlp.rules.losses import LEAST_LOG_VARIANCE
from fastmlp.validation import Array

# Links, by number.
DERIVED = ("identity", "sigmoid", "exp", "softmax", "mean_std", "sorted")
SIGMOID, EXP, SOFTMAX, MEAN_STD, SORTED = range(1, 6)


def times_slopes(scalar: Scalar) -> Callable[[FlatLayer, int, int, int], None]:
    """Multiplies the derivatives by n of a layer's values by its slopes."""
    zero = scalar(0)

    @njit
    def through(layer: FlatLayer, n: int, kept: int, numbers: int) -> None:
        values = row(numbers, n, scalar)
        slopes = row(kept, n, scalar)
        if layer.relu:
            for i in range(n):
                values[i] = values[i] if slopes[i] > zero else zero
        elif layer.activation:
            for i in range(n):
                values[i] *= slopes[i]

    return through


def _link_slopes(scalar: Scalar) -> Callable[[FlatNet, int, int, int, int], None]:
    """Changes derivatives of raw outputs to derivatives of predictions."""
    size = np.dtype(scalar).itemsize
    zero = scalar(0)
    one = scalar(1)
    half = scalar(0.5)
    least = scalar(LEAST_LOG_VARIANCE)

    @njit
    def exchange(first: int, second: int, n: int) -> None:
        ones = row(first, n, scalar)
        others = row(second, n, scalar)
        for k in range(n):
            number = ones[k]
            ones[k] = others[k]
            others[k] = number

    @njit
    def through_link(net: FlatNet, kind: int, raw: int, out: int, grad: int) -> None:
        n_out, n_in = net.n_out, net.n_in
        raws = row(raw, n_out, scalar)
        values = row(out, n_out, scalar)
        if kind == SOFTMAX:
            for k in range(n_in):
                mean = zero
                for j in range(n_out):
                    mean += values[j] * row(grad + (j * n_in + k) * size, 1, scalar)[0]
                for j in range(n_out):
                    numbers = row(grad + (j * n_in + k) * size, 1, scalar)
                    numbers[0] = values[j] * (numbers[0] - mean)
        elif kind == SORTED:
            # By insertion, which leaves equal outputs in their order.
            for i in range(1, n_out):
                j = i
                while j > 0 and raws[j - 1] > raws[j]:
                    exchange(raw + (j - 1) * size, raw + j * size, 1)
                    exchange(grad + (j - 1) * n_in * size, grad + j * n_in * size, n_in)
                    j -= 1
        else:
            for j in range(n_out):
                small = exp(-abs(raws[j]))
                factor = values[j]
                if kind == SIGMOID:
                    factor = small / ((one + small) * (one + small))
                if kind == MEAN_STD:
                    factor = half * values[j] if raws[j] >= least else zero
                    factor = factor if j % 2 == 1 else one
                numbers = row(grad + j * n_in * size, n_in, scalar)
                for k in range(n_in):
                    numbers[k] *= factor

    return through_link


def row_gradient(scalar: Scalar) -> Callable[[int, int, int, int, int, int], None]:
    """Predicts a row of a net, and writes its derivatives, shape (n_out, n_in).

    The buffers are two vectors of the widest layer,
    one of slopes for each layer, and one more.
    """
    size = np.dtype(scalar).itemsize
    dots = row_dots(scalar)
    forward = row_pass(scalar, keeps=True)
    through = times_slopes(scalar)
    through_link = _link_slopes(scalar)
    one = scalar(1)

    def derive(model: int, kind: int, x: int, out: int, grad: int, work: int) -> None:
        mode = flush_denormals()
        net = record_at(model, FlatNet)
        layers = records_at(net.layers, net.n_layers, FlatLayer)
        unit = net.block_bytes
        n_last = net.n_layers - 1
        outputs, slopes = forward(net, x, out, work)
        # The raw outputs are read after the derivatives:
        # in the place of slopes already used.
        raw = row(outputs, net.n_out, scalar)
        kept = row(slopes, net.n_out, scalar)
        for j in range(net.n_out):
            kept[j] = raw[j]
        for j in range(net.n_out):
            last = layers[n_last]
            target = grad + j * net.n_in * size
            deltas = work if n_last > 0 else target
            w = net.parameters + last.weights
            numbers = row(deltas, last.n_in, scalar)
            factor = one
            if last.activation:
                factor = row(work + (2 + n_last) * unit, net.n_out, scalar)[j]
            for k in range(last.n_in):
                numbers[k] = factor * row(w + (k * net.n_out + j) * size, 1, scalar)[0]
            for i in range(n_last - 1, -1, -1):
                layer = layers[i]
                through(layer, layer.n_out, work + (2 + i) * unit, deltas)
                before = target if i == 0 else work + unit if deltas == work else work
                dots(
                    before,
                    net.parameters + layer.weights,
                    layer.n_in,
                    deltas,
                    layer.n_out,
                )
                deltas = before
        if kind > 0:
            through_link(net, kind, slopes, out, grad)
        restore_denormals(mode)

    return derive


def _backward(scalar: Scalar) -> Callable[..., int]:
    """Derives an output of the block whose slopes end at `slopes`; the result is the
    derivatives' address."""
    n_rows = VECTORS * lanes_of(scalar)
    unit = n_rows * np.dtype(scalar).itemsize
    multiply = products(scalar, VECTORS, backward=True)
    through = times_slopes(scalar)

    @njit
    def first_deltas(
        net: FlatNet, layer: FlatLayer, output: int, slopes: int, deltas: int
    ) -> None:
        """The derivatives of an output by the last layer's inputs."""
        weights = row(net.parameters + layer.weights, layer.n_in * layer.n_out, scalar)
        factors = row(slopes + output * unit, n_rows, scalar)
        for k in range(layer.n_in):
            values = row(deltas + k * unit, n_rows, scalar)
            weight = weights[k * layer.n_out + output]
            for r in range(n_rows):
                values[r] = weight * factors[r] if layer.activation else weight

    def backward(net: FlatNet, output: int, slopes: int, buffer: int) -> int:
        layers = records_at(net.layers, net.n_layers, FlatLayer)
        place = slopes - net.n_out * unit
        source = buffer
        target = buffer + net.block_bytes
        first_deltas(net, layers[net.n_layers - 1], output, place, source)
        for i in range(net.n_layers - 2, -1, -1):
            layer = layers[i]
            place -= layer.n_out * unit
            through(layer, layer.n_out * n_rows, place, source)
            multiply(net, layer, source, target)
            source, target = target, source
        return source

    return njit(backward)


def _writing(scalar: Scalar) -> Callable[..., None]:
    """Writes a block's units to rows."""
    lanes = lanes_of(scalar)
    out_of_lanes = batch_in_lanes(scalar).out_of_lanes
    vector = lanes * np.dtype(scalar).itemsize
    unit = VECTORS * vector

    @njit
    def write(
        source: int, width: int, rows: tuple[int, int], to: tuple[int, int, int]
    ) -> None:
        """Write units to rows start to end, at most a block, `pitch` bytes apart."""
        (start, end), (target, pitch, checks) = rows, to
        for v in range(VECTORS):
            at = start + v * lanes
            place = target + at * pitch
            out_of_lanes(
                source + v * vector, width, end - at, place, pitch, unit, checks
            )

    return write


def _vectors_of_rows(scalar: Scalar) -> Callable[..., None]:
    """Derives vectors first to last of rows in one thread's buffers."""
    lanes = lanes_of(scalar)
    size = np.dtype(scalar).itemsize
    vector = lanes * size
    write = _writing(scalar)
    forward = lane_pass(scalar, VECTORS, keeps=SLOPES)
    backward = _backward(scalar)
    into_lanes = batch_in_lanes(scalar).into_lanes
    unit = VECTORS * vector

    def derive(net: FlatNet, first: int, last: int, thread: int) -> None:
        """A block of rows goes forward once, and back once for each derived output; the
        slopes of all layers stay in the thread's buffer meanwhile.
        """
        derived = row(net.derived, net.n_derived, np.int64)
        buffer = net.buffers + thread * net.buffer_bytes
        read = net.checks + thread * net.check_bytes
        written = read + vector
        end = min(last * lanes, net.n_rows)
        n_in = net.n_in
        for start in range(first * lanes, end, VECTORS * lanes):
            for v in range(VECTORS):
                place, at = buffer + v * vector, start + v * lanes
                into_lanes(net.x, net.n_in, at, end - 1, place, unit, read)
            other = buffer + net.block_bytes
            places = (buffer, other, other + net.block_bytes)
            outputs, slopes = forward(net, *places, 0, 0)
            if net.out:
                write(
                    outputs,
                    net.n_out,
                    (start, end),
                    (net.out, net.n_out * size, written),
                )
            for p in range(net.n_derived):
                source = backward(net, derived[p], slopes, buffer)
                target = net.derivatives + p * n_in * size
                pitch = net.n_derived * n_in * size
                write(source, n_in, (start, end), (target, pitch, written))

    return njit(derive)


def _vectors_of_deltas(scalar: Scalar) -> Callable[..., None]:
    """A function that takes the first layer's deltas back to the inputs, for vectors
    `first` to `last` of rows.
    """
    lanes = lanes_of(scalar)
    size = np.dtype(scalar).itemsize
    vector = lanes * size
    write = _writing(scalar)
    unit = VECTORS * vector
    multiply = products(scalar, VECTORS, backward=True)
    into_lanes = batch_in_lanes(scalar).into_lanes

    def go_back(net: FlatNet, first: int, last: int, thread: int) -> None:
        """The record's x holds the deltas; its out takes their products with weights."""
        layer = records_at(net.layers, net.n_layers, FlatLayer)[0]
        buffer = net.buffers + thread * net.buffer_bytes
        read = net.checks + thread * net.check_bytes
        end = min(last * lanes, net.n_rows)
        pitch = net.n_in * size
        for start in range(first * lanes, end, VECTORS * lanes):
            for v in range(VECTORS):
                deltas = buffer + v * vector
                first_row = start + v * lanes
                into_lanes(net.x, layer.n_out, first_row, end - 1, deltas, unit, read)
            products_of_block = buffer + net.block_bytes
            multiply(net, layer, buffer, products_of_block)
            destination = (net.out, pitch, read + vector)
            write(products_of_block, net.n_in, (start, end), destination)

    return njit(go_back)


def deltas_to_inputs(scalar: Scalar) -> Callable[[int, int, int], None]:
    """Takes the rows of a `FlatNet` record, the first layer's deltas,
    back to the inputs: W d of each row.
    """
    return on_all_rows(scalar, _vectors_of_deltas(scalar))


class DeltaBlocks(RowBlocks):
    """Takes rows of the first layer's deltas back to the inputs, by live parameters."""

    FACTORY = staticmethod(deltas_to_inputs)

    def __call__(self, parameters: Array, x: Array, out: Array) -> bool:
        """Write W d of each row of x,
        shape (n_rows, n_units), to out, shape (n_rows, n_inputs).
        """
        net = self._net
        n_rows = len(x)
        net["parameters"] = address(parameters)
        net["n_rows"] = n_rows
        net["x"], net["out"] = address(x), address(out)
        self._run(2 * n_rows * x.shape[1] * out.shape[1])
        return True


def add_skip(scalar: Scalar) -> Callable[[int, int, int, int, int, int], None]:
    """Adds V d of each row to its derivatives by the inputs: d are the output layer's
    deltas, V its weights of the inputs, shape (n_in, n_out).
    """
    size = np.dtype(scalar).itemsize

    def add(
        weights: int, n_in: int, n_out: int, deltas: int, inputs: int, n_rows: int
    ) -> None:
        v = row(weights, n_in * n_out, scalar)
        for r in range(n_rows):
            d = row(deltas + r * n_out * size, n_out, scalar)
            slopes = row(inputs + r * n_in * size, n_in, scalar)
            for k in range(n_in):
                total = slopes[k]
                for j in range(n_out):
                    total += v[k * n_out + j] * d[j]
                slopes[k] = total

    return add


def jacobian_in_lanes(scalar: Scalar) -> Callable[[int, int, int], None]:
    """Derives the outputs of a `FlatNet` record's rows."""
    return on_all_rows(scalar, _vectors_of_rows(scalar))


class JacobianBlocks(RowBlocks):
    """Derives a network's outputs, before a link,
    by the inputs, from a copy of its parameters.
    """

    FACTORY = staticmethod(jacobian_in_lanes)
    OPTIONS: ClassVar = {"slopes": True}

    def __init__(self, runner: Runner, network: Network) -> None:
        super().__init__(runner, network.without_link())

    def derive(
        self,
        parameters: Array,
        x: Array,
        derived: NDArray[np.int64],
        out: Array,
        raw: Array | None,
    ) -> bool:
        """Write the derivatives of some outputs to `out`, shape (n_rows, n_derived,
        n_features), and all outputs to `raw`, shape (n_rows, n_outputs), if given.

        Return True if all numbers of x and of the results are finite.
        """
        net = self._net
        flops = self._row_flops * (1 + len(derived))
        n_rows = len(x)
        with self._runner.lock.parameters:
            publish(parameters, self._parameters)
        net["derived"] = address(derived)
        net["n_derived"] = len(derived)
        net["faults"] = 0
        most = max(1, self._most // (1 + len(derived)))
        for first in range(0, n_rows, most):
            net["x"] = address(x, first * x.shape[1])
            net["n_rows"] = min(most, n_rows - first)
            net["derivatives"] = address(out, first * len(derived) * x.shape[1])
            net["out"] = 0 if raw is None else address(raw, first * raw.shape[1])
            self._run(flops * min(n_rows, most))
        return bool(net["faults"] == 0)
