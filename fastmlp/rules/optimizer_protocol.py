"""The protocols of optimizers and schedules,
averages of parameters, and shared settings.

After each step, ``average <- average + gain (w - average)``. The gain depends on the
kind of average and on k, the number of steps that count; at k = 1 it is 1. A net shows
the average in place of its last parameters.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields
from functools import lru_cache
from inspect import cleandoc
from operator import attrgetter
from typing import Any, ClassVar, NamedTuple, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from fastmlp.rules import updates
from fastmlp.validation import scalars
from fastmlp.validation.calls import AdvisingType, misfit, settings
from fastmlp.validation.messages import shown

Counts = NDArray[np.int64]
Gains = NDArray[np.float64]
Rates = NDArray[np.float64]


@settings
class EMA:
    """An exponential moving average: the `average` of an optimizer.

    ``average <- average + (1 - momentum) / (1 - momentum^k) (w - average)`` after step
    k. The weights sum to 1, as in Adam's moments, and not in Keras or PyTorch: the
    first steps count as much as later ones. The average covers about ``1 /
    (1 - momentum)`` steps, which should be a small part of the fit.

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


@settings
class SWA:
    """Stochastic weight averaging: the `average` of an optimizer.

    The mean of the parameters after each step of the last part of a fit; before, the
    parameters themselves. The part is of the epochs that are asked for, even if the fit
    ends earlier; a further fit begins anew.

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
    Izmailov et al. (2018), "Averaging weights leads to wider optima and better
    generalization", arXiv:1803.05407.

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
        gains: Gains = 1.0 / counts
        return gains


Average = EMA | SWA
AVERAGES: dict[str, type[EMA] | type[SWA]] = {"EMA": EMA, "SWA": SWA}


def check_average(owner: str, average: object) -> Average:
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


class Schedule(Protocol):
    """From step numbers (from 0), shape (n,), and the total of steps to rates."""

    def __call__(self, steps: NDArray[np.int64], total: int, /) -> Rates: ...


@runtime_checkable
class Optimizer(Protocol):
    """`coefficients` takes the number of the first step (from 1), and the learning
    rates from there on, shape (n_steps,). The result has
    shape (n_steps, n_coefficients).
    """

    @property
    def learning_rate(self) -> "float | Schedule": ...

    @property
    def rule(self) -> updates.UpdateRule: ...

    def coefficients(self, first_step: int, rates: Rates) -> Rates: ...


# Methods of PyTorch's optimizers, by what stands in their place.
LACKING = {
    "the net steps: net.train_on_batch(X, y)": "step",
    "no gradient is kept: net.train_on_batch(X, y) computes and takes it": "zero_grad",
}


@dataclass(frozen=True, kw_only=True, repr=False)
class OptimizerSettings(metaclass=AdvisingType, advice=LACKING):
    """The settings that all optimizers of the library share:
    one way of clipping at most.

    Parameters
    ----------
    clipvalue : float above 0, optional
        Each number of the gradient, penalties included, is clipped to [-clipvalue,
        clipvalue] before the update rule takes it.
    clipnorm : float above 0, optional
        The gradient of each variable, penalties included, is scaled down to this norm
        where its norm is above. A variable is a layer's weights or biases. On the CPU.
        A step takes 6 to 12 % longer: the gradient is stored before any of it is used.
    global_clipnorm : float above 0, optional
        The same for the whole gradient, ``max_norm`` of PyTorch's ``clip_grad_norm_``.
        Nothing is added to the norm, which is PyTorch's plus 1e-6. On the CPU, at the
        same price.
    average : EMA or SWA, optional
        The net shows this average of the parameters after each step, while and after it
        trains. A further fit goes on from the last step's; parameters that were written
        by hand are trained, and averaged anew.
    """

    held_as: ClassVar[str] = "net.optimizer"
    clipvalue: float | None = None
    clipnorm: float | None = None
    global_clipnorm: float | None = None
    average: Average | None = None

    def __init_subclass__(cls) -> None:
        """Add the parameters above to the docstring of an optimizer."""
        shared, own = (cleandoc(k.__doc__ or "") for k in (OptimizerSettings, cls))
        shared = shared.partition("----------")[2]
        cls.__doc__ = own.replace("\n\nRaises", f"{shared}\n\nRaises", 1)

    def __post_init__(self) -> None:
        self._check()

    def _check(self) -> None:
        """Check the settings, and store Python's numbers:
        1 - float32(0.9) is not 0.1.
        """
        who = type(self).__name__
        rate = check_rate(who, "learning_rate", vars(self)["learning_rate"])
        object.__setattr__(self, "learning_rate", rate)
        clips = [
            name
            for name in (*updates.GRADIENT_RULES, *updates.NORM_LIMITS)
            if getattr(self, name) is not None
        ]
        for name, check in (CHECKS | dict.fromkeys(clips, scalars.positive)).items():
            if name in vars(self):
                object.__setattr__(self, name, check(who, name, getattr(self, name)))
        if len(clips) > 1:
            choices = f"{', '.join(clips[:-1])} or {clips[-1]}"
            few = "not both" if len(clips) == 2 else "one of them"
            raise ValueError(f"{who}: give {choices}, {few}")
        if self.average is not None:
            check_average(who, self.average)

    def settings(self) -> dict[str, Any]:
        """Return the settings of this optimizer,
        then the shared settings that are in use.
        """
        shared = [field.name for field in fields(OptimizerSettings)]
        own = [field.name for field in fields(self) if field.name not in shared]
        used = [name for name in shared if getattr(self, name) is not None]
        return {name: getattr(self, name) for name in [*own, *used]}

    def __repr__(self) -> str:
        shown = ", ".join(
            f"{name}={value!r}" for name, value in self.settings().items()
        )
        return f"{type(self).__name__}({shown})"


def gradient_rule_of(optimizer: Optimizer) -> str:
    for name in updates.GRADIENT_RULES:
        if getattr(optimizer, name, None) is not None:
            return name
    return ""


class NormLimit(NamedTuple):
    limit: float
    by_variable: bool


def norm_limit_of(optimizer: Optimizer) -> NormLimit | None:
    for name, by_variable in updates.NORM_LIMITS.items():
        limit = getattr(optimizer, name, None)
        if limit is not None:
            return NormLimit(limit, by_variable)
    return None


def average_of(optimizer: Optimizer) -> Average | None:
    average: Average | None = getattr(optimizer, "average", None)
    return average


def lag_of(optimizer: Optimizer) -> float:
    """Return the lag of a rule that averages by itself:
    its average is ``w - lag m``; else 0.
    """
    if optimizer.rule is not updates.schedule_free_adamw:
        return 0.0
    share = float(getattr(optimizer, "beta_1", 1.0))
    return (1 - share) / share


def is_averaged(optimizer: Optimizer) -> bool:
    return average_of(optimizer) is not None or lag_of(optimizer) > 0


def traits_of(optimizer: Optimizer) -> tuple[Any, ...]:
    """Return a key, equal for optimizers whose steps differ in coefficients alone."""
    if not isinstance(optimizer, OptimizerSettings):
        return (optimizer,)
    # On the object: `hasattr` of a class without the attribute takes 0.4 us.
    decays = (
        getattr(optimizer, "decay_biases", True)
        or getattr(optimizer, "weight_decay", 0) == 0
    )
    n_constants = len(getattr(optimizer, "constants", ()))
    return type(optimizer), decays, n_constants, *_TRAITS(optimizer)


_TRAITS = attrgetter("rule", "clipvalue", "clipnorm", "global_clipnorm", "average")


def average_start(optimizer: Optimizer, first: int, last: int, now: int) -> int:
    """`now` is the step after which the average has counted so far."""
    average = average_of(optimizer)
    if isinstance(average, SWA):
        return first + int(average.start * (last - first))
    return min(now, first)


def has_coefficients_alone(optimizer: Optimizer) -> bool:
    """Return True if a step of one group of parameters takes the optimizer's
    coefficients alone.
    """
    return not gradient_rule_of(optimizer) and not is_averaged(optimizer)


def coefficients_of(
    optimizer: Optimizer,
    first_step: int,
    rates: Rates,
    groups: Sequence[updates.ParameterGroup] = updates.ONE_GROUP,
    averaged_from: int = 0,
) -> Rates:
    """Return the numbers that each step takes, one group of parameters after the other.

    A group has the optimizer's coefficients, the setting of its gradient rule,
    and the gain of its average, which counts the steps after step `averaged_from`.
    """
    if len(groups) == 1 and groups[0].factor == 1.0:
        return _coefficients(
            groups[0].settings_of(optimizer), first_step, rates, averaged_from
        )
    parts = [
        _coefficients(
            group.settings_of(optimizer),
            first_step,
            rates * group.factor,
            averaged_from,
        )
        for group in groups
    ]
    if len(parts) == 1:
        return parts[0]
    return np.hstack(parts)


def n_coefficients_of(optimizer: Optimizer) -> int:
    return int(coefficients_of(optimizer, 1, np.ones(1)).shape[1])


def _coefficients(
    optimizer: Optimizer, first_step: int, rates: Rates, averaged_from: int
) -> Rates:
    settings: Any = optimizer
    if lag_of(optimizer):
        origin = {"averaged_from": averaged_from}
    else:
        origin = {}
    table: Rates = settings.coefficients(first_step, rates, **origin)
    name = gradient_rule_of(optimizer)
    average = average_of(optimizer)
    if name:
        table = np.column_stack([table, np.full(len(table), getattr(optimizer, name))])
    if average is not None:
        counts = np.maximum(first_step - averaged_from + np.arange(len(table)), 1)
        table = np.column_stack([table, average.gains(counts)])
    return table


def columns(rates: Any, *columns: Any) -> Any:
    """Stack numbers and arrays of shape (n_steps,) into shape (n_steps, n_columns);
    return numbers that belong to one rate, a number, as they are.
    """
    if isinstance(rates, float):
        return columns
    if len(rates) == 1:
        numbers = [it[0] if isinstance(it, np.ndarray) else it for it in columns]
        return np.array([numbers], np.float64)
    table = np.empty((len(rates), len(columns)))
    for j, column in enumerate(columns):
        table[:, j] = column
    return table


def at_steps(first_step: int, rates: Any) -> tuple[Any, Any]:
    """Return the numbers of the steps from `first_step` on, and their rates;
    for a single step, Python's numbers with the same bits.
    """
    if isinstance(rates, float):
        return first_step, rates
    if len(rates) == 1:
        return int(first_step), float(rates[0])
    return first_step + np.arange(len(rates)), rates


def powers(base: float, t: Any) -> Any:
    """Return ``base**t`` for t >= 1 by exp,
    in a tenth of NumPy's time; 1 - base**t is accurate.
    """
    if isinstance(t, int):
        return _powers(base, t // AHEAD)[t % AHEAD]
    if base > 0:
        return np.exp(t * np.log(base))
    return np.zeros(np.shape(t))


# Powers that are computed at once for single steps: 9 -> 0.3 us a step.
AHEAD = 256


@lru_cache(maxsize=256)
def _powers(base: float, block: int) -> list[float]:
    numbers: list[float] = powers(base, block * AHEAD + np.arange(AHEAD)).tolist()
    return numbers


def root_of(x: Any) -> Any:
    if isinstance(x, float):
        return math.sqrt(x)
    return np.sqrt(x)


def check_rate(owner: str, name: str, rate: Any) -> Any:
    """Return a rate that is a finite number above 0 or a schedule; raise a TypeError or
    ValueError, by the owner's name, for all else.
    """
    if isinstance(rate, type):
        raise TypeError(
            f"{owner}: {name} must be a schedule, not its class: {rate.__name__}(...)"
        )
    if callable(rate):
        if wrong := misfit(rate, 2):
            raise TypeError(
                f"{owner}: {name} must be a number, or a function of two arguments, "
                f"the step numbers and the step at which the fit ends, got "
                f"{rate!r}{wrong}"
            )
        return rate
    if isinstance(rate, np.ndarray | list):
        raise TypeError(
            f"{owner}: {name} must be a number, got {shown(rate)}; an optimizer "
            f"takes no parameters: MLP(layer_sizes, optimizer={owner}(0.01))"
        )
    expected = "a finite number above 0 or a schedule"
    expected += ", such as Cosine(0.001)" if isinstance(rate, str) else ""
    return scalars.real(owner, name, rate, expected, scalars.is_positive(rate))


def finite_numbers(owner: str, name: str, value: object) -> tuple[float, ...]:
    if isinstance(value, str) or not isinstance(value, Iterable):
        raise TypeError(f"{owner}: {name} must be a tuple of numbers, got {value!r}")
    expected = "finite"
    return tuple(
        scalars.real(owner, f"{name}[{i}]", number, expected, scalars.is_finite(number))
        for i, number in enumerate(value)
    )


CHECKS: dict[str, Callable[[str, str, object], Any]] = {
    **dict.fromkeys(("momentum", "beta_1", "beta_2", "rho"), scalars.fraction),
    **dict.fromkeys(("nesterov", "epsilon_hat", "decay_biases"), scalars.boolean),
    **dict.fromkeys(("weight_decay", "momentum_decay"), scalars.non_negative),
    "epsilon": scalars.positive,
    "warmup_steps": scalars.non_negative_integer,
    "constants": finite_numbers,
}
