"""From what the user passes to `MLP` as dropout and noise to a `Dropout`."""

from collections.abc import Iterable, Mapping, Set
from typing import Any

import numpy as np

from fastmlp.network.own_rules import OWNER
from fastmlp.rules import dropout as rules
from fastmlp.rules.dropout import Dropout, Rate, is_used
from fastmlp.validation import scalars
from fastmlp.validation.suggestions import count

# A schedule is tried at these steps of a fit that ends after them.
TRIAL = np.arange(101)


def dropout_of(
    dropout: object, input_dropout: object, input_noise: object, n_hidden: int
) -> Dropout | None:
    """Return what a net with so many hidden layers drops and adds; None: nothing."""
    found = Dropout(
        _rates(dropout, n_hidden),
        _rate("input_dropout", input_dropout),
        _rate("input_noise", input_noise, is_noise=True),
    )
    return found if any(map(is_used, (*found.hidden, found.inputs, found.noise))) else None


def _rates(given: Any, n_hidden: int) -> tuple[Rate, ...]:
    """Return one rate per hidden layer, from one number or schedule, or from a sequence of them."""
    if isinstance(given, str | bytes | Set | Mapping) or not isinstance(given, Iterable):
        rate = _rate("dropout", given)
        if is_used(rate) and not n_hidden:
            raise ValueError(
                f"{OWNER}: dropout={given!r} is of hidden layers, but layer_sizes has none; "
                "input_dropout is of the inputs"
            )
        return (rate,) * n_hidden
    rates = tuple(_rate(f"dropout[{i}]", each) for i, each in enumerate(given))
    if len(rates) != n_hidden:
        raise ValueError(
            f"{OWNER}: dropout has {count(len(rates), 'rate')}, but layer_sizes has "
            f"{n_hidden} hidden; the outputs are never dropped"
        )
    return rates


def _rate(name: str, given: Any, *, is_noise: bool = False) -> Rate:
    """Check a number in the range of rates, or of standard deviations, or a schedule."""
    if isinstance(given, type):
        raise TypeError(f"{OWNER}: {name} must be a schedule, not its class: {given.__name__}(...)")
    if callable(given):
        schedule: Rate = given
        try:
            rules.checked(schedule, TRIAL, len(TRIAL), name)
        except ValueError:
            raise
        except Exception as error:
            raise TypeError(
                f"{OWNER}: {name} must be a number or a schedule, a function of step numbers and "
                f"of the total of steps, got {given!r}; calling it failed: {error}"
            ) from error
        return schedule
    expected, check = "a finite number of 0 or more", scalars.non_negative
    if not is_noise:
        expected, check = "a number in [0, 1)", scalars.fraction
    try:
        return check(OWNER, name, given)
    except (TypeError, ValueError) as error:
        of_layers = ", one for each hidden layer," if name == "dropout" else ""
        raise type(error)(
            f"{OWNER}: {name} must be {expected}{of_layers} or a schedule such as Cosine(0.2), "
            f"got {given!r}"
        ) from None
