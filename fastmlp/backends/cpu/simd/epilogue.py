"""Epilogues: the operations of a matrix product on its sums before it stores them."""

from collections.abc import Callable
from typing import NamedTuple

from fastmlp.backends.cpu.simd.vector import Vector, Vectors, Word

STORE, RELU, TIMES, WHERE_POSITIVE, PLUS, RELU_PLUS = range(6)
# Products by column have fewer: each epilogue is code in every shape of tile.
BY_COLUMN = (STORE, TIMES, WHERE_POSITIVE)


class Epilogue(NamedTuple):
    """One of the numbers above, and the address of its operand, which lies like the result."""

    number: Word
    operand: Word


def finished(v: Vectors, number: int, value: Vector, operand: Callable[[], Vector]) -> Vector:
    """Return an epilogue's result for a vector of sums; loads the operand if it needs it."""
    if number == TIMES:
        return value * operand()
    if number == WHERE_POSITIVE:
        return v.select(operand() > v.zero, value, v.zero)
    if number in (PLUS, RELU_PLUS):
        value = value + operand()
    return v.positive_part(value) if number in (RELU, RELU_PLUS) else value


def finished_delta(v: Vectors, number: Word, delta: Vector, operand: Vector) -> Vector:
    """Return an epilogue's result for deltas; `number` is STORE, TIMES or WHERE_POSITIVE."""
    kept = finished(v, WHERE_POSITIVE, delta, lambda: operand)
    value = v.select(v.equal(number, WHERE_POSITIVE), kept, delta)
    product = finished(v, TIMES, delta, lambda: operand)
    return v.select(v.equal(number, TIMES), product, value)
