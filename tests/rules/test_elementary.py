"""Elementary functions, uncompiled: against NumPy and SciPy, in both precisions."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from scipy import special

from fastmlp.rules.elementary import FUNCTIONS, exponentials

Function = Callable[[Any], Any]
OWN_NAMES: dict[str, Any] = {"logistic": special.expit, "softplus": lambda x: np.logaddexp(0, x)}
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
def test_value_is_that_of_the_reference(function: Function) -> None:
    sizes = np.geomspace(1e-8, 30, 40)
    points = points_of(function, np.concatenate([-sizes, [0.0], sizes]))
    values = [function(x) for x in points]
    np.testing.assert_allclose(values, reference(function, np.array(points)), rtol=4e-16)


@each_function
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_precision_of_the_argument_is_kept(function: Function, dtype: Any) -> None:
    points = points_of(function, np.array([-2.5, -0.5, 0.0, 0.5, 2.5], dtype))
    assert [type(function(x)) for x in points] == [dtype] * len(points)


@each_function
def test_float32_value_is_the_float64_value_rounded(function: Function) -> None:
    points = points_of(function, np.linspace(-20, 20, 81, dtype=np.float32))
    values = [function(x) for x in points]
    expected = [function(np.float64(x)) for x in points]
    np.testing.assert_allclose(values, expected, rtol=4e-7)  # a few units of 2^-24


@each_function
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_nan_stays_nan(function: Function, dtype: Any) -> None:
    assert np.isnan(function(dtype("nan")))


@each_function
@pytest.mark.parametrize(("dtype", "sizes"), [(np.float32, [80]), (np.float64, [100, 1e4])])
def test_no_overflow_where_the_value_is_finite(
    function: Function, dtype: Any, sizes: list[float]
) -> None:
    with np.errstate(over="raise", invalid="raise", divide="raise"):
        for x in points_of(function, [dtype(sign * size) for size in sizes for sign in (-1, 1)]):
            assert np.isfinite(function(x))


def test_exponentials_are_those_of_each_row_less_its_peak() -> None:
    rows = np.array([[1.0, 3.0, 2.0], [-5.0, 800.0, 799.0]])
    out = np.empty_like(rows)
    exponentials(rows, out)
    np.testing.assert_allclose(out, np.exp(rows - rows.max(axis=1, keepdims=True)), rtol=1e-15)
