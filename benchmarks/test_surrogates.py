"""Surrogates: what the tables are made of, and a small run."""

import numpy as np
import pytest

from benchmarks import surrogates


@pytest.mark.parametrize("name", surrogates.TARGETS)
def test_derivatives_are_those_of_differences(name: str) -> None:
    target = surrogates.TARGETS[name]
    x, _, g = surrogates.rows_of(target, 5, 0)
    found = surrogates.differences(target, x)
    np.testing.assert_allclose(found, g, rtol=1e-3, atol=1e-3 * np.abs(g).max())


def test_prices_and_deltas_of_the_basket_are_means_of_paths() -> None:
    basket = surrogates.Basket(5, 0)
    spots, payoffs, slopes = basket.paths(200_000)
    prices, deltas = basket.truth(spots)
    assert np.mean(payoffs - prices) == pytest.approx(0, abs=2e-3)
    np.testing.assert_allclose(np.mean(slopes - deltas, axis=0), 0, atol=2e-3)


@pytest.mark.slow
def test_all_tables_are_made(capsys: pytest.CaptureFixture[str]) -> None:
    surrogates.main(["--quick"])
    lines = capsys.readouterr().out.splitlines()
    assert sum(line.startswith("|--") or line.startswith("|---") for line in lines) == 3
