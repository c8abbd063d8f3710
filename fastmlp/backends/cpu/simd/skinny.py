"""A last layer of few outputs, forward and backward, by dot products: vectors along the inputs, and
along the rows.

In a product of panels, one output is a panel of 16 with 15 columns of padding: 0.27 -> 0.05 us of
3.7 (8-32-32-1@32, one thread). The dot products come in columns, as the loss reads them. The deltas
are panels of D transposed: a vector of `lanes` rows for each output.
"""

from collections.abc import Iterator

from fastmlp.backends.cpu.simd.microkernel import Epilogue, finished_delta
from fastmlp.backends.cpu.simd.vector import Panels, Scalar, Vector, Vectors, Word
from fastmlp.backends.cpu.simd.vector_function import Loops
from fastmlp.backends.cpu.tuning import STRIP_ROWS


def skinny(scalar: Scalar, lanes: int) -> Loops:
    return Loops(globals(), scalar, lanes)


def delta_unit(lanes: int) -> int:
    """Rows of one strip with contiguous deltas."""
    return min(lanes, STRIP_ROWS)


def dots(
    v: Vectors, inputs: Panels, weights: Word, biases: Word, target: Word, n_in: Word, n_out: Word,
    n: Word,
) -> None:  # fmt: skip
    """Store X W + b of n rows of panels in columns: the n numbers of one output, then the next's.

    The weights are panels of W transposed. Each element is the sums of every `lanes`-th product,
    added up by halves. Reads whole squares of rows; writes up to a vector past each column, which
    the next column overwrites.
    """
    for j in v.range(n_out):
        w = Panels(weights + j * v.bytes, n_out * v.bytes)
        bias, column = v.broadcast(biases + j * v.size), target + j * n * v.size
        for i, sums in _dot_products(v, inputs, w, n_in, n):
            v.store(sums + bias, column + i * v.bytes)


def backward_dots(
    v: Vectors, weights: Panels, deltas: Panels, target: Word, epilogue: Epilogue, n_out: Word,
    n: Word,
) -> None:  # fmt: skip
    """Store W d of one row's deltas d, for n rows of panels of W, through an epilogue, for a
    layer without a transposed copy of W. Target, operand and deltas are rows of panels with one
    stride. Reads whole squares of W."""
    for i, sums in _dot_products(v, weights, deltas, n_out, n):
        across = i * deltas.stride
        # Padding of deltas stays zero.
        sums = v.select(v.first(n - i * v.lanes), sums, v.zero)
        operand = v.load(epilogue.operand + across)
        v.store(finished_delta(v, epilogue.number, sums, operand), target + across)


def _dot_products(
    v: Vectors, matrix: Panels, vector: Panels, depth: Word, n: Word
) -> Iterator[tuple[Word, Vector]]:
    """Yield the products of n rows of panels and a row of panels: `lanes` at a time, numbered."""
    sums = [v.variable(v.zero) for _ in range(v.lanes)]
    for i in v.range(v.n_vectors(n)):
        for total in sums:
            total.value = v.zero
        rows = matrix.address + i * (v.lanes * v.bytes)
        for p, part in v.parts(depth):
            w, across = part.load(vector.address + p * vector.stride), rows + p * matrix.stride
            for r, total in enumerate(sums):
                total.value = v.fma(part.load(across + r * v.bytes), w, total.value)
        yield i, v.sums([total.value for total in sums])


def add_row(v: Vectors, numbers: Word, stride: Word, start: Word, target: Word, n: Word) -> None:
    """Store `start`, one number, plus the sum of n numbers of a row of panels, by vectors."""
    total = v.variable(v.zero)
    for p, part in v.parts(n):
        total.value = total.value + part.load(numbers + p * stride)
    v.store_lane(v.sum(total.value) + v.broadcast(start), target)
