"""RMSprop and Adagrad: steps scaled by the size of past gradients."""

from dataclasses import dataclass

from fastmlp.rules import updates
from fastmlp.rules.optimizers.protocol import (
    Rates,
    Schedule,
    Settings,
    check_settings,
    columns,
)
from fastmlp.rules.updates import UpdateRule
from fastmlp.validation import scalars
from fastmlp.validation.calls import explained


@explained
@dataclass(frozen=True, repr=False)
class RMSprop(Settings):
    """Divide the gradient by a running mean of its size.

    ``v <- rho v + (1 - rho) g^2``, ``m <- momentum m + g / (sqrt(v) + epsilon)``,
    ``w <- w - rate m``.

    Parameters
    ----------
    learning_rate : float or schedule, default 0.001
    rho : float in [0, 1), default 0.9
    momentum : float in [0, 1), default 0
    epsilon : float above 0, default 1e-8

    Raises
    ------
    TypeError, ValueError
        If a setting is not a number or out of range.

    References
    ----------
    Tieleman & Hinton (2012), "Lecture 6.5: rmsprop", Coursera.

    Examples
    --------
    >>> from fastmlp import RMSprop
    >>> RMSprop(rho=0.99).momentum
    0.0
    """

    learning_rate: float | Schedule = 0.001
    rho: float = 0.9
    momentum: float = 0.0
    epsilon: float = 1e-8

    def _check(self) -> None:
        super()._check()
        check_settings(self, scalars.fraction, "rho", "momentum")
        check_settings(self, scalars.positive, "epsilon")

    @property
    def rule(self) -> UpdateRule:
        """The update rule, `updates.rmsprop`."""
        return updates.rmsprop

    def coefficients(self, first_step: int, rates: Rates) -> Rates:
        """Return (rate, gain_v, momentum, epsilon), with gain_v = 1 - rho."""
        return columns(rates, rates, 1 - self.rho, self.momentum, self.epsilon)


@explained
@dataclass(frozen=True, repr=False)
class Adagrad(Settings):
    """Divide the gradient by the root of the sum of its squares so far.

    ``v <- v + g^2``, ``w <- w - rate g / (sqrt(v) + epsilon)``.

    Parameters
    ----------
    learning_rate : float or schedule, default 0.01
    epsilon : float above 0, default 1e-10

    Raises
    ------
    TypeError, ValueError
        If a setting is not a number or out of range.

    References
    ----------
    Duchi, Hazan & Singer (2011), "Adaptive subgradient methods for online learning and stochastic
    optimization".

    Examples
    --------
    >>> from fastmlp import Adagrad
    >>> Adagrad(0.1)
    Adagrad(learning_rate=0.1, epsilon=1e-10)
    """

    learning_rate: float | Schedule = 0.01
    epsilon: float = 1e-10

    def _check(self) -> None:
        super()._check()
        check_settings(self, scalars.positive, "epsilon")

    @property
    def rule(self) -> UpdateRule:
        """The update rule, `updates.adagrad`."""
        return updates.adagrad

    def coefficients(self, first_step: int, rates: Rates) -> Rates:
        """Return (rate, epsilon)."""
        return columns(rates, rates, self.epsilon)
