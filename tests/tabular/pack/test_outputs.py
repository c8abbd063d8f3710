"""Intervals hold the share of targets that they promise."""

import numpy as np
import pytest

from fastmlp.tabular.pack.outputs import half_width, sorted_residuals


@pytest.mark.parametrize(("n", "coverage"), [(19, 0.9), (99, 0.8), (40, 0.5)])
def test_new_rows_are_inside_as_often_as_promised(n: int, coverage: float) -> None:
    generator = np.random.default_rng(n)
    inside = []
    for _ in range(4000):
        residuals = generator.standard_t(3, n + 1)
        half = half_width(sorted_residuals(residuals[:n], np.zeros(n)), coverage)
        inside.append(abs(residuals[n]) <= half)
    # By exchangeability between coverage and coverage + 1 / (n + 1); 4 standard errors.
    error = 4 * np.sqrt(coverage * (1 - coverage) / len(inside))
    assert coverage - error <= np.mean(inside) <= coverage + 1 / (n + 1) + error


def test_too_few_rows_promise_nothing() -> None:
    residuals = np.array([0.5, 1.0, 2.0])
    assert half_width(residuals, 0.75) == 2.0
    assert half_width(residuals, 0.76) == np.inf
    assert half_width(np.empty(0), 0.5) == np.inf
