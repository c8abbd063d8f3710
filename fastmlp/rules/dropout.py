"""Dropout and noise: random numbers,
and the numbers of each step that kernels draw them with.

A step's numbers are one row of floats, after the optimizer's coefficients: the key and
the number of the step in pieces of 16 bits, which float32 holds exactly, then rates.
Each drawn number is a function of key, step, layer, row of the batch and unit, by
Philox4x32-10. Words of 32 bits are held in 64, of which the upper halves are not used.

References
----------
Box & Muller (1958), "A note on the generation of random normal deviates". Salmon et al.
(2011), "Parallel random numbers: as easy as 1, 2, 3". Srivastava et al. (2014),
"Dropout: a simple way to prevent neural networks from overfitting".
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastmlp.rules.optimizer_protocol import Schedule
from fastmlp.rules.schedules import rates_of
from fastmlp.validation import Array

MULTIPLIER_0 = np.uint64(0xD2511F53)
MULTIPLIER_2 = np.uint64(0xCD9E8D57)
# The steps of the key after each round.
STEP_0 = np.uint64(0x9E3779B9)
STEP_1 = np.uint64(0xBB67AE85)
LOW, HALF = np.uint64(0xFFFFFFFF), np.uint64(32)


def one_round(c0: Any, c1: Any, c2: Any, c3: Any, k0: Any, k1: Any) -> Any:
    p0 = (c0 & LOW) * MULTIPLIER_0
    p2 = (c2 & LOW) * MULTIPLIER_2
    return (
        (p2 >> HALF) ^ c1 ^ k0,
        p2,
        (p0 >> HALF) ^ c3 ^ k1,
        p0,
        k0 + STEP_0,
        k1 + STEP_1,
    )


def philox_of(compiled: Callable[[Any], Any]) -> Any:
    """Make ``philox(c0, c1, c2, c3, k0, k1) ->
    (w0, w1, w2, w3)``, with each function `compiled`.

    The lower 32 bits of each result are its word.
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


EIGHT = np.uint64(8)
# sin(pi t) / t in powers of t^2: for abs(t) <= 1/2 the first term left out is 1e-18.
SINE = [
    (-1) ** k * math.pi ** (2 * k + 1) / math.factorial(2 * k + 1) for k in range(11)
]


def normals_of(
    scalar: type[Any],
    compiled: Callable[[Any], Any],
    fma: Callable[..., Any],
    log: Callable[[Any], Any],
    sqrt: Callable[[Any], Any],
) -> Any:
    """Make the function that turns two words into two independent numbers of N(0, 1).

    The numbers are sqrt(-2 log u) times cosine and sine of 2 pi v. u and v in [0, 1)
    are the upper 24 bits of a word each, u plus half a bit. `scalar` is their dtype.
    """
    c0, c1, c2, c3, c4, c5, c6, c7, c8, c9, c10 = map(scalar, SINE)
    fraction = scalar(2.0**-24)
    half = scalar(0.5)
    one = scalar(1)
    two = scalar(2)
    zero = scalar(0)

    def sine_of(t: Any) -> Any:
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


Rate = float | Schedule
Key = tuple[int, int]
# A decision compares 16 bits with a threshold of a rate: rates differ by at most 8e-6.
N_THRESHOLDS = 1 << 16
# Positions in a row of numbers: threshold and scale of the inputs, the standard
# deviation of their noise, then threshold and scale of each hidden layer; before them
# the words.
INPUTS = 7
NOISE = 9
HIDDEN = 10
WORD_BITS = (0, 16, 32)
# A counter is (group of units, position of the row in its batch, layer * PURPOSES +
# purpose with the bits of the step above 32 from bit 16 on, step). A group has 8 units,
# or 4 normals.
PURPOSES = 16
OF_INPUTS, OF_HIDDEN, OF_NOISE = range(3)
UNITS, NORMALS = 8, 4
PHILOX = philox_of(lambda function: function)


class Dropout(NamedTuple):
    """The rates of a net's dropout and noise in training; 0: not used.

    Attributes
    ----------
    hidden : the rate of each hidden layer
    inputs : the rate of the inputs
    noise : the standard deviation of the inputs' noise
    """

    hidden: tuple[Rate, ...]
    inputs: Rate = 0.0
    noise: Rate = 0.0

    @property
    def n_numbers(self) -> int:
        return HIDDEN + 2 * len(self.hidden)

    def in_use(self) -> dict[str, Any]:
        alike = all(rate == self.hidden[0] for rate in self.hidden)
        hidden = self.hidden[0] if self.hidden and alike else list(self.hidden)
        used = any(map(is_used, self.hidden))
        settings = {"dropout": hidden} if used else {}
        inputs = {"input_dropout": self.inputs, "input_noise": self.noise}
        return settings | {name: rate for name, rate in inputs.items() if is_used(rate)}

    @property
    def draws_at_inputs(self) -> bool:
        return is_used(self.inputs) or is_used(self.noise)


