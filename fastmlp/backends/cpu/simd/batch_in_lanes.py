"""Products of rows that stand upright, written as LLVM IR: a vector holds one unit of many rows.

A block has `vectors` x `lanes` rows, and is `width` times `vectors` vectors: unit by unit. A weight
then goes to all lanes from where it lies in the flat parameters, which nobody packs; a layer of two
outputs takes two rows of a tile, where panels of outputs would fill up a vector. Every element is
one chain of fused multiply-adds in the order of k: the bits of the panels' products.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from fastmlp.backends.cpu.simd.builder import Vectors
from fastmlp.backends.cpu.simd.pack import transposed
from fastmlp.backends.cpu.simd.target import lanes_of
from fastmlp.compiler import INTERPRETED, row
from fastmlp.compiler.memory import entry_alloca

Loop = Callable[..., None]
Scalar = type[np.floating[Any]]


class Upright(NamedTuple):
    """Functions of addresses, for blocks whose units are `unit` bytes apart.

    Attributes
    ----------
    stand : ``stand(source, width, first, last, target, unit, check)``
        `lanes` rows of `width` contiguous numbers from row `first` on, row `last` again past it, to
        a vector of each unit; up to a vector of further units gets zeros. A vector of checks stays
        0 as long as all numbers are finite.
    lie : ``lie(source, width, first, last, target, unit, check)``
        The way back, from such vectors to rows first to last, and no more than `lanes` of them.
    """

    stand: Loop
    lie: Loop


def upright(scalar: Scalar) -> Upright:
    """Return the ways into blocks and out of them."""
    if INTERPRETED:
        return _interpreted(scalar)
    return Upright(_move(_emit_stand, scalar), _move(_emit_lie, scalar))


def tile(scalar: Scalar, vectors: int, units: int) -> Loop:
    """Return the product of a block with the weights of so many units next to each other.

    ``tile(outputs, biases, weights, n_out, inputs, n_in, positive)`` takes addresses and sizes of
    the layer, and whether the positive part is stored.
    """
    if INTERPRETED:
        return _interpreted_tile(scalar, vectors, units)
    return _compiled_tile(scalar, vectors, units)


def _vectors(builder: Any, scalar: Scalar) -> Vectors:
    return Vectors(builder, lanes_of(scalar), np.dtype(scalar).itemsize)


def _compiled_tile(scalar: Scalar, vectors: int, units: int) -> Loop:
    @intrinsic
    def multiply(
        typing_context: Any, outputs: Any, biases: Any, weights: Any, n_out: Any, inputs: Any,
        n_in: Any, positive: Any,
    ) -> Any:  # fmt: skip
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            _emit_tile(_vectors(builder, scalar), vectors, units, *arguments)
            return context.get_dummy_value()

        return types.void(*[types.intp] * 7), generate

    return multiply


def _emit_tile(
    v: Vectors, vectors: int, units: int, outputs: Any, biases: Any, weights: Any, n_out: Any,
    inputs: Any, n_in: Any, positive: Any,
) -> None:  # fmt: skip
    builder = v.builder
    # One alloca each: they become registers.
    sums = [[entry_alloca(builder, v.kind) for _ in range(vectors)] for _ in range(units)]
    for j, row_of_sums in enumerate(sums):
        bias = v.everywhere(biases, j * v.size)
        for total in row_of_sums:
            builder.store(bias, total)
    stride = builder.mul(n_out, v.number(v.size))
    with cgutils.for_range(builder, n_in) as loop:
        unit = builder.add(inputs, builder.mul(loop.index, v.number(vectors * v.bytes)))
        of_rows = [v.load(unit, i * v.bytes) for i in range(vectors)]
        place = builder.add(weights, builder.mul(loop.index, stride))
        for j, row_of_sums in enumerate(sums):
            weight = v.everywhere(place, j * v.size)
            for total, numbers in zip(row_of_sums, of_rows, strict=True):
                builder.store(v.fma(weight, numbers, builder.load(total)), total)
    cuts = builder.icmp_unsigned("!=", positive, v.number(0))
    for j, row_of_sums in enumerate(sums):
        for i, total in enumerate(row_of_sums):
            value = builder.load(total)
            # NaN stays NaN.
            below = builder.fcmp_ordered("<", value, v.zero)
            part = builder.select(below, v.zero, value)
            v.store(builder.select(cuts, part, value), outputs, (j * vectors + i) * v.bytes)


def _move(emit: Callable[..., None], scalar: Scalar) -> Loop:
    @intrinsic
    def move(
        typing_context: Any, source: Any, width: Any, first: Any, last: Any, target: Any, unit: Any,
        check: Any,
    ) -> Any:  # fmt: skip
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            emit(_vectors(builder, scalar), *arguments)
            return context.get_dummy_value()

        return types.void(*[types.intp] * 7), generate

    return move


def _check(v: Vectors, values: list[Any], check: Any) -> None:
    """Add zero times the values: NaN, if one is not finite."""
    total = v.load(check)
    for value in values:
        total = v.fma(value, v.zero, total)
    v.store(total, check)


def _emit_stand(
    v: Vectors, source: Any, width: Any, first: Any, last: Any, target: Any, unit: Any, check: Any
) -> None:
    builder, lanes = v.builder, v.number(v.lanes)
    row_bytes = builder.mul(width, v.number(v.size))
    places = []
    for r in range(v.lanes):
        at = builder.add(first, v.number(r))
        at = builder.select(builder.icmp_signed("<", at, last), at, last)
        places.append(builder.add(source, builder.mul(at, row_bytes)))
    n_parts = builder.udiv(builder.add(width, v.number(v.lanes - 1)), lanes)
    with cgutils.for_range(builder, n_parts) as parts:
        begin = builder.mul(parts.index, lanes)
        mask = v.first(builder.sub(width, begin))
        skip = builder.mul(begin, v.number(v.size))
        columns = transposed(v, [v.masked_load(builder.add(one, skip), mask) for one in places])
        _check(v, columns, check)
        down = builder.add(target, builder.mul(begin, unit))
        for k, column in enumerate(columns):
            v.store(column, builder.add(down, builder.mul(unit, v.number(k))))


def _emit_lie(
    v: Vectors, source: Any, width: Any, first: Any, last: Any, target: Any, unit: Any, check: Any
) -> None:
    builder, lanes = v.builder, v.number(v.lanes)
    row_bytes = builder.mul(width, v.number(v.size))
    n_parts = builder.udiv(builder.add(width, v.number(v.lanes - 1)), lanes)
    with cgutils.for_range(builder, n_parts) as parts:
        begin = builder.mul(parts.index, lanes)
        left = builder.sub(width, begin)
        up = builder.add(source, builder.mul(begin, unit))
        columns = []
        for j in range(v.lanes):
            # Past the last unit its values again: what they make is not stored.
            there = builder.icmp_unsigned("<", v.number(j), left)
            skip = builder.select(there, builder.mul(unit, v.number(j)), v.number(0))
            columns.append(v.load(builder.add(up, skip)))
        _check(v, columns, check)
        mask = v.first(left)
        place = builder.add(target, builder.mul(begin, v.number(v.size)))
        for r, numbers in enumerate(transposed(v, columns)):
            at = builder.add(first, v.number(r))
            with builder.if_then(builder.icmp_signed("<=", at, last), likely=True):
                v.masked_store(numbers, builder.add(place, builder.mul(at, row_bytes)), mask)


def _block(address: int, n_units: int, scalar: Scalar, vectors: int) -> Any:
    lanes = lanes_of(scalar)
    return row(address, n_units * vectors * lanes, scalar).reshape(n_units, vectors * lanes)


def _interpreted_tile(scalar: Scalar, vectors: int, units: int) -> Loop:
    def multiply(
        outputs: int, biases: int, weights: int, n_out: int, inputs: int, n_in: int, positive: int
    ) -> None:
        x = _block(inputs, n_in, scalar, vectors)
        w = row(weights, (n_in - 1) * n_out + units, scalar)
        values = np.repeat(row(biases, units, scalar)[:, None], x.shape[1], axis=1)
        for k in range(n_in):
            values += w[k * n_out :][:units, None] * x[k]
        if positive:
            values = np.where(values < 0, scalar(0), values)
        _block(outputs, units, scalar, vectors)[:] = values

    return multiply


def _interpreted(scalar: Scalar) -> Upright:
    lanes, size = lanes_of(scalar), np.dtype(scalar).itemsize

    def note(values: Any, check: int) -> None:
        row(check, lanes, scalar)[0] += (values * scalar(0)).sum()

    def stand(
        source: int, width: int, first: int, last: int, target: int, unit: int, check: int
    ) -> None:
        rows = row(source, (last + 1) * width, scalar).reshape(last + 1, width)
        rows = rows[np.minimum(np.arange(first, first + lanes), last)]
        for k in range(-(-width // lanes) * lanes):
            row(target + k * unit, lanes, scalar)[:] = rows[:, k] if k < width else 0
        note(rows, check)

    def lie(
        source: int, width: int, first: int, last: int, target: int, unit: int, check: int
    ) -> None:
        n = min(lanes, last + 1 - first)
        for j in range(width):
            numbers = row(source + j * unit, lanes, scalar)
            note(numbers, check)
            for r in range(n):
                row(target + ((first + r) * width + j) * size, 1, scalar)[0] = numbers[r]

    return Upright(stand, lie)
