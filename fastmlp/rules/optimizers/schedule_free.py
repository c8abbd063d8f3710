"""AdamW without a schedule: an average of the iterates takes the place of a falling rate."""

from dataclasses import dataclass
from numbers import Integral
from typing import Any

import numpy as np

from fastmlp.rules import updates
from fastmlp.rules.optimizers.protocol import Rates, Settings, check_settings, columns, powers
from fastmlp.rules.updates import UpdateRule
from fastmlp.validation import scalars
from fastmlp.validation.calls import explained


@explained
@dataclass(frozen=True, repr=False)
class ScheduleFreeAdamW(Settings):
    """AdamW with an average of its iterates, built in, in place of a schedule.

    Gradients are taken at ``y = (1 - beta_1) z + beta_1 x``. Step t, with the rate
    ``r = learning_rate min(1, t / warmup_steps)``, is ``v <- beta_2 v + (1 - beta_2) g^2``,
    ``s = g / (sqrt(v / (1 - beta_2^t)) + epsilon) + weight_decay y``, ``z <- z - r s``, and x
    becomes the mean of all z so far, each weighted by the square of its rate. The net's parameters
    are x for whatever looks at it, while and after it trains; a further fit goes on from y and z,
    and the length of a fit need not be known ahead.

    Parameters
    ----------
    learning_rate : float, default 0.0025
        A number: a schedule would be a second one.
    beta_1 : float in (0, 1), default 0.9
        The share of x in y.
    beta_2 : float in [0, 1), default 0.999
    epsilon : float above 0, default 1e-8
        Added to the corrected root, as in `Adam`.
    weight_decay : float of 0 or more, default 0
        Of y, biases included.
    warmup_steps : int of 0 or more, default 0
        The rate rises linearly over the first so many steps.

    Raises
    ------
    TypeError, ValueError
        If a setting is not a number or out of range, or if there is an `average`.

    References
    ----------
    Defazio et al. (2024), "The road less scheduled", arXiv:2405.15682.

    Examples
    --------
    >>> from fastmlp import MLP, ScheduleFreeAdamW
    >>> net = MLP((2, 4, 1), optimizer=ScheduleFreeAdamW(0.01, warmup_steps=100))
    """

    learning_rate: float = 0.0025
    beta_1: float = 0.9
    beta_2: float = 0.999
    epsilon: float = 1e-8
    weight_decay: float = 0.0
    warmup_steps: int = 0

    def _check(self) -> None:
        who, rate = type(self).__name__, self.learning_rate
        if callable(rate):
            raise TypeError(
                f"{who}: learning_rate must be a finite number above 0, got {rate!r}: the average "
                "takes the place of a schedule; use warmup_steps, or AdamW with the schedule"
            )
        check_settings(self, scalars.positive, "learning_rate", "epsilon")
        super()._check()
        if self.average is not None:
            raise ValueError(
                f"{who}: it averages by itself, got average={self.average!r}: leave it out, or use "
                "AdamW with it"
            )
        check_settings(self, scalars.inner_fraction, "beta_1")
        check_settings(self, scalars.fraction, "beta_2")
        check_settings(self, scalars.non_negative, "weight_decay")
        check_settings(self, _steps, "warmup_steps")

    @property
    def rule(self) -> UpdateRule:
        """The update rule, `updates.schedule_free_adamw`."""
        return updates.schedule_free_adamw

    def coefficients(self, first_step: int, rates: Rates, averaged_from: int = 0) -> Rates:
        """Return (rate, gain_v, epsilon, root, weight_decay, share, rate_m), with the bias
        correction of v folded in; x counts the steps after step `averaged_from`."""
        t = first_step + np.arange(len(rates))
        root = np.sqrt(1 - powers(self.beta_2, t))
        of_z = rates * self._risen(t)
        share = self._risen(t) ** 2 / (self._mass(t) - self._mass(np.array(averaged_from)))
        rate_m = of_z * self.beta_1 * (1 - share)
        fixed = (1 - self.beta_2, self.epsilon * root, root, self.weight_decay)
        return columns(rates, of_z - rate_m, *fixed, share, rate_m)

    def _risen(self, t: Any) -> Any:
        """Return the rates at steps t in parts of the full rate."""
        return np.minimum(t / max(self.warmup_steps, 1), 1.0)

    def _mass(self, t: Any) -> Any:
        """Return the sums of squares of the rates, in parts of the full rate, up to steps t."""
        n = float(max(self.warmup_steps, 1))
        low = np.minimum(t, n)
        return low * (low + 1) * (2 * low + 1) / (6 * n * n) + (t - low)


def _steps(owner: str, name: str, value: object) -> int:
    """Check a number of steps, 0 or more."""
    expected = "an integer of 0 or more"
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(f"{owner}: {name} must be {expected}, got {value!r}")
    if value < 0:
        raise ValueError(f"{owner}: {name} must be {expected}, got {value!r}")
    return scalars.positive_integer(owner, name, value) if value else 0
