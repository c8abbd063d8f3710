"""Products of one row with a layer's weights: outputs in lanes, their sums in registers.

The sums of up to `MOST_VECTORS` vectors of adjacent outputs stay in registers through all inputs.
An input is broadcast, a weight is loaded from where it lies in the flat parameters. Every sum is
one chain of fused multiply-adds in the order of k: the bits of the panels' products.
"""

from collections.abc import Callable
from functools import partial

from fastmlp.backends.cpu.simd.vector import Scalar, VectorAccess, Vectors, Word
from fastmlp.backends.cpu.simd.vector_function import VectorFunction, vector_function
from fastmlp.compiler.target import lanes_of

# Chains side by side: as many as hide the latency of a multiply-add.
MOST_VECTORS = 4
# Of a layer of more bytes, the sums take so many inputs at a time: rows of weights are read in
# whole pieces then, not with a page in between.
NEAR, FAR_INPUTS = 1 << 15, 8


def one_row(scalar: Scalar) -> VectorFunction:
    """Return the product of a row with a layer's weights: the loop below."""
    return vector_function(multiply, scalar, lanes_of(scalar))


def row_dots(scalar: Scalar) -> VectorFunction:
    """Return the product of a layer's weights with a row of deltas: the loop below."""
    return vector_function(multiply_back, scalar, lanes_of(scalar))


def multiply_back(
    v: Vectors, target: Word, weights: Word, n_in: Word, deltas: Word, n_out: Word
) -> None:
    """Store W d of one row's deltas d: a dot product for each input."""
    total = v.variable(v.zero)
    for k in v.range(n_in):
        total.value = v.zero
        for p, part in v.parts(n_out):
            w = part.load(weights + k * (n_out * v.size) + p * v.bytes)
            total.value = v.fma(w, part.load(deltas + p * v.bytes), total.value)
        v.store_lane(v.sum(total.value), target + k * v.size)


def multiply(
    v: Vectors, outputs: Word, biases: Word, weights: Word, n_out: Word, inputs: Word, n_in: Word,
    positive: Word,
) -> None:  # fmt: skip
    """Store bias + W^T x of one row, or with `positive` other than 0 the positive part."""
    is_far = n_in * n_out > NEAR // v.size
    step = v.choose(is_far, FAR_INPUTS, n_in)
    whole, last = n_out // v.lanes, n_out % v.lanes
    groups = whole // MOST_VECTORS
    rest = whole - groups * MOST_VECTORS
    mask = v.first(last)

    def tile(vectors: int, masked: bool, first: Word) -> None:
        """Sums of vectors of outputs from the first on, and of those in the last one."""
        at = first * v.bytes
        ways = [VectorAccess(v.load, v.store)] * vectors
        if masked:
            ways.append(
                VectorAccess(
                    lambda place: v.load_masked(place, mask),
                    lambda value, place: v.store_masked(value, place, mask),
                )
            )
        sums = [v.variable(load(start + at + i * v.bytes)) for i, (load, _) in enumerate(ways)]
        for k in v.range(k0, k1):
            x, w = v.broadcast(inputs + k * v.size), weights + k * (n_out * v.size) + at
            for i, (load, _) in enumerate(ways):
                sums[i].value = v.fma(x, load(w + i * v.bytes), sums[i].value)
        for i, (_, store) in enumerate(ways):
            part = v.positive_part(sums[i].value)
            value = v.select(v.equal(positive_last, 0), sums[i].value, part)
            store(value, outputs + at + i * v.bytes)

    for p in v.range(v.choose(is_far, (n_in + (FAR_INPUTS - 1)) // FAR_INPUTS, 1)):
        k0 = p * step
        k1 = v.choose(k0 + step > n_in, n_in, k0 + step)
        start, positive_last = v.choose(k0 > 0, outputs, biases), v.choose(k1 < n_in, 0, positive)
        for group in v.range(groups):
            tile(MOST_VECTORS, False, group * MOST_VECTORS)
        first = groups * MOST_VECTORS
        cases: dict[int, Callable[[], None]] = {0: lambda: None}
        for r in range(1, 2 * MOST_VECTORS):
            cases[r] = partial(tile, r // 2, r % 2 == 1, first)
        v.switch(rest * 2 + v.choose(last > 0, 1, 0), cases)
