"""Averages of the parameters over the steps, which a net shows in place of its last parameters.

After each step, ``average <- average + gain (w - average)``. The gain of the k-th step that counts
is the average's own; at k = 1 it is 1.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fastmlp.validation import scalars
from fastmlp.validation.calls import explained

Counts = NDArray[np.int64]
Gains = NDArray[np.float64]


@explained
@dataclass(frozen=True)
class EMA:
    """An exponential moving average: the `average` of an optimizer.

    ``average <- average + (1 - momentum) / (1 - momentum^k) (w - average)`` after step k. That is
    Keras' and PyTorch's moving average with the weights of its steps brought to a sum of 1, as Adam
    does with its moments: the first steps count as much as the later ones. It covers about
    ``1 / (1 - momentum)`` steps, which should be a small part of the fit.

    Parameters
    ----------
    momentum : float in (0, 1), default 0.99
        What each step leaves of the average so far: the decay.

    Raises
    ------
    TypeError, ValueError
        If the momentum is not a number or out of range.

    References
    ----------
    Polyak & Juditsky (1992), "Acceleration of stochastic approximation by averaging".

    Examples
    --------
    >>> from fastmlp import EMA, Adam
    >>> Adam(0.01, average=EMA(0.99)).average
    EMA(momentum=0.99)
    """

    momentum: float = 0.99

    def __post_init__(self) -> None:
        momentum = scalars.inner_fraction("EMA", "momentum", self.momentum)
        object.__setattr__(self, "momentum", momentum)

    def gains(self, counts: Counts) -> Gains:
        """Return the gains of the k-th averaged steps, for k of 1 or more."""
        unbiased = (1 - self.momentum) / -np.expm1(counts * np.log(self.momentum))
        return np.where(counts == 1, 1.0, unbiased)


@explained
@dataclass(frozen=True)
class SWA:
    """Stochastic weight averaging: the `average` of an optimizer.

    The plain mean of the parameters after all steps of the last part of a fit. Before that part the
    average is the parameters themselves. The part is one of all epochs that a fit is asked for,
    even if it ends earlier; a further fit begins anew.

    Parameters
    ----------
    start : float in [0, 1), default 0.75
        The fraction of the fit's steps after which the mean begins.

    Raises
    ------
    TypeError, ValueError
        If the start is not a number or out of range.

    References
    ----------
    Izmailov et al. (2018), "Averaging weights leads to wider optima and better generalization",
    arXiv:1803.05407.

    Examples
    --------
    >>> from fastmlp import SGD, SWA
    >>> SGD(0.1, average=SWA(start=0.5)).average
    SWA(start=0.5)
    """

    start: float = 0.75

    def __post_init__(self) -> None:
        object.__setattr__(self, "start", scalars.fraction("SWA", "start", self.start))

    def gains(self, counts: Counts) -> Gains:
        """Return the gains of the k-th averaged steps, for k of 1 or more."""
        gains: Gains = 1.0 / counts
        return gains


Average = EMA | SWA
AVERAGES: dict[str, type[EMA] | type[SWA]] = {"EMA": EMA, "SWA": SWA}


def checked_average(owner: str, average: object) -> Average:
    """Check the `average` of an optimizer.

    Raises
    ------
    TypeError
        If it is not an average.
    """
    if isinstance(average, EMA | SWA):
        return average
    expected = "EMA(momentum), SWA(start) or None"
    hint = ""
    if isinstance(average, type) and average in AVERAGES.values():
        hint = f"; did you mean {average.__name__}()?"
    elif isinstance(average, str):
        meant = average.upper() if average.upper() in AVERAGES else "EMA"
        hint = f"; did you mean {meant}()?"
    elif average is True:
        hint = "; did you mean EMA()?"
    elif scalars.is_positive(average):
        hint = f"; did you mean EMA({average!r})?"
    raise TypeError(f"{owner}: average must be {expected}, got {average!r}{hint}")
