"""The one matrix product, C = start + A B of panels: which tiles to sweep it with.

The passes: A = inputs, B = W; A = deltas, B = W transposed;
for the gradient A = inputs by column, B = deltas.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from fastmlp.backends.cpu.simd.matrix_units import (
    MatrixSweep,
    TileSweep,
    configure,
    release,
)
from fastmlp.backends.cpu.simd.microkernel import (
    Epilogue,
    Operands,
    Start,
    Sweep,
    TileForm,
    sweep,
)
from fastmlp.backends.cpu.simd.pack import moves
from fastmlp.backends.cpu.simd.vector import Panels, Scalar
from fastmlp.backends.cpu.simd.vector_function import VectorFunction, vector_function
from fastmlp.backends.cpu.tuning import (
    HALF_VECTORS,
    LARGEST_TILE,
    LEAST_PACKED,
    PACKED_BYTES,
    PACKED_STRIPS,
    ROW_BLOCK,
    SMALL_TILE_ROWS,
    STRIP_ROWS,
)
from fastmlp.compiler import hinted, njit
from fastmlp.compiler.target import LINE_BYTES, PairProducts, lanes_of, vector_bytes

# Products of pairs that differ from float32's in more than an instruction.
_PAIR_SWEEPS: dict[PairProducts | None, Callable[..., Sweep]] = {
    "tiles": TileSweep,
    "matrices": MatrixSweep,
}


def panels_at_once(left: int) -> int:
    """How many of the remaining panels the next tile takes: one only if one remains."""
    return 2 if left == 4 else min(left, LARGEST_TILE[1])


next_panels = njit(panels_at_once)


def groups_of_panels(n_panels: int) -> int:
    """Groups of whole tiles of a layer's panels; the last may be smaller."""
    return (n_panels + LARGEST_TILE[1] - 1) // LARGEST_TILE[1]


class Shape(NamedTuple):
    """Columns and rows of C."""

    n_columns: int
    n_rows: int


class _Sweeps(NamedTuple):
    """A product's shapes of tiles, rows_panels;
    a `narrow` one's last panel is half used.
    """

    largest: VectorFunction
    four_2: VectorFunction
    eight_1: VectorFunction
    one_4: VectorFunction
    one_2: VectorFunction
    one_1: VectorFunction
    narrow_1: VectorFunction
    narrow_2: VectorFunction


def has_narrow(pairs: PairProducts | None) -> bool:
    """True if a panel of which at most half is used takes less time:
    by vectors alone.
    """
    return HALF_VECTORS and pairs != "tiles"


def _sweeps(
    scalar: Scalar, by_column: bool, pairs: PairProducts | None, packed: bool
) -> _Sweeps:
    def tiles(rows: int, vectors: int, **kind: bool) -> VectorFunction:
        form: Any = {**kind, "pairs": pairs, "packed": packed}
        if packed:
            form["prefetches"] = False
        tile = TileForm(scalar, lanes_of(scalar), rows, vectors, by_column, **form)
        return sweep(tile, _PAIR_SWEEPS.get(pairs))

    # Along its rows, bfmmla takes a panel of A at once:
    # too little to share prefetches over.
    largest = tiles(*LARGEST_TILE, prefetches=by_column or pairs != "matrices")
    eight_1 = tiles(STRIP_ROWS, 1, prefetches=by_column)
    # A single row: the row after is padding, where two are the least.
    least = 2 if pairs == "matrices" else 1
    others = (
        tiles(SMALL_TILE_ROWS, 2),
        eight_1,
        tiles(least, 4),
        tiles(least, 2),
        tiles(least, 1),
    )
    if not has_narrow(pairs):
        return _Sweeps(largest, *others, narrow_1=eight_1, narrow_2=largest)
    narrow = (tiles(STRIP_ROWS, n, narrow=True, prefetches=by_column) for n in (1, 2))
    return _Sweeps(largest, *others, *narrow)


def _row_products(
    scalar: Scalar, by_column: bool, pairs: PairProducts | None, packed: bool = False
) -> Callable[..., int]:
    """Multiplies rows, whole strips or fewer than one; the result is their number.

    The translator inlines what returns a value. A separate function,
    or LLVM's inlining, made the product by column compile 0.05 s longer.
    """
    # By column one row is left only of 8 k + 1 inputs: larger tiles serve it in the
    # same time, 55 us (1-64-64-1@200, 1 thread). Three more shapes, of one row, compile
    # in 0.05 s.
    lanes = lanes_of(scalar)
    halves = has_narrow(pairs)
    has_single = not by_column
    largest, four_2, eight_1, one_4, one_2, one_1, narrow_1, narrow_2 = _sweeps(
        scalar, by_column, pairs, packed
    )
    # If the largest tile has three panels,
    # four rows by two panels serve any number of rows.
    few = SMALL_TILE_ROWS
    two_are_less = LARGEST_TILE[1] > 2

    @njit
    def multiply_rows(
        c: Panels,
        start: Start,
        factors: Operands,
        epilogue: Epilogue,
        shape: Shape,
        streams: int,
    ) -> int:
        """From panel to panel by the largest tile that fits; a single row and a
        half-used last panel have tiles of their shape.
        """
        (b, b_stride, a, a_stride, depth), (n_columns, n) = factors, shape
        n_panels = (n_columns + lanes - 1) // lanes
        narrow = n_columns <= (n_panels - 1) * lanes + lanes // 2
        p = 0
        while p < n_panels:
            operands = (
                Panels(c.address + p * c.stride, c.stride),
                Start(start.address + p * start.stride, start.row_stride, start.stride),
                Operands(b + p * b_stride, b_stride, a, a_stride, depth),
                Epilogue(epilogue.number, epilogue.operand + p * c.stride),
            )
            left = n_panels - p
            step = next_panels(left)
            if has_single and n == 1 and left >= 4:
                one_4(*operands, n, streams)
                step = 4
            elif has_single and n == 1 and left >= 2:
                one_2(*operands, n, streams)
                step = 2
            elif has_single and n == 1:
                one_1(*operands, n, streams)
                step = 1
            elif halves and step == 1 and narrow:
                narrow_1(*operands, n, streams)
            elif step == 1:
                eight_1(*operands, n, streams)
            elif halves and narrow and left == 2 and n > few:
                narrow_2(*operands, n, streams)
            elif step == 2 and (two_are_less or n <= few):
                four_2(*operands, n, streams)
            else:
                largest(*operands, n, streams)
            p += step
        return n

    return multiply_rows


