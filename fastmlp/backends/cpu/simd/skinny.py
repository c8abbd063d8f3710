"""A last layer of few outputs, forth and along its errors: vectors along the inputs, and the rows.

As a product of panels, one output is a panel of 16 of which 15 are padding: 0.27 of the 3.7 us of a
step of 8-32-32-1 at 32, where its dot products take 0.05, and come out in columns, as the loss
wants them. Its errors lie as panels of D transposed: a vector of `lanes` rows for each output.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir
from numba.core import cgutils

from fastmlp.backends.cpu.plan.workspace import STRIP_ROWS
from fastmlp.backends.cpu.simd.builder import LANE, Vectors
from fastmlp.backends.cpu.simd.microkernel import TIMES, WHERE_POSITIVE
from fastmlp.backends.cpu.simd.pack import compiled_move
from fastmlp.compiler import INTERPRETED, row
from fastmlp.compiler.memory import entry_alloca


class Outputs(NamedTuple):
    """Functions of addresses, for one scalar type and width of vectors.

    Attributes
    ----------
    dots : ``dots(inputs, panel, weights, biases, target, n_in, n_out, n)``
        X W + b of n rows of panels, in columns: one output's n numbers after the other's. The
        weights are panels of W transposed. Each element is the sums of every `lanes`-th product,
        added up by halves. Reads whole squares of rows, and writes up to a vector past the last
        column; padding is not read.
    back_dots : ``back_dots(weights, weight_panel, errors, target, operand, panel, epilogue, \
        n_out, n)``
        W e, of one row's errors e, in a row of panels, by way of an epilogue as a product's, for n
        rows of panels of W: what a layer that has no copy of W transposed sends down. Reads whole
        squares of W.
    add_row : ``add_row(numbers, panel, start, target, n)``
        `start`, one number, plus the sum of n numbers of a row of panels, by vectors.
    """

    dots: Callable[..., None]
    back_dots: Callable[..., None]
    add_row: Callable[..., None]


def outputs(scalar: type[np.floating[Any]], lanes: int) -> Outputs:
    """Return them for panels of so many lanes."""
    if INTERPRETED:
        return _interpreted(scalar, lanes)
    size = np.dtype(scalar).itemsize
    return Outputs(
        dots=compiled_move(_emit_dots, 8, lanes, size),
        back_dots=compiled_move(_emit_back_dots, 9, lanes, size),
        add_row=compiled_move(_emit_add_row, 5, lanes, size),
    )


def error_unit(lanes: int) -> int:
    """Return how many rows' errors lie together, and belong to one strip."""
    return min(lanes, STRIP_ROWS)


def _summed(v: Vectors, rows: list[Any]) -> Any:
    """The sum of the lanes of each of `lanes` vectors: halves, quarters, ... of pairs added."""
    builder, lanes = v.builder, v.lanes

    def shuffled(a: Any, b: Any, order: list[int]) -> Any:
        return builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(LANE, lanes), order))

    half = lanes // 2
    while half:
        low = [j if not j & half else lanes + j - half for j in range(lanes)]
        high = [j + half if not j & half else lanes + j for j in range(lanes)]
        pairs = zip(rows[:half], rows[half:], strict=True)
        rows = [builder.fadd(shuffled(a, b, low), shuffled(a, b, high)) for a, b in pairs]
        half //= 2
    return rows[0]


def _each_sum(
    v: Vectors, matrix: Any, panel: Any, vector: Any, vector_panel: Any, depth: Any, n: Any,
    use: Callable[[Any, Any], None],
) -> None:  # fmt: skip
    """The sums of the products of n rows of panels and a row of panels: `lanes` in a vector, which
    are used with their number."""
    builder = v.builder
    whole, rest = v.parts(depth)
    there = v.first(rest)
    sums = [entry_alloca(builder, v.kind) for _ in range(v.lanes)]

    def add_products(place: Any, p: Any, load: Callable[[Any], Any]) -> None:
        w = load(builder.add(vector, builder.mul(p, vector_panel)))
        across = builder.add(place, builder.mul(p, panel))
        for r, total in enumerate(sums):
            x = load(builder.add(across, v.number(r * v.bytes)))
            builder.store(v.fma(x, w, builder.load(total)), total)

    with cgutils.for_range(builder, v.ceil(n)) as squares:
        for total in sums:
            builder.store(v.zero, total)
        place = builder.add(matrix, builder.mul(squares.index, v.number(v.lanes * v.bytes)))
        with cgutils.for_range(builder, whole) as loop:
            add_products(place, loop.index, v.load)
        with builder.if_then(builder.icmp_unsigned(">", rest, v.number(0))):
            add_products(place, whole, lambda at: v.masked_load(at, there))
        use(_summed(v, [builder.load(one) for one in sums]), squares.index)


