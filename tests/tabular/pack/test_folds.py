"""Folds have each class, and numbers from all over their range."""

import numpy as np
import pytest

from fastmlp.tabular.pack.folds import folds_of


@pytest.mark.parametrize("n_folds", [2, 3, 5])
def test_classes_are_dealt_out_evenly(n_folds: int) -> None:
    generator = np.random.default_rng(0)
    y = generator.choice(4, 203, p=[0.7, 0.2, 0.08, 0.02])
    folds = folds_of(y, n_folds, generator)
    for label in range(4):
        counts = np.bincount(folds[y == label], minlength=n_folds)
        assert counts.max() - counts.min() <= 1
    assert np.ptp(np.bincount(folds, minlength=n_folds)) <= 1


def test_numbers_are_dealt_out_by_their_order() -> None:
    y = np.random.default_rng(1).normal(size=500)
    folds = folds_of(y, 5, np.random.default_rng(0))
    means = [y[folds == k].mean() for k in range(5)]
    assert np.ptp(means) < 0.1


def test_equal_rows_are_dealt_out_at_random() -> None:
    y = np.zeros(100, np.int64)
    first, second = (folds_of(y, 5, np.random.default_rng(seed)) for seed in range(2))
    assert (first != second).any()
