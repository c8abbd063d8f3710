"""A user's own rules: checked by calling them uncompiled, and by `check_rule`."""

import inspect
from collections.abc import Callable, Iterable, Mapping
from itertools import product
from types import FunctionType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from fastmlp._process import warn
from fastmlp.network.spec import OWNER
from fastmlp.rules import (
    activations,
    losses,
    updates,
)
from fastmlp.rules.losses import Loss, in_dtype
from fastmlp.validation import Array
from fastmlp.validation.calls import explained
from fastmlp.validation.messages import same_word

NAMES_OF_RULES: Mapping[str, Iterable[str]] = {
    "activation": activations.RULES,
    "loss": losses.LOSSES,
    "penalty": updates.PENALTIES,
}


# Points at which slopes are compared with differences; targets are valid for each kind.
POINTS = (-1.7, -0.6, 0.35, 0.8, 1.4)
TARGETS = (0.2, 0.7)
# Rules that compute in float32 have errors of 1e-4.
LARGEST_SLOPE_ERROR = 1e-2


def own_rule(
    kind: str,
    form: str,
    rule: Any,
    n_arguments: int,
    n_results: int,
    constants: losses.Constants = (),
) -> Any:
    """Check a user's rule by calling it uncompiled:
    its results, and its slope if it has one.
    """
    check_function(kind, form, rule)
    function = getattr(rule, "py_func", rule)
    constants = losses.in_dtype(constants, np.float64)
    try:
        result = function(*[np.float64(0.5)] * n_arguments, *constants)
    except Exception as error:
        raise TypeError(
            f"{OWNER}: {kind} must be a function {form}; calling it failed: {error}"
        ) from error
    n_given = len(result) if isinstance(result, tuple) else 0
    # An activation may return its second derivative too.
    is_known = n_given == n_results or (kind == "activation" and n_given == 3)
    if not is_known or not all(map(_scalar, result)):
        raise TypeError(
            f"{OWNER}: {kind} must be a function {form}, but it returned {result!r}"
        )
    if n_results == 2:
        _check_slope(kind, function, n_arguments, constants)
    return rule


def check_function(kind: str, form: str, rule: Any) -> None:
    if not isinstance(rule, FunctionType) and not hasattr(rule, "py_func"):
        # A function of NumPy, a class or a layer of another library may have a name of
        # ours.
        word = str(getattr(rule, "__name__", type(rule).__name__))
        meant = same_word(word, NAMES_OF_RULES.get(kind, ()))
        hint = f", did you mean {meant!r}?" if meant else ""
        raise TypeError(
            f"{OWNER}: {kind} must be a name or a function {form}, got {rule!r}{hint}"
        )


def _scalar(value: object) -> bool:
    return np.ndim(value) == 0 and np.asarray(value).dtype.kind in "fiub"  # type: ignore[arg-type]


def _check_slope(kind: str, function: Any, n_arguments: int, constants: Any) -> None:
    """Warn if the slope is not the derivative of the value at most points:
    some may be kinks.
    """
    places = np.array(list(product(POINTS, *[TARGETS] * (n_arguments - 1))))
    try:
        with np.errstate(all="ignore"):
            evaluate = of_numbers(function, places[:, 1:], constants)
            slopes, derivatives, errors = compare_slopes(evaluate, places[:, :1])
    except Exception:
        return
    wrong = (errors > LARGEST_SLOPE_ERROR)[:, 0]
    if 2 * wrong.sum() <= np.isfinite(errors).sum():
        return
    first = int(np.argmax(wrong))
    sums = np.abs(slopes + derivatives)
    negated = sums <= LARGEST_SLOPE_ERROR * (
        1 + np.maximum(np.abs(slopes), np.abs(derivatives))
    )
    swapped = kind == "loss" and negated[np.isfinite(errors)].all()
    if swapped:
        hint = "; its arguments are (prediction, target), in this order"
    else:
        hint = ""
    warn(
        f"{OWNER}: the slope of the {kind} {function.__name__!r} is not the derivative "
        f"of its value: at ({', '.join(f'{x:g}' for x in places[first])}) it returns "
        f"{slopes[first, 0]:.4g}, and differences of values give "
        f"{derivatives[first, 0]:.4g}{hint}; training follows the slope",
        RuntimeWarning,
    )


