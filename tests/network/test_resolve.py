"""Slopes of rules: the library's are right, and a wrong one is found, with its place."""

import math
import re
import warnings
from typing import Any

import numba
import numpy as np
import pytest
from loss_cases import CASES, cube, fourth

from fastmlp import MLP, Loss, check_rule
from fastmlp.rules import activations, losses, updates
from fastmlp.rules.activations import RULES
from fastmlp.rules.elementary import exp, log


def made(kind: str, rule: Any) -> list[str]:
    settings = {"penalties": {rule: 0.1}} if kind == "penalty" else {kind: rule}
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
        ("loss", swapped, r"at \(-1.7, 0.2\) it returns 3.8, and differences of values give -3.8; "
         r"its arguments are \(prediction, target\), in this order; training follows"),
        ("loss", halved, r"at \(-1.7, 0.2\) it returns -3.8, .* give -1.9; training follows"),
        ("loss", Loss(halved), "returns -3.8, .* give -1.9; training"),
        ("loss", Loss(scaled, constants=(3.0,)), "returns -3.8, .* give -11.4; training"),
        ("activation", squared, r"at \(-1.7\) it returns -1.7, .* give -3.4; training"),
        ("penalty", squared, r"at \(-1.7\) it returns -1.7, .* give -3.4; training"),
    ],
)  # fmt: skip
def test_a_slope_that_is_no_derivative_is_a_warning(kind: str, rule: Any, words: str) -> None:
    (message,) = made(kind, rule)
    name = (rule.rule if isinstance(rule, Loss) else rule).__name__
    start = f"MLP: the slope of the {kind} {name!r} is not the derivative of its value: "
    assert message.startswith(start)
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
        *(("activation", rule) for rule in (cube, step_with_kinks, narrow)),
        *(("loss", rule) for rule in (fourth, logarithm, strict)),
        ("loss", Loss(lambda p, y, q: (q * p, q), constants=(3.0,))),
    ],
)
def test_a_slope_that_is_a_derivative_is_none(kind: str, rule: Any) -> None:
    assert made(kind, rule) == []


@pytest.mark.parametrize("name", RULES)
def test_fastmlps_activations_would_pass(name: str) -> None:
    assert made("activation", lambda z: RULES[name](z)) == []


@pytest.mark.parametrize("name", [name for name in CASES if not CASES[name].by_row])
def test_fastmlps_losses_would_pass(name: str) -> None:
    def own(*arguments: Any) -> Any:
        return CASES[name].rule(*arguments)

    assert made("loss", CASES[name]._replace(rule=own)) == []


RNG = np.random.default_rng(0)
OUTPUTS, LABELS = RNG.normal(size=(6, 3)), np.array([0, 1, 2, 2, 1, 0])


@pytest.mark.parametrize("rule", [*activations.RULES.values(), *updates.PENALTIES.values()])
def test_activations_and_penalties_of_the_library_are_right(rule: Any) -> None:
    assert check_rule(rule).error < 1e-9


@pytest.mark.parametrize("loss", losses.LOSSES.values(), ids=losses.LOSSES)
def test_losses_of_the_library_are_right(loss: Loss) -> None:
    if loss.by_row:
        targets = LABELS if loss.targets == "classes" else RNG.normal(size=(6, 1))
        points = OUTPUTS if loss.per_target == 1 else RNG.normal(size=(6, loss.per_target))
        assert check_rule(loss, points, targets).error < 1e-8
    else:
        assert check_rule(loss).error < 1e-8


@pytest.mark.parametrize("factor", [-1.0, 0.5, 1.001])
@pytest.mark.parametrize("compiled", [False, True])
def test_a_wrong_slope_is_found_with_its_place(factor: float, compiled: bool) -> None:
    def bump(z: Any) -> Any:
        value = exp(-z * z)
        return value, factor * type(z)(-2) * z * value

    check = check_rule(numba.njit(bump) if compiled else bump)
    assert check.error > 1e-4
    (z,) = check.point
    assert check.slope == pytest.approx(-2 * factor * z * np.exp(-z * z))
    assert check.derivative == pytest.approx(-2 * z * np.exp(-z * z))
    assert check.error == pytest.approx(
        abs(check.slope - check.derivative) / (1 + max(abs(check.slope), abs(check.derivative)))
    )


def test_a_wrong_slope_of_one_output_of_a_row_is_found() -> None:
    def total(raw: Any, target: Any, slopes: Any, values: Any, power: float) -> None:
        values[:] = (abs(raw - target) ** power).sum(axis=1)
        slopes[:] = power * np.sign(raw - target) * abs(raw - target) ** (power - 1)
        slopes[3:4, 1] = 9

    loss = Loss(total, by_row=True, constants=(1.5,))
    check = check_rule(loss, OUTPUTS, LABELS)
    assert (check.slope, check.point) == (9.0, (*OUTPUTS[3], 2.0))
    assert check_rule(loss, OUTPUTS[:3], LABELS[:3]).error < 1e-6


def test_large_numbers_have_larger_steps() -> None:
    def squared(prediction: Any, target: Any) -> Any:
        return (prediction - target) ** 2, 2 * (prediction - target)

    assert check_rule(squared, points=[1e9, -3e12], targets=[1.0]).error < 1e-6


def test_points_without_a_finite_value_are_left_out() -> None:
    def log_loss(prediction: Any, target: Any) -> Any:
        p = prediction
        return -target * np.log(p) - (1 - target) * np.log(1 - p), (p - target) / (p * (1 - p))

    assert check_rule(log_loss).error < 1e-6
    with pytest.raises(ValueError, match=r"no finite value and slope at any point; give points="):
        check_rule(log_loss, points=[-1.0, 2.0])


def test_a_loss_by_rows_needs_points_and_as_many_targets() -> None:
    loss = losses.LOSSES["cross_entropy"]
    with pytest.raises(ValueError, match=r"^check_rule: .*a loss by rows needs points"):
        check_rule(loss)
    with pytest.raises(ValueError, match=r"targets as many rows, got \(6, 3\) and \(1,\)"):
        check_rule(loss, OUTPUTS, [1])
