"""Checks of custom rules, which are called uncompiled: their results, and their slopes."""

from collections.abc import Iterable, Iterator, Mapping
from itertools import product
from types import FunctionType
from typing import Any, NamedTuple

import numpy as np

from fastmlp._process.warnings import warn
from fastmlp.network.spec import OWNER
from fastmlp.rules import activations, losses, penalties
from fastmlp.validation.suggestions import same_word

NAMES: Mapping[str, Iterable[str]] = {
    "activation": activations.RULES,
    "loss": losses.LOSSES,
    "penalty": penalties.RULES,
}


# Where slopes are compared with differences; targets are valid for each kind of them.
POINTS, TARGETS = (-1.7, -0.6, 0.35, 0.8, 1.4), (0.2, 0.7)
# A step and an error that fit rules which compute in float32 too.
STEP, LARGEST_ERROR = 1e-3, 1e-2


def own_rule(
    kind: str,
    form: str,
    rule: Any,
    n_arguments: int,
    n_results: int,
    constants: losses.Constants = (),
) -> Any:
    """Check a user's rule by calling it uncompiled: its results, and its slope if it has one."""
    check_function(kind, form, rule)
    function, constants = getattr(rule, "py_func", rule), losses.in_dtype(constants, np.float64)
    try:
        result = function(*[np.float64(0.5)] * n_arguments, *constants)
    except Exception as error:
        raise TypeError(
            f"{OWNER}: {kind} must be a function {form}; calling it failed: {error}"
        ) from error
    if not isinstance(result, tuple) or len(result) != n_results or not all(map(_scalar, result)):
        raise TypeError(f"{OWNER}: {kind} must be a function {form}, but it returned {result!r}")
    if n_results == 2:
        _check_slope(kind, function, n_arguments, constants)
    return rule


def check_function(kind: str, form: str, rule: Any) -> None:
    if not isinstance(rule, FunctionType) and not hasattr(rule, "py_func"):
        # A function of NumPy, a class or a layer of another library may have a name of ours.
        word = str(getattr(rule, "__name__", type(rule).__name__))
        meant = same_word(word, NAMES.get(kind, ()))
        hint = f", did you mean {meant!r}?" if meant else ""
        raise TypeError(f"{OWNER}: {kind} must be a name or a function {form}, got {rule!r}{hint}")


def _scalar(value: object) -> bool:
    return np.ndim(value) == 0 and np.asarray(value).dtype.kind in "fiub"  # type: ignore[arg-type]


class _Derivative(NamedTuple):
    """A slope at a point, and the difference of values there over the distance."""

    point: tuple[float, ...]
    slope: float
    difference: float

    @property
    def is_wrong(self) -> bool:
        size = 1 + max(abs(self.slope), abs(self.difference))
        return abs(self.slope - self.difference) > LARGEST_ERROR * size


def _check_slope(kind: str, function: Any, n_arguments: int, constants: Any) -> None:
    """Warn if the slope is not the derivative of the value at most points: some may be kinks."""
    derivatives = list(_derivatives(function, n_arguments, constants))
    wrong = [derivative for derivative in derivatives if derivative.is_wrong]
    if 2 * len(wrong) <= len(derivatives):
        return
    point, slope, difference = wrong[0]
    negated = (derivative._replace(slope=-derivative.slope) for derivative in derivatives)
    swapped = kind == "loss" and not any(derivative.is_wrong for derivative in negated)
    hint = "; its arguments are (prediction, target), in this order" if swapped else ""
    warn(
        f"{OWNER}: the slope of the {kind} {function.__name__!r} is not the derivative of its "
        f"value: at ({', '.join(f'{x:g}' for x in point)}) it returns {slope:.4g}, and differences "
        f"of values give {difference:.4g}{hint}; training follows the slope",
        RuntimeWarning,
    )


def _derivatives(function: Any, n_arguments: int, constants: Any) -> Iterator[_Derivative]:
    """Yield slopes and differences where the rule has finite ones."""
    for x, *targets in product(POINTS, *[TARGETS] * (n_arguments - 1)):
        places = [(np.float64(z), *map(np.float64, targets)) for z in (x, x - STEP, x + STEP)]
        try:
            with np.errstate(all="ignore"):
                (_, slope), (below, _), (above, _) = (function(*p, *constants) for p in places)
        except Exception:
            continue
        both = float(slope), (float(above) - float(below)) / (2 * STEP)
        if np.isfinite(both).all():
            yield _Derivative((x, *targets), *both)
