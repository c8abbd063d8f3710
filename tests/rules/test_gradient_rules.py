"""Gradient rules, uncompiled: bounds, and NaN."""

from typing import Any

import numpy as np
import pytest

from fastmlp.rules.gradient_rules import RULES, clip


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_clip_is_that_of_numpy(dtype: Any) -> None:
    slopes = np.array([-np.inf, -3, -0.5, -0.0, 0, 1e-30, 0.5, 0.6, np.inf], dtype)
    clipped = np.array([clip(g, dtype(0.5)) for g in slopes], dtype)
    assert np.array_equal(clipped, np.clip(slopes, -0.5, 0.5))


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_nan_stays_nan(rule: Any) -> None:
    assert np.isnan(rule(np.float64(np.nan), np.float64(0.5)))
