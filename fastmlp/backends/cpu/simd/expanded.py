"""Products with rows in which a number stands for several inputs, and their gradients.

A number of pieces takes two vectors of a panel, a running sum of its column's weights and its
piece's weight; a level takes one, whatever the number of inputs.
"""

from collections.abc import Iterator
from typing import NamedTuple

from fastmlp.backends.cpu.simd.vector import (
    Condition,
    Panels,
    Scalar,
    Variable,
    Vector,
    Vectors,
    Word,
)
from fastmlp.backends.cpu.simd.vector_function import Loops
from fastmlp.backends.cpu.tuning import STRIP_ROWS


class Places(NamedTuple):
    """The places of rows' numbers among the inputs.

    Attributes
    ----------
    offsets : address of int32, bytes from a panel's first row of weights to the number's row
    fractions : address of each number's fraction of its piece; of a level 1, or 0 without one
    width : numbers of a row
    columns : how many of them to take
    """

    offsets: Word
    fractions: Word
    width: Word
    columns: Word


class SortedNumbers(NamedTuple):
    """Numbers sorted by the input that they lie in, and by rows within it.

    Attributes
    ----------
    starts : address of int64, where the numbers of each input begin
    rows : address of int32, bytes from a panel's first row to each number's
    fractions : as in `Places`
    """

    starts: Word
    rows: Word
    fractions: Word


def expanded(scalar: Scalar, lanes: int) -> Loops:
    return Loops(globals(), scalar, lanes)


def running_sums(v: Vectors, rows: Word, target: Word, n: Word) -> None:
    """Store for each of n rows the sum of those before; four at a time, as each addition waits
    for the one before."""
    total = v.variable(v.zero)
    for i in v.range(n // 4):
        down = i * (4 * v.bytes)
        first, second, third, fourth = (v.load(rows + down + k * v.bytes) for k in range(4))
        two = first + second
        sums = (v.zero, first, two, two + third)
        for k, value in enumerate(sums):
            v.store(total.value + value, target + down + k * v.bytes)
        total.value = total.value + (two + (third + fourth))
    rest = n // 4 * (4 * v.bytes)
    for i in v.range(n % 4):
        v.store(total.value, target + rest + i * v.bytes)
        total.value = total.value + v.load(rows + rest + i * v.bytes)


def add_pieces(v: Vectors, target: Word, sums: Word, rows: Word, places: Places, n: Word) -> None:
    """Add to n rows of a panel the running sum at each number, and its fraction of the next row."""
    for down, totals in _strips(v, target, n):
        for c in v.range(places.columns):
            for r, total in enumerate(totals):
                offset, fraction = _place(v, places, down + r, c)
                below = total.value + v.load(sums + offset)
                total.value = v.fma(v.broadcast(fraction), v.load(rows + offset), below)


def add_levels(v: Vectors, target: Word, rows: Word, places: Places, n: Word) -> None:
    """Add to n rows of a panel the row of each level, if there is one."""
    for down, totals in _strips(v, target, n):
        for c in v.range(places.columns):
            for r, total in enumerate(totals):
                offset, there = _place(v, places, down + r, c)
                total.value = v.fma(v.broadcast(there), v.load(rows + offset), total.value)


def _place(v: Vectors, places: Places, r: Word, c: Word) -> tuple[Word, Word]:
    """The offset of a row's number, and the address of its fraction."""
    number = r * places.width + c
    return v.int32(places.offsets + number * 4), places.fractions + number * v.size


def _strips(v: Vectors, target: Word, n: Word) -> Iterator[tuple[Word, list[Variable]]]:
    """Yield each strip's first row and values, which are stored afterwards; then those of each
    row that is left."""
    whole = n // STRIP_ROWS
    for first, n_strips, rows in ((0, whole, STRIP_ROWS), (whole * STRIP_ROWS, n % STRIP_ROWS, 1)):
        for i in v.range(n_strips):
            down = i * rows + first
            place = target + down * v.bytes
            totals = [v.variable(v.load(place + r * v.bytes)) for r in range(rows)]
            yield down, totals
            for r, total in enumerate(totals):
                v.store(total.value, place + r * v.bytes)


def sum_pieces(
    v: Vectors,
    target: Panels,
    deltas: Panels,
    numbers: SortedNumbers,
    n: Word,
    n_after: Word,
    pair: Word,
) -> None:
    """Store a sum of rows for each of n inputs of a column: its numbers' rows, times their
    fractions, and the rows of all numbers above, `n_after` further inputs included. With `pair`
    in the next panel too."""
    for panels, applies in _panels(v, pair):
        above = [v.variable(v.zero) for _ in panels]
        within = [v.variable(v.zero) for _ in panels]
        n_inputs, rest = v.choose(applies, n, 0), v.choose(applies, n_after, 0)
        for number in _numbers(v, numbers, n_inputs, rest):
            for p, total in zip(panels, above, strict=True):
                total.value = total.value + _row(v, deltas, numbers, number, p)
        for i in v.range(n_inputs):
            k = n_inputs - 1 - i
            for part, total in zip(within, above, strict=True):
                part.value = total.value
            for number in _numbers(v, numbers, k, 1):
                fraction = v.broadcast(numbers.fractions + number * v.size)
                for p, part, total in zip(panels, within, above, strict=True):
                    delta = _row(v, deltas, numbers, number, p)
                    part.value = v.fma(fraction, delta, part.value)
                    total.value = total.value + delta
            for p, part in zip(panels, within, strict=True):
                v.store(part.value, target.address + target.stride * p + k * v.bytes)


def sum_levels(
    v: Vectors, target: Panels, deltas: Panels, numbers: SortedNumbers, n: Word, pair: Word
) -> None:
    """Store for each of n inputs the sum of the rows of its levels; with `pair` in the next
    panel too."""
    for panels, applies in _panels(v, pair):
        totals = [v.variable(v.zero) for _ in panels]
        for k in v.range(v.choose(applies, n, 0)):
            for total in totals:
                total.value = v.zero
            for number in _numbers(v, numbers, k, 1):
                there = v.broadcast(numbers.fractions + number * v.size)
                for p, total in zip(panels, totals, strict=True):
                    delta = _row(v, deltas, numbers, number, p)
                    total.value = v.fma(there, delta, total.value)
            for p, total in zip(panels, totals, strict=True):
                v.store(total.value, target.address + target.stride * p + k * v.bytes)


def _panels(v: Vectors, pair: Word) -> Iterator[tuple[range, Condition]]:
    """Yield the panels to take at once, one or two, and whether they are asked for."""
    for n_panels in (1, 2):
        yield range(n_panels), v.equal(pair, n_panels - 1)


def _numbers(v: Vectors, numbers: SortedNumbers, k: Word, n: Word | int) -> Iterator[Word]:
    begin = numbers.starts + k * 8
    yield from v.range(v.word(begin), v.word(begin + n * 8))


def _row(v: Vectors, panels: Panels, numbers: SortedNumbers, number: Word, p: int) -> Vector:
    return v.load(panels.address + panels.stride * p + v.int32(numbers.rows + number * 4))
