"""Philox4x32-10: random words as a function of a counter and a key, without a state.

Words of 32 bits are held in 64, of which the upper halves are not used. The text serves arrays of
NumPy, and both backends, which compile it.

References
----------
Salmon et al. (2011), "Parallel random numbers: as easy as 1, 2, 3".
"""

from collections.abc import Callable
from typing import Any

import numpy as np

MULTIPLIER_0, MULTIPLIER_2 = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
# What is added to the key after each round.
STEP_0, STEP_1 = np.uint64(0x9E3779B9), np.uint64(0xBB67AE85)
LOW, HALF = np.uint64(0xFFFFFFFF), np.uint64(32)


def one_round(c0: Any, c1: Any, c2: Any, c3: Any, k0: Any, k1: Any) -> Any:
    """Return counter and key after a round."""
    p0, p2 = (c0 & LOW) * MULTIPLIER_0, (c2 & LOW) * MULTIPLIER_2
    return (p2 >> HALF) ^ c1 ^ k0, p2, (p0 >> HALF) ^ c3 ^ k1, p0, k0 + STEP_0, k1 + STEP_1


def philox_of(compiled: Callable[[Any], Any]) -> Any:
    """Make ``philox(c0, c1, c2, c3, k0, k1) -> (w0, w1, w2, w3)``, with each function `compiled`.

    The lower 32 bits of each result are its word.

    Examples
    --------
    >>> zero = np.uint64(0)
    >>> words = philox_of(lambda function: function)(zero, zero, zero, zero, zero, zero)
    >>> [f"{int(word & LOW):x}" for word in words]
    ['6627e8d5', 'e169c58d', 'bc57ac4c', '9b00dbd8']
    """
    after = compiled(one_round)

    def five_rounds(c0: Any, c1: Any, c2: Any, c3: Any, k0: Any, k1: Any) -> Any:
        c0, c1, c2, c3, k0, k1 = after(c0, c1, c2, c3, k0, k1)
        c0, c1, c2, c3, k0, k1 = after(c0, c1, c2, c3, k0, k1)
        c0, c1, c2, c3, k0, k1 = after(c0, c1, c2, c3, k0, k1)
        c0, c1, c2, c3, k0, k1 = after(c0, c1, c2, c3, k0, k1)
        return after(c0, c1, c2, c3, k0, k1)

    half = compiled(five_rounds)

    def philox(c0: Any, c1: Any, c2: Any, c3: Any, k0: Any, k1: Any) -> Any:
        c0, c1, c2, c3, k0, k1 = half(c0, c1, c2, c3, k0, k1)
        c0, c1, c2, c3, k0, k1 = half(c0, c1, c2, c3, k0, k1)
        return c0, c1, c2, c3

    return compiled(philox)
