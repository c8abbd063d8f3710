"""The first layer on sparse rows: products and gradient from the nonzero values alone.

Rows are compressed by row (CSR). The gradient of a row of W needs one column of the chunk:
`sparse_columns` compresses it by column (CSC), by counting, before phase two.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastmlp.backends.cpu.kernels import Scalar
from fastmlp.backends.cpu.plan.records import BLOCK, RELU, RELU_DROPPED, Batch, Layer, Net, Tile
from fastmlp.backends.cpu.plan.workspace import aligned
from fastmlp.backends.cpu.simd.pack import MatrixRows, SparseRow, moves
from fastmlp.backends.cpu.simd.vector import Panels
from fastmlp.backends.cpu.tuning import ROW_BLOCK, SPARSE_PANELS
from fastmlp.compiler import call, njit, record_at, records_at, row, stack
from fastmlp.compiler.target import lanes_of

Array = NDArray[Any]
STARTS, COLUMNS = np.dtype(np.int64), np.dtype(np.int32)


class SparseRows:
    """Rows of a sparse matrix in CSR; row r has the numbers ``starts[r]`` to ``starts[r + 1]``.

    Parameters
    ----------
    values : shape (n_numbers,)
    columns : int32, shape (n_numbers,), in any order within a row
    starts : int64, shape (n_rows + 1,)
    """

    values: Array
    columns: Array
    starts: Array
    shape: tuple[int, int]
    dtype: np.dtype[Any]

    def __init__(self, values: Array, columns: Array, starts: Array, n_features: int) -> None:
        self.values, self.dtype = np.ascontiguousarray(values), values.dtype
        self.columns = np.ascontiguousarray(columns, COLUMNS)
        self.starts = np.ascontiguousarray(starts, STARTS)
        self.shape = (len(starts) - 1, n_features)

    def __len__(self) -> int:
        return self.shape[0]

    def most_numbers(self, n_rows: int) -> int:
        """The most numbers that any `n_rows` rows have together."""
        counts = np.diff(self.starts)
        n = min(n_rows, len(counts))
        return int(np.partition(counts, len(counts) - n)[len(counts) - n :].sum())


class ColumnBuffers:
    """CSC buffers of a chunk: column pointers, row indices, values."""

    starts: Array
    rows: Array
    values: Array

    def __init__(self, n_features: int, n_numbers: int, dtype: np.dtype[Any]) -> None:
        self.starts = np.zeros(n_features + 2, np.int64)
        self.rows = np.zeros(n_numbers, np.int32)
        self.values = aligned(n_numbers, dtype)


@njit
def _row_of(net: Net, r: int) -> tuple[int, int]:
    batch = record_at(net.batch, Batch)
    place = row(batch.index + r * 8, 1, np.int64)[0] if batch.index else r
    bounds = row(batch.x + place * 8, 2, np.int64)
    return bounds[0], bounds[1]


def activating(scalar: Scalar) -> Any:
    lanes = lanes_of(scalar)
    copy, rectify = moves(scalar, lanes).copy, moves(scalar, lanes).rectify

    @njit
    def activate(layer: Layer, panel: int, slopes: int, n: int, z: int) -> None:
        """`z` has room for a block of rows: a loop that reads and writes one place does not
        vectorise. silu in place took 4.7 ns a number, from a copy 0.8."""
        if layer.form == BLOCK:
            copy(panel, z, n * lanes)
            call(layer.activation, (z, panel, slopes, n * lanes))
        elif layer.form == RELU or layer.form == RELU_DROPPED:
            rectify(panel, n)

    return activate


def sparse_forward(scalar: Scalar) -> Any:
    """The first layer of rows first to last, at buffer row `at` on.

    Predictions read the flat W: packing a W of 50,000 rows took 0.5 s. Several panels are
    multiplied at once: one by one, 20,000 rows of 50 numbers and 100 units took 0.17 s.
    """
    lanes = lanes_of(scalar)
    add_rows, add_wide_rows = moves(scalar, lanes).add_rows, moves(scalar, lanes).add_wide_rows
    size = np.dtype(scalar).itemsize
    vector = lanes * size
    z_bytes, activate = ROW_BLOCK * vector, activating(scalar)

    def forward(address: int, first: int, last: int, at: int) -> None:
        z, net = stack(z_bytes), record_at(address, Net)
        layer = record_at(net.layers, Layer)
        weights, panel, stride, n_wide = layer.weights, layer.weight_panel, vector, 0
        if net.unpacked:
            n_wide = layer.n_out // (SPARSE_PANELS * lanes) * SPARSE_PANELS
            weights, panel = net.unpacked + layer.offset * size, vector
            stride = layer.n_out * size
        for r in range(first, last):
            outputs = layer.outputs + (at + r - first) * vector
            begin, end = _row_of(net, r)
            columns, values = net.x_columns + begin * 4, net.x_values + begin * size
            numbers = SparseRow(columns, values, end - begin)
            for p in range(0, n_wide, SPARSE_PANELS):
                add_wide_rows(
                    Panels(outputs + p * net.panel, net.panel),
                    Panels(layer.biases + p * layer.packed_panel, layer.packed_panel),
                    MatrixRows(weights + p * panel, stride),
                    numbers,
                )
            for p in range(n_wide, layer.n_panels):
                add_rows(
                    outputs + p * net.panel,
                    layer.biases + p * layer.packed_panel,
                    MatrixRows(weights + p * panel, stride),
                    layer.n_out - p * lanes,
                    numbers,
                )
        for p in range(layer.n_panels):
            skip = p * net.panel + at * vector
            activate(layer, layer.outputs + skip, layer.deltas + skip, last - first, z)

    return forward


def sparse_columns(scalar: Scalar) -> Any:
    """Sorts the chunk's numbers by column, then by row."""

    def sort(address: int) -> None:
        net, like = record_at(address, Net), row(address, 0, scalar)
        # During placement, starts[c + 1] is the index of the next number of column c.
        starts = row(net.column_starts, net.n_in + 2, np.int64)
        starts[:] = 0
        n_numbers = 0
        for r in range(record_at(net.batch, Batch).n_rows):
            begin, end = _row_of(net, r)
            columns = row(net.x_columns + begin * 4, end - begin, np.int32)
            n_numbers += end - begin
            for e in range(end - begin):
                starts[np.int64(columns[e]) + 2] += 1
        for c in range(net.n_in):
            starts[c + 2] += starts[c + 1]
        rows = row(net.column_rows, n_numbers, np.int32)
        sorted_values = row(net.column_values, n_numbers, scalar)
        for r in range(record_at(net.batch, Batch).n_rows):
            begin, end = _row_of(net, r)
            columns = row(net.x_columns + begin * 4, end - begin, np.int32)
            values = row(net.x_values + begin * like.itemsize, end - begin, scalar)
            for e in range(end - begin):
                after = np.int64(columns[e]) + 1
                rows[starts[after]] = r
                sorted_values[starts[after]] = values[e]
                starts[after] += 1

    return sort


