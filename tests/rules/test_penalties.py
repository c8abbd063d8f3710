"""Penalties and gradient rules, uncompiled: against the oracle, in both precisions, and at NaN."""

from typing import Any

import naive
import numpy as np
import pytest

from fastmlp.rules.penalties import RULES
from fastmlp.rules.updates import GRADIENT_RULES, clip, norm_factor

POINTS = np.linspace(-3, 3, 20)  # an even number: none at 0, where l1 has a kink
each_rule = pytest.mark.parametrize("name", RULES)


def evaluate(name: str, points: Any) -> Any:
    """Values and slopes at points, shape (2, n_points)."""
    return np.array([RULES[name](w) for w in points]).T


def test_a_name_in_the_table_is_that_of_its_function() -> None:
    assert [rule.__name__ for rule in RULES.values()] == list(RULES)


@each_rule
def test_value_and_slope_are_those_of_the_oracle(name: str) -> None:
    value, slope = evaluate(name, POINTS)
    np.testing.assert_allclose(value, naive.PENALTIES[name](POINTS), rtol=1e-15)
    np.testing.assert_allclose(slope, naive.PENALTY_SLOPES[name](POINTS), rtol=1e-15)


@each_rule
def test_slope_is_the_finite_difference_of_the_value(name: str) -> None:
    _, slope = evaluate(name, POINTS)
    above, below = evaluate(name, POINTS + 1e-5)[0], evaluate(name, POINTS - 1e-5)[0]
    np.testing.assert_allclose(slope, (above - below) / 2e-5, atol=1e-9)


@each_rule
def test_a_weight_of_zero_costs_nothing_and_stays(name: str) -> None:
    assert RULES[name](np.float64(0)) == (0, 0)


@each_rule
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_value_and_slope_keep_the_precision_of_the_weight(name: str, dtype: Any) -> None:
    pairs = [RULES[name](w) for w in np.array([-1.5, 0, 1.5], dtype)]
    assert {type(number) for pair in pairs for number in pair} == {dtype}


@each_rule
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_nan_stays_nan(name: str, dtype: Any) -> None:
    assert np.isnan(RULES[name](dtype("nan"))[0])


@each_rule
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_no_overflow_at_large_weights(name: str, dtype: Any) -> None:
    with np.errstate(over="raise", invalid="raise"):
        pairs = [RULES[name](dtype(w)) for w in (-1e4, -80, 80, 1e4)]
    assert np.isfinite(pairs).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_clip_is_that_of_numpy(dtype: Any) -> None:
    slopes = np.array([-np.inf, -3, -0.5, -0.0, 0, 1e-30, 0.5, 0.6, np.inf], dtype)
    clipped = np.array([clip(g, dtype(0.5)) for g in slopes], dtype)
    assert np.array_equal(clipped, np.clip(slopes, -0.5, 0.5))


@pytest.mark.parametrize("rule", GRADIENT_RULES.values(), ids=GRADIENT_RULES)
def test_nan_of_the_gradient_stays_nan(rule: Any) -> None:
    assert np.isnan(rule(np.float64(np.nan), np.float64(0.5)))


def test_a_norm_is_scaled_down_to_its_limit() -> None:
    assert [norm_factor(norm, 2.0) for norm in (0.0, 1.0, 2.0, 8.0)] == [1.0, 1.0, 1.0, 0.25]


@pytest.mark.parametrize("norm", [np.inf, np.nan])
def test_a_norm_that_is_not_finite_makes_nan(norm: float) -> None:
    with np.errstate(invalid="ignore"):
        assert np.isnan(norm_factor(np.float64(norm), 2.0))
        assert np.isnan(norm_factor(norm, 2.0))