# From outputs, shape (n_points, n_outputs), to values, shape (n_points,), and slopes.
Evaluate = Callable[[Array], tuple[Array, Array]]
WHO = "check_rule"
RULE_FORMS = "rule(z) -> (value, slope) or loss(prediction, target) -> (value, slope)"
# Off 0, 1 and other kinks of rules; targets are valid for each kind of loss.
CHECKED_POINTS = np.linspace(-2.93, 2.91, 17)
CHECKED_TARGETS = np.array([0.23, 0.71])
# The step of differences up to 1, and times |z| beyond, where 1e-3 would drown in
# rounding: with the double step the error is of order 4, 1e-12.
STEP = 1e-3


class RuleCheck(NamedTuple):
    """The largest error of a rule's slopes, and its place."""

    error: float
    point: tuple[float, ...]
    slope: float
    derivative: float


@explained
def check_rule(
    rule: Callable[..., Any] | Loss,
    points: ArrayLike | None = None,
    targets: ArrayLike | None = None,
) -> RuleCheck:
    """Compare the slopes of an activation,
    a penalty or a loss with derivatives of its values.

    The rule is called uncompiled, on float64. Derivatives are differences of values;
    a right rule has an error below 1e-6.

    Parameters
    ----------
    rule : callable or Loss
        A function ``rule(z) -> (value, slope)`` or ``loss(prediction, target)
        -> (value, slope)``, or a `Loss` of numbers or, with `by_row`, of rows.
    points : array_like, optional
        Numbers z, or predictions, each with each target; default: 17 from -2.93 to
        2.91. A loss by rows needs an array (n_rows, n_outputs). Points without a finite
        value and slope are left out.
    targets : array_like, optional
        Targets in the loss's range; default: 0.23 and 0.71.
        A loss by rows needs shape (n_rows,) or (n_rows, n_columns).

    Returns
    -------
    RuleCheck
        A tuple: `error`, the largest difference over 1 plus the larger of both sizes,
        and the `point` (with its target), `slope` and `derivative` there.

    Raises
    ------
    TypeError
        If `rule` is not such a function; an optimizer's has no slope.
    ValueError
        If nothing is finite at any point, or rows lack points or targets.

    Examples
    --------
    >>> from fastmlp import check_rule
    >>> from fastmlp.rules.elementary import exp
    >>> def bump(z):
    ...     value = exp(-z * z)
    ...     return value, type(z)(-2) * z * value
    >>> check_rule(bump).error < 1e-6
    True

    A slope of half the size:

    >>> def squared(prediction, target):
    ...     error = prediction - target
    ...     return error * error, error
    >>> wrong = check_rule(squared, points=[2.0], targets=[1.0])
    >>> print(f"at {wrong.point} {wrong.slope:.3f}, and the derivative is {wrong.derivative:.3f}")
    at (2.0, 1.0) 1.000, and the derivative is 2.000
    """
    loss = rule if isinstance(rule, Loss) else None
    function = getattr(
        loss.rule if loss else rule, "py_func", loss.rule if loss else rule
    )
    if loss:
        constants = in_dtype(loss.constants, np.float64)
    else:
        constants = ()
    if not inspect.isfunction(function):
        raise TypeError(
            f"{WHO}: rule must be a function {RULE_FORMS}, or a Loss, got {rule!r}"
        )
    if loss and loss.by_row:
        raw, target = _rows(points, targets)
        evaluate = _of_rows(function, target, constants)
    else:
        raw, target = _numbers(function, points, targets, len(constants))
        evaluate = of_numbers(function, target, constants)
    with np.errstate(all="ignore"):
        return _largest(evaluate, raw, target)


def _array(name: str, numbers: ArrayLike) -> Array:
    try:
        return np.asarray(numbers, np.float64)
    except (TypeError, ValueError) as error:
        raise type(error)(f"{WHO}: {name} must be numbers, got {numbers!r}") from error


