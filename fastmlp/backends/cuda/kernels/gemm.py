"""Matrix products of one block, in registers, of numbers staged in shared memory."""

from typing import Any, NamedTuple

from fastmlp.backends.cuda.device.adapter import SCALARS, cuda, device_function, unsigned
from fastmlp.backends.cuda.kernels.arguments import Extent, Operand, Product
from fastmlp.backends.cuda.plan.design import KernelRules, TileShape


class Update(NamedTuple):
    """The update of a result by a product.

    Attributes
    ----------
    accumulate : 1 to add the product to the result that is there, 0 to overwrite it
    last_row, last_start : this row begins at `last_start`, apart from the other rows; -1: no row
    """

    accumulate: Any
    last_row: Any
    last_start: Any


def make_staged_product(rules: KernelRules, shape: TileShape) -> Any:
    """Make ``product(staging, memory, a, b, extent, out, update, t)``, for at most one tile.

    Sums run over the depth, in its order. Elements outside the extent are staged as 0, in
    `staging`, shared memory of `shape.staging` numbers. All threads of the block take part.
    """
    scalar, step = SCALARS[rules.dtype], shape.depth
    n_sums, b_place = shape.rows * shape.columns, step * (shape.tile_rows + 1)
    stage_a = _make_stage(rules, shape, shape.tile_rows, 0)
    stage_b = _make_stage(rules, shape, shape.tile_columns, b_place)
    begin, write = _make_begin(rules, shape), _make_write(shape)
    multiply = _make_multiply(shape, b_place)

    def product(
        staging: Any,
        memory: Any,
        a: Any,
        b: Operand,
        extent: Extent,
        out: Product,
        update: Update,
        t: int,
    ) -> None:
        sums = cuda.local.array(n_sums, scalar)
        begin(sums, memory, extent, out, update, t)
        for done in range(0, extent.depth, step):
            stage_a(staging, memory, a, extent.n_rows, done, extent.depth, t)
            stage_b(staging, memory, b, extent.n_columns, done, extent.depth, t)
            cuda.syncthreads()
            multiply(staging, sums, t)
            cuda.syncthreads()
        write(sums, memory, extent, out, update, t)

    return device_function(product)


def _make_stage(rules: KernelRules, shape: TileShape, size: int, place: int) -> Any:
    """Make the copy of `size` elements of an operand, `shape.depth` deep, to the staging."""
    n_threads, step, stride = shape.n_threads, shape.depth, size + 1
    zero = rules.scalar(0)

    def stage(
        staging: Any, memory: Any, operand: Operand, n: int, done: Any, depth: Any, t: int
    ) -> None:
        # A while loop: NVVM unrolls a range, 255 registers, spills -> 228, none (float64, sm_75).
        q = t
        while q < size * step:
            # Neighbouring threads read neighbouring numbers: along the depth, or else across it.
            d, i = q % step, q // step
            if operand.depth_stride != 1:
                d, i = q // size, q % size
            value = zero
            if i < n and done + d < depth:
                at = operand.start + i * operand.stride + (done + d) * operand.depth_stride
                value = memory[unsigned(at)]
            staging[unsigned(place + d * stride + i)] = value
            q += n_threads

    return device_function(stage)


def _make_begin(rules: KernelRules, shape: TileShape) -> Any:
    """Make the first values of a thread's sums."""
    zero = rules.scalar(0)
    across, down, rows, columns = shape.across, shape.down, shape.rows, shape.columns

    def begin(sums: Any, memory: Any, extent: Extent, out: Product, update: Update, t: int) -> None:
        tx, ty = t % across, t // across
        for i in range(rows):
            for j in range(columns):
                r, c = ty + i * down, tx + j * across
                first = zero
                if r < extent.n_rows and c < extent.n_columns:
                    if out.initial >= 0:
                        first = memory[unsigned(out.initial + c)]
                    elif update.accumulate != 0:
                        at = update.last_start
                        if r != update.last_row:
                            at = out.start + r * out.stride
                        first = memory[unsigned(at + c)]
                sums[i * columns + j] = first

    return device_function(begin)


def _make_multiply(shape: TileShape, b_place: int) -> Any:
    """Make the products of what is staged, added to a thread's sums."""
    across, down, rows, columns = shape.across, shape.down, shape.rows, shape.columns
    step, a_stride, b_stride = shape.depth, shape.tile_rows + 1, shape.tile_columns + 1

    def multiply(staging: Any, sums: Any, t: int) -> None:
        tx, ty = t % across, t // across
        # A while loop: NVVM makes 12 instructions a turn of a range.
        x_at, w_at, end = ty, b_place + tx, ty + step * a_stride
        while x_at < end:
            for i in range(rows):
                x = staging[unsigned(x_at + i * down)]
                for j in range(columns):
                    w = staging[unsigned(w_at + j * across)]
                    sums[i * columns + j] += x * w
            x_at += a_stride
            w_at += b_stride

    return device_function(multiply)


def _make_write(shape: TileShape) -> Any:
    """Make the copy of a thread's sums to memory."""
    across, down, rows, columns = shape.across, shape.down, shape.rows, shape.columns

    def write(sums: Any, memory: Any, extent: Extent, out: Product, update: Update, t: int) -> None:
        tx, ty = t % across, t // across
        for i in range(rows):
            for j in range(columns):
                r, c = ty + i * down, tx + j * across
                if r < extent.n_rows and c < extent.n_columns:
                    at = update.last_start
                    if r != update.last_row:
                        at = out.start + r * out.stride
                    memory[unsigned(at + c)] = sums[i * columns + j]

    return device_function(write)
