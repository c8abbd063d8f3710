"""Float32 numbers rounded to bfloat16, in pairs: what products of pairs read.

A pair takes the place of one float32, and its numbers follow each other along a sum. Pairs along
the rows of a matrix are neighbours in a row: a panel has half as many lanes of them. Pairs across
the rows are two rows of a column: a panel has half as many rows of them. Either form of a panel
takes half the bytes of the panel itself. An odd number's second half is zero.
"""

from collections.abc import Callable
from typing import NamedTuple

from fastmlp.backends.cpu.simd.vector import Panels, Scalar, Vector, Vectors, Word
from fastmlp.backends.cpu.simd.vector_function import VectorFunction, vector_function


class Pairs(NamedTuple):
    """Functions of addresses, for one scalar type and width of vectors: the loops below."""

    pair_rows: VectorFunction
    pair_square: VectorFunction
    pair_square_non_temporal: VectorFunction
    pack_pairs: VectorFunction


def pairs(scalar: Scalar, lanes: int) -> Pairs:
    """Return the functions for panels of so many lanes."""
    loops = (pair_rows, pair_square, pair_square_non_temporal, pack_pairs)
    return Pairs(*(vector_function(loop, scalar, lanes) for loop in loops))


def pair_rows(v: Vectors, rows: Panels, along: Word, across: Word, width: Word, n: Word) -> None:
    """Store pairs along, and pairs across, n rows of `width` numbers. The rows begin at an even
    one; padding is not read, and becomes zeros."""
    for p in v.range(v.n_vectors(width)):
        mask, source = v.first(width - p * v.lanes), rows.address + p * rows.stride
        skip = p * (rows.stride // 2)

        def number(place: Word, mask: object = mask) -> Vector:
            return v.select(mask, v.load(place), v.zero)

        def store(i: Word, second: Vector | None, skip: Word = skip, source: Word = source) -> None:
            place = source + i * (2 * v.bytes)
            below = number(place + v.bytes) if second is None else second
            both = v.rounded(number(place), below)
            down = skip + i * v.bytes
            v.store(both, along + down)
            v.store(v.mixed(both, _woven(v)), across + down)

        for i in v.range(n // 2):
            store(i, None)
        v.when(v.equal(n % 2, 1), lambda: store(n // 2, v.zero))


def pack_pairs(v: Vectors, source: Word, n: Word, target: Word, stride: Word, width: Word) -> None:
    """Store pairs across n contiguous rows of `width` numbers, two, or one and zeros, to a row of
    panels, and pad it with zeros."""
    for p, part in v.parts(width):
        place = source + p * v.bytes
        # Of one row both are loaded from the first: there may be nothing after it.
        below = v.select(n > 1, part.load(place + v.choose(n > 1, width * v.size, 0)), v.zero)
        both = v.rounded(part.load(place), below)
        v.store(v.mixed(both, _woven(v)), target + p * stride)


def _woven(v: Vectors) -> list[int]:
    """Return the places of two rows' numbers in turns: first, first, second, second, ..."""
    return [j // 2 + j % 2 * v.lanes for j in range(2 * v.lanes)]


def pair_square(v: Vectors, source: Word, across: Word, transposed: Word, n: Word) -> None:
    """Store pairs across the rows of a square block, and those of the block transposed unless its
    address is 0; rows of the source from the n-th on count as zeros."""
    _pair_square(v, source, across, transposed, n, v.store)


def pair_square_non_temporal(
    v: Vectors, source: Word, across: Word, transposed: Word, n: Word
) -> None:
    """Do the same by non-temporal stores: 19.3 -> 18.9 ms (128-1024-1024-10@512, 1 thread)."""
    _pair_square(v, source, across, transposed, n, v.store_non_temporal)


def _pair_square(
    v: Vectors, source: Word, across: Word, transposed: Word, n: Word,
    store: Callable[[Vector, Word], None],
) -> None:  # fmt: skip
    rows = [v.select(n > r, v.load(source + r * v.bytes), v.zero) for r in range(v.lanes)]
    both = [v.rounded(a, b) for a, b in zip(rows[::2], rows[1::2], strict=True)]
    for i, each in enumerate(both):
        store(v.mixed(each, _woven(v)), across + i * v.bytes)

    def transpose() -> None:
        for j, column in enumerate(_transposed(v, both)):
            store(column, transposed + j * v.bytes)

    v.when(transposed > 0, transpose)


def _transposed(v: Vectors, both: list[Vector]) -> list[Vector]:
    """Return, for each pair along the rows, that of every row; each vector given has two rows."""
    half = v.lanes // 2
    order = [j // 2 + j % 2 * half for j in range(v.lanes)]
    return [v.shuffle(column, column, order) for column in v.transposed(both)]