def _rows(points: ArrayLike | None, targets: ArrayLike | None) -> tuple[Array, Array]:
    if points is None or targets is None:
        raise ValueError(
            f"{WHO}: a loss by rows needs points, shape (n_rows, n_outputs), and "
            "targets, one row or label for each"
        )
    raw = _array("points", points)
    target = _array("targets", targets)
    if raw.ndim != 2 or target.ndim not in (1, 2) or len(raw) != len(target):
        raise ValueError(
            f"{WHO}: points must have shape (n_rows, n_outputs), and targets as many "
            f"rows, got {raw.shape} and {target.shape}"
        )
    return raw, target.reshape(len(target), -1)


def _numbers(
    function: Any, points: ArrayLike | None, targets: ArrayLike | None, n_constants: int
) -> tuple[Array, Array]:
    """Each point with each target; an activation and a penalty have no targets."""
    n_arguments = len(inspect.signature(function).parameters) - n_constants
    if n_arguments not in (1, 2):
        raise TypeError(
            f"{WHO}: rule must be a function {RULE_FORMS}, but {function.__name__!r} has "
            f"{n_arguments + n_constants} arguments; an optimizer's rule has no slope"
        )
    if n_arguments == 1 and targets is not None:
        raise TypeError(
            f"{WHO}: {function.__name__!r} has one argument, and so no targets"
        )
    axes = [CHECKED_POINTS if points is None else np.ravel(_array("points", points))]
    if n_arguments == 2:
        axes.append(
            CHECKED_TARGETS if targets is None else np.ravel(_array("targets", targets))
        )
    table = np.array(list(product(*axes)), np.float64).reshape(-1, n_arguments)
    return table[:, :1], table[:, 1:]


def of_numbers(function: Any, target: Array, constants: Any) -> Evaluate:
    def pair_at(row: Array) -> tuple[float, float]:
        try:
            result = function(*row, *constants)
        except (ArithmeticError, ValueError):  # as math.log does outside its range
            return np.nan, np.nan
        if (
            not isinstance(result, tuple)
            or len(result) not in (2, 3)
            or any(map(np.ndim, result))
        ):
            raise TypeError(
                f"{WHO}: rule must be a function {RULE_FORMS}, but {function.__name__!r} "
                f"returned {result!r}"
            )
        return float(result[0]), float(result[1])

    def evaluate(raw: Array) -> tuple[Array, Array]:
        pairs = np.array([pair_at(row) for row in np.hstack([raw, target])]).reshape(
            -1, 2
        )
        return pairs[:, 0], pairs[:, 1:]

    return evaluate


def _of_rows(function: Any, target: Array, constants: Any) -> Evaluate:
    def evaluate(raw: Array) -> tuple[Array, Array]:
        # Columns are contiguous, as in training.
        slopes = np.zeros(raw.shape, order="F")
        values = np.zeros(len(raw))
        function(
            np.asfortranarray(raw),
            np.asfortranarray(target),
            slopes,
            values,
            *constants,
        )
        return values, slopes

    return evaluate


def compare_slopes(evaluate: Evaluate, raw: Array) -> tuple[Array, Array, Array]:
    """Slopes, differences of values, and errors, shape (n_points, n_outputs) each."""
    _, slopes = evaluate(raw)
    derivatives = np.empty(raw.shape)
    for j in range(raw.shape[1]):
        step = np.zeros(raw.shape)
        step[:, j] = STEP * np.maximum(1, np.abs(raw[:, j]))
        single, double = (
            (evaluate(raw + n * step)[0] - evaluate(raw - n * step)[0])
            / (2 * n * step[:, j])
            for n in (1, 2)
        )
        derivatives[:, j] = (4 * single - double) / 3
    sizes = 1 + np.maximum(np.abs(slopes), np.abs(derivatives))
    return slopes, derivatives, np.abs(slopes - derivatives) / sizes


def _largest(evaluate: Evaluate, raw: Array, target: Array) -> RuleCheck:
    slopes, derivatives, errors = compare_slopes(evaluate, raw)
    if not np.isfinite(errors).any():
        raise ValueError(
            f"{WHO}: rule has no finite value and slope at any point; give points="
        )
    i, j = divmod(
        int(np.argmax(np.where(np.isfinite(errors), errors, -1))), raw.shape[1]
    )
    place = tuple(map(float, (*raw[i], *target[i])))
    return RuleCheck(
        float(errors[i, j]), place, float(slopes[i, j]), float(derivatives[i, j])
    )
