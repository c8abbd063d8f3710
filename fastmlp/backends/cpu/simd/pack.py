"""Moves of whole vectors, written as LLVM IR: rows into panels and back, squares, column sums.

Each has a Python body, so kernels run uncompiled too. Loops of a few numbers cost 10 ns a row
where LLVM could not know how few they are; a masked vector costs one.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from fastmlp.backends.cpu.plan.workspace import STRIP_ROWS
from fastmlp.backends.cpu.simd.builder import LANE, WORD, Vectors
from fastmlp.backends.cpu.simd.pack_numpy import CHAINS, WIDE, Move, plain_moves
from fastmlp.compiler import INTERPRETED
from fastmlp.compiler.memory import entry_alloca


class Moves(NamedTuple):
    """Functions of addresses, for one scalar type and width of vectors.

    Attributes
    ----------
    spread : ``spread(source, target, panel, width)``
        One contiguous row of `width` numbers to a row of panels, filled up with zeros.
    collect : ``collect(source, panel, target, width)``
        The way back.
    transpose : ``transpose(source, target, n)``
        One square block; rows of the source from the n-th on count as zeros.
    transpose_past : ``transpose_past(source, target, n)``
        The same, past the caches, to memory that this core does not read soon: a `fence` comes
        before another may read it.
    sum_rows : ``sum_rows(matrix, start, target, n)``
        `start` plus the sum of n rows of a panel. Eight sums of every eighth row, added up in
        order: one chain of additions would wait four cycles for each.
    outer : ``outer(numbers, panel, vector, target, n)``
        n numbers of a row of panels, times a vector: n rows of a panel, and up to a whole panel's.
    columns_of : ``columns_of(source, panel, target, width, n)``
        n rows of panels to `width` columns of n numbers, one column after the other. Reads whole
        squares, and writes up to a vector past the last column.
    rows_of : ``rows_of(source, target, panel, width, n)``
        The way back, filled up with zeros; writes whole strips of rows.
    add_rows : ``add_rows(target, start, matrix, stride, width, places, factors, n)``
        `start` plus n rows of a matrix, each times a factor: the first `width` lanes of those at
        `places`, int32, that begin `stride` bytes apart.
    add_wide_rows : ``add_wide_rows(target, panel, start, start_panel, matrix, stride, places, \
        factors, n)``
        The same for `WIDE` whole vectors of each row, to and from panels.
    """

    spread: Move
    collect: Move
    transpose: Move
    transpose_past: Move
    sum_rows: Move
    outer: Move
    columns_of: Move
    rows_of: Move
    add_rows: Move
    add_wide_rows: Move


def moves(scalar: type[np.floating[Any]], lanes: int) -> Moves:
    """Return the moves of panels of so many lanes."""
    if INTERPRETED:
        return Moves(*plain_moves(scalar, lanes))
    size = np.dtype(scalar).itemsize
    return Moves(
        spread=compiled_move(_emit_spread, 4, lanes, size),
        collect=compiled_move(_emit_collect, 4, lanes, size),
        transpose=compiled_move(_emit_transpose, 3, lanes, size),
        transpose_past=compiled_move(_emit_transpose_past, 3, lanes, size),
        sum_rows=compiled_move(_emit_sum_rows, 4, lanes, size),
        outer=compiled_move(_emit_outer, 5, lanes, size),
        columns_of=compiled_move(_emit_columns_of, 5, lanes, size),
        rows_of=compiled_move(_emit_rows_of, 5, lanes, size),
        add_rows=compiled_move(_emit_add_rows, 8, lanes, size),
        add_wide_rows=compiled_move(_emit_add_wide_rows, 9, lanes, size),
    )


def compiled_move(emit: Callable[..., None], n: int, lanes: int, size: int) -> Move:
    """Return a function of n addresses and counts that is emitted by vectors."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        emit(Vectors(builder, lanes, size), *arguments)
        return context.get_dummy_value()

    signature = types.void(*[types.intp] * n)

    @intrinsic
    def of_three(typing_context: Any, a: Any, b: Any, c: Any) -> Any:
        return signature, generate

    @intrinsic
    def of_four(typing_context: Any, a: Any, b: Any, c: Any, d: Any) -> Any:
        return signature, generate

    @intrinsic
    def of_five(typing_context: Any, a: Any, b: Any, c: Any, d: Any, e: Any) -> Any:
        return signature, generate

    @intrinsic
    def of_seven(
        typing_context: Any, a: Any, b: Any, c: Any, d: Any, e: Any, f: Any, g: Any
    ) -> Any:
        return signature, generate

    @intrinsic
    def of_eight(
        typing_context: Any, a: Any, b: Any, c: Any, d: Any, e: Any, f: Any, g: Any, h: Any
    ) -> Any:
        return signature, generate

    @intrinsic
    def of_nine(
        typing_context: Any,
        a: Any, b: Any, c: Any, d: Any, e: Any, f: Any, g: Any, h: Any, i: Any,
    ) -> Any:  # fmt: skip
        return signature, generate

    return {3: of_three, 4: of_four, 5: of_five, 7: of_seven, 8: of_eight, 9: of_nine}[n]


