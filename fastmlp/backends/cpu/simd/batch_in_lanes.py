"""Products with the batch in lanes: a vector holds one unit of many rows.

A block has `vectors` x `lanes` rows, and is `width` times `vectors` vectors: unit by unit. A weight
is broadcast from where it lies in the flat parameters, unpacked; a layer of two outputs
takes two rows of a tile, where panels of outputs would fill up a vector. Every element is one chain
of fused multiply-adds in the order of k: the bits of the panels' products.
"""

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

from fastmlp.backends.cpu.simd.vector import Scalar, Vector, Vectors, Word
from fastmlp.backends.cpu.simd.vector_function import VectorFunction, vector_function
from fastmlp.compiler.target import lanes_of


class BatchInLanes(NamedTuple):
    """Functions of addresses, for blocks whose units are `unit` bytes apart: the loops below."""

    into_lanes: VectorFunction
    out_of_lanes: VectorFunction


def batch_in_lanes(scalar: Scalar) -> BatchInLanes:
    """Return the functions that copy rows to blocks and back."""
    loops = (into_lanes, out_of_lanes)
    return BatchInLanes(*(vector_function(loop, scalar, lanes_of(scalar)) for loop in loops))


def tile(scalar: Scalar, vectors: int, units: int, *, backward: bool = False) -> VectorFunction:
    """Return the product of a block with the weights of `units` adjacent units.

    ``tile(outputs, biases, weights, n_out, inputs, n_in, positive)`` takes addresses and sizes of
    the layer; with `positive` other than 0 it stores the positive part. `backward`: the weights are
    read the other way, from deltas of the layer's outputs, `n_in` of them, to those of its inputs.
    """

    def multiply(
        v: Vectors, outputs: Word, biases: Word, weights: Word, n_out: Word, inputs: Word,
        n_in: Word, positive: Word,
    ) -> None:  # fmt: skip
        # Bytes from a term's weights to the next term's, and from a unit's to the next unit's.
        term, step = (v.size, n_out * v.size) if backward else (n_out * v.size, v.size)
        # Sums by unit and by vector, which stay in registers.
        sums = [
            [v.variable(v.broadcast(biases + j * v.size)) for _ in range(vectors)]
            for j in range(units)
        ]
        for k in v.range(n_in):
            unit = inputs + k * (vectors * v.bytes)
            rows = [v.load(unit + i * v.bytes) for i in range(vectors)]
            for j, totals in enumerate(sums):
                weight = v.broadcast(weights + k * term + j * step)
                for total, numbers in zip(totals, rows, strict=True):
                    total.value = v.fma(weight, numbers, total.value)
        for j, totals in enumerate(sums):
            for i, total in enumerate(totals):
                part = v.positive_part(total.value)
                value = v.select(v.equal(positive, 0), total.value, part)
                v.store(value, outputs + (j * vectors + i) * v.bytes)

    return vector_function(multiply, scalar, lanes_of(scalar))


def _check(v: Vectors, values: Sequence[Vector], check: Word) -> None:
    """Add zero times the values: NaN, if one is not finite."""
    total = v.load(check)
    for value in values:
        total = v.fma(value, v.zero, total)
    v.store(total, check)


def into_lanes(
    v: Vectors, source: Word, width: Word, first: Word, last: Word, target: Word, unit: Word,
    check: Word,
) -> None:  # fmt: skip
    """Copy `lanes` rows of `width` contiguous numbers, from row `first` on, and row `last` again
    past it, to a vector of each unit; up to a vector of further units gets zeros. The vector at
    `check` stays 0 as long as all numbers are finite."""
    rows = [
        source + v.choose(last > first + r, first + r, last) * (width * v.size)
        for r in range(v.lanes)
    ]
    for p in v.range(v.n_vectors(width)):
        begin = p * v.lanes
        mask = v.first(width - begin)
        columns = v.transposed([v.load_masked(row + begin * v.size, mask) for row in rows])
        _check(v, columns, check)
        for k, column in enumerate(columns):
            v.store(column, target + begin * unit + unit * k)


def out_of_lanes(
    v: Vectors, source: Word, width: Word, n_rows: Word, target: Word, pitch: Word, unit: Word,
    check: Word,
) -> None:  # fmt: skip
    """Copy a vector of each unit back to rows, at most `lanes` of n_rows, which are `pitch` bytes
    apart."""
    # Whole vectors without a mask: 272 -> 264 ns a row (derivatives of 16-64-64-1, Zen 3).
    for p, access in v.parts(width):
        begin = p * v.lanes
        left, columns = width - begin, []
        for j in range(v.lanes):
            # Past the last unit the first is loaded again, and not stored.
            skip = v.choose(left > j, unit * j, 0)
            columns.append(v.load(source + begin * unit + skip))
        _check(v, columns, check)
        place = target + begin * v.size
        for r, row in enumerate(v.transposed(columns)):
            v.when(n_rows > r, partial(access.store, row, place + r * pitch), likely=True)
