"""Derivatives of outputs by inputs, by blocks of rows: forward as predictions, then back.

The slopes of all layers are kept. For each output the first deltas are a column of the last weights
times slopes; the others are products by the tiles of predictions, which read the weights the other
way. One output takes 1.5 times as long as its prediction (16-64-64-1, 20,000 rows, 1 thread).
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastmlp._process.locks import publish
from fastmlp.backends.cpu.dispatch import Runner, Work
from fastmlp.backends.cpu.plan.records import address
from fastmlp.backends.cpu.predict.row_blocks import (
    VECTORS,
    FlatLayer,
    FlatNet,
    RowBlocks,
    on_all_rows,
    predict_blocks,
    products,
)
from fastmlp.backends.cpu.simd.batch_in_lanes import batch_in_lanes
from fastmlp.backends.cpu.tuning import LARGEST_TILE
from fastmlp.compiler import call, njit, records_at, row
from fastmlp.compiler.target import lanes_of
from fastmlp.network.spec import Network
from fastmlp.rules.links import LINKS

Array = NDArray[Any]
Scalar = type[np.floating[Any]]


def _vectors_of_rows(scalar: Scalar) -> Callable[..., None]:
    """Make the function that derives vectors first to last of rows in one thread's buffers."""
    lanes, size = lanes_of(scalar), np.dtype(scalar).itemsize
    vector, n_rows = lanes * size, VECTORS * lanes
    unit = VECTORS * vector
    forward, backward = products(scalar, VECTORS), products(scalar, VECTORS, backward=True)
    lane_moves = batch_in_lanes(scalar)
    into_lanes, out_of_lanes = lane_moves.into_lanes, lane_moves.out_of_lanes

    @njit
    def write(net: FlatNet, source: int, width: int, target: int, at: tuple[int, ...]) -> None:
        """Write a block's units to rows that are `pitch` bytes apart."""
        start, end, pitch, checks = at
        for v in range(VECTORS):
            place, first = source + v * vector, start + v * lanes
            out_of_lanes(place, width, first, end - 1, target, pitch, unit, checks)

    @njit
    def through(layer: FlatLayer, kept: int, numbers: int) -> None:
        """Multiply the derivatives by a layer's values by its slopes."""
        n = layer.n_out * n_rows
        values, slopes, zero = row(numbers, n, scalar), row(kept, n, scalar), scalar(0)
        if layer.relu:
            for i in range(n):
                values[i] = values[i] if slopes[i] > zero else zero
        elif layer.activation:
            for i in range(n):
                values[i] *= slopes[i]

    @njit
    def first_deltas(net: FlatNet, layer: FlatLayer, output: int, slopes: int, deltas: int) -> None:
        """Write the derivatives of an output by the last layer's inputs."""
        weights = row(net.parameters + layer.weights, layer.n_in * layer.n_out, scalar)
        factors = row(slopes + output * unit, n_rows, scalar)
        for k in range(layer.n_in):
            values = row(deltas + k * unit, n_rows, scalar)
            weight = weights[k * layer.n_out + output]
            for r in range(n_rows):
                values[r] = weight * factors[r] if layer.activation else weight

    def derive(net: FlatNet, first: int, last: int, thread: int) -> None:
        layers = records_at(net.layers, net.n_layers, FlatLayer)
        derived = row(net.derived, net.n_derived, np.int64)
        buffer = net.buffers + thread * net.buffer_bytes
        other = buffer + net.block_bytes
        checks = net.checks + thread * net.check_bytes
        end, n_in = min(last * lanes, net.n_rows), net.n_in
        for start in range(first * lanes, end, n_rows):
            source, slopes = buffer, buffer + 2 * net.block_bytes
            for v in range(VECTORS):
                place, at = source + v * vector, start + v * lanes
                into_lanes(net.x, n_in, at, end - 1, place, unit, checks)
            for i in range(net.n_layers):
                layer, target = layers[i], other if source == buffer else buffer
                if layer.relu:
                    # Its values are positive where its slopes are 1: they are kept.
                    target = slopes
                forward(net, layer, source, target)
                source = target
                if layer.activation:
                    source = other if target == buffer else buffer
                    call(layer.activation, (target, source, slopes, layer.n_out * n_rows))
                slopes += layer.n_out * unit
            if net.out:
                rows_of = (start, end, net.n_out * size, checks + vector)
                write(net, source, net.n_out, net.out, rows_of)
            for p in range(net.n_derived):
                layer, place = layers[net.n_layers - 1], slopes - net.n_out * unit
                source, target = buffer, other
                first_deltas(net, layer, derived[p], place, source)
                for i in range(net.n_layers - 2, -1, -1):
                    layer = layers[i]
                    place -= layer.n_out * unit
                    through(layer, place, source)
                    backward(net, layer, source, target)
                    source, target = target, source
                of_output = net.derivatives + p * n_in * size
                rows_of = (start, end, net.n_derived * n_in * size, checks + vector)
                write(net, source, n_in, of_output, rows_of)

    return njit(derive)


def jacobian_in_lanes(scalar: Scalar) -> Callable[[int, int, int], None]:
    """Make the block that derives the outputs of a `FlatNet` record's rows."""
    return on_all_rows(scalar, _vectors_of_rows(scalar))


class JacobianBlocks(RowBlocks):
    """Derives a network's outputs, before a link, by the inputs, from a copy of its parameters."""

    FACTORY = staticmethod(jacobian_in_lanes)
    SLOPES = True

    def __init__(self, runner: Runner, network: Network) -> None:
        super().__init__(runner, network._replace(link=LINKS["identity"]))
        self._zeros = np.zeros(LARGEST_TILE[0], network.dtype)
        self._net["zeros"] = address(self._zeros)

    def derive(
        self, parameters: Array, x: Array, derived: NDArray[np.int64], out: Array, raw: Array | None
    ) -> bool:
        """Write the derivatives of some outputs to `out`, shape (n_rows, n_derived, n_features),
        and all outputs to `raw`, shape (n_rows, n_outputs), if it is not None.

        Returns True if all numbers of x and of the results are finite.
        """
        net, flops, n_rows = self._net, self._row_flops * (1 + len(derived)), len(x)
        with self._runner.lock.parameters:
            publish(parameters, self._parameters)
        net["derived"], net["n_derived"] = address(derived), len(derived)
        self.job["loss"], most = 0.0, max(1, self._most // (1 + len(derived)))
        self.kind = (*self._kind, "jacobian", len(derived), n_rows.bit_length())
        work = Work(flops * min(n_rows, most), 0)
        for first in range(0, n_rows, most):
            net["x"], net["n_rows"] = address(x, first * x.shape[1]), min(most, n_rows - first)
            net["derivatives"] = address(out, first * len(derived) * x.shape[1])
            net["out"] = 0 if raw is None else address(raw, first * raw.shape[1])
            self._runner.run(predict_blocks, self, work)
        return bool(self.job["loss"] == 0)
