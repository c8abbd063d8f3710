"""Derivatives of outputs by inputs, by blocks of rows: forward as predictions, then back.

The slopes of all layers are kept. For each output the first deltas are a column of the last weights
times slopes; the others are products by the tiles of predictions, which read the weights the other
way. One output takes 1.5 times as long as its prediction (16-64-64-1, 20,000 rows, 1 thread).
"""

from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from fastmlp._process.locks import publish
from fastmlp.backends.cpu.dispatch import Runner
from fastmlp.backends.cpu.plan.records import address
from fastmlp.backends.cpu.predict.row_blocks import (
    VECTORS,
    FlatLayer,
    FlatNet,
    RowBlocks,
    on_all_rows,
    products,
)
from fastmlp.backends.cpu.predict.row_gradient import times_slopes
from fastmlp.backends.cpu.simd.flat_weights import batch_in_lanes
from fastmlp.compiler import call, njit
from fastmlp.compiler.memory import records_at, row
from fastmlp.compiler.target import lanes_of
from fastmlp.network.spec import Network
from fastmlp.rules.losses import LINKS

Array = NDArray[Any]
Scalar = type[np.floating[Any]]


def _forward(scalar: Scalar) -> Callable[..., tuple[int, int]]:
    """Predicts a block of rows from `start` on and keeps all slopes; the results are the
    addresses of the outputs and of the slopes' end."""
    lanes, size = lanes_of(scalar), np.dtype(scalar).itemsize
    n_rows, vector = VECTORS * lanes, lanes * size
    unit, multiply = VECTORS * vector, products(scalar, VECTORS)
    into_lanes = batch_in_lanes(scalar).into_lanes

    def forward(net: FlatNet, start: int, end: int, buffer: int, checks: int) -> tuple[int, int]:
        layers = records_at(net.layers, net.n_layers, FlatLayer)
        other, source = buffer + net.block_bytes, buffer
        slopes = other + net.block_bytes
        for v in range(VECTORS):
            place, at = source + v * vector, start + v * lanes
            into_lanes(net.x, net.n_in, at, end - 1, place, unit, checks)
        for i in range(net.n_layers):
            layer, target = layers[i], other if source == buffer else buffer
            if layer.relu:
                # Relu's values are positive where its slopes are 1: they are kept.
                target = slopes
            multiply(net, layer, source, target)
            source = target
            if layer.activation:
                source = other if target == buffer else buffer
                call(layer.activation, (target, source, slopes, layer.n_out * n_rows))
            slopes += layer.n_out * unit
        return source, slopes

    return njit(forward)


def _backward(scalar: Scalar) -> Callable[..., int]:
    """Derives an output of the block whose slopes end at `slopes`; the result is the
    derivatives' address."""
    n_rows = VECTORS * lanes_of(scalar)
    unit = n_rows * np.dtype(scalar).itemsize
    multiply, through = products(scalar, VECTORS, backward=True), times_slopes(scalar)

    @njit
    def first_deltas(net: FlatNet, layer: FlatLayer, output: int, slopes: int, deltas: int) -> None:
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
        place, source, target = slopes - net.n_out * unit, buffer, buffer + net.block_bytes
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
    lanes, out_of_lanes = lanes_of(scalar), batch_in_lanes(scalar).out_of_lanes
    vector = lanes * np.dtype(scalar).itemsize
    unit = VECTORS * vector

    @njit
    def write(source: int, width: int, rows: tuple[int, int], to: tuple[int, int, int]) -> None:
        """Write units to rows start to end, at most a block, `pitch` bytes apart."""
        (start, end), (target, pitch, checks) = rows, to
        for v in range(VECTORS):
            at = start + v * lanes
            place = target + at * pitch
            out_of_lanes(source + v * vector, width, end - at, place, pitch, unit, checks)

    return write


def _vectors_of_rows(scalar: Scalar) -> Callable[..., None]:
    """Derives vectors first to last of rows in one thread's buffers."""
    lanes, size = lanes_of(scalar), np.dtype(scalar).itemsize
    vector, write = lanes * size, _writing(scalar)
    forward, backward = _forward(scalar), _backward(scalar)

    def derive(net: FlatNet, first: int, last: int, thread: int) -> None:
        derived = row(net.derived, net.n_derived, np.int64)
        buffer = net.buffers + thread * net.buffer_bytes
        read = net.checks + thread * net.check_bytes
        written, end, n_in = read + vector, min(last * lanes, net.n_rows), net.n_in
        for start in range(first * lanes, end, VECTORS * lanes):
            outputs, slopes = forward(net, start, end, buffer, read)
            if net.out:
                write(outputs, net.n_out, (start, end), (net.out, net.n_out * size, written))
            for p in range(net.n_derived):
                source = backward(net, derived[p], slopes, buffer)
                target, pitch = net.derivatives + p * n_in * size, net.n_derived * n_in * size
                write(source, n_in, (start, end), (target, pitch, written))

    return njit(derive)


