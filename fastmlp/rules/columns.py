"""Rules of the columns of a table: an input of a net, float32, of a number, which may be missing.

Compiled loops over columns, code that is called row by row, and C files are made of them.
"""

from numpy import float32, sqrt

# Scaled numbers are between -3 and 3.
BOUND = 3.0
# Beyond float32's range a scaled number would be inf, and the result NaN.
LARGEST = 1e18


def clipped(x: float, center: float, factor: float) -> float32:
    """``z / sqrt(1 + (z / 3)^2)`` of ``z = (x - center) * factor``, and 0 of a missing x."""
    z = (x - center) * factor
    z = z if z == z else 0.0
    z = -LARGEST if z < -LARGEST else z
    z32 = float32(LARGEST if z > LARGEST else z)
    part = z32 * float32(1 / BOUND)
    return z32 / sqrt(float32(1) + part * part)


def rising(x: float, center: float, factor: float) -> float32:
    """`clipped` as ``1 / sqrt(1 / z^2 + 1 / 9)``: rounded, each of these steps rises or falls, as
    a quotient of two numbers that rise does not."""
    z = (x - center) * factor
    z = z if z == z else 0.0
    z = min(max(z, -LARGEST), LARGEST)
    # The summand is for 0.
    size = 1.0 / sqrt(1.0 / (z * z + 1e-300) + 1.0 / (BOUND * BOUND))
    return float32(-size if z < 0.0 else size)


def missing(x: float) -> float32:
    """1 of a missing number, else 0."""
    return float32(1.0 if x != x else 0.0)


def share_below(x: float, median: float, low: float, factor: float) -> float32:
    """The share of a piece from `low` on, ``1 / factor`` wide, that lies below a number, from 0 to
    1; a missing one is taken as the median."""
    x = median if x != x else x
    share = float32((x - low) * factor)
    share = float32(0) if share < float32(0) else share
    return float32(1) if share > float32(1) else share
