"""Products with weights where they lie in the flat parameters:
of one row, and of a batch.

One row: outputs are in lanes, the sums of up to `MOST_VECTORS` vectors of adjacent
outputs stay in registers through all inputs; an input is broadcast. A batch: rows are
in lanes, a vector holds one unit of many rows, a weight is broadcast. A block of a
batch has `vectors` x `lanes` rows, and is `width` times `vectors` vectors: unit by
unit. A layer of two outputs takes two rows of a tile, where panels of outputs would
fill up a vector.

Every element is one chain of fused multiply-adds in the order of k,
so the bits equal the panels'.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

from fastmlp.backends.cpu.simd.gemm import Shape
from fastmlp.backends.cpu.simd.pack import MatrixRows
from fastmlp.backends.cpu.simd.vector import Scalar, Vector, VectorAccess, Vectors, Word
from fastmlp.backends.cpu.simd.vector_function import (
    Loops,
    VectorFunction,
    vector_function,
)
from fastmlp.backends.cpu.tuning import ROW_TILES
from fastmlp.compiler.target import lanes_of

# Chains side by side, to hide the latency of a multiply-add.
MOST_VECTORS = 4
# Larger layers take this many inputs at a time:
# rows of weights are read in whole pieces then, not with a page in between.
NEAR = 1 << 15
FAR_INPUTS = 8


def one_row(scalar: Scalar) -> VectorFunction:
    return vector_function(multiply, scalar, lanes_of(scalar))


def row_dots(scalar: Scalar) -> VectorFunction:
    return vector_function(multiply_back, scalar, lanes_of(scalar))


def multiply_back(
    v: Vectors, target: Word, weights: Word, n_in: Word, deltas: Word, n_out: Word
) -> None:
    """W d of one row's deltas d: a dot product for each input."""
    total = v.variable(v.zero)
    for k in v.range(n_in):
        total.value = v.zero
        for p, part in v.parts(n_out):
            w = part.load(weights + k * (n_out * v.size) + p * v.bytes)
            total.value = v.fma(w, part.load(deltas + p * v.bytes), total.value)
        v.store_lane(v.sum(total.value), target + k * v.size)


