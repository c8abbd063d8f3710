"""Activations, penalties, elementary functions; slopes of rules, right and wrong."""

import math
import re
import warnings
from collections.abc import Callable
from typing import Any

import naive
import numba
import numpy as np
import pytest
from loss_cases import cube, fourth
from scipy import special

from fastmlp import MLP, Loss, check_rule
from fastmlp.rules import activations, updates
from fastmlp.rules.activations import ALIASES, RULES
from fastmlp.rules.elementary import FUNCTIONS, exp, exponentials, log
from fastmlp.rules.updates import PENALTIES

POINTS = np.linspace(-8, 8, 60)  # an even number: none at 0, where some have a kink
# Rules of one number, which return a value and a slope.
OF_ONE = RULES | PENALTIES
VALUES = naive.VALUES | naive.PENALTIES
each_activation = pytest.mark.parametrize("name", RULES)
each_rule = pytest.mark.parametrize("name", OF_ONE)
each_dtype = pytest.mark.parametrize("dtype", [np.float32, np.float64])


def evaluate(name: str, points: Any) -> Any:
    """Values and slopes at points, shape (2, n_points)."""
    return np.array([OF_ONE[name](z) for z in points]).T


@pytest.mark.parametrize("table", [RULES, PENALTIES])
def test_a_name_is_that_of_the_function(table: dict[str, Any]) -> None:
    assert [rule.__name__ for rule in table.values()] == list(table)


def test_an_alias_is_a_second_name_of_a_rule() -> None:
    assert set(ALIASES.values()) <= set(RULES)
    assert not set(ALIASES) & set(RULES)


@each_rule
def test_a_rule_is_the_oracles(name: str) -> None:
    value, slope = evaluate(name, POINTS)
    np.testing.assert_allclose(value, VALUES[name](POINTS), rtol=1e-12, atol=1e-15)
    own = naive.PENALTY_SLOPES.get(name)
    if own:
        expected = own(POINTS)
    else:
        expected = naive.slope(name, POINTS)
    np.testing.assert_allclose(slope, expected, rtol=1e-12, atol=1e-14)


@each_rule
def test_a_rule_in_float32_is_that_of_the_same_numbers_in_float64(name: str) -> None:
    points = POINTS.astype(np.float32)
    expected = evaluate(name, points.astype(np.float64))
    # 1 + erf and 1 - tanh^2 cancel in the tails,
    # so the bound there is one on the whole scale.
    np.testing.assert_allclose(evaluate(name, points), expected, rtol=1e-6, atol=1e-6)


@each_rule
@each_dtype
def test_nan_stays_nan(name: str, dtype: Any) -> None:
    value, _ = OF_ONE[name](dtype("nan"))
    assert np.isnan(value)


@each_rule
@each_dtype
def test_far_numbers_overflow_nowhere(name: str, dtype: Any) -> None:
    with np.errstate(over="raise", invalid="raise", divide="raise"):
        pairs = [OF_ONE[name](dtype(z)) for z in (-1e4, -100, -80, 80, 100, 1e4)]
    assert np.isfinite(pairs).all()


@each_activation
def test_far_out_it_is_a_line_or_a_constant(name: str) -> None:
    value, slope = evaluate(name, np.array([-1e4, -2e4, 1e4, 2e4]))
    assert value[1] - value[0] == pytest.approx(-1e4 * slope[0], abs=1e-8)
    assert value[3] - value[2] == pytest.approx(1e4 * slope[2], abs=1e-8)


@pytest.mark.parametrize(("name", "slope"), [("relu", 0.0), ("leaky_relu", 0.01)])
def test_slope_at_the_kink_is_that_from_below(name: str, slope: float) -> None:
    assert RULES[name](np.float64(0.0)) == (0.0, slope)


Function = Callable[[Any], Any]
OWN_NAMES: dict[str, Any] = {
    "logistic": special.expit,
    "softplus": lambda x: np.logaddexp(0, x),
}
each_function = pytest.mark.parametrize("function", FUNCTIONS, ids=lambda f: f.__name__)


