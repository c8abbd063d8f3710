"""Moves of whole vectors: rows into panels and back, transposes, sums of rows.

LLVM's loops of a few numbers cost 10 ns a row; a masked vector costs one.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

from fastmlp.backends.cpu.simd.vector import Panels, Scalar, Vector, Vectors, Word
from fastmlp.backends.cpu.simd.vector_function import Loops
from fastmlp.backends.cpu.tuning import (
    PACKED_ROWS,
    SMALL_TILE_ROWS,
    SPARSE_PANELS,
    STRIP_ROWS,
    SUM_CHAINS,
)


class MatrixRows(NamedTuple):
    address: Word
    stride: Word


class SparseRow(NamedTuple):
    """Addresses of a sparse row's columns (int32) and values, and their number."""

    columns: Word
    values: Word
    n: Word


def moves(scalar: Scalar, lanes: int) -> Loops:
    return Loops(globals(), scalar, lanes)


def pack_row(v: Vectors, source: Word, target: Word, stride: Word, width: Word) -> None:
    """Copy `width` contiguous numbers to a row of panels, and pad it with zeros."""
    for p, part in v.parts(width):
        v.store(part.load(source + p * v.bytes), target + p * stride)


def pack_matrix(
    v: Vectors, source: Word, n_rows: Word, width: Word, target: Word
) -> None:
    """Copy contiguous rows to panels of `n_rows` rows,
    padded with zeros, some rows at a time.
    """
    for first in v.range((n_rows + (PACKED_ROWS - 1)) // PACKED_ROWS):
        begin = first * PACKED_ROWS
        n = v.choose(n_rows - begin < PACKED_ROWS, n_rows - begin, PACKED_ROWS)
        for p, part in v.parts(width):
            for r in v.range(begin, begin + n):
                place = source + r * (width * v.size) + p * v.bytes
                v.store(part.load(place), target + (p * n_rows + r) * v.bytes)


def unpack_row(
    v: Vectors, source: Word, stride: Word, target: Word, width: Word
) -> None:
    """Copy a row of panels to `width` contiguous numbers."""
    for p, part in v.parts(width):
        part.store(v.load(source + p * stride), target + p * v.bytes)


def unpack_rows(
    v: Vectors, source: Word, stride: Word, target: Word, width: Word, n: Word
) -> None:
    """Copy n rows of panels to n contiguous rows of `width` numbers.
    One call for all: 1.1 -> 0.4 us (4-64-64-1).
    """
    for r in v.range(n):
        row = source + r * v.bytes
        place = target + r * (width * v.size)
        for p, part in v.parts(width):
            part.store(v.load(row + p * stride), place + p * v.bytes)


def copy(v: Vectors, source: Word, target: Word, n: Word) -> None:
    for i, part in v.parts(n):
        part.store(part.load(source + i * v.bytes), target + i * v.bytes)


def add(v: Vectors, source: Word, target: Word, n: Word) -> None:
    for i, part in v.parts(n):
        place = target + i * v.bytes
        part.store(part.load(place) + part.load(source + i * v.bytes), place)


def rectify(v: Vectors, target: Word, n: Word) -> None:
    """Replace the numbers of n vectors by their positive parts.

    LLVM, where it sees the address, stores the changed lanes by a mask:
    with AVX2 a relu took a fifth of the layer's time.
    """
    for i in v.range(n):
        place = target + i * v.bytes
        v.store(v.positive_part(v.opaque(v.load(place))), place)


def clear(v: Vectors, target: Word, n: Word) -> None:
    for i, part in v.parts(n):
        part.store(v.zero, target + i * v.bytes)


def pack_tiles(
    v: Vectors, source: Panels, target: Word, stride: Word, width: Word, n: Word
) -> None:
    """Copy n rows of panels to tiles of `SMALL_TILE_ROWS` rows, `stride` bytes apart,
    column by column: whole panels, and rows up to a whole tile.
    """
    rows = SMALL_TILE_ROWS
    woven = _woven(v)
    for t in v.range((n + (rows - 1)) // rows):
        for p in v.range(v.n_vectors(width)):
            place = source.address + p * source.stride + t * (rows * v.bytes)
            a, b, c, d = (v.load(place + r * v.bytes) for r in range(rows))
            pairs = v.shuffle(a, b, woven), v.shuffle(c, d, woven)
            down = target + t * stride + p * (rows * v.bytes)
            for i in range(rows):
                places = range(i * v.lanes, (i + 1) * v.lanes)
                chosen = [j // 4 * 2 + j % 2 + j % 4 // 2 * 2 * v.lanes for j in places]
                v.store(v.shuffle(*pairs, chosen), down + i * v.bytes)


def add_differences(v: Vectors, source: Word, n: Word, target: Word) -> None:
    """Add the x - x of n numbers to a vector:
    it stays 0 where they are finite, else it gets a NaN.

    Four vectors are added first, as each sum waits for the sum before.
    """
    total = v.variable(v.load(target))
    at_once = 4 * v.lanes
    for i in v.range(n // at_once):
        values = [v.load(source + i * (4 * v.bytes) + k * v.bytes) for k in range(4)]
        a, b, c, d = (value - value for value in values)
        total.value = total.value + ((a + b) + (c + d))
    rest = source + n // at_once * (4 * v.bytes)
    for i, part in v.parts(n % at_once):
        value = part.load(rest + i * v.bytes)
        total.value = total.value + (value - value)
    v.store(total.value, target)


def transpose(v: Vectors, source: Word, target: Word, n: Word) -> None:
    """Transpose a square; rows of the source from the n-th on count as zeros."""
    for r, column in enumerate(_transposed_square(v, source, n)):
        v.store(column, target + r * v.bytes)


def transpose_non_temporal(v: Vectors, source: Word, target: Word, n: Word) -> None:
    """Transpose by non-temporal stores, to memory that this core does not read soon;
    another core may read it after a `fence`.
    """
    for r, column in enumerate(_transposed_square(v, source, n)):
        v.store_non_temporal(column, target + r * v.bytes)


def _transposed_square(v: Vectors, source: Word, n: Word) -> list[Vector]:
    rows = [
        v.select(n > r, v.load(source + r * v.bytes), v.zero) for r in range(v.lanes)
    ]
    return v.transposed(rows)


def unpack_columns(
    v: Vectors, source: Word, stride: Word, target: Word, width: Word, n: Word
) -> None:
    """Copy n rows of panels to `width` columns of n numbers,
    one column after the other.

    Reads whole squares, and writes up to a vector past the last column. Rows are done
    from the last, columns from the first: numbers written past a column's end are
    overwritten.
    """
    square = v.lanes * v.bytes
    n_squares = v.n_vectors(n)
    for p in v.range(v.n_vectors(width)):
        for i in v.range(n_squares):
            last = n_squares - 1 - i
            place = source + p * stride + last * square
            rows = [v.load(place + r * v.bytes) for r in range(v.lanes)]
            down = target + last * v.bytes
            for c, column in enumerate(v.transposed(rows)):
                j = p * v.lanes + c
                v.when(j < width, partial(v.store, column, down + j * n * v.size))


def gather_columns(
    v: Vectors, source: Word, index: Word, target: Word, width: Word, n: Word
) -> None:
    """Copy the rows of `width` numbers at n places,
    int64, to columns, as `unpack_columns` does.
    """
    n_squares = v.n_vectors(n)
    for i in v.range(n_squares):
        last = n_squares - 1 - i
        places = [last * v.lanes + r for r in range(v.lanes)]
        rows = [
            v.word(index + v.choose(place < n, place, n - 1) * 8) for place in places
        ]
        for p, part in v.parts(width):
            down = p * v.bytes
            skip = target + last * v.bytes
            square = [part.load(source + row * (width * v.size) + down) for row in rows]
            for c, column in enumerate(v.transposed(square)):
                j = p * v.lanes + c
                v.when(j < width, partial(v.store, column, skip + j * n * v.size))


def pack_columns(
    v: Vectors, source: Word, target: Word, stride: Word, width: Word, n: Word
) -> None:
    """Copy `width` columns of n numbers to n rows of panels,
    padded with zeros; writes whole strips of rows.
    """
    square = v.lanes * v.bytes
    for p in v.range(v.n_vectors(width)):
        for i in v.range(v.n_vectors(n)):
            down = source + i * v.bytes
            columns = []
            for c in range(v.lanes):
                j = p * v.lanes + c
                place = v.choose(j < width, down + j * n * v.size, source)
                columns.append(v.select(j < width, v.load(place), v.zero))
            place = target + p * stride + i * square
            for r, row in enumerate(v.transposed(columns)):
                strip = i * v.lanes + r // STRIP_ROWS * STRIP_ROWS
                v.when(
                    strip < n, partial(v.store, row, place + r * v.bytes), likely=True
                )


def sum_rows(v: Vectors, matrix: Word, start: Word, target: Word, n: Word) -> None:
    """Store `start` plus the sum of n rows of a panel:
    sums of every eighth row, added in order.
    """
    sums = [v.variable(v.zero) for _ in range(SUM_CHAINS)]
    for i in v.range(n // SUM_CHAINS):
        rows = matrix + i * (SUM_CHAINS * v.bytes)
        for c, total in enumerate(sums):
            total.value = total.value + v.load(rows + c * v.bytes)
    rest = matrix + n // SUM_CHAINS * (SUM_CHAINS * v.bytes)
    for i in v.range(n % SUM_CHAINS):
        sums[0].value = sums[0].value + v.load(rest + i * v.bytes)
    value = v.load(start)
    for total in sums:
        value = value + total.value
    v.store(value, target)


def outer(
    v: Vectors, numbers: Word, stride: Word, vector: Word, target: Word, n: Word
) -> None:
    """Store the outer product of n numbers, a row of panels, with a vector: n rows of a
    panel, rounded up to `lanes`. Added to zero, as a product's sums are, so that -0
    becomes 0.
    """
    factor = v.load(vector)
    for p in v.range(v.n_vectors(n)):
        for r in range(v.lanes):
            number = v.broadcast(numbers + p * stride + r * v.size)
            place = target + p * (v.lanes * v.bytes) + r * v.bytes
            v.store(v.fma(number, factor, v.zero), place)


def add_rows(
    v: Vectors,
    target: Word,
    start: Word,
    matrix: MatrixRows,
    width: Word,
    sparse: SparseRow,
) -> None:
    """Store `start` plus the product of a sparse row with the first `width` columns of
    a matrix, at most `lanes`.
    """
    mask = v.first(width)
    total = v.variable(v.load(start))
    for place, factor in _each(v, sparse, matrix):
        total.value = v.fma(factor, v.load_masked(place, mask), total.value)
    v.store(total.value, target)


def add_wide_rows(
    v: Vectors, target: Panels, start: Panels, matrix: MatrixRows, sparse: SparseRow
) -> None:
    """Store `start` plus the product of a sparse row with `SPARSE_PANELS` vectors of
    each row of a matrix, to and from panels. The totals stay in registers.
    """
    totals = [
        v.variable(v.load(start.address + start.stride * c))
        for c in range(SPARSE_PANELS)
    ]
    for place, factor in _each(v, sparse, matrix):
        for c, total in enumerate(totals):
            total.value = v.fma(factor, v.load(place + c * v.bytes), total.value)
    for c, total in enumerate(totals):
        v.store(total.value, target.address + target.stride * c)


def _each(
    v: Vectors, sparse: SparseRow, matrix: MatrixRows
) -> Iterator[tuple[Word, Vector]]:
    """Yield, for each number of a sparse row,
    the address of the matrix's row, and the number in every lane.
    """
    for i in v.range(sparse.n):
        row = matrix.address + v.int32(sparse.columns + i * 4) * matrix.stride
        yield row, v.broadcast(sparse.values + i * v.size)


def pair_rows(
    v: Vectors, rows: Panels, along: Word, across: Word, width: Word, n: Word
) -> None:
    """Store pairs along, and pairs across, n rows of `width` numbers,
    from an even row on; padding is not read, and becomes zeros.
    """
    for p in v.range(v.n_vectors(width)):
        mask = v.first(width - p * v.lanes)
        source = rows.address + p * rows.stride
        skip = p * (rows.stride // 2)

        def number(place: Word, mask: object = mask) -> Vector:
            return v.select(mask, v.load(place), v.zero)

        def store(
            i: Word, second: Vector | None, skip: Word = skip, source: Word = source
        ) -> None:
            place = source + i * (2 * v.bytes)
            below = number(place + v.bytes) if second is None else second
            both = v.rounded(number(place), below)
            down = skip + i * v.bytes
            v.store(both, along + down)
            v.store(v.mixed(both, _woven(v)), across + down)

        for i in v.range(n // 2):
            store(i, None)
        v.when(v.equal(n % 2, 1), lambda: store(n // 2, v.zero))


def pack_pairs(
    v: Vectors, source: Word, n: Word, target: Word, stride: Word, width: Word
) -> None:
    """Store pairs across n contiguous rows of `width` numbers, two,
    or one and zeros, to a row of panels, padded with zeros.
    """
    for p, part in v.parts(width):
        place = source + p * v.bytes
        # One row is loaded twice: there may be nothing after it.
        below = v.select(
            n > 1, part.load(place + v.choose(n > 1, width * v.size, 0)), v.zero
        )
        both = v.rounded(part.load(place), below)
        v.store(v.mixed(both, _woven(v)), target + p * stride)


def _woven(v: Vectors) -> list[int]:
    """Two rows' numbers in turns: first, first, second, second, ..."""
    return [j // 2 + j % 2 * v.lanes for j in range(2 * v.lanes)]


def pair_square(
    v: Vectors, source: Word, across: Word, transposed: Word, n: Word
) -> None:
    """Store pairs across the rows of a square, and of its transpose unless that address
    is 0; rows of the source from the n-th on count as zeros.
    """
    _pair_square(v, source, across, transposed, n, v.store)


def pair_square_non_temporal(
    v: Vectors, source: Word, across: Word, transposed: Word, n: Word
) -> None:
    """By non-temporal stores: 19.3 -> 18.9 ms (128-1024-1024-10@512, 1 thread)."""
    _pair_square(v, source, across, transposed, n, v.store_non_temporal)


def _pair_square(
    v: Vectors,
    source: Word,
    across: Word,
    transposed: Word,
    n: Word,
    store: Callable[[Vector, Word], None],
) -> None:
    rows = [
        v.select(n > r, v.load(source + r * v.bytes), v.zero) for r in range(v.lanes)
    ]
    both = [v.rounded(a, b) for a, b in zip(rows[::2], rows[1::2], strict=True)]
    for i, vector in enumerate(both):
        store(v.mixed(vector, _woven(v)), across + i * v.bytes)

    def transpose() -> None:
        for j, column in enumerate(_transposed(v, both)):
            store(column, transposed + j * v.bytes)

    v.when(transposed > 0, transpose)


def _transposed(v: Vectors, both: list[Vector]) -> list[Vector]:
    """Each pair along the rows, of every row; each given vector has two rows."""
    half = v.lanes // 2
    order = [j // 2 + j % 2 * half for j in range(v.lanes)]
    return [v.shuffle(column, column, order) for column in v.transposed(both)]
