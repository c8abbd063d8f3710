"""Elementary functions of one scalar,
in the precision of their argument, and exp of rows.

Rules, a user's too, call these functions. Every backend has a compiled form. Uncompiled
they take NumPy scalars; compiled they take float32 or float64 and never widen.
"""

import math
from typing import Any

import numpy as np


def exp(x: float) -> float:
    """Exponential function."""
    return np.exp(x)


def expm1(x: float) -> float:
    """``exp(x) - 1``, exact near zero."""
    return np.expm1(x)


def log(x: float) -> float:
    """Natural logarithm."""
    return np.log(x)


def log1p(x: float) -> float:
    """``log(1 + x)``, exact near zero."""
    return np.log1p(x)


def sqrt(x: float) -> float:
    """Square root."""
    return np.sqrt(x)


def tanh(x: float) -> float:
    """Hyperbolic tangent."""
    return np.tanh(x)


def erf(x: float) -> float:
    """Error function."""
    return type(x)(math.erf(x))


def logistic(x: float) -> float:
    """``1 / (1 + exp(-x))``, without overflow on either side."""
    one = type(x)(1)
    e = np.exp(-abs(x))
    return (e if x < 0 else one) / (one + e)


def softplus(x: float) -> float:
    """``log(1 + exp(x))``, without overflow."""
    zero = type(x)(0)
    return (zero if x < zero else x) + np.log1p(np.exp(-abs(x)))


def exponentials(raw: Any, out: Any) -> None:
    """Write ``exp(raw - peak)`` of every row to `out`,
    with peak the largest number of the row.

    The inner loops run over rows, not over classes:
    a row of ten classes does not fill a vector.

    Parameters
    ----------
    raw, out : (n_rows, n) arrays, float32 or float64
        They must not overlap. Loops over rows vectorise if columns are contiguous.
    """
    n_rows, n = raw.shape
    # out[:, 0] holds the peaks until the last column.
    for r in range(n_rows):
        out[r, 0] = raw[r, 0]
    for j in range(1, n):
        for r in range(n_rows):
            out[r, 0] = raw[r, j] if raw[r, j] > out[r, 0] else out[r, 0]
    for j in range(n - 1, -1, -1):
        for r in range(n_rows):
            out[r, j] = raw[r, j] - out[r, 0]
    # In place: with a second array the loop did not vectorise,
    # 36 -> 6 ns a row without.
    for j in range(n):
        for r in range(n_rows):
            out[r, j] = exp(out[r, j])


def probabilities(raw: Any, out: Any, rest: Any) -> None:
    """Write ``exp(raw_j) / sum_k exp(raw_k)`` of every row to `out`.

    `rest` receives the sum of ``exp(raw_j - peak)`` without the 1 of the peak:
    exact where small.

    Parameters
    ----------
    raw, out : (n_rows, n) arrays, float32 or float64
        As for `exponentials`.
    rest : (n_rows,) array
    """
    n_rows, n = raw.shape
    one = type(raw[0, 0])(1)
    exponentials(raw, out)
    for r in range(n_rows):
        rest[r] = -1.0
    for j in range(n):
        for r in range(n_rows):
            rest[r] += 1.0 if out[r, j] == one else 0.0
    for j in range(n):
        for r in range(n_rows):
            rest[r] += 0.0 if out[r, j] == one else out[r, j]
    for j in range(n):
        for r in range(n_rows):
            out[r, j] /= one + type(one)(rest[r])


FUNCTIONS = (exp, expm1, log, log1p, sqrt, tanh, erf, logistic, softplus)