def _emit_spread(v: Vectors, source: Any, target: Any, panel: Any, width: Any) -> None:
    builder = v.builder
    whole, rest = v.parts(width)
    with cgutils.for_range(builder, whole) as loop:
        numbers = v.load(builder.add(source, builder.mul(loop.index, v.number(v.bytes))))
        v.store(numbers, builder.add(target, builder.mul(loop.index, panel)))
    with builder.if_then(builder.icmp_unsigned(">", rest, v.number(0)), likely=True):
        last = builder.add(source, builder.mul(whole, v.number(v.bytes)))
        place = builder.add(target, builder.mul(whole, panel))
        v.store(v.masked_load(last, v.first(rest)), place)


def _emit_collect(v: Vectors, source: Any, panel: Any, target: Any, width: Any) -> None:
    builder = v.builder
    whole, rest = v.parts(width)
    with cgutils.for_range(builder, whole) as loop:
        numbers = v.load(builder.add(source, builder.mul(loop.index, panel)))
        v.store(numbers, builder.add(target, builder.mul(loop.index, v.number(v.bytes))))
    with builder.if_then(builder.icmp_unsigned(">", rest, v.number(0)), likely=True):
        numbers = v.load(builder.add(source, builder.mul(whole, panel)))
        last = builder.add(target, builder.mul(whole, v.number(v.bytes)))
        v.masked_store(numbers, last, v.first(rest))


def transposed(v: Vectors, rows: list[Any]) -> list[Any]:
    """Swap halves, quarters, ... of pairs of rows: log2(lanes) rounds of shuffles."""
    builder, lanes, rows = v.builder, v.lanes, list(rows)

    def shuffled(a: Any, b: Any, order: list[int]) -> Any:
        return builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(LANE, lanes), order))

    half = lanes // 2
    while half:
        low = [j if not j & half else lanes + j - half for j in range(lanes)]
        high = [j + half if not j & half else lanes + j for j in range(lanes)]
        for r in range(lanes):
            if not r & half:
                a, b = rows[r], rows[r + half]
                rows[r], rows[r + half] = shuffled(a, b, low), shuffled(a, b, high)
        half //= 2
    return rows


def _emit_transpose(v: Vectors, source: Any, target: Any, n: Any) -> None:
    for r, column in enumerate(_columns_of_square(v, source, n)):
        v.store(column, target, r * v.bytes)


def _emit_transpose_past(v: Vectors, source: Any, target: Any, n: Any) -> None:
    for r, column in enumerate(_columns_of_square(v, source, n)):
        v.stream(column, target, r * v.bytes)


def _columns_of_square(v: Vectors, source: Any, n: Any) -> list[Any]:
    builder, rows = v.builder, []
    for r in range(v.lanes):
        there = builder.icmp_signed("<", v.number(r), n)
        rows.append(builder.select(there, v.load(source, r * v.bytes), v.zero))
    return transposed(v, rows)


def _emit_columns_of(v: Vectors, source: Any, panel: Any, target: Any, width: Any, n: Any) -> None:
    """The last rows first, the first columns first: what is written past a column's end is written
    over."""
    builder, square = v.builder, v.number(v.lanes * v.bytes)
    n_squares = v.ceil(n)
    with cgutils.for_range(builder, v.ceil(width)) as panels:
        first = builder.mul(panels.index, v.number(v.lanes))
        rows_of_panel = builder.add(source, builder.mul(panels.index, panel))
        with cgutils.for_range(builder, n_squares) as squares:
            last = builder.sub(builder.sub(n_squares, v.number(1)), squares.index)
            place = builder.add(rows_of_panel, builder.mul(last, square))
            columns = transposed(v, [v.load(place, r * v.bytes) for r in range(v.lanes)])
            down = builder.add(target, builder.mul(last, v.number(v.bytes)))
            for c, column in enumerate(columns):
                j = builder.add(first, v.number(c))
                with builder.if_then(builder.icmp_unsigned("<", j, width)):
                    across = builder.mul(builder.mul(j, n), v.number(v.size))
                    v.store(column, builder.add(down, across))


