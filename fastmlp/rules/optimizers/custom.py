"""An update rule of the user's own."""

from dataclasses import dataclass, field

from fastmlp.rules.optimizers.protocol import (
    Rates,
    Schedule,
    Settings,
    check_settings,
    columns,
    finite_numbers,
)
from fastmlp.rules.updates import UpdateRule
from fastmlp.validation.calls import explained


@explained
@dataclass(frozen=True, repr=False)
class Custom(Settings):
    """An optimizer from a rule of your own.

    Parameters
    ----------
    rule : callable
        ``rule(w, g, m, v, rate, *constants) -> (w, m, v)`` on scalars: a parameter, its gradient
        and two slots of state that start at 0. It is compiled on first use, and may call the
        functions of `fastmlp.rules.elementary` and NumPy's.
    learning_rate : float or schedule, default 0.001
    constants : tuple of float, default ()
        Further coefficients that the rule takes.

    Raises
    ------
    TypeError, ValueError
        If a setting has the wrong type or is out of range.

    Examples
    --------
    >>> from fastmlp import Custom, MLP
    >>> def sign_descent(w, g, m, v, rate):
    ...     return (w - rate if g > 0 else w + rate), m, v
    >>> net = MLP((2, 4, 1), optimizer=Custom(sign_descent, learning_rate=0.01))
    """

    rule: UpdateRule
    learning_rate: float | Schedule = 0.001
    constants: tuple[float, ...] = field(default=())

    def _check(self) -> None:
        if not callable(self.rule):
            raise TypeError(f"Custom: rule must be a function, got {self.rule!r}")
        super()._check()
        check_settings(self, finite_numbers, "constants")

    def coefficients(self, first_step: int, rates: Rates) -> Rates:
        """Return the rate and the constants."""
        return columns(rates, rates, *self.constants)
