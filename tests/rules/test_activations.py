"""Activations, uncompiled: against the oracle, in both precisions, far out, and at NaN."""

from typing import Any

import naive
import numpy as np
import pytest
from scipy import integrate, stats

from fastmlp.rules.activations import ALIASES, RULES

POINTS = np.linspace(-8, 8, 60)  # an even number: none at 0, where some have a kink
each_rule = pytest.mark.parametrize("name", RULES)


def evaluate(name: str, points: Any) -> Any:
    """Values and slopes at points, shape (2, n_points)."""
    return np.array([RULES[name](z) for z in points]).T


def test_a_name_in_the_table_is_that_of_its_function() -> None:
    assert [rule.__name__ for rule in RULES.values()] == list(RULES)


def test_an_alias_is_a_second_name_of_a_rule() -> None:
    assert set(ALIASES.values()) <= set(RULES)
    assert not set(ALIASES) & set(RULES)


@each_rule
def test_value_is_that_of_the_oracle(name: str) -> None:
    value, _ = evaluate(name, POINTS)
    np.testing.assert_allclose(value, naive.VALUES[name](POINTS), rtol=1e-12, atol=1e-15)


@each_rule
def test_slope_is_that_of_the_oracle(name: str) -> None:
    _, slope = evaluate(name, POINTS)
    np.testing.assert_allclose(slope, naive.SLOPES[name](POINTS), rtol=1e-12, atol=1e-14)


@each_rule
def test_slope_is_the_finite_difference_of_the_value(name: str) -> None:
    _, slope = evaluate(name, POINTS)
    above, below = evaluate(name, POINTS + 1e-5)[0], evaluate(name, POINTS - 1e-5)[0]
    np.testing.assert_allclose(slope, (above - below) / 2e-5, atol=1e-9)


@each_rule
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_value_and_slope_keep_the_precision_of_the_argument(name: str, dtype: Any) -> None:
    pairs = [RULES[name](z) for z in np.array([-1.5, 0.0, 1.5], dtype)]
    assert {type(number) for pair in pairs for number in pair} == {dtype}


@each_rule
def test_float32_is_float64_rounded(name: str) -> None:
    points = POINTS.astype(np.float32)
    expected = evaluate(name, points.astype(np.float64))
    # 1 + erf and 1 - tanh^2 cancel in the tails, so the bound there is one on the whole scale.
    np.testing.assert_allclose(evaluate(name, points), expected, rtol=1e-6, atol=1e-6)


@each_rule
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_nan_stays_nan(name: str, dtype: Any) -> None:
    assert np.isnan(RULES[name](dtype("nan"))[0])


@each_rule
@pytest.mark.parametrize(("dtype", "sizes"), [(np.float32, [80]), (np.float64, [100, 1e4])])
def test_no_overflow_far_out(name: str, dtype: Any, sizes: list[float]) -> None:
    with np.errstate(over="raise", invalid="raise", divide="raise"):
        pairs = [RULES[name](dtype(sign * size)) for size in sizes for sign in (-1, 1)]
    assert np.isfinite(pairs).all()


@each_rule
def test_far_out_it_is_a_line_or_a_constant(name: str) -> None:
    value, slope = evaluate(name, np.array([-1e4, -2e4, 1e4, 2e4]))
    assert value[1] - value[0] == pytest.approx(-1e4 * slope[0], abs=1e-8)
    assert value[3] - value[2] == pytest.approx(1e4 * slope[2], abs=1e-8)


@pytest.mark.parametrize(
    ("name", "z", "value"),
    [
        ("selu", 1.0, 1.0507009873554805),  # the published scale
        ("selu", -100.0, -1.7580993408473766),  # minus scale times alpha
        ("gelu", 1.0, 0.8413447460685429),  # the normal distribution function at 1
        ("gelu", -1.0, -0.15865525393145707),
        ("gelu_tanh", 1.0, 0.8411919906082768),
        ("elu", -1.0, -0.6321205588285577),  # 1/e - 1
        ("leaky_relu", -1.0, -0.01),
        ("silu", 1.0, 0.7310585786300049),
        ("mish", 1.0, 0.8650983882673103),
        ("softplus", 0.0, 0.6931471805599453),  # log 2
    ],
)
def test_known_value(name: str, z: float, value: float) -> None:
    assert RULES[name](np.float64(z))[0] == pytest.approx(value, rel=1e-14, abs=0)


@pytest.mark.parametrize(("power", "moment"), [(1, 0.0), (2, 1.0)])
def test_selu_keeps_the_mean_and_variance_of_the_normal_distribution(
    power: int, moment: float
) -> None:
    def density(z: float) -> float:
        return RULES["selu"](np.float64(z))[0] ** power * stats.norm.pdf(z)

    halves = [integrate.quad(density, *ends, epsabs=1e-13)[0] for ends in ((-9, 0), (0, 9))]
    assert sum(halves) == pytest.approx(moment, abs=1e-12)


@pytest.mark.parametrize(("name", "slope"), [("relu", 0.0), ("leaky_relu", 0.01)])
def test_slope_at_the_kink_is_that_from_below(name: str, slope: float) -> None:
    assert RULES[name](np.float64(0.0)) == (0.0, slope)
