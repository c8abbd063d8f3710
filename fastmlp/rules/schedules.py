"""Learning-rate schedules, which any optimizer takes in place of a learning rate.

A schedule takes an array of step numbers, counted from 0 over the life of the net, and
the step at which the current fit ends. The result is their rates. Any such function is
a schedule. A setting that is not a number raises a TypeError, one out of range a
ValueError.

>>> from fastmlp import Adam, Cosine, Warmup
>>> Adam(Warmup(Cosine(0.01), n_steps=100)).learning_rate
Warmup(schedule=Cosine(learning_rate=0.01, n_steps=None, final_rate=0.0), n_steps=100)
"""

import numpy as np
from numpy.typing import NDArray

from fastmlp.rules.optimizer_protocol import Schedule, check_rate
from fastmlp.validation import scalars
from fastmlp.validation.calls import settings

Steps = NDArray[np.int64]
Rates = NDArray[np.float64]


class _Checked:
    """Each field is checked by its entry of `_CHECKS`."""

    def __post_init__(self) -> None:
        for name, value in list(vars(self).items()):
            check = _CHECKS.get(name)
            if check is not None and not (name == "n_steps" and value is None):
                object.__setattr__(self, name, check(type(self).__name__, name, value))


def _horizon(n_steps: int | None, total: int) -> float:
    """Return the steps of the schedule as a float:
    epochs times steps may exceed 64 bits.
    """
    return float(max(total if n_steps is None else n_steps, 1))


@settings
class Constant(_Checked):
    """The same rate at every step.

    Parameters
    ----------
    learning_rate : float above 0

    Examples
    --------
    >>> Constant(0.1)(np.arange(3), 3)
    array([0.1, 0.1, 0.1])
    """

    learning_rate: float

    def __call__(self, steps: Steps, total: int) -> Rates:
        return np.full(len(steps), self.learning_rate)


@settings
class StepDecay(_Checked):
    """The rate is multiplied by `factor` after every `every` steps.

    Parameters
    ----------
    learning_rate : float above 0
    factor : float above 0, default 0.1
    every : int of 1 or more, default 1000

    Examples
    --------
    >>> StepDecay(1.0, factor=0.5, every=2)(np.arange(5), 5)
    array([1.  , 1.  , 0.5 , 0.5 , 0.25])
    """

    learning_rate: float
    factor: float = 0.1
    every: int = 1000

    def __call__(self, steps: Steps, total: int) -> Rates:
        return self.learning_rate * self.factor ** (steps // self.every).astype(
            np.float64
        )


@settings
class Exponential(_Checked):
    """The rate shrinks smoothly, by `factor` in `every` steps.

    Parameters
    ----------
    learning_rate : float above 0
    factor : float above 0, default 0.96
    every : int of 1 or more, default 1000

    Examples
    --------
    >>> Exponential(1.0, factor=0.25, every=2)(np.arange(3), 3)
    array([1.  , 0.5 , 0.25])
    """

    learning_rate: float
    factor: float = 0.96
    every: int = 1000

    def __call__(self, steps: Steps, total: int) -> Rates:
        return self.learning_rate * np.power(
            np.float64(self.factor), steps / self.every
        )


@settings
class InverseScaling(_Checked):
    """The rate at step t (from 0) is ``learning_rate / (t + 1)^power``.

    Parameters
    ----------
    learning_rate : float above 0
    power : float of 0 or more, default 0.5

    Examples
    --------
    >>> InverseScaling(1.0, power=1.0)(np.arange(4), 4)
    array([1.        , 0.5       , 0.33333333, 0.25      ])
    """

    learning_rate: float
    power: float = 0.5

    def __call__(self, steps: Steps, total: int) -> Rates:
        slowdown: Rates = np.power(steps + 1.0, self.power)
        return self.learning_rate / slowdown