def reference(function: Function, x: Any) -> Any:
    """The true values, infinite or NaN where the function has none."""
    name = function.__name__
    known = OWN_NAMES.get(name) or getattr(np, name, None) or getattr(special, name)
    with np.errstate(all="ignore"):
        return known(x)


def points_of(function: Function, candidates: Any) -> Any:
    return [x for x in candidates if np.isfinite(reference(function, x))]


@each_function
def test_a_function_is_the_reference(function: Function) -> None:
    sizes = np.geomspace(1e-8, 30, 40)
    points = points_of(function, np.concatenate([-sizes, [0.0], sizes]))
    values = [function(x) for x in points]
    expected = reference(function, np.array(points))
    np.testing.assert_allclose(values, expected, rtol=4e-16)


@each_function
def test_a_function_in_float32_is_that_of_the_same_numbers_in_float64(
    function: Function,
) -> None:
    points = points_of(function, np.linspace(-20, 20, 81, dtype=np.float32))
    values = [function(x) for x in points]
    expected = [function(np.float64(x)) for x in points]
    np.testing.assert_allclose(values, expected, rtol=4e-7)  # a few units of 2^-24


@each_function
@each_dtype
def test_elementary_functions_keep_nan(function: Function, dtype: Any) -> None:
    assert np.isnan(function(dtype("nan")))


@each_function
@pytest.mark.parametrize(
    ("dtype", "sizes"), [(np.float32, [80]), (np.float64, [100, 1e4])]
)
def test_finite_values_overflow_nowhere(
    function: Function, dtype: Any, sizes: list[float]
) -> None:
    far = [dtype(sign * size) for size in sizes for sign in (-1, 1)]
    with np.errstate(over="raise", invalid="raise", divide="raise"):
        for x in points_of(function, far):
            assert np.isfinite(function(x))


def test_exponentials_are_those_of_each_row_less_its_peak() -> None:
    rows = np.array([[1.0, 3.0, 2.0], [-5.0, 800.0, 799.0]])
    out = np.empty_like(rows)
    exponentials(rows, out)
    peaks = rows.max(axis=1, keepdims=True)
    np.testing.assert_allclose(out, np.exp(rows - peaks), rtol=1e-15)


def warnings_of_a_net(kind: str, rule: Any) -> list[str]:
    """Return the messages that a net with a rule of one's own warns of."""
    settings: dict[str, Any] = {kind: rule}
    if kind == "penalty":
        settings = {"penalties": {rule: 0.1}}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        MLP((2, 3, 1), seed=0, **settings)
    assert all(each.category is RuntimeWarning for each in caught)
    assert all(each.filename == __file__ for each in caught)
    return [str(each.message) for each in caught]


def swapped(target: Any, prediction: Any) -> Any:
    return (prediction - target) ** 2, 2 * (prediction - target)


def halved(output: Any, target: Any) -> Any:
    return (output - target) ** 2 / 2, 2 * (output - target)


def scaled(output: Any, target: Any, factor: Any) -> Any:
    return factor * (output - target) ** 2, 2 * (output - target)


def squared(z: Any) -> Any:
    return z * z, z


@pytest.mark.parametrize(
    ("kind", "rule", "words"),
    [
        (
            "loss",
            swapped,
            r"at \(-1.7, 0.2\) it returns 3.8, and differences of values give -3.8; "
            r"its arguments are \(prediction, target\), in this order; training "
            r"follows",
        ),
        (
            "loss",
            halved,
            r"at \(-1.7, 0.2\) it returns -3.8, .* give -1.9; training follows",
        ),
        ("loss", Loss(halved), "returns -3.8, .* give -1.9; training"),
        (
            "loss",
            Loss(scaled, constants=(3.0,)),
            "returns -3.8, .* give -11.4; training",
        ),
        ("activation", squared, r"at \(-1.7\) it returns -1.7, .* give -3.4; training"),
        ("penalty", squared, r"at \(-1.7\) it returns -1.7, .* give -3.4; training"),
    ],
)
def test_a_slope_that_is_no_derivative_is_a_warning(
    kind: str, rule: Any, words: str
) -> None:
    (message,) = warnings_of_a_net(kind, rule)
    if isinstance(rule, Loss):
        name = rule.rule.__name__
    else:
        name = rule.__name__
    slope = f"MLP: the slope of the {kind} {name!r}"
    assert message.startswith(f"{slope} is not the derivative of its value: ")
    assert re.search(words, message)


