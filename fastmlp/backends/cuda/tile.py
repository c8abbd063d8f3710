"""Matrix products in the space of one block: each thread keeps tiles in registers."""

from typing import Any, NamedTuple

import numpy as np

from fastmlp.backends.cuda.adapter import SCALARS, cuda, device_function, unsigned
from fastmlp.backends.cuda.rules import Rules

WARP = 32


class Tiles(NamedTuple):
    """A product in tiles of one size.

    Attributes
    ----------
    product : ``f(space, a, a_row, a_depth, b, b_column, b_depth, start, start_column, n_rows,
        n_columns, depth, out, out_row, t)``: the sums over the depth, in order, of a's rows times
        b's columns, starting from the numbers at `start` unless that is -1
    fits : ``f(n_rows, n_columns)``: True if the product has at least a warp of tiles
    """

    product: Any
    fits: Any


def make_tiles(rules: Rules, tile: tuple[int, int], n_threads: int) -> Tiles:
    """Make the product in tiles of `tile` rows and columns.

    A thread's rows and columns are far apart, so that neighbouring threads read neighbouring
    numbers. Sums outside the matrix are computed from its edge, and dropped.
    """
    scalar, (rows, columns) = SCALARS[rules.dtype], tile
    index, zero = SCALARS["int32"], np.dtype(rules.dtype).type(0)
    size, n_places = rows * columns, rows + columns

    def fits(n_rows: Any, n_columns: Any) -> Any:
        across, down = (n_columns + columns - 1) // columns, (n_rows + rows - 1) // rows
        return across * down >= WARP

    def product(
        space: Any, a: Any, a_row: Any, a_depth: Any, b: Any, b_column: Any, b_depth: Any,
        start: Any, start_column: Any, n_rows: Any, n_columns: Any, depth: Any, out: Any,
        out_row: Any, t: Any,
    ) -> None:  # fmt: skip
        sums = cuda.local.array(size, scalar)
        places = cuda.local.array(n_places, index)
        down, across = (n_rows + rows - 1) // rows, (n_columns + columns - 1) // columns
        for q in range(t, down * across, n_threads):
            top = q // across
            left = q - top * across
            for i in range(rows):
                places[i] = a + min(top + i * down, n_rows - 1) * a_row
            for j in range(columns):
                column = min(left + j * across, n_columns - 1)
                places[rows + j] = b + column * b_column
                first = space[unsigned(start + column * start_column)] if start >= 0 else zero
                for i in range(rows):
                    sums[i * columns + j] = first
            # Not a range: NVVM made twelve instructions a turn of it.
            x_at, w_at, end = 0, 0, depth * a_depth
            while x_at < end:
                for i in range(rows):
                    x = space[unsigned(places[i] + x_at)]
                    for j in range(columns):
                        w = space[unsigned(places[rows + j] + w_at)]
                        sums[i * columns + j] += x * w
                x_at += a_depth
                w_at += b_depth
            for i in range(rows):
                for j in range(columns):
                    r, c = top + i * down, left + j * across
                    if r < n_rows and c < n_columns:
                        space[unsigned(out + r * out_row + c)] = sums[i * columns + j]

    return Tiles(device_function(product), device_function(fits))
