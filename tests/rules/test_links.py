"""Inverse links, uncompiled: against the oracle, in both precisions, far out, and at NaN."""

from typing import Any

import naive
import numpy as np
import pytest

from fastmlp.rules.links import LINKS

each_link = pytest.mark.parametrize("name", LINKS)


def apply(name: str, row: Any) -> Any:
    """The values of one row of raw outputs."""
    link, values = LINKS[name], np.empty_like(row)
    if link.by_row:
        link.rule(row[None], values[None])
    else:
        values[:] = [link.rule(raw) for raw in row]
    return values


@each_link
def test_value_is_that_of_the_oracle(name: str, rng: np.random.Generator) -> None:
    rows = rng.normal(scale=5, size=(20, 4))
    values = np.array([apply(name, row) for row in rows])
    np.testing.assert_allclose(values, naive.LINKS[name](rows), rtol=1e-13)


@each_link
def test_float32_is_float64_rounded(name: str, rng: np.random.Generator) -> None:
    row = rng.normal(scale=5, size=6).astype(np.float32)
    np.testing.assert_allclose(apply(name, row), apply(name, row.astype(float)), rtol=1e-6)


@pytest.mark.parametrize("name", [name for name, link in LINKS.items() if not link.by_row])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_precision_of_the_argument_is_kept(name: str, dtype: Any) -> None:
    assert type(LINKS[name].rule(dtype(1.5))) is dtype


@each_link
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("place", range(3))
def test_nan_stays_nan(name: str, dtype: Any, place: int) -> None:
    row = np.array([1, 2, 3], dtype)
    row[place] = np.nan
    assert np.isnan(apply(name, row)[place])


@each_link
@pytest.mark.parametrize(
    ("dtype", "size"), [(np.float32, 80), (np.float64, 100), (np.float64, 1e4)]
)
def test_no_overflow_where_the_value_is_finite(name: str, dtype: Any, size: float) -> None:
    row = np.array([size, -size, 0], dtype)
    if name == "exp":
        row = np.minimum(row, 700)  # exp(700) is 1e304; from 710 on the value itself overflows
    with np.errstate(over="raise", invalid="raise", divide="raise"):
        assert np.isfinite(apply(name, row)).all()


@pytest.mark.parametrize("name", sorted(LINKS.keys() - {"mean_std"}))
def test_a_higher_raw_output_has_the_higher_value(name: str) -> None:
    values = apply(name, np.linspace(-20, 20, 41))
    assert (np.diff(values) > 0).all()


def test_means_are_raw_outputs_and_deviations_are_above_a_least_one() -> None:
    row = np.array([3.0, 2.0, -5.0, -1e4, 7.0, np.log(4.0)])
    np.testing.assert_allclose(apply("mean_std", row), [3, np.e, -5, 1e-3, 7, 2], rtol=1e-14)


def test_numbers_of_a_row_are_sorted(rng: np.random.Generator) -> None:
    rows = rng.normal(size=(50, 7)).round(1)
    assert (np.diff(np.array([apply("sorted", row) for row in rows])) >= 0).all()


def test_softmax_sums_to_one(rng: np.random.Generator) -> None:
    assert apply("softmax", rng.normal(scale=9, size=7)).sum() == pytest.approx(1, rel=1e-15, abs=0)


def test_softmax_does_not_change_with_a_shift() -> None:
    row = np.array([1.0, -2.0, 0.5])
    assert (apply("softmax", row) == apply("softmax", row + 1024)).all()  # exact in binary


def test_softmax_may_write_over_its_argument() -> None:
    row = np.array([1.0, -2.0, 0.5])
    expected = apply("softmax", row)
    LINKS["softmax"].rule(row[None], row[None])
    assert (row == expected).all()