def _vectors_of_deltas(scalar: Scalar) -> Callable[..., None]:
    """Takes vectors first to last of rows of the first layer's deltas back to the inputs."""
    lanes, size = lanes_of(scalar), np.dtype(scalar).itemsize
    vector, write = lanes * size, _writing(scalar)
    unit, multiply = VECTORS * vector, products(scalar, VECTORS, backward=True)
    into_lanes = batch_in_lanes(scalar).into_lanes

    def go_back(net: FlatNet, first: int, last: int, thread: int) -> None:
        layer = records_at(net.layers, net.n_layers, FlatLayer)[0]
        buffer = net.buffers + thread * net.buffer_bytes
        read = net.checks + thread * net.check_bytes
        end, pitch = min(last * lanes, net.n_rows), net.n_in * size
        for start in range(first * lanes, end, VECTORS * lanes):
            for v in range(VECTORS):
                place, at = buffer + v * vector, start + v * lanes
                into_lanes(net.x, layer.n_out, at, end - 1, place, unit, read)
            target = buffer + net.block_bytes
            multiply(net, layer, buffer, target)
            write(target, net.n_in, (start, end), (net.out, pitch, read + vector))

    return njit(go_back)


def deltas_to_inputs(scalar: Scalar) -> Callable[[int, int, int], None]:
    """Takes the rows of a `FlatNet` record, the first layer's deltas, back to the inputs: W d of
    each row."""
    return on_all_rows(scalar, _vectors_of_deltas(scalar))


class DeltaBlocks(RowBlocks):
    """Takes rows of the first layer's deltas back to the inputs, by live parameters."""

    FACTORY = staticmethod(deltas_to_inputs)

    def __call__(self, parameters: Array, x: Array, out: Array) -> bool:
        """Write W d of each row of x, shape (n_rows, n_units), to out, shape (n_rows, n_inputs)."""
        net, n_rows = self._net, len(x)
        net["parameters"], net["n_rows"] = address(parameters), n_rows
        net["x"], net["out"] = address(x), address(out)
        self.kind = (*self._kind, "inputs", n_rows.bit_length())
        self._run(2 * n_rows * x.shape[1] * out.shape[1])
        return True


def jacobian_in_lanes(scalar: Scalar) -> Callable[[int, int, int], None]:
    """Derives the outputs of a `FlatNet` record's rows."""
    return on_all_rows(scalar, _vectors_of_rows(scalar))


class JacobianBlocks(RowBlocks):
    """Derives a network's outputs, before a link, by the inputs, from a copy of its parameters."""

    FACTORY = staticmethod(jacobian_in_lanes)
    OPTIONS: ClassVar = {"slopes": True}

    def __init__(self, runner: Runner, network: Network) -> None:
        super().__init__(runner, network._replace(link=LINKS["identity"]))

    def derive(
        self, parameters: Array, x: Array, derived: NDArray[np.int64], out: Array, raw: Array | None
    ) -> bool:
        """Write the derivatives of some outputs to `out`, shape (n_rows, n_derived, n_features),
        and all outputs to `raw`, shape (n_rows, n_outputs), if given.

        Return True if all numbers of x and of the results are finite.
        """
        net, flops, n_rows = self._net, self._row_flops * (1 + len(derived)), len(x)
        with self._runner.lock.parameters:
            publish(parameters, self._parameters)
        net["derived"], net["n_derived"] = address(derived), len(derived)
        self.job["loss"], most = 0.0, max(1, self._most // (1 + len(derived)))
        self.kind = (*self._kind, "jacobian", len(derived), n_rows.bit_length())
        for first in range(0, n_rows, most):
            net["x"], net["n_rows"] = address(x, first * x.shape[1]), min(most, n_rows - first)
            net["derivatives"] = address(out, first * len(derived) * x.shape[1])
            net["out"] = 0 if raw is None else address(raw, first * raw.shape[1])
            self._run(flops * min(n_rows, most))
        return bool(self.job["loss"] == 0)