def _emit_dots(
    v: Vectors, inputs: Any, panel: Any, weights: Any, biases: Any, target: Any, n_in: Any,
    n_out: Any, n: Any,
) -> None:  # fmt: skip
    """A column after the other: what is written past the end of one is written over."""
    builder, vector, size = v.builder, v.number(v.bytes), v.number(v.size)
    weight_panel = builder.mul(n_out, vector)
    with cgutils.for_range(builder, n_out) as columns:
        j = columns.index
        w = builder.add(weights, builder.mul(j, vector))
        bias = v.everywhere(builder.add(biases, builder.mul(j, size)), 0)
        column = builder.add(target, builder.mul(builder.mul(j, n), size))

        def use(sums: Any, i: Any) -> None:
            v.store(builder.fadd(sums, bias), builder.add(column, builder.mul(i, vector)))

        _each_sum(v, inputs, panel, w, weight_panel, n_in, n, use)


def _emit_back_dots(
    v: Vectors, weights: Any, weight_panel: Any, errors: Any, target: Any, operand: Any, panel: Any,
    epilogue: Any, n_out: Any, n: Any,
) -> None:  # fmt: skip
    builder = v.builder

    def use(sums: Any, i: Any) -> None:
        across = builder.mul(i, panel)
        # Padding of errors stays zero.
        there = v.first(builder.sub(n, builder.mul(i, v.number(v.lanes))))
        sums = builder.select(there, sums, v.zero)
        factor = v.load(builder.add(operand, across))
        v.store(sent_down(v, sums, factor, epilogue), builder.add(target, across))

    _each_sum(v, weights, weight_panel, errors, panel, n_out, n, use)


def sent_down(v: Vectors, sums: Any, factor: Any, epilogue: Any) -> Any:
    """What an epilogue makes of a vector of errors, by the slopes or the outputs of a layer."""
    builder = v.builder
    times = builder.icmp_unsigned("==", epilogue, v.number(TIMES))
    where = builder.icmp_unsigned("==", epilogue, v.number(WHERE_POSITIVE))
    kept = builder.select(builder.fcmp_ordered(">", factor, v.zero), sums, v.zero)
    value = builder.select(where, kept, sums)
    return builder.select(times, builder.fmul(sums, factor), value)


def _emit_add_row(v: Vectors, numbers: Any, panel: Any, start: Any, target: Any, n: Any) -> None:
    builder, total = v.builder, entry_alloca(v.builder, v.kind)
    builder.store(v.zero, total)
    whole, rest = v.parts(n)
    with cgutils.for_range(builder, whole) as loop:
        one = v.load(builder.add(numbers, builder.mul(loop.index, panel)))
        builder.store(builder.fadd(builder.load(total), one), total)
    last = v.masked_load(builder.add(numbers, builder.mul(whole, panel)), v.first(rest))
    value = v.summed(builder.fadd(builder.load(total), last))
    one = v.first(v.number(1))
    v.masked_store(builder.fadd(value, v.masked_load(start, one)), target, one)


def _interpreted(scalar: type[np.floating[Any]], lanes: int) -> Outputs:
    size = np.dtype(scalar).itemsize

    def dots(
        inputs: int, panel: int, weights: int, biases: int, target: int, n_in: int, n_out: int,
        n: int,
    ) -> None:  # fmt: skip
        columns = row(target, n * n_out, scalar).reshape(n_out, n)
        columns[:] = row(biases, n_out, scalar)[:, None]
        for k in range(n_in):
            p, lane = k // lanes, k % lanes
            numbers = row(inputs + p * panel, n * lanes, scalar)[lane::lanes]
            w = row(weights + p * n_out * lanes * size, n_out * lanes, scalar)[lane::lanes]
            columns += w[:, None] * numbers

    def back_dots(
        weights: int, weight_panel: int, errors: int, target: int, operand: int, panel: int,
        epilogue: int, n_out: int, n: int,
    ) -> None:  # fmt: skip
        sums = np.zeros(-(-n // lanes) * lanes, scalar)
        for j in range(n_out):
            p, lane = j // lanes, j % lanes
            column = row(weights + p * weight_panel, n * lanes, scalar)[lane::lanes]
            sums[:n] += column * row(errors + p * panel, lanes, scalar)[lane]
        for p, value in enumerate(sums.reshape(-1, lanes)):
            factor = row(operand + p * panel, lanes, scalar)
            if epilogue == TIMES:
                value = value * factor
            elif epilogue == WHERE_POSITIVE:
                value = np.where(factor > 0, value, 0)
            row(target + p * panel, lanes, scalar)[:] = value

    def add_row(numbers: int, panel: int, start: int, target: int, n: int) -> None:
        total = row(start, 1, scalar)[0]
        for r in range(n):
            total += row(numbers + r // lanes * panel, lanes, scalar)[r % lanes]
        row(target, 1, scalar)[0] = total

    return Outputs(dots, back_dots, add_row)
