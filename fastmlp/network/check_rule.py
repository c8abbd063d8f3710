"""check_rule: a custom rule's slopes beside derivatives of its values, as SciPy's check_grad."""

import inspect
from collections.abc import Callable
from itertools import product
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastmlp.rules.losses import Loss, in_dtype
from fastmlp.validation.calls import explained

Array = NDArray[Any]
# From outputs, shape (n_points, n_outputs), to values, shape (n_points,), and slopes.
Evaluate = Callable[[Array], tuple[Array, Array]]
WHO = "check_rule"
FORMS = "rule(z) -> (value, slope) or loss(prediction, target) -> (value, slope)"
# Off 0, 1 and other kinks of rules; targets are valid for each kind of loss.
POINTS, TARGETS = np.linspace(-2.93, 2.91, 17), np.array([0.23, 0.71])
# The step of differences up to 1, and times |z| beyond, where 1e-3 would drown in rounding: with
# the double step the error is of order 4, 1e-12.
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
    """Compare the slopes of an activation, a penalty or a loss with derivatives of its values.

    The rule is called uncompiled, on float64. Derivatives are differences of values; a right rule
    has an error below 1e-6.

    Parameters
    ----------
    rule : callable or Loss
        A function ``rule(z) -> (value, slope)`` or ``loss(prediction, target) -> (value, slope)``,
        or a `Loss` of numbers or, with `by_row`, of rows.
    points : array_like, optional
        Numbers z, or predictions, each with each target; default: 17 from -2.93 to 2.91. A loss by
        rows needs an array (n_rows, n_outputs). Points without a finite value and slope are left
        out.
    targets : array_like, optional
        Targets in the loss's range; default: 0.23 and 0.71. A loss by rows needs shape (n_rows,) or
        (n_rows, n_columns).

    Returns
    -------
    RuleCheck
        A tuple: `error`, the largest difference over 1 plus the larger of both sizes, and the
        `point` (with its target), `slope` and `derivative` there.

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
    function = getattr(loss.rule if loss else rule, "py_func", loss.rule if loss else rule)
    constants = in_dtype(loss.constants, np.float64) if loss else ()
    if not inspect.isfunction(function):
        raise TypeError(f"{WHO}: rule must be a function {FORMS}, or a Loss, got {rule!r}")
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
            f"{WHO}: a loss by rows needs points, shape (n_rows, n_outputs), and targets, one row "
            "or label for each"
        )
    raw, target = _array("points", points), _array("targets", targets)
    if raw.ndim != 2 or target.ndim not in (1, 2) or len(raw) != len(target):
        raise ValueError(
            f"{WHO}: points must have shape (n_rows, n_outputs), and targets as many rows, got "
            f"{raw.shape} and {target.shape}"
        )
    return raw, target.reshape(len(target), -1)


def _numbers(
    function: Any, points: ArrayLike | None, targets: ArrayLike | None, n_constants: int
) -> tuple[Array, Array]:
    """Each point with each target; an activation and a penalty have no targets."""
    n_arguments = len(inspect.signature(function).parameters) - n_constants
    if n_arguments not in (1, 2):
        raise TypeError(
            f"{WHO}: rule must be a function {FORMS}, but {function.__name__!r} has "
            f"{n_arguments + n_constants} arguments; an optimizer's rule has no slope"
        )
    if n_arguments == 1 and targets is not None:
        raise TypeError(f"{WHO}: {function.__name__!r} has one argument, and so no targets")
    axes = [POINTS if points is None else np.ravel(_array("points", points))]
    if n_arguments == 2:
        axes.append(TARGETS if targets is None else np.ravel(_array("targets", targets)))
    table = np.array(list(product(*axes)), np.float64).reshape(-1, n_arguments)
    return table[:, :1], table[:, 1:]


def of_numbers(function: Any, target: Array, constants: Any) -> Evaluate:
    def pair_at(row: Array) -> tuple[float, float]:
        try:
            result = function(*row, *constants)
        except (ArithmeticError, ValueError):  # as math.log does outside its range
            return np.nan, np.nan
        if not isinstance(result, tuple) or len(result) != 2 or any(map(np.ndim, result)):
            raise TypeError(
                f"{WHO}: rule must be a function {FORMS}, but {function.__name__!r} returned "
                f"{result!r}"
            )
        return float(result[0]), float(result[1])

    def evaluate(raw: Array) -> tuple[Array, Array]:
        pairs = np.array([pair_at(row) for row in np.hstack([raw, target])]).reshape(-1, 2)
        return pairs[:, 0], pairs[:, 1:]

    return evaluate


def _of_rows(function: Any, target: Array, constants: Any) -> Evaluate:
    def evaluate(raw: Array) -> tuple[Array, Array]:
        # Columns are contiguous, as in training.
        slopes, values = np.zeros(raw.shape, order="F"), np.zeros(len(raw))
        function(np.asfortranarray(raw), np.asfortranarray(target), slopes, values, *constants)
        return values, slopes

    return evaluate


def compared(evaluate: Evaluate, raw: Array) -> tuple[Array, Array, Array]:
    """Slopes, differences of values, and errors, shape (n_points, n_outputs) each."""
    _, slopes = evaluate(raw)
    derivatives = np.empty(raw.shape)
    for j in range(raw.shape[1]):
        step = np.zeros(raw.shape)
        step[:, j] = STEP * np.maximum(1, np.abs(raw[:, j]))
        single, double = (
            (evaluate(raw + n * step)[0] - evaluate(raw - n * step)[0]) / (2 * n * step[:, j])
            for n in (1, 2)
        )
        derivatives[:, j] = (4 * single - double) / 3
    sizes = 1 + np.maximum(np.abs(slopes), np.abs(derivatives))
    return slopes, derivatives, np.abs(slopes - derivatives) / sizes


def _largest(evaluate: Evaluate, raw: Array, target: Array) -> RuleCheck:
    slopes, derivatives, errors = compared(evaluate, raw)
    if not np.isfinite(errors).any():
        raise ValueError(f"{WHO}: rule has no finite value and slope at any point; give points=")
    i, j = divmod(int(np.argmax(np.where(np.isfinite(errors), errors, -1))), raw.shape[1])
    place = tuple(map(float, (*raw[i], *target[i])))
    return RuleCheck(float(errors[i, j]), place, float(slopes[i, j]), float(derivatives[i, j]))