def sparse_gradient(scalar: Scalar) -> Any:
    """Writes the gradient of a tile of the first layer to `g`.

    With `more` the gradient goes on from the chunk before; `g_panel` is the bytes of a panel of
    `g`.
    """
    lanes = lanes_of(scalar)
    add_rows = moves(scalar, lanes).add_rows
    size = np.dtype(scalar).itemsize
    vector = lanes * size

    def differentiate(address: int, t: int, g: int, g_panel: int, more: int) -> None:
        net = record_at(address, Net)
        piece, layer = records_at(net.tiles, net.n_tiles, Tile)[t], record_at(net.layers, Layer)
        starts = row(net.column_starts, net.n_in + 1, np.int64)
        for p in range(piece.n_panels):
            deltas = layer.deltas + (piece.panel + p) * net.panel
            before = net.gradient - net.parameters + layer.packed
            before += (piece.panel + p) * layer.packed_panel
            for k in range(piece.first, piece.last):
                rows, values = net.column_rows + starts[k] * 4, net.column_values + starts[k] * size
                add_rows(
                    g + p * g_panel + (k - piece.first) * vector,
                    before + k * vector if more else net.zeros,
                    MatrixRows(deltas, vector),
                    lanes,
                    SparseRow(rows, values, starts[k + 1] - starts[k]),
                )

    return differentiate
