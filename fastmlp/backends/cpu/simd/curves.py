"""Vector loops of the derivative pass:
rows of one panel of numbers, slopes and curvatures.
"""

from typing import NamedTuple

from fastmlp.backends.cpu.simd.vector import Scalar, Vectors, Word
from fastmlp.backends.cpu.simd.vector_function import Loops
from fastmlp.backends.cpu.tuning import STRIP_ROWS


class Residuals(NamedTuple):
    """Addresses of what `residuals` reads and writes, for one panel.

    Attributes
    ----------
    jacobian, targets : rows of a panel; residuals replace the targets
    weights : one vector, the weights of the panel's columns
    row_weights, row_scales : a number for each row
    sums : two vectors for each strip of rows
    limit : a number above all known targets; NaN is not below it
    """

    jacobian: Word
    targets: Word
    weights: Word
    row_weights: Word
    row_scales: Word
    sums: Word
    limit: Word


def curve_loops(scalar: Scalar, lanes: int) -> Loops:
    return Loops(globals(), scalar, lanes)


def bend(
    v: Vectors, x: Word, slope: Word, curvature: Word, product: Word, n: Word
) -> None:
    """Store the product of x and the curvature,
    then multiply x by the slope; n rows.
    """
    for r in v.range(n):
        place = r * v.bytes
        number = v.load(x + place)
        v.store(number * v.load(curvature + place), product + place)
        v.store(number * v.load(slope + place), x + place)


def add_bend(
    v: Vectors, x: Word, slope: Word, product: Word, extra: Word, n: Word
) -> None:
    """Add x times the product to `extra`, then multiply x by the slope; n rows."""
    for r in v.range(n):
        place = r * v.bytes
        number = v.load(x + place)
        added = v.fma(number, v.load(product + place), v.load(extra + place))
        v.store(added, extra + place)
        v.store(number * v.load(slope + place), x + place)


def close(v: Vectors, x: Word, slope: Word, extra: Word, n: Word) -> None:
    """Multiply x by the slope, and add `extra`; n rows."""
    for r in v.range(n):
        place = r * v.bytes
        added = v.load(extra + place)
        v.store(v.fma(v.load(x + place), v.load(slope + place), added), x + place)


def residuals(v: Vectors, at: Residuals, n: Word) -> None:
    """Replace the targets of n rows by weighted differences,
    0 where a target is unknown.

    Each strip's squares, weighted by rows, are added to the first of its two sums;
    squares that are weighted by columns too are added to the second.
    """
    weights = v.load(at.weights)
    limit = v.broadcast(at.limit)
    for strip in v.range((n + (STRIP_ROWS - 1)) // STRIP_ROWS):
        first = strip * STRIP_ROWS
        sums = at.sums + strip * (2 * v.bytes)
        left = n - first
        last = first + v.choose(left < STRIP_ROWS, left, STRIP_ROWS)
        squares = v.variable(v.load(sums))
        weighted = v.variable(v.load(sums + v.bytes))
        for r in v.range(first, last):
            target = v.load(at.targets + r * v.bytes)
            error = v.load(at.jacobian + r * v.bytes) - target
            error = v.select(target < limit, error, v.zero)
            of_row = v.broadcast(at.row_weights + r * v.size) * error
            squares.value = v.fma(of_row, error, squares.value)
            weighted.value = v.fma(of_row * weights, error, weighted.value)
            scaled = v.broadcast(at.row_scales + r * v.size) * (error * weights)
            v.store(scaled, at.targets + r * v.bytes)
        v.store(squares.value, sums)
        v.store(weighted.value, sums + v.bytes)
