"""Gradient rules, uncompiled: bounds, and NaN."""

from typing import Any

import numpy as np
import pytest

from fastmlp.rules.gradient_rules import RULES, clip, norm_factor


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_clip_is_that_of_numpy(dtype: Any) -> None:
    slopes = np.array([-np.inf, -3, -0.5, -0.0, 0, 1e-30, 0.5, 0.6, np.inf], dtype)
    clipped = np.array([clip(g, dtype(0.5)) for g in slopes], dtype)
    assert np.array_equal(clipped, np.clip(slopes, -0.5, 0.5))


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_nan_of_the_gradient_stays_nan(rule: Any) -> None:
    assert np.isnan(rule(np.float64(np.nan), np.float64(0.5)))


def test_a_norm_is_scaled_down_to_its_limit() -> None:
    assert [norm_factor(norm, 2.0) for norm in (0.0, 1.0, 2.0, 8.0)] == [1.0, 1.0, 1.0, 0.25]


@pytest.mark.parametrize("norm", [np.inf, np.nan])
def test_a_norm_that_is_not_finite_makes_nan(norm: float) -> None:
    with np.errstate(invalid="ignore"):
        assert np.isnan(norm_factor(np.float64(norm), 2.0))
        assert np.isnan(norm_factor(norm, 2.0))
