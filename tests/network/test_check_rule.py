"""check_rule: the library's rules are right, and a wrong slope is found, with its place."""

from typing import Any

import numba
import numpy as np
import pytest

from fastmlp import Loss, check_rule
from fastmlp.rules import activations, losses, weight_rules
from fastmlp.rules.elementary import exp

RNG = np.random.default_rng(0)
OUTPUTS, LABELS = RNG.normal(size=(6, 3)), np.array([0, 1, 2, 2, 1, 0])


@pytest.mark.parametrize("rule", [*activations.RULES.values(), *weight_rules.PENALTIES.values()])
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