def multiply(
    v: Vectors,
    outputs: Word,
    biases: Word,
    weights: Word,
    n_out: Word,
    inputs: Word,
    n_in: Word,
    positive: Word,
) -> None:
    """Store bias + W^T x of one row,
    or with `positive` other than 0 the positive part.
    """
    is_far = n_in * n_out > NEAR // v.size
    step = v.choose(is_far, FAR_INPUTS, n_in)
    whole = n_out // v.lanes
    last = n_out % v.lanes
    groups = whole // MOST_VECTORS
    rest = whole - groups * MOST_VECTORS
    mask = v.first(last)

    def tile(vectors: int, masked: bool, first: Word) -> None:
        """Sums of vectors of outputs from the first on,
        and of those in the last one.
        """
        at = first * v.bytes
        ways = [VectorAccess(v.load, v.store)] * vectors
        if masked:
            ways.append(
                VectorAccess(
                    lambda place: v.load_masked(place, mask),
                    lambda value, place: v.store_masked(value, place, mask),
                )
            )
        sums = [
            v.variable(load(start + at + i * v.bytes))
            for i, (load, _) in enumerate(ways)
        ]
        for k in v.range(k0, k1):
            x = v.broadcast(inputs + k * v.size)
            w = weights + k * (n_out * v.size) + at
            for i, (load, _) in enumerate(ways):
                sums[i].value = v.fma(x, load(w + i * v.bytes), sums[i].value)
        for i, (_, store) in enumerate(ways):
            part = v.positive_part(sums[i].value)
            value = v.select(v.equal(positive_last, 0), sums[i].value, part)
            store(value, outputs + at + i * v.bytes)

    for p in v.range(v.choose(is_far, (n_in + (FAR_INPUTS - 1)) // FAR_INPUTS, 1)):
        k0 = p * step
        k1 = v.choose(k0 + step > n_in, n_in, k0 + step)
        start = v.choose(k0 > 0, outputs, biases)
        positive_last = v.choose(k1 < n_in, 0, positive)
        for group in v.range(groups):
            tile(MOST_VECTORS, False, group * MOST_VECTORS)
        first = groups * MOST_VECTORS
        cases: dict[int, Callable[[], None]] = {0: lambda: None}
        for r in range(1, 2 * MOST_VECTORS):
            cases[r] = partial(tile, r // 2, r % 2 == 1, first)
        v.switch(rest * 2 + v.choose(last > 0, 1, 0), cases)


class Weights(NamedTuple):
    """Weights where they lie flat, or in panels:
    bytes from a vector of outputs to the next, and from an input to the next.
    """

    address: Word
    across: Word
    along: Word


def row_tiles(scalar: Scalar) -> list[VectorFunction]:
    """Many rows, few, and two have loops of their shapes."""
    loops = {shape: _rows_by_tiles(scalar, *shape) for shape in {*ROW_TILES}}
    return [loops[shape] for shape in ROW_TILES]


def _rows_by_tiles(scalar: Scalar, rows: int, vectors: int) -> VectorFunction:
    """The product of tiles of these rows and vectors of outputs.

    All n rows share one reading of the weights of `n_in` inputs. A call for the next
    inputs goes on from the sums, which are the outputs. A last tile repeats the last
    row, so the outputs have room for whole tiles, and each row for whole vectors.
    """

    def multiply(
        v: Vectors,
        outputs: MatrixRows,
        start: MatrixRows,
        weights: Weights,
        inputs: MatrixRows,
        shape: Shape,
        n_in: Word,
        positive: Word,
    ) -> None:
        """Whole groups of vectors first; the vectors left, and a masked last one, have
        a case each.
        """
        n = shape.n_rows
        whole = shape.n_columns // v.lanes
        last = shape.n_columns % v.lanes
        groups = whole // vectors
        mask = v.first(last)

        def sweep(count: int, masked: bool, first: Word) -> None:
            """All rows by `count` vectors of outputs and, if `masked`, the last one:
            their weights stay in a cache from tile to tile of rows.
            """
            at = first * v.bytes
            source = weights.address + first * weights.across
            columns: list[Callable[..., Vector]] = [v.load] * count
            if masked:
                columns.append(lambda place: v.load_masked(place, mask))
            loads = [*enumerate(columns)]
            sums = [[v.variable(v.zero) for _ in loads] for _ in range(rows)]
            for t in v.range((n + (rows - 1)) // rows):
                row = []
                for m, totals in enumerate(sums):
                    r = t * rows + m
                    row.append(
                        inputs.address + v.choose(r < n, r, n - 1) * inputs.stride
                    )
                    for i, load in loads:
                        place = start.address + r * start.stride + at
                        totals[i].value = load(place + i * v.bytes)
                for k in v.range(n_in):
                    place = source + k * weights.along
                    w = [load(place + weights.across * i) for i, load in loads]
                    for m, totals in enumerate(sums):
                        x = v.broadcast(row[m] + k * v.size)
                        for i, total in enumerate(totals):
                            total.value = v.fma(x, w[i], total.value)
                for m, totals in enumerate(sums):
                    place = outputs.address + (t * rows + m) * outputs.stride + at
                    for i, total in enumerate(totals):
                        part = v.positive_part(total.value)
                        value = v.select(v.equal(positive, 0), total.value, part)
                        v.store(value, place + i * v.bytes)

        for group in v.range(groups):
            sweep(vectors, False, group * vectors)
        cases: dict[int, Callable[[], None]] = {0: lambda: None}
        for r in range(1, 2 * vectors):
            cases[r] = partial(sweep, r // 2, r % 2 == 1, groups * vectors)
        v.switch(whole % vectors * 2 + v.choose(last > 0, 1, 0), cases)

    return vector_function(multiply, scalar, lanes_of(scalar))


def batch_in_lanes(scalar: Scalar) -> Loops:
    """The loops below copy rows to blocks,
    whose units are `unit` bytes apart, and back.
    """
    return Loops(globals(), scalar, lanes_of(scalar))


def tile(
    scalar: Scalar, vectors: int, units: int, *, backward: bool = False
) -> VectorFunction:
    """The product of a block with the weights of `units` adjacent units.

    ``tile(outputs, biases, weights, n_out, inputs, n_in, positive)`` takes addresses
    and sizes of the layer; with `positive` other than 0 it stores the positive part.
    `backward`: the weights are read the other way, from deltas of the layer's outputs,
    `n_in` of them, to deltas of its inputs.
    """

    def multiply(
        v: Vectors,
        outputs: Word,
        biases: Word,
        weights: Word,
        n_out: Word,
        inputs: Word,
        n_in: Word,
        positive: Word,
    ) -> None:
        # Bytes from a term's weights to the next term's,
        # and from a unit's to the next unit's.
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
    v: Vectors,
    source: Word,
    width: Word,
    first: Word,
    last: Word,
    target: Word,
    unit: Word,
    check: Word,
) -> None:
    """Copy `lanes` rows of `width` contiguous numbers, from row `first` on, and row
    `last` again past it, to a vector of each unit; up to a vector of further units gets
    zeros. The vector at `check` stays 0 as long as all numbers are finite.
    """
    rows = [
        source + v.choose(last > first + r, first + r, last) * (width * v.size)
        for r in range(v.lanes)
    ]
    for p in v.range(v.n_vectors(width)):
        begin = p * v.lanes
        mask = v.first(width - begin)
        columns = v.transposed(
            [v.load_masked(row + begin * v.size, mask) for row in rows]
        )
        _check(v, columns, check)
        for k, column in enumerate(columns):
            v.store(column, target + begin * unit + unit * k)


def out_of_lanes(
    v: Vectors,
    source: Word,
    width: Word,
    n_rows: Word,
    target: Word,
    pitch: Word,
    unit: Word,
    check: Word,
) -> None:
    """Copy a vector of each unit back to rows,
    at most `lanes` of n_rows, `pitch` bytes apart.
    """
    # Whole vectors without a mask:
    # 272 -> 264 ns a row (derivatives of 16-64-64-1, Zen 3).
    for p, access in v.parts(width):
        begin = p * v.lanes
        left = width - begin
        columns = []
        for j in range(v.lanes):
            # Past the last unit the first is loaded again, and not stored.
            skip = v.choose(left > j, unit * j, 0)
            columns.append(v.load(source + begin * unit + skip))
        _check(v, columns, check)
        place = target + begin * v.size
        for r, row in enumerate(v.transposed(columns)):
            v.when(
                n_rows > r, partial(access.store, row, place + r * pitch), likely=True
            )