def is_used(rate: Rate) -> bool:
    return callable(rate) or rate > 0


def thresholds(rates: Array) -> Array:
    """Return the thresholds of rates: a unit whose 16 bits are below is dropped."""
    return np.minimum(np.round(N_THRESHOLDS * rates), N_THRESHOLDS - 1)


def scales(threshold: Array) -> Array:
    """Return the factors of units that are kept:
    their mean is exact for the threshold's rate.
    """
    return 1 / (1 - threshold / N_THRESHOLDS)


def numbers_of(
    dropout: Dropout, key: Key, steps: NDArray[np.int64], total: int
) -> Array:
    """Return the numbers of steps, shape (n_steps, n_numbers)."""
    table = np.empty((len(steps), dropout.n_numbers))
    words = [word >> bits & 0xFFFF for word in key for bits in WORD_BITS[:2]]
    table[:, : len(words)] = words
    for j, bits in enumerate(WORD_BITS, start=len(words)):
        table[:, j] = steps >> bits & 0xFFFF
    places = [INPUTS, *range(HIDDEN, dropout.n_numbers, 2)]
    for place, rate in zip(places, (dropout.inputs, *dropout.hidden), strict=True):
        name = "input_dropout" if place == INPUTS else "dropout"
        table[:, place] = thresholds(check_rates(rate, steps, total, name))
        table[:, place + 1] = scales(table[:, place])
    table[:, NOISE] = check_rates(dropout.noise, steps, total, "input_noise")
    return table


def mask(key: Key, step: int, layer: int, shape: tuple[int, int], rate: float) -> Array:
    """Return the factors of a hidden layer's outputs in a step:
    0, or the scale of kept units.

    Parameters
    ----------
    key : of `NetState`
    step : int, from 0
    layer : int, from 0; -1: the inputs
    shape : rows of the batch, and units
    """
    purpose = OF_INPUTS if layer < 0 else OF_HIDDEN
    words = _words(
        key, step, max(layer, 0) * PURPOSES + purpose, shape[0], -(-shape[1] // UNITS)
    )
    halves = np.stack([words & 0xFFFF, words >> 16], axis=-1).reshape(shape[0], -1)
    threshold = thresholds(np.array(rate))
    return np.where(halves[:, : shape[1]] >= threshold, scales(threshold), 0.0)


def noise(key: Key, step: int, shape: tuple[int, int], deviation: float) -> Array:
    """The noise of a batch's inputs in a step; the parameters are as in `mask`."""
    words = _words(key, step, OF_NOISE, shape[0], -(-shape[1] // NORMALS)) >> 8
    u = (words[..., ::2] + 0.5) / 2.0**24
    v = words[..., 1::2] / 2.0**24
    length = np.sqrt(-2 * np.log(u))
    angle = 2 * np.pi * v
    normals = np.stack([length * np.cos(angle), length * np.sin(angle)], axis=-1)
    drawn: Array = deviation * normals.reshape(shape[0], -1)[:, : shape[1]]
    return drawn


def _words(
    key: Key, step: int, purpose: int, n_rows: int, n_groups: int
) -> NDArray[np.int64]:
    """Shape (n_rows, n_groups, 4)."""
    groups, rows = np.meshgrid(
        *(np.arange(n, dtype=np.uint64) for n in (n_groups, n_rows))
    )
    high = np.uint64(purpose | step >> 32 << 16)
    low = np.uint64(step & 0xFFFFFFFF)
    words = PHILOX(groups, rows, high, low, np.uint64(key[0]), np.uint64(key[1]))
    return np.stack([word & LOW for word in words], axis=-1).astype(np.int64)


def check_rates(
    rate: Rate, steps: NDArray[np.int64], total: int, name: str
) -> NDArray[np.float64]:
    """The rates of these steps by a schedule, which is named if they are not valid."""
    returned = rates_of(rate, steps, total)
    below = np.inf if name == "input_noise" else 1.0
    expected = "rates in [0, 1)" if below == 1 else "finite numbers of 0 or more"
    message = (
        f"MLP: the schedule of {name}, {rate!r}, must return {len(steps)} {expected}"
    )
    try:
        array = np.asarray(returned, np.float64)
    except (TypeError, ValueError):
        raise TypeError(f"{message}, got {returned!r}") from None
    if array.shape != steps.shape:
        raise ValueError(f"{message}, got an array of shape {array.shape}")
    good = (array >= 0) & (array < below)
    if not good.all():
        first = int(np.argmin(good))
        raise ValueError(f"{message}, got {array[first]} at step {steps[first]}")
    return array
