"""Normally distributed numbers from random words, for both backends.

References
----------
Box & Muller (1958), "A note on the generation of random normal deviates".
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from fastmlp.rules.philox import LOW

EIGHT = np.uint64(8)
# sin(pi t) / t in powers of t^2: for abs(t) <= 1/2 the first term left out is 1e-18.
SINE = [(-1) ** k * math.pi ** (2 * k + 1) / math.factorial(2 * k + 1) for k in range(11)]


def normals_of(
    scalar: type[Any],
    compiled: Callable[[Any], Any],
    fma: Callable[..., Any],
    log: Callable[[Any], Any],
    sqrt: Callable[[Any], Any],
) -> Any:
    """Make the function that turns two words into two independent numbers of N(0, 1).

    They are sqrt(-2 log u) times cosine and sine of 2 pi v, where u and v in [0, 1) are the upper
    24 bits of a word each, u plus half a bit. `scalar` is their dtype.

    Examples
    --------
    >>> make = normals_of(np.float64, lambda f: f, lambda a, b, c: a * b + c, np.log, np.sqrt)
    >>> [float(z.round(6)) for z in make(np.uint64(1 << 31), np.uint64(1 << 29))]
    [0.832555, 0.832555]
    """
    c0, c1, c2, c3, c4, c5, c6, c7, c8, c9, c10 = map(scalar, SINE)
    fraction, half, one, two = scalar(2.0**-24), scalar(0.5), scalar(1), scalar(2)
    zero = scalar(0)

    def sine_of(t: Any) -> Any:
        """Return sin(pi t) for abs(t) <= 1/2."""
        s = t * t
        high = fma(fma(fma(fma(c10, s, c9), s, c8), s, c7), s, c6)
        low = fma(fma(fma(high, s, c5), s, c4), s, c3)
        return fma(fma(fma(low, s, c2), s, c1), s, c0) * t

    def upper_bits(word: Any) -> Any:
        return scalar(np.int32((word & LOW) >> EIGHT))

    sine, uniform = compiled(sine_of), compiled(upper_bits)

    def normals(one_word: Any, other: Any) -> Any:
        # 2 v, and from there the angle in halves of a turn, in [-1, 1).
        length = sqrt(-two * log((uniform(one_word) + half) * fraction))
        turn = uniform(other) * (two * fraction)
        angle = turn - two if turn >= one else turn
        distance = abs(angle)
        folded = one - distance if distance > half else distance
        signed = -folded if angle < zero else folded
        return length * sine(half - distance), length * sine(signed)

    return compiled(normals)
