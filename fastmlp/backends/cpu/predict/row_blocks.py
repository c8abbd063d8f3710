"""Predictions by blocks of rows, which pass all layers while they are in the first-level cache.

Straight from the flat parameters: 1,000 rows of 16-64-64-2 take 100 us on one core, where packing
parameters and rows, and sums of panels that two outputs fill to an eighth, took 159.
"""

from typing import Any

import numpy as np

from fastmlp.backends.cpu.plan.records import Job
from fastmlp.backends.cpu.predict.records import FLAT, FLAT_LAYER, VECTORS
from fastmlp.backends.cpu.simd.batch_in_lanes import batch_in_lanes, tile
from fastmlp.backends.cpu.simd.gemm import LARGEST
from fastmlp.backends.cpu.simd.target import lanes_of
from fastmlp.backends.cpu.threads.team import spread
from fastmlp.compiler import call, njit, record_at, row

Scalar = type[np.floating[Any]]


def _products(scalar: Scalar, vectors: int) -> Any:
    """Make the function that writes a layer's sums, or their positive parts, of a block."""
    size = np.dtype(scalar).itemsize
    unit = vectors * lanes_of(scalar) * size
    most = LARGEST[0]
    largest, two, one = (tile(scalar, vectors, n_units) for n_units in (most, 2, 1))

    def multiply(net: Any, layer: Any, inputs: Any, outputs: Any) -> None:
        w, b = net.parameters + layer.weights, net.parameters + layer.biases
        how = (layer.n_out, inputs, layer.n_in, layer.positive)
        left = layer.n_out
        while left > 0:
            if left >= most:
                largest(outputs, b, w, *how)
                step = most
            elif left >= 2:
                two(outputs, b, w, *how)
                step = 2
            else:
                one(outputs, b, w, *how)
                step = 1
            left -= step
            outputs, b, w = outputs + step * unit, b + step * size, w + step * size

    return njit(multiply)


def stream(scalar: Scalar) -> Any:
    """Make the block that predicts rows first to last, counted in vectors of them."""
    lanes = lanes_of(scalar)
    vector = lanes * np.dtype(scalar).itemsize
    wide, narrow = _products(scalar, VECTORS), _products(scalar, 1)
    its = batch_in_lanes(scalar)
    into_lanes, out_of_lanes = its.into_lanes, its.out_of_lanes

    def predict_rows(address: Any, first: Any, last: Any, part: Any) -> None:
        net = row(address, 1, FLAT)[0]
        layers = row(net.layers, net.n_layers, FLAT_LAYER)
        room, checks = net.room + part * net.room_bytes, net.checks + part * net.check_bytes
        begin, end = first * lanes, min(last * lanes, net.n_rows)
        for start in range(begin, end, VECTORS * lanes):
            # A vector of rows that is left alone takes half of the time of two.
            vectors = 1 if end - start <= lanes else VECTORS
            unit = vectors * vector
            source, target, slopes = room, room + net.value_bytes, room + 2 * net.value_bytes
            for v in range(vectors):
                at = start + v * lanes
                into_lanes(net.x, net.n_in, at, end - 1, source + v * vector, unit, checks)
            for i in range(net.n_layers):
                layer = layers[i]
                if vectors == 1:
                    narrow(net, layer, source, target)
                else:
                    wide(net, layer, source, target)
                source, target = target, source
                if layer.activation:
                    call(layer.activation, (source, target, slopes, layer.n_out * vectors * lanes))
                    source, target = target, source
            if net.link:
                call(net.link, (source, target, vectors * lanes, net.n_out))
                source, target = target, source
            for v in range(vectors):
                at = start + v * lanes
                out_of_lanes(
                    source + v * vector, net.n_out, at, end - 1, net.out, unit, checks + vector
                )

    return predict_rows


@njit
def n_vectors(n_rows: Any, lanes: Any) -> Any:
    """How many vectors hold so many rows."""
    return (n_rows + lanes - 1) // lanes


def streamed(scalar: Scalar) -> Any:
    """Make the driver that has a team, or one thread, predict the rows of a `FLAT` record.

    It adds 0 to the job's `loss` where all numbers read and written were finite, and NaN elsewhere.
    """
    lanes, size = lanes_of(scalar), np.dtype(scalar).itemsize

    def predict_job(address: Any) -> None:
        job = record_at(address, Job)
        net = row(job.net, 1, FLAT)[0]
        checks = row(net.checks, net.members * net.check_bytes // size, scalar)
        checks[:] = 0
        spread(job.team, net.rows, n_vectors(net.n_rows, lanes), job.net)
        for i in range(net.members * net.check_bytes // size):
            job.loss += checks[i]

    return predict_job