def _emit_rows_of(v: Vectors, source: Any, target: Any, panel: Any, width: Any, n: Any) -> None:
    builder, square = v.builder, v.number(v.lanes * v.bytes)
    with cgutils.for_range(builder, v.ceil(width)) as panels:
        first = builder.mul(panels.index, v.number(v.lanes))
        rows_of_panel = builder.add(target, builder.mul(panels.index, panel))
        with cgutils.for_range(builder, v.ceil(n)) as squares:
            down = builder.add(source, builder.mul(squares.index, v.number(v.bytes)))
            columns = []
            for c in range(v.lanes):
                j = builder.add(first, v.number(c))
                there = builder.icmp_unsigned("<", j, width)
                across = builder.mul(builder.mul(j, n), v.number(v.size))
                place = builder.select(there, builder.add(down, across), source)
                columns.append(builder.select(there, v.load(place), v.zero))
            place = builder.add(rows_of_panel, builder.mul(squares.index, square))
            begin = builder.mul(squares.index, v.number(v.lanes))
            for r, numbers in enumerate(transposed(v, columns)):
                strip = builder.add(begin, v.number(r // STRIP_ROWS * STRIP_ROWS))
                with builder.if_then(builder.icmp_unsigned("<", strip, n), likely=True):
                    v.store(numbers, place, r * v.bytes)


def _emit_sum_rows(v: Vectors, matrix: Any, start: Any, target: Any, n: Any) -> None:
    builder, chains = v.builder, v.number(CHAINS)
    sums = [entry_alloca(builder, v.kind) for _ in range(CHAINS)]
    for total in sums:
        builder.store(v.zero, total)

    def add_row(total: Any, address: Any, offset: int) -> None:
        builder.store(builder.fadd(builder.load(total), v.load(address, offset)), total)

    whole = builder.udiv(n, chains)
    step = v.number(CHAINS * v.bytes)
    with cgutils.for_range(builder, whole) as loop:
        place = builder.add(matrix, builder.mul(loop.index, step))
        for c, total in enumerate(sums):
            add_row(total, place, c * v.bytes)
    place = builder.add(matrix, builder.mul(whole, step))
    with cgutils.for_range(builder, builder.urem(n, chains)) as loop:
        add_row(sums[0], builder.add(place, builder.mul(loop.index, v.number(v.bytes))), 0)
    value = v.load(start)
    for total in sums:
        value = builder.fadd(value, builder.load(total))
    v.store(value, target)


def _emit_outer(v: Vectors, numbers: Any, panel: Any, vector: Any, target: Any, n: Any) -> None:
    """Added to zero as a product's sums are: -0 becomes 0 there too."""
    builder, factor = v.builder, v.load(vector)
    last = builder.udiv(builder.sub(n, v.number(1)), v.number(v.lanes))
    with cgutils.for_range(builder, builder.add(last, v.number(1))) as loop:
        source = builder.add(numbers, builder.mul(loop.index, panel))
        square = builder.mul(loop.index, v.number(v.lanes * v.bytes))
        place = builder.add(target, square)
        for r in range(v.lanes):
            product = v.fma(v.everywhere(source, r * v.size), factor, v.zero)
            v.store(product, place, r * v.bytes)


def _emit_add_rows(
    v: Vectors,
    target: Any,
    start: Any,
    matrix: Any,
    stride: Any,
    width: Any,
    places: Any,
    factors: Any,
    n: Any,
) -> None:
    builder, mask, total = v.builder, v.first(width), entry_alloca(v.builder, v.kind)
    builder.store(v.load(start), total)
    with _each_row(v, matrix, stride, places, factors, n) as (place, factor):
        builder.store(v.fma(factor, v.masked_load(place, mask), builder.load(total)), total)
    v.store(builder.load(total), target)


def _emit_add_wide_rows(
    v: Vectors,
    target: Any,
    panel: Any,
    start: Any,
    start_panel: Any,
    matrix: Any,
    stride: Any,
    places: Any,
    factors: Any,
    n: Any,
) -> None:
    """The totals stay in registers, and a row's numbers come one after the other."""
    builder, totals = v.builder, [entry_alloca(v.builder, v.kind) for _ in range(WIDE)]
    for c, total in enumerate(totals):
        builder.store(v.load(builder.add(start, builder.mul(start_panel, v.number(c)))), total)
    with _each_row(v, matrix, stride, places, factors, n) as (place, factor):
        for c, total in enumerate(totals):
            numbers = v.load(place, c * v.bytes)
            builder.store(v.fma(factor, numbers, builder.load(total)), total)
    for c, total in enumerate(totals):
        v.store(builder.load(total), builder.add(target, builder.mul(panel, v.number(c))))


@contextmanager
def _each_row(
    v: Vectors, matrix: Any, stride: Any, places: Any, factors: Any, n: Any
) -> Iterator[tuple[Any, Any]]:
    """A loop over n rows: where each begins, and its factor in every lane."""
    builder = v.builder

    def number(kind: Any, address: Any, i: Any, size: int) -> Any:
        place = builder.add(address, builder.mul(i, v.number(size)))
        return builder.load(builder.inttoptr(place, kind.as_pointer()))

    with cgutils.for_range(builder, n) as loop:
        place = builder.sext(number(LANE, places, loop.index, 4), WORD)
        factor = v.splat(number(v.kind.element, factors, loop.index, v.size))
        yield builder.add(matrix, builder.mul(place, stride)), factor
