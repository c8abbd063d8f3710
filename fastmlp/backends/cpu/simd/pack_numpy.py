"""What moves of whole vectors do, in NumPy: for kernels that run uncompiled."""

from collections.abc import Callable
from typing import Any

import numpy as np

from fastmlp.compiler import row

Move = Callable[..., None]
# Sums of the rows of a panel: of every eighth row.
CHAINS = 8
# Panels of a row that are read at once: 256 bytes of it in a stride with AVX2.
WIDE = 8


def plain_moves(scalar: type[np.floating[Any]], lanes: int) -> tuple[Move, ...]:
    """Return the moves in the order of `pack.Moves`."""
    spread, collect, transpose = _copies(scalar, lanes)
    moved = (spread, collect, transpose, transpose)
    others = (_sums, _turns, _sums_of_chosen_rows)
    return (*moved, *(move for make in others for move in make(scalar, lanes)))


def _copies(scalar: type[np.floating[Any]], lanes: int) -> tuple[Move, ...]:
    """Rows into panels and back, and squares."""

    def spread(source: int, target: int, panel: int, width: int) -> None:
        numbers = row(source, width, scalar)
        for p in range(0, width, lanes):
            part = np.zeros(lanes, scalar)
            part[: len(numbers[p : p + lanes])] = numbers[p : p + lanes]
            row(target + p // lanes * panel, lanes, scalar)[:] = part

    def collect(source: int, panel: int, target: int, width: int) -> None:
        numbers = row(target, width, scalar)
        for p in range(0, width, lanes):
            part = numbers[p : p + lanes]
            part[:] = row(source + p // lanes * panel, len(part), scalar)

    def transpose(source: int, target: int, n: int) -> None:
        block = np.zeros((lanes, lanes), scalar)
        n = min(n, lanes)
        block[:n] = row(source, n * lanes, scalar).reshape(n, lanes)
        row(target, lanes * lanes, scalar)[:] = block.T.ravel()

    return spread, collect, transpose


def _sums(scalar: type[np.floating[Any]], lanes: int) -> tuple[Move, ...]:
    """What biases, and the weights of one row, have as gradients."""

    def sum_rows(matrix: int, start: int, target: int, n: int) -> None:
        numbers = row(matrix, n * lanes, scalar).reshape(n, lanes)
        whole = n // CHAINS * CHAINS
        sums = np.zeros((CHAINS, lanes), scalar)
        for r in range(n):
            sums[r % CHAINS if r < whole else 0] += numbers[r]
        total = row(start, lanes, scalar).copy()
        for one in sums:
            total += one
        row(target, lanes, scalar)[:] = total

    def outer(numbers: int, panel: int, vector: int, target: int, n: int) -> None:
        factor = row(vector, lanes, scalar)
        for r in range(-(-n // lanes) * lanes):
            number = row(numbers + r // lanes * panel, lanes, scalar)[r % lanes]
            row(target + r * lanes * np.dtype(scalar).itemsize, lanes, scalar)[:] = number * factor

    return sum_rows, outer


def _turns(scalar: type[np.floating[Any]], lanes: int) -> tuple[Move, ...]:
    """Rows of panels into columns and back."""

    def columns_of(source: int, panel: int, target: int, width: int, n: int) -> None:
        columns = row(target, n * width, scalar).reshape(width, n)
        for j in range(width):
            numbers = row(source + j // lanes * panel, n * lanes, scalar)
            columns[j] = numbers[j % lanes :: lanes]

    def rows_of(source: int, target: int, panel: int, width: int, n: int) -> None:
        columns = row(source, n * width, scalar).reshape(width, n)
        for p in range(-(-width // lanes)):
            matrix = row(target + p * panel, n * lanes, scalar).reshape(n, lanes)
            part = columns[p * lanes : (p + 1) * lanes]
            matrix[:] = 0
            matrix[:, : len(part)] = part.T

    return columns_of, rows_of


def _sums_of_chosen_rows(scalar: type[np.floating[Any]], lanes: int) -> tuple[Move, ...]:
    """Products with sparse rows."""

    def add_rows(
        target: int,
        start: int,
        matrix: int,
        stride: int,
        width: int,
        places: int,
        factors: int,
        n: int,
    ) -> None:
        total = row(start, lanes, scalar).copy()
        columns, numbers = row(places, n, np.int32), row(factors, n, scalar)
        for i in range(n):
            taken = min(width, lanes)
            total[:taken] += numbers[i] * row(matrix + int(columns[i]) * stride, taken, scalar)
        row(target, lanes, scalar)[:] = total

    def add_wide_rows(
        target: int,
        panel: int,
        start: int,
        start_panel: int,
        matrix: int,
        stride: int,
        places: int,
        factors: int,
        n: int,
    ) -> None:
        vector = lanes * np.dtype(scalar).itemsize
        for c in range(WIDE):
            ways = (target + c * panel, start + c * start_panel, matrix + c * vector)
            add_rows(*ways, stride, lanes, places, factors, n)

    return add_rows, add_wide_rows
