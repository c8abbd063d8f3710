"""The Gauss-Newton matrix and its Cholesky factor, by square tiles of the matrix product.

Both are upper triangles of block columns of `BLOCK` parameters: block column K has the rows of the
blocks 0 to K, in panels. So half of the tiles are computed, and a matrix takes half of its numbers.
Both have one more column: the negative gradient, which the factorization solves on its way. Each
number is a chain of multiply-adds in one order: bits do not depend on the threads.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from fastmlp.backends.cpu.predict.row_blocks import Scalar
from fastmlp.backends.cpu.second_order.jacobian import JacobianRows, jacobian_rows
from fastmlp.backends.cpu.simd.microkernel import STORE
from fastmlp.compiler import (
    Record,
    call,
    flushed,
    njit,
    prange,
    record_at,
    records_at,
    restored,
    row,
)
from fastmlp.compiler.target import lanes_of

# Columns of a block: whole strips, and whole tiles of two or three panels of 4 or 8 numbers.
BLOCK = 48


class System(Record):
    """The normal equations of a step, and the job of their drivers."""

    team: int  # address of the team's record; 0: the calling thread alone
    n_parts: int  # the number of parts of a loop over rows
    n: int  # of the parameters
    n_blocks: int  # block columns of the parameters and the gradient
    rows: int  # address of a `JacobianRows` record
    product: int  # address of the matrix product by column
    row_block: int  # most rows of a block of the Jacobian
    n_rows: int
    n_outputs: int
    zeros: int  # address of a vector of zeros
    n_tiles: int
    tiles: int  # address of the tiles, (row block, block column) each
    gram: int  # address of the matrix's first block column
    factor: int  # and of its factor's
    strip: int  # address of a row of tiles
    negated: int  # address of the panels of a block column, times -1
    dense: int  # address of three blocks by rows: a tile of the diagonal, its inverse, in panels
    gradient: int  # addresses of n numbers: the negative gradient,
    shift: int  # what is added to the diagonal,
    step: int  # and the solution
    failed: int  # 1: a pivot was not positive


def gauss_newton(scalar: Scalar) -> Callable[[int], None]:
    """Make the driver that computes J^T H J, tile by tile, from blocks of rows of the Jacobian."""
    lanes, size = lanes_of(scalar), np.dtype(scalar).itemsize
    vector, write_rows = lanes * size, jacobian_rows(scalar)

    @njit(parallel=True)
    def add_products(team: int, of: Sequence[System], depth: int, more: int) -> None:
        """Add the products of the Jacobian's columns to all tiles."""
        for index in prange(of[0].n_tiles):
            mode, own = flushed(), of[0]
            rows, tile = (
                record_at(own.rows, JacobianRows),
                row(own.tiles, 2 * own.n_tiles, np.int64),
            )
            i, k = tile[2 * index], tile[2 * index + 1]
            stride = (k + 1) * BLOCK * vector
            c = own.gram + k * (k + 1) // 2 * BLOCK * BLOCK * size + i * BLOCK * vector
            start, start_row, start_panel = own.zeros, 0, 0
            if more:
                start, start_row, start_panel = c, vector, stride
            a = rows.panels + i * (BLOCK // lanes) * rows.panel
            b = rows.panels + k * (BLOCK // lanes) * rows.panel
            shape = (min(BLOCK, own.n + 1 - k * BLOCK), min(BLOCK, own.n - i * BLOCK))
            to = (c, stride, start, start_row, start_panel)
            call(own.product, (*to, b, rows.panel, a, rows.panel, depth, STORE, 0, *shape, 0))
            restored(mode)

    def compute(address: int) -> None:
        job = record_at(address, System)
        rows = record_at(job.rows, JacobianRows)
        for block in range((job.n_rows + job.row_block - 1) // job.row_block):
            first = block * job.row_block
            rows.first, rows.last = first, min(first + job.row_block, job.n_rows)
            write_rows(job.team, records_at(job.rows, 1, JacobianRows), job.n_parts)
            depth = (rows.last - first) * job.n_outputs
            add_products(job.team, records_at(address, 1, System), depth, first)

    return compute


def _row_of_tiles(scalar: Scalar) -> tuple[Callable[..., Any], ...]:
    """Make the functions that copy numbers, that subtract the products of the rows above from a
    row of tiles, and that scale it by its diagonal tile."""
    lanes, size = lanes_of(scalar), np.dtype(scalar).itemsize
    vector, panels_of_block = lanes * size, BLOCK // lanes
    tile_bytes = BLOCK * BLOCK * size

    @njit
    def copy(source: Any, target: Any, n: Any, factor: Any) -> None:
        """Copy n numbers, times a factor."""
        numbers, copies = row(source, n, scalar), row(target, n, scalar)
        for i in range(n):
            copies[i] = numbers[i] * factor

    @njit(parallel=True)
    def subtract_products(team: int, of: Sequence[System], k: int) -> None:
        """Write the tiles of row k, less the products of the rows above, to the strip."""
        for index in prange(of[0].n_blocks - k):
            mode, own = flushed(), of[0]
            j = k + np.int64(index)
            place, stride = j * (j + 1) // 2 * tile_bytes, (j + 1) * BLOCK * vector
            start, c = own.gram + place + k * BLOCK * vector, own.strip + j * tile_bytes
            if k == 0:
                for p in range(panels_of_block):
                    copy(start + p * stride, c + p * BLOCK * vector, BLOCK * lanes, scalar(1))
            else:
                to = (c, BLOCK * vector, start, vector, stride, own.factor + place, stride)
                shape = (min(BLOCK, own.n + 1 - j * BLOCK), min(BLOCK, own.n - k * BLOCK))
                depth = k * BLOCK
                a = (own.negated, depth * vector, depth, STORE, 0)
                call(own.product, (*to, *a, *shape, 0))
            restored(mode)

    @njit(parallel=True)
    def scale_row(team: int, of: Sequence[System], k: int) -> None:
        """Write the factor's tiles of row k, right of the diagonal."""
        for index in prange(of[0].n_blocks - k - 1):
            mode, own = flushed(), of[0]
            j = k + 1 + np.int64(index)
            place, stride = j * (j + 1) // 2 * tile_bytes, (j + 1) * BLOCK * vector
            c = own.factor + place + k * BLOCK * vector
            to = (c, stride, own.zeros, 0, 0, own.strip + j * tile_bytes, BLOCK * vector)
            a = (own.dense + 2 * tile_bytes, BLOCK * vector, BLOCK, STORE, 0)
            call(own.product, (*to, *a, min(BLOCK, own.n + 1 - j * BLOCK), BLOCK, 0))
            restored(mode)

    return copy, subtract_products, scale_row


def _tile(scalar: Scalar) -> tuple[Callable[..., Any], ...]:
    """Make the functions that factor and invert a tile by rows, and copy it to panels."""
    lanes, size = lanes_of(scalar), np.dtype(scalar).itemsize
    vector, panels_of_block = lanes * size, BLOCK // lanes

    @njit
    def factor_tile(dense: int, n: int, width: int) -> int:
        """Factor n rows of `width` columns in place; return 1 if a pivot is not positive."""
        for i in range(n):
            pivots = row(dense + i * BLOCK * size, width, scalar)
            if not (pivots[i] > scalar(0)):
                return 1
            scale = scalar(1) / np.sqrt(pivots[i])
            for j in range(i, width):
                pivots[j] *= scale
            for r in range(i + 1, n):
                numbers, factor = row(dense + r * BLOCK * size, width, scalar), pivots[r]
                for j in range(r, width):
                    numbers[j] -= factor * pivots[j]
        return 0

    @njit
    def invert_tile(dense: int, inverse: int, n: int) -> None:
        """Write the inverse of an upper triangle, by rows."""
        for i in range(n):
            numbers = row(inverse + i * BLOCK * size, n, scalar)
            for j in range(n):
                numbers[j] = scalar(1) if i == j else scalar(0)
            for t in range(i, n):
                pivots = row(dense + t * BLOCK * size, n, scalar)
                numbers[t] /= pivots[t]
                factor = numbers[t]
                for j in range(t + 1, n):
                    numbers[j] -= factor * pivots[j]

    @njit
    def into_panels(dense: int, panels: int, stride: int) -> None:
        """Copy a tile by rows to panels."""
        for r in range(BLOCK):
            for p in range(panels_of_block):
                numbers = row(panels + p * stride + r * vector, lanes, scalar)
                source = row(dense + (r * BLOCK + p * lanes) * size, lanes, scalar)
                for i in range(lanes):
                    numbers[i] = source[i]

    return factor_tile, invert_tile, into_panels


def _diagonal(scalar: Scalar) -> Callable[[System, int], int]:
    """Make the function that factors a tile of the diagonal."""
    lanes, size = lanes_of(scalar), np.dtype(scalar).itemsize
    vector, tile_bytes = lanes * size, BLOCK * BLOCK * size
    factor_tile, invert_tile, into_panels = _tile(scalar)

    @njit
    def diagonal(job: System, k: int) -> int:
        """Factor the tile of the diagonal; return 1 if that fails."""
        dense, strip = job.dense, job.strip + k * tile_bytes
        n = min(BLOCK, job.n - k * BLOCK)
        width = min(BLOCK, job.n + 1 - k * BLOCK)
        shift = row(job.shift, job.n, scalar)
        for r in range(n):
            numbers = row(dense + r * BLOCK * size, BLOCK, scalar)
            for j in range(width):
                place = strip + j // lanes * BLOCK * vector + r * vector
                numbers[j] = row(place, lanes, scalar)[j % lanes]
            numbers[r] += shift[k * BLOCK + r]
        if factor_tile(dense, n, width):
            return 1
        invert_tile(dense, dense + tile_bytes, n)
        into_panels(dense + tile_bytes, dense + 2 * tile_bytes, BLOCK * vector)
        place = job.factor + k * (k + 1) // 2 * tile_bytes + k * BLOCK * vector
        into_panels(dense, place, (k + 1) * BLOCK * vector)
        return 0

    return diagonal


def _last_column(scalar: Scalar) -> tuple[Callable[..., Any], ...]:
    """Make the functions that write the matrix's last column, and solve by the factor's."""
    lanes, size = lanes_of(scalar), np.dtype(scalar).itemsize
    vector, tile_bytes = lanes * size, BLOCK * BLOCK * size

    @njit
    def element(first: int, i: int, j: int) -> int:
        """Return the address of row i of column j."""
        k, p = j // BLOCK, j % BLOCK
        stride = (k + 1) * BLOCK * vector
        within = p // lanes * stride + i * vector + p % lanes * size
        return first + k * (k + 1) // 2 * tile_bytes + within

    @njit
    def write_gradient(job: System) -> None:
        """Write the negative gradient to the matrix's last column."""
        gradient = row(job.gradient, job.n, scalar)
        for i in range(job.n):
            row(element(job.gram, i, job.n), 1, scalar)[0] = gradient[i]

    @njit
    def substitute(job: System) -> None:
        """Solve U step = y, the factor's last column."""
        step = row(job.step, job.n, scalar)
        for i in range(job.n):
            step[i] = row(element(job.factor, i, job.n), 1, scalar)[0]
        for j in range(job.n - 1, -1, -1):
            column = row(element(job.factor, 0, j), (j + 1) * lanes, scalar)
            step[j] /= column[j * lanes]
            number = step[j]
            for i in range(j):
                step[i] -= column[i * lanes] * number

    return write_gradient, substitute


def cholesky(scalar: Scalar) -> Callable[[int], None]:
    """Make the driver that factors the shifted matrix, G + shift = U^T U, and solves for the step.

    Row k of the tiles is the matrix's less the products of the rows above, times the inverse of its
    diagonal tile's factor, transposed.
    """
    lanes, size = lanes_of(scalar), np.dtype(scalar).itemsize
    vector, panels_of_block = lanes * size, BLOCK // lanes
    tile_bytes = BLOCK * BLOCK * size
    copy, subtract_products, scale_row = _row_of_tiles(scalar)
    diagonal = _diagonal(scalar)
    write_gradient, substitute = _last_column(scalar)

    def solve(address: int) -> None:
        job, of = record_at(address, System), records_at(address, 1, System)
        write_gradient(job)
        job.failed = 0
        for k in range((job.n + BLOCK - 1) // BLOCK):
            if job.failed == 0:
                source = job.factor + k * (k + 1) // 2 * tile_bytes
                for p in range(panels_of_block):
                    height = k * BLOCK
                    panel = source + p * (height + BLOCK) * vector
                    copy(panel, job.negated + p * height * vector, height * lanes, scalar(-1))
                subtract_products(job.team, of, k)
                job.failed = diagonal(job, k)
                if job.failed == 0:
                    scale_row(job.team, of, k)
        if job.failed == 0:
            substitute(job)

    return solve