def step_with_kinks(z: Any) -> Any:
    """A slope that is wrong at one of the points: a kink."""
    return abs(z - 0.35), np.sign(z - 0.35) + (z == 0.35)


def logarithm(prediction: Any, target: Any) -> Any:
    """NaN for negative predictions."""
    return log(prediction) * target, target / prediction


def strict(prediction: Any, target: Any) -> Any:
    return math.log(prediction) * target, target / prediction


def narrow(z: Any) -> Any:
    return np.float32(z) ** 3, 3 * np.float32(z) ** 2


@pytest.mark.parametrize(
    ("kind", "rule"),
    [
        ("activation", cube),
        ("activation", step_with_kinks),
        ("activation", narrow),
        ("loss", fourth),
        ("loss", logarithm),
        ("loss", strict),
        ("loss", Loss(lambda p, y, q: (q * p, q), constants=(3.0,))),
    ],
)
def test_a_slope_that_is_a_derivative_is_not_warned_of(kind: str, rule: Any) -> None:
    assert warnings_of_a_net(kind, rule) == []


RNG = np.random.default_rng(0)
OUTPUTS = RNG.normal(size=(6, 3))
LABELS = np.array([0, 1, 2, 2, 1, 0])


@pytest.mark.parametrize(
    "rule", [*activations.RULES.values(), *updates.PENALTIES.values()]
)
def test_slopes_of_the_library_are_derivatives(rule: Any) -> None:
    assert check_rule(rule).error < 1e-9


@pytest.mark.parametrize("factor", [-1.0, 0.5, 1.001])
@pytest.mark.parametrize("compiled", [False, True])
def test_a_wrong_slope_is_found_with_its_place(factor: float, compiled: bool) -> None:
    def bump(z: Any) -> Any:
        value = exp(-z * z)
        return value, factor * type(z)(-2) * z * value

    if compiled:
        rule = numba.njit(bump)
    else:
        rule = bump
    check = check_rule(rule)
    assert check.error > 1e-4
    (z,) = check.point
    derivative = -2 * z * np.exp(-z * z)
    assert check.slope == pytest.approx(factor * derivative)
    assert check.derivative == pytest.approx(derivative)
    difference = abs(check.slope - check.derivative)
    scale = 1 + max(abs(check.slope), abs(check.derivative))
    assert check.error == pytest.approx(difference / scale)


def test_a_wrong_slope_of_one_output_of_a_row_is_found() -> None:
    def total(raw: Any, target: Any, slopes: Any, values: Any, power: float) -> None:
        values[:] = (abs(raw - target) ** power).sum(axis=1)
        slopes[:] = power * np.sign(raw - target) * abs(raw - target) ** (power - 1)
        slopes[3:4, 1] = 9

    loss = Loss(total, by_row=True, constants=(1.5,))
    check = check_rule(loss, OUTPUTS, LABELS)
    assert check.slope == 9.0
    assert check.point == (*OUTPUTS[3], 2.0)
    assert check_rule(loss, OUTPUTS[:3], LABELS[:3]).error < 1e-6


def test_slopes_at_huge_points_are_right() -> None:
    def squared(prediction: Any, target: Any) -> Any:
        return (prediction - target) ** 2, 2 * (prediction - target)

    check = check_rule(squared, points=[1e9, -3e12], targets=[1.0])
    assert check.error < 1e-6


def test_points_are_taken_where_a_loss_is_finite() -> None:
    def log_loss(prediction: Any, target: Any) -> Any:
        p = prediction
        value = -target * np.log(p) - (1 - target) * np.log(1 - p)
        slope = (p - target) / (p * (1 - p))
        return value, slope

    assert check_rule(log_loss).error < 1e-6
