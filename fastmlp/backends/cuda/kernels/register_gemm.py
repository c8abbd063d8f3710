"""Matrix products of one block: each thread has a tile of the sums in its registers."""

from typing import Any

import numpy as np

from fastmlp.backends.cuda.adapter import SCALARS, cuda, device_function, unsigned
from fastmlp.backends.cuda.kernels.rule_blocks import Rules

WARP = 32
# Rows and columns of a thread's tile: with 16 sums, each number loaded is used four times.
TILE = (4, 4)


def make_product(rules: Rules, n_threads: int) -> Any:
    """Make ``product(numbers, a, b, extent, out, t)``: sums over the depth, in its order.

    Tiles are of 4 x 4 sums, or of one where a warp would have idle threads.
    """
    rows, columns = TILE
    large = _make_tiles(rules, TILE, n_threads)
    single = _make_tiles(rules, (1, 1), n_threads)

    def product(numbers: Any, a: Any, b: Any, extent: Any, out: Any, t: Any) -> None:
        across, down = (
            (extent.n_columns + columns - 1) // columns,
            (extent.n_rows + rows - 1) // rows,
        )
        if across * down >= WARP:
            large(numbers, a, b, extent, out, t)
        else:
            single(numbers, a, b, extent, out, t)

    return device_function(product)


def _make_tiles(rules: Rules, tile: tuple[int, int], n_threads: int) -> Any:
    """Make the product in tiles of so many rows and columns.

    The rows of a thread's tile are far apart, and its columns too, so that neighbouring threads
    read neighbouring numbers. Rows and columns past the edge repeat the last one; their sums are
    not written.
    """
    scalar, (rows, columns) = SCALARS[rules.dtype], tile
    index, zero = SCALARS["int32"], np.dtype(rules.dtype).type(0)
    size, n_places = rows * columns, rows + columns

    def tiles(numbers: Any, a: Any, b: Any, extent: Any, out: Any, t: Any) -> None:
        sums = cuda.local.array(size, scalar)
        places = cuda.local.array(n_places, index)
        n_rows, n_columns = extent.n_rows, extent.n_columns
        down, across = (n_rows + rows - 1) // rows, (n_columns + columns - 1) // columns
        for q in range(t, down * across, n_threads):
            top = q // across
            left = q - top * across
            for i in range(rows):
                places[i] = a.start + min(top + i * down, n_rows - 1) * a.stride
            for j in range(columns):
                column = min(left + j * across, n_columns - 1)
                places[rows + j] = b.start + column * b.stride
                first = numbers[unsigned(out.initial + column)] if out.initial >= 0 else zero
                for i in range(rows):
                    sums[i * columns + j] = first
            # A while loop: NVVM makes 12 instructions a turn of a range.
            x_at, w_at, end = 0, 0, extent.depth * a.depth_stride
            while x_at < end:
                for i in range(rows):
                    x = numbers[unsigned(places[i] + x_at)]
                    for j in range(columns):
                        w = numbers[unsigned(places[rows + j] + w_at)]
                        sums[i * columns + j] += x * w
                x_at += a.depth_stride
                w_at += b.depth_stride
            for i in range(rows):
                for j in range(columns):
                    r, c = top + i * down, left + j * across
                    if r < n_rows and c < n_columns:
                        numbers[unsigned(out.start + r * out.stride + c)] = sums[i * columns + j]

    return device_function(tiles)
