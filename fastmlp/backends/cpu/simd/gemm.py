"""The one matrix product, C = start + A B of panels: which tiles to sweep it with.

Forward (A = inputs, B = W), delta (A = deltas, B = W transposed) and gradient (A = inputs by
column, B = deltas) are all of this form.
"""

from collections.abc import Callable
from typing import NamedTuple

from fastmlp.backends.cpu.simd.epilogue import Epilogue
from fastmlp.backends.cpu.simd.microkernel import Factors, Start, Tile, sweep
from fastmlp.backends.cpu.simd.target import lanes_of, vector_bytes
from fastmlp.backends.cpu.simd.vector import Panels, Scalar
from fastmlp.backends.cpu.simd.vector_function import VectorFunction
from fastmlp.backends.cpu.tuning import STRIP_ROWS
from fastmlp.compiler import njit

# The largest tile, rows by panels: as many sums as there are registers, less those for A and B. Its
# rows divide a strip. With 16 registers, 4 x 2 has too few to hide loads behind: 4 x 3 for it
# 91 -> 106 GFLOP/s of 110.
LARGEST = (8, 2) if vector_bytes() == 64 else (4, 3)
FEW = 4
# Whether a panel of which no more than half is used is computed so: where a half vector takes half
# the time.
NARROW = vector_bytes() == 64


def panels_at_once(left: int) -> int:
    """Return how many of the panels that are left the next tile takes: never one without need."""
    return 2 if left == 4 else min(left, LARGEST[1])


next_panels = njit(panels_at_once)


def groups_of_panels(n_panels: int) -> int:
    """Return in how many pieces a team shares a layer's panels: whole tiles, but the last."""
    return (n_panels + LARGEST[1] - 1) // LARGEST[1]


class Shape(NamedTuple):
    """How many columns and rows C has."""

    n_columns: int
    n_rows: int


Operands = tuple[Panels, Start, Factors, Epilogue]


class _Sweeps(NamedTuple):
    """A product's shapes of tiles, by rows and panels; `narrow` where half of the last is used."""

    largest: VectorFunction
    four_2: VectorFunction
    eight_1: VectorFunction
    one_4: VectorFunction
    one_2: VectorFunction
    one_1: VectorFunction
    narrow_1: VectorFunction
    narrow_2: VectorFunction


def _sweeps(scalar: Scalar, by_column: bool) -> _Sweeps:
    def tiles(rows: int, vectors: int, **kind: bool) -> VectorFunction:
        return sweep(Tile(scalar, lanes_of(scalar), rows, vectors, by_column, **kind))

    largest, eight_1 = tiles(*LARGEST, prefetches=True), tiles(STRIP_ROWS, 1, prefetches=by_column)
    others = (tiles(FEW, 2), eight_1, tiles(1, 4), tiles(1, 2), tiles(1, 1))
    if not NARROW:
        return _Sweeps(largest, *others, narrow_1=eight_1, narrow_2=largest)
    narrow = (tiles(STRIP_ROWS, n, narrow=True, prefetches=by_column) for n in (1, 2))
    return _Sweeps(largest, *others, *narrow)


def _panel_multiplier(scalar: Scalar, by_column: bool) -> Callable[..., int]:
    """Make the function that multiplies n rows by the next of the panels that are left, and returns
    how many it took; `narrow` says that no more than half of the last one is used."""
    largest, four_2, eight_1, one_4, one_2, one_1, narrow_1, narrow_2 = _sweeps(scalar, by_column)
    few = FEW
    # Where the largest tile is wider, two panels that are left are the smaller one's.
    two_are_less = LARGEST[1] > 2

    def multiply_panels(operands: Operands, n: int, left: int, narrow: bool, streams: int) -> int:
        step = next_panels(left)
        if n == 1 and left >= 4:
            one_4(*operands, n, streams)
            step = 4
        elif n == 1 and left >= 2:
            one_2(*operands, n, streams)
            step = 2
        elif n == 1:
            one_1(*operands, n, streams)
            step = 1
        elif step == 1 and narrow:
            narrow_1(*operands, n, streams)
        elif step == 1:
            eight_1(*operands, n, streams)
        elif narrow and left == 2 and n > few:
            narrow_2(*operands, n, streams)
        elif step == 2 and (two_are_less or n <= few):
            four_2(*operands, n, streams)
        else:
            largest(*operands, n, streams)
        return step

    return njit(multiply_panels)


def product(scalar: Scalar, by_column: bool) -> Callable[..., None]:
    """Make the block that computes C = start + A B for up to `ROW_BLOCK` rows, any width.

    C, and the epilogue's operand, must have room for whole panels, and for the rows rounded up to
    `STRIP_ROWS`. `streams` is the address of a record of what to prefetch, or 0. The block compiles
    in 0.3 to 0.4 s; a shape of few sums, as that of one row and two panels, is 0.02 of it, a narrow
    one 0.07.
    """
    lanes = lanes_of(scalar)
    vector, strip, most_narrow = vector_bytes(), STRIP_ROWS, lanes // 2 if NARROW else 0
    multiply_panels = _panel_multiplier(scalar, by_column)

    def multiply(
        c: Panels, start: Start, factors: Factors, epilogue: Epilogue, shape: Shape, streams: int
    ) -> None:
        n_columns, n_rows = shape
        b, b_stride, a, a_stride, depth = factors
        (to, stride), (begin, row_stride, begin_stride), (number, operand) = c, start, epilogue
        # First the rows that fill strips, then the few that are left.
        done, rest = 0, n_rows % strip
        n_panels = (n_columns + lanes - 1) // lanes
        narrow = n_columns - (n_panels - 1) * lanes <= most_narrow
        while done < n_rows:
            n = n_rows - rest if done < n_rows - rest else rest
            right, p = b, 0
            while p < n_panels:
                sums = Start(begin, row_stride, begin_stride)
                these = Factors(right, b_stride, a, a_stride, depth)
                operands = (Panels(to, stride), sums, these, Epilogue(number, operand))
                step = multiply_panels(operands, n, n_panels - p, narrow, streams)
                p += step
                right += step * b_stride
                to += step * stride
                operand += step * stride
                begin += step * begin_stride
            # Back to the first panel, and down by the rows that are done.
            done += n
            to += n * vector - n_panels * stride
            operand += n * vector - n_panels * stride
            begin += n * row_stride - n_panels * begin_stride
            if by_column:
                a += done // lanes * a_stride + done % lanes * (vector // lanes)
            else:
                a += n * vector

    return multiply
