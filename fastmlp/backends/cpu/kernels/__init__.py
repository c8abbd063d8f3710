"""The mathematics of a step: forward pass, backpropagation and the update, as kernels.

A factory's docstring describes the function that it makes. Here:
strips of rows, parts of a loop, and the types of arguments.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from fastmlp.backends.cpu.plan.records import Layer, Net, Tile, batch_of
from fastmlp.backends.cpu.tuning import STRIP_ROWS
from fastmlp.compiler import njit

# The type of a net's numbers: the argument of a kernel's factory.
Scalar = type[np.floating[Any]]
# A factory's result.
Kernel = Callable[..., Any]
# First and last number of a range, or first number and count.
Span = tuple[int, int]
# A tile, its layer, and the address of its weights.
Piece = tuple[Tile, Layer, int]


@njit
def n_strips_of(n_rows: int) -> int:
    return (n_rows + STRIP_ROWS - 1) // STRIP_ROWS


@njit
def part_of(part: Any, n_parts: int, n: int) -> Span:
    # Two divisions take 5 of the 205 ns of 2-4-1@4.
    if n_parts == 1:
        return 0, n
    # Numba's loop index is unsigned, and minus one a float.
    part = np.int64(part)
    return part * n // n_parts, (part + 1) * n // n_parts


@njit
def rows_of_part(net: Net, part: int, n_parts: int) -> Span:
    n_rows = batch_of(net).n_rows
    first, last = part_of(part, n_parts, n_strips_of(n_rows))
    return first * STRIP_ROWS, min(last * STRIP_ROWS, n_rows)
