"""Stochastic gradient descent, plain or with momentum."""

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
class SGD(Settings):
    """Stochastic gradient descent, with momentum and Nesterov's form of it.

    ``m <- momentum m - rate g``, then ``w <- w + m``, or with `nesterov`
    ``w <- w + momentum m - rate g``.

    Parameters
    ----------
    learning_rate : float or schedule, default 0.01
    momentum : float in [0, 1), default 0
    nesterov : bool, default False

    Raises
    ------
    TypeError, ValueError
        If a setting is not a number or out of range, or `nesterov` is True without a momentum.

    References
    ----------
    Polyak (1964), "Some methods of speeding up the convergence of iteration methods".
    Sutskever, Martens, Dahl & Hinton (2013), "On the importance of initialization and momentum in
    deep learning".

    Examples
    --------
    >>> from fastmlp import SGD
    >>> SGD(0.1, momentum=0.9)
    SGD(learning_rate=0.1, momentum=0.9, nesterov=False)
    """

    learning_rate: float | Schedule = 0.01
    momentum: float = 0.0
    nesterov: bool = False

    def _check(self) -> None:
        super()._check()
        check_settings(self, scalars.fraction, "momentum")
        check_settings(self, scalars.boolean, "nesterov")
        if self.nesterov and self.momentum == 0:
            raise ValueError("SGD: nesterov=True needs a momentum above 0, got momentum=0.0")

    @property
    def rule(self) -> UpdateRule:
        """The update rule for these settings."""
        if self.nesterov:
            return updates.sgd_nesterov
        return updates.sgd_momentum if self.momentum else updates.sgd

    def coefficients(self, first_step: int, rates: Rates) -> Rates:
        """Return (rate,), or (rate, momentum)."""
        return columns(rates, rates, *([self.momentum] if self.momentum else []))