def product(
    scalar: Scalar, by_column: bool, pairs: PairProducts | None = None
) -> Callable[..., None]:
    """C = start + A B for up to `ROW_BLOCK` rows, any width.

    With `pairs` the numbers of A and B are pairs of bfloat16, and multiplied so. C, and
    the epilogue's operand, must have room for whole panels, and for the rows rounded up
    to `STRIP_ROWS`. `streams` is the address of a record of what to prefetch, or 0. The
    block compiles in 0.3 s, by column in 0.15.
    """
    lanes = lanes_of(scalar)
    vector = vector_bytes()
    row_bytes = vector // 2 if pairs else vector
    by_tiles = pairs == "tiles"
    multiply_rows = _row_products(scalar, by_column, pairs)
    begin_tiles, end_tiles = (
        vector_function(f, scalar, lanes) for f in (configure, release)
    )

    @hinted(control=True)
    def multiply(
        c: Panels,
        start: Start,
        factors: Operands,
        epilogue: Epilogue,
        shape: Shape,
        streams: int,
    ) -> None:
        b, b_stride, a, a_stride, depth = factors
        # First the rows of whole strips, then the remaining rows.
        r = 0
        whole = shape.n_rows // STRIP_ROWS * STRIP_ROWS
        while r < shape.n_rows:
            n = whole if r < whole else shape.n_rows - whole
            skip = r // lanes * a_stride + r % lanes * (vector // lanes)
            if not by_column:
                skip = r * row_bytes
            if by_tiles:
                begin_tiles(n)
            r += multiply_rows(
                Panels(c.address + r * vector, c.stride),
                Start(
                    start.address + r * start.row_stride, start.row_stride, start.stride
                ),
                Operands(b, b_stride, a + skip, a_stride, depth),
                Epilogue(epilogue.number, epilogue.operand + r * vector),
                Shape(shape.n_columns, n),
                streams,
            )
        if by_tiles:
            end_tiles()

    return multiply


def packs(n_columns: int, n_rows: int, depth: int) -> bool:
    """True if a product by rows pays for a copy of A in tiles."""
    columns, rows, least = LEAST_PACKED
    return n_columns >= columns and n_rows >= rows and depth >= least


def packed_tile(depth: Any, size: int, lanes: int) -> Any:
    """Bytes from a tile of packed rows to the next: not a multiple of a page."""
    whole = (depth + lanes - 1) // lanes * lanes
    return whole * SMALL_TILE_ROWS * size + 2 * LINE_BYTES


def rows_at_once(depth: Any, size: int) -> Any:
    """Rows of A that are packed at once."""
    strips = PACKED_BYTES // (depth * size * STRIP_ROWS)
    return min(max(strips, PACKED_STRIPS) * STRIP_ROWS, ROW_BLOCK)


def packed_product(scalar: Scalar) -> Callable[..., None]:
    """`product` by rows, on a copy of A in tiles.

    A tile has `SMALL_TILE_ROWS` rows, column by column, so that a microkernel reads A
    in one piece. By rows it jumps a panel, to another page, after each vector. `buffer`
    is the address of the copy, of `rows_at_once` rows.
    """
    lanes = lanes_of(scalar)
    size = np.dtype(scalar).itemsize
    vector = vector_bytes()
    multiply_rows = _row_products(scalar, True, None, packed=True)
    pack_tiles = moves(scalar, lanes).pack_tiles
    rows_of_copy = njit(rows_at_once)
    tile_bytes = njit(packed_tile)

    @hinted(control=True)
    def multiply(
        c: Panels,
        start: Start,
        factors: Operands,
        epilogue: Epilogue,
        shape: Shape,
        buffer: int,
    ) -> None:
        b, b_stride, a, a_stride, depth = factors
        r = 0
        at_once = rows_of_copy(depth, size)
        stride = tile_bytes(depth, size, lanes)
        while r < shape.n_rows:
            n = min(at_once, shape.n_rows - r)
            pack_tiles(Panels(a + r * vector, a_stride), buffer, stride, depth, n)
            r += multiply_rows(
                Panels(c.address + r * vector, c.stride),
                Start(
                    start.address + r * start.row_stride, start.row_stride, start.stride
                ),
                Operands(b, b_stride, buffer, stride, depth),
                Epilogue(epilogue.number, epilogue.operand + r * vector),
                Shape(shape.n_columns, n),
                0,
            )

    return multiply
