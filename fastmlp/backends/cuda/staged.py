"""Matrix products by a whole block: tiles staged in shared memory, sums in registers."""

from typing import Any, NamedTuple

import numpy as np

from fastmlp.backends.cuda.adapter import SCALARS, cuda, device_function, unsigned
from fastmlp.backends.cuda.rules import Rules


class Shape(NamedTuple):
    """The shape of a block, and of its tile of a product.

    Attributes
    ----------
    across, down : threads along columns and rows
    rows, columns : the sums of each thread
    depth : steps of the depth that are staged at once
    """

    across: int
    down: int
    rows: int
    columns: int
    depth: int = 16

    @property
    def n_threads(self) -> int:
        """The threads of a block."""
        return self.across * self.down

    @property
    def tile_rows(self) -> int:
        """The rows of a block's tile."""
        return self.down * self.rows

    @property
    def tile_columns(self) -> int:
        """The columns of a block's tile."""
        return self.across * self.columns

    @property
    def staging(self) -> int:
        """The numbers of shared memory, with one more column against bank conflicts."""
        return self.depth * (self.tile_rows + 1 + self.tile_columns + 1)


def make_product(rules: Rules, shape: Shape) -> Any:
    """Make ``f(staging, memory, a, a_row, a_depth, b, b_column, b_depth, start, more, n_rows,
    n_columns, depth, out, out_row, last_row, out_last, t)``.

    It writes the sums over the depth, in order, of a's rows times b's columns, for at most one
    tile. A column's sums start from its number at `start`, unless that is -1; with `more`, from the
    numbers in `out`; otherwise from 0. The row `last_row` goes to `out_last`. Numbers outside the
    matrices are staged as 0 in `staging`, shared memory of `shape.staging` numbers. All threads of
    the block must call it.
    """
    scalar, n_threads, step = SCALARS[rules.dtype], shape.n_threads, shape.depth
    zero = np.dtype(rules.dtype).type(0)
    across, down, rows, columns = shape.across, shape.down, shape.rows, shape.columns
    tile_rows, tile_columns = shape.tile_rows, shape.tile_columns
    a_stride, b_stride = tile_rows + 1, tile_columns + 1
    right, n_sums = step * a_stride, rows * columns

    def stage(
        staging: Any, place: Any, memory: Any, source: Any, its: Any, along: Any, n: Any,
        tile: Any, stride: Any, done: Any, depth: Any, t: Any,
    ) -> None:  # fmt: skip
        # Not a range: NVVM unrolled it, and the kernels took 255 registers and spilled.
        q = t
        while q < tile * step:
            # Neighbouring threads read neighbouring numbers, if depth or rows are contiguous.
            d, i = q % step, q // step
            if along != 1:
                d, i = q // tile, q % tile
            value = zero
            if i < n and done + d < depth:
                value = memory[unsigned(source + i * its + (done + d) * along)]
            staging[unsigned(place + d * stride + i)] = value
            q += n_threads

    stage = device_function(stage)

    def product(
        staging: Any, memory: Any, a: Any, a_row: Any, a_depth: Any, b: Any, b_column: Any,
        b_depth: Any, start: Any, more: Any, n_rows: Any, n_columns: Any, depth: Any, out: Any,
        out_row: Any, last_row: Any, out_last: Any, t: Any,
    ) -> None:  # fmt: skip
        sums = cuda.local.array(n_sums, scalar)
        tx, ty = t % across, t // across
        for i in range(rows):
            for j in range(columns):
                r, c = ty + i * down, tx + j * across
                first = zero
                if r < n_rows and c < n_columns:
                    if start >= 0:
                        first = memory[unsigned(start + c)]
                    elif more != 0:
                        at = out + r * out_row if r != last_row else out_last
                        first = memory[unsigned(at + c)]
                sums[i * columns + j] = first
        for done in range(0, depth, step):
            stage(
                staging, 0, memory, a, a_row, a_depth, n_rows, tile_rows, a_stride, done, depth, t
            )
            stage(
                staging, right, memory, b, b_column, b_depth, n_columns, tile_columns, b_stride,
                done, depth, t,
            )  # fmt: skip
            cuda.syncthreads()
            # Not a range: NVVM made twelve instructions a turn of it.
            x_at, w_at, end = ty, right + tx, ty + step * a_stride
            while x_at < end:
                for i in range(rows):
                    x = staging[unsigned(x_at + i * down)]
                    for j in range(columns):
                        w = staging[unsigned(w_at + j * across)]
                        sums[i * columns + j] += x * w
                x_at += a_stride
                w_at += b_stride
            cuda.syncthreads()
        for i in range(rows):
            for j in range(columns):
                r, c = ty + i * down, tx + j * across
                if r < n_rows and c < n_columns:
                    at = out + r * out_row if r != last_row else out_last
                    memory[unsigned(at + c)] = sums[i * columns + j]

    return device_function(product)