@settings
class Cosine(_Checked):
    """Half a cosine from `learning_rate` down to `final_rate`, then constant.

    Parameters
    ----------
    learning_rate : float above 0
    n_steps : int of 1 or more, optional
        The steps of the descent, counted from the net's first step.
        None: to the end of the current fit.
    final_rate : float of 0 or more, default 0

    References
    ----------
    Loshchilov & Hutter (2017), "SGDR: stochastic gradient descent with warm restarts".

    Examples
    --------
    >>> Cosine(1.0)(np.arange(3), 2)
    array([1. , 0.5, 0. ])
    """

    learning_rate: float
    n_steps: int | None = None
    final_rate: float = 0.0

    def __call__(self, steps: Steps, total: int) -> Rates:
        progress = np.minimum(steps / _horizon(self.n_steps, total), 1.0)
        return self.final_rate + (self.learning_rate - self.final_rate) * _half_cosine(
            progress
        )


@settings
class OneCycle(_Checked):
    """Half a cosine up from ``learning_rate / 25``,
    and one down to ``learning_rate / 250,000``.

    Parameters
    ----------
    learning_rate : float above 0
    n_steps : int of 1 or more, optional
        As for `Cosine`.
    warm : float in [0, 1), default 0.3
        The fraction of the steps in which the rate rises.

    References
    ----------
    Smith & Topin (2018), "Super-convergence", arXiv:1708.07120.

    Examples
    --------
    >>> OneCycle(1.0, warm=0.5)(np.arange(5), 4).round(3)
    array([0.04, 0.52, 1.  , 0.5 , 0.  ])
    """

    learning_rate: float
    n_steps: int | None = None
    warm: float = 0.3

    def __call__(self, steps: Steps, total: int) -> Rates:
        progress = np.minimum(steps / _horizon(self.n_steps, total), 1.0)
        low = self.learning_rate / 25
        last = self.learning_rate / 250_000
        rising = 1 - _half_cosine(progress / max(self.warm, 1e-12))
        falling = _half_cosine((progress - self.warm) / (1 - self.warm))
        up = low + (self.learning_rate - low) * rising
        return np.where(
            progress < self.warm, up, last + (self.learning_rate - last) * falling
        )


@settings
class Warmup:
    """Rise linearly to the rates of `schedule` over the first `n_steps`.

    Parameters
    ----------
    schedule : float or schedule
        The rate after the warm-up; its steps count from the end of the warm-up.
    n_steps : int of 1 or more, default 1000

    Examples
    --------
    >>> Warmup(1.0, n_steps=4)(np.arange(6), 6)
    array([0.25, 0.5 , 0.75, 1.  , 1.  , 1.  ])
    """

    schedule: float | Schedule
    n_steps: int = 1000

    def __post_init__(self) -> None:
        n_steps = scalars.positive_integer("Warmup", "n_steps", self.n_steps)
        object.__setattr__(self, "n_steps", n_steps)
        schedule = check_rate("Warmup", "schedule", self.schedule)
        object.__setattr__(self, "schedule", schedule)

    def __call__(self, steps: Steps, total: int) -> Rates:
        later = rates_of(
            self.schedule, np.maximum(steps - self.n_steps, 0), total - self.n_steps
        )
        return later * np.minimum((steps + 1) / self.n_steps, 1.0)


def rates_of(learning_rate: float | Schedule, steps: Steps, total: int) -> Rates:
    """Shape (n_steps,)."""
    if callable(learning_rate):
        return learning_rate(steps, total)
    return np.full(len(steps), float(learning_rate))


class NoEnd:
    """The end of a fit for steps without an end: arithmetic with it is a TypeError."""

    __array_ufunc__ = None

    def __sub__(self, n_steps: int) -> "NoEnd":
        return self


def is_known(rate: float | Schedule) -> bool:
    """Return True for a number, or a schedule of the library's:
    each step can be asked ahead.
    """
    if not callable(rate):
        return True
    return type(rate) in SCHEDULES.values() and is_known(getattr(rate, "schedule", 0.0))


def _half_cosine(progress: Rates) -> Rates:
    return 0.5 * (1 + np.cos(np.pi * progress))


_CHECKS = {
    "learning_rate": scalars.positive,
    "factor": scalars.positive,
    "power": scalars.non_negative,
    "final_rate": scalars.non_negative,
    "warm": scalars.fraction,
    "every": scalars.positive_integer,
    "n_steps": scalars.positive_integer,
}
SCHEDULES = {
    schedule.__name__: schedule
    for schedule in (
        Constant,
        StepDecay,
        Exponential,
        InverseScaling,
        Cosine,
        OneCycle,
        Warmup,
    )
}
