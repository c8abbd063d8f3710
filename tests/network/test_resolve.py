"""Slopes of rules of the user's own, compared with differences of their values."""

import math
import re
import warnings
from typing import Any

import numpy as np
import pytest
from loss_cases import CASES, cube, fourth

from fastmlp import MLP, Loss
from fastmlp.rules.activations import RULES
from fastmlp.rules.elementary import log


def made(kind: str, rule: Any) -> list[str]:
    """The warnings of a net with a rule."""
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
    """An error for negative predictions."""
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
