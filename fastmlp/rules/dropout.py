"""Dropout and noise: the numbers of each step that kernels draw with, and what they draw.

A step's numbers are one row of floats, after the optimizer's coefficients: the key and the number
of the step in pieces of 16 bits, which float32 holds exactly, then rates. Nothing that is drawn is
stored: it is a function of key, step, layer, row of the batch and unit (`fastmlp.rules.philox`).

References
----------
Srivastava et al. (2014), "Dropout: a simple way to prevent neural networks from overfitting".
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastmlp.rules.optimizers import Schedule
from fastmlp.rules.philox import LOW, philox_of
from fastmlp.rules.schedules import rates_of

Array = NDArray[Any]
Rate = float | Schedule
Key = tuple[int, int]
# A decision compares 16 bits with a threshold of a rate: rates differ by at most 8e-6.
LEVELS = 1 << 16
# Positions in a row of numbers: threshold and scale of the inputs, the standard deviation of their
# noise, then threshold and scale of each hidden layer; before them the words.
INPUTS, NOISE, HIDDEN = 7, 9, 10
WORD_BITS = (0, 16, 32)
# A counter is (group of units, position of the row in its batch, layer * PURPOSES + purpose with
# the bits of the step above 32 from bit 16 on, step). A group has 8 units, or 4 normals.
PURPOSES = 16
OF_INPUTS, OF_HIDDEN, OF_NOISE = range(3)
UNITS, NORMALS = 8, 4
PHILOX = philox_of(lambda function: function)


class Dropout(NamedTuple):
    """What a net drops and adds in training; 0 stands for nothing.

    Attributes
    ----------
    hidden : the rate of each hidden layer
    inputs : the rate of the inputs
    noise : the standard deviation of the noise that is added to the inputs
    """

    hidden: tuple[Rate, ...]
    inputs: Rate = 0.0
    noise: Rate = 0.0

    @property
    def n_numbers(self) -> int:
        """The numbers of a step."""
        return HIDDEN + 2 * len(self.hidden)

    def told(self) -> dict[str, Any]:
        """Return what is in use, by the names of `MLP`'s arguments."""
        alike = all(rate == self.hidden[0] for rate in self.hidden)
        hidden = self.hidden[0] if self.hidden and alike else list(self.hidden)
        used = any(map(is_used, self.hidden))
        told = {"dropout": hidden} if used else {}
        inputs = {"input_dropout": self.inputs, "input_noise": self.noise}
        return told | {name: rate for name, rate in inputs.items() if is_used(rate)}

    @property
    def draws_at_inputs(self) -> bool:
        """True if inputs are dropped, or have noise."""
        return is_used(self.inputs) or is_used(self.noise)


def is_used(rate: Rate) -> bool:
    """Return True if a rate is above 0, or a schedule."""
    return callable(rate) or rate > 0


def thresholds(rates: Array) -> Array:
    """Return the thresholds of rates: a unit whose 16 bits are below it is dropped."""
    return np.minimum(np.round(LEVELS * rates), LEVELS - 1)


def scales(threshold: Array) -> Array:
    """Return the factors of units that are kept: their mean is exact for the threshold's rate."""
    return 1 / (1 - threshold / LEVELS)


def numbers_of(dropout: Dropout, key: Key, steps: NDArray[np.int64], total: int) -> Array:
    """Return the numbers of steps, shape (n_steps, n_numbers); the fit ends at step `total`.

    Raises
    ------
    ValueError
        If a schedule returns a rate out of range.
    """
    table = np.empty((len(steps), dropout.n_numbers))
    words = [word >> bits & 0xFFFF for word in key for bits in WORD_BITS[:2]]
    table[:, : len(words)] = words
    for j, bits in enumerate(WORD_BITS, start=len(words)):
        table[:, j] = steps >> bits & 0xFFFF
    places = [INPUTS, *range(HIDDEN, dropout.n_numbers, 2)]
    for place, rate in zip(places, (dropout.inputs, *dropout.hidden), strict=True):
        name = "input_dropout" if place == INPUTS else "dropout"
        table[:, place] = thresholds(checked(rate, steps, total, name))
        table[:, place + 1] = scales(table[:, place])
    table[:, NOISE] = checked(dropout.noise, steps, total, "input_noise")
    return table


def mask(key: Key, step: int, layer: int, shape: tuple[int, int], rate: float) -> Array:
    """Return the factors of a hidden layer's outputs in a step: 0, or the scale of what is kept.

    Parameters
    ----------
    key : of `NetState`
    step : int, from 0
    layer : int, from 0; -1: the inputs
    shape : rows of the batch, and units

    Examples
    --------
    >>> mask((1, 2), 0, 0, (2, 4), 0.5)
    array([[2., 2., 0., 2.],
           [2., 2., 0., 0.]])
    """
    purpose = OF_INPUTS if layer < 0 else OF_HIDDEN
    words = _words(key, step, max(layer, 0) * PURPOSES + purpose, shape[0], -(-shape[1] // UNITS))
    halves = np.stack([words & 0xFFFF, words >> 16], axis=-1).reshape(shape[0], -1)
    threshold = thresholds(np.array(rate))
    return np.where(halves[:, : shape[1]] >= threshold, scales(threshold), 0.0)


def noise(key: Key, step: int, shape: tuple[int, int], deviation: float) -> Array:
    """Return the noise of a batch's inputs in a step; the parameters are those of `mask`.

    Examples
    --------
    >>> noise((1, 2), 0, (2, 2), 0.1).round(4)
    array([[ 0.0659,  0.1668],
           [-0.0013,  0.1216]])
    """
    words = _words(key, step, OF_NOISE, shape[0], -(-shape[1] // NORMALS)) >> 8
    u, v = (words[..., ::2] + 0.5) / 2.0**24, words[..., 1::2] / 2.0**24
    length, angle = np.sqrt(-2 * np.log(u)), 2 * np.pi * v
    normals = np.stack([length * np.cos(angle), length * np.sin(angle)], axis=-1)
    drawn: Array = deviation * normals.reshape(shape[0], -1)[:, : shape[1]]
    return drawn


def _words(key: Key, step: int, purpose: int, n_rows: int, n_groups: int) -> NDArray[np.int64]:
    """Return the words of all groups of units, shape (n_rows, n_groups, 4)."""
    groups, rows = np.meshgrid(*(np.arange(n, dtype=np.uint64) for n in (n_groups, n_rows)))
    high, low = np.uint64(purpose | step >> 32 << 16), np.uint64(step & 0xFFFFFFFF)
    words = PHILOX(groups, rows, high, low, np.uint64(key[0]), np.uint64(key[1]))
    return np.stack([word & LOW for word in words], axis=-1).astype(np.int64)


def checked(rate: Rate, steps: NDArray[np.int64], total: int, name: str) -> NDArray[np.float64]:
    """Return the rates of steps, after a check of what a schedule returns."""
    given, below = rates_of(rate, steps, total), np.inf if name == "input_noise" else 1.0
    expected = "rates in [0, 1)" if below == 1 else "finite numbers of 0 or more"
    what = f"MLP: the schedule of {name}, {rate!r}, must return {len(steps)} {expected}"
    try:
        array = np.asarray(given, np.float64)
    except (TypeError, ValueError):
        raise TypeError(f"{what}, got {given!r}") from None
    if array.shape != steps.shape:
        raise ValueError(f"{what}, got an array of shape {array.shape}")
    good = (array >= 0) & (array < below)
    if not good.all():
        first = int(np.argmin(good))
        raise ValueError(f"{what}, got {array[first]} at step {steps[first]}")
    return array
