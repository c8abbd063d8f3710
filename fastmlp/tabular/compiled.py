"""Compiled loops over the rows of a table:
numbers and codes in, columns of float32 out.

A block of rows passes column after column while it is in the first-level cache. 100,000
rows of 16 numbers, 16 pieces each, one thread, against NumPy by column: 73 -> 8 ms.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from fastmlp.extend import block_of, columns, njit, row, stack
from fastmlp.typing import Array

_clipped = njit(columns.COLUMN_RULES["clipped"])
_rising = njit(columns.COLUMN_RULES["rising"])
# Rows of a block; 64 -> 128 -> 256: 9.1 -> 8.7 -> 8.7 ms.
BLOCK_ROWS_OF_TABLES = 128
# Bytes of a block of float64 and of float32.
# Numba does not take a product for a constant.
WIDE, NARROW = BLOCK_ROWS_OF_TABLES * 8, BLOCK_ROWS_OF_TABLES * 4
F32 = np.float32
F64 = np.float64
INT = np.int64


class Matrix(NamedTuple):
    """Row r and column c of a matrix are at ``address + r * down + c * right``."""

    address: int
    down: int
    right: int
    n_rows: int
    n_columns: int


def write_pieces(
    X: Array, out: Array, edges: Array, n_pieces: Array, medians: Array
) -> None:
    """Write each number's piece plus the share of the piece below the number.

    X has shape (n_rows, n_features), NaN where a number is missing; out is float32,
    with a column for each feature that has pieces. `edges`, `n_pieces` and `medians`
    are as in `PiecewiseLinear`.
    """
    n = int(np.count_nonzero(n_pieces))
    of_features = [_as(INT, n_pieces), _as(F64, medians)]
    _run(_pieces, np.asarray(X, F64), out, n, of_features, [_as(F64, edges)])


def write_clipped(X: Array, out: Array, center: Array, factor: Array) -> None:
    """Write ``z / sqrt(1 + (z / 3)^2)`` of ``z = (x - center)
    * factor``, and 0 where x is missing.

    X and out, float32, have shape (n_rows, n_features);
    center and factor (n_features,).
    """
    of_features = [_as(F64, center), _as(F64, factor)]
    _run(_clip, np.asarray(X, F64), out, len(center), of_features)


def write_rising(X: Array, out: Array, center: Array, factor: Array) -> None:
    """Write as `write_clipped` in a form that keeps the order of numbers to the last
    digit.
    """
    of_features = [_as(F64, center), _as(F64, factor)]
    _run(_rise, np.asarray(X, F64), out, len(center), of_features)


def write_levels(
    X: Array, out: Array, starts: Array, sizes: Array, table: Array
) -> None:
    """Write a table's row for each code.

    Parameters
    ----------
    X : (n_rows, n_features) array of codes, -1 for no level
    out : (n_rows, n_features * width) array of float32
    starts, sizes : (n_features,) arrays
        First row of each feature in the table, and the number of its rows:
        one for a missing or unknown level, then one for each code.
    table : (n_places, width) array of float32
    """
    if X.dtype == np.int32:
        codes = X
    else:
        codes = np.clip(X, -1, len(table)).astype(np.int32)
    width = table.shape[1]
    of_features = [_as(INT, starts), _as(INT, sizes)]
    _run(
        _lookup, codes, out, len(starts) * width, of_features, [_as(F32, table)], width
    )


def _as(dtype: Any, array: Array) -> Array:
    return np.ascontiguousarray(array, dtype)


def _run(
    factory: Any,
    X: Array,
    out: Array,
    n_columns: int,
    of_features: Sequence[Array],
    others: Sequence[Array] = (),
    *more: int,
) -> None:
    """Run a block; `of_features` are arrays with a number for each feature."""
    n_rows, n_features = X.shape
    if any(array.shape != (n_features,) for array in of_features):
        raise ValueError(f"{n_features} features must have as many numbers each")
    if out.shape != (n_rows, n_columns) or out.dtype != F32:
        raise ValueError(f"out must be of float32, of shape {(n_rows, n_columns)}")
    addresses = [array.ctypes.data for array in (*of_features, *others)]
    block_of(factory, F64)(*_matrix(X), *_matrix(out), *addresses, *more)


def _matrix(array: Array) -> Matrix:
    return Matrix(array.ctypes.data, *array.strides, *array.shape)


@njit
def _read_column(
    x: Matrix, first: int, n: int, j: int, missing: float, to: int
) -> None:
    values = row(to, n, F64)
    source = x.address + first * x.down + j * x.right
    if x.down == 8:
        column = row(source, n, F64)
        for i in range(n):
            values[i] = column[i] if column[i] == column[i] else missing
    else:
        for i in range(n):
            value = row(source + i * x.down, 1, F64)[0]
            values[i] = value if value == value else missing


@njit
def _give(values: int, n: int, to: int, down: int) -> None:
    source = row(values, n, F32)
    for i in range(n):
        row(to + i * down, 1, F32)[0] = source[i]


@njit
def _locate(
    values: int, n: int, edges: int, n_pieces: int, below: int, to: int
) -> None:
    """Write the index of each of n numbers among a column's pieces.

    The edges below it are counted, six at a time,
    by vectors of rows: a search would branch at each.
    """
    x = row(values, n, F64)
    edge = row(edges, n_pieces + 1, F64)
    piece = row(below, n, INT)
    places = row(to, n, F32)
    zero = 0.0
    one = 1.0
    nan = np.nan
    no, yes = INT(0), INT(1)
    piece[:] = no
    for e in range(1, n_pieces, 6):
        left = n_pieces - e
        a = edge[e]
        b = edge[e + 1] if left > 1 else nan
        c = edge[e + 2] if left > 2 else nan
        d = edge[e + 3] if left > 3 else nan
        f = edge[e + 4] if left > 4 else nan
        g = edge[e + 5] if left > 5 else nan
        for i in range(n):
            number = x[i]
            first = (yes if a <= number else no) + (yes if b <= number else no)
            second = (yes if c <= number else no) + (yes if d <= number else no)
            third = (yes if f <= number else no) + (yes if g <= number else no)
            piece[i] += first + second + third
    for i in range(n):
        k = piece[i]
        low, high = edge[k], edge[k + 1]
        value = low if x[i] < low else x[i]
        share = ((high if value > high else value) - low) / (high - low)
        # The width of a piece can overflow.
        share = share if share > zero else zero
        places[i] = F32(F64(k) + F64(F32(share if share < one else one)))


def _pieces(scalar: Any) -> Any:
    def write(x: Matrix, out: Matrix, n_pieces: int, medians: int, edges: int) -> None:
        values = stack(WIDE)
        below = stack(WIDE)
        places = stack(NARROW)
        counts = row(n_pieces, x.n_columns, INT)
        missing = row(medians, x.n_columns, F64)
        for first in range(0, x.n_rows, BLOCK_ROWS_OF_TABLES):
            n = min(BLOCK_ROWS_OF_TABLES, x.n_rows - first)
            at = edges
            to = out.address + first * out.down
            for j in range(x.n_columns):
                if counts[j] > 0:
                    _read_column(x, first, n, j, missing[j], values)
                    _locate(values, n, at, counts[j], below, places)
                    _give(places, n, to, out.down)
                    at += (counts[j] + 1) * 8
                    to += out.right

    return write


def _by_column(rule: Any) -> Any:
    @njit
    def scale(values: int, n: int, center: float, factor: float, to: int) -> None:
        x, scaled = row(values, n, F64), row(to, n, F32)
        for i in range(n):
            scaled[i] = rule(x[i], center, factor)

    def write(x: Matrix, out: Matrix, centers: int, factors: int) -> None:
        values = stack(WIDE)
        scaled = stack(NARROW)
        nan = np.nan
        center = row(centers, x.n_columns, F64)
        factor = row(factors, x.n_columns, F64)
        for first in range(0, x.n_rows, BLOCK_ROWS_OF_TABLES):
            n = min(BLOCK_ROWS_OF_TABLES, x.n_rows - first)
            to = out.address + first * out.down
            for j in range(x.n_columns):
                _read_column(x, first, n, j, nan, values)
                scale(values, n, center[j], factor[j], scaled)
                _give(scaled, n, to + j * out.right, out.down)

    return write


def _clip(scalar: Any) -> Any:
    return _by_column(_clipped)


def _rise(scalar: Any) -> Any:
    return _by_column(_rising)


def _lookup(scalar: Any) -> Any:
    def write(
        x: Matrix, out: Matrix, starts: int, sizes: int, table: int, width: int
    ) -> None:
        start = row(starts, x.n_columns, INT)
        size = row(sizes, x.n_columns, INT)
        for r in range(x.n_rows):
            for j in range(x.n_columns):
                code = (
                    INT(row(x.address + r * x.down + j * x.right, 1, np.int32)[0]) + 1
                )
                place = start[j] + (code if code > 0 and code < size[j] else 0)
                numbers = row(table + place * width * 4, width, F32)
                to = out.address + r * out.down + j * width * out.right
                for k in range(width):
                    row(to + k * out.right, 1, F32)[0] = numbers[k]

    return write


# For `fastmlp.warmup`.
FACTORIES = (_pieces, _clip, _rise, _lookup)
