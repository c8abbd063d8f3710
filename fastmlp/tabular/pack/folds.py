"""Rows of a table for training and for validation: folds that have the classes alike."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
# The places of the rows to train on, and of those to validate on.
Fold = tuple[Array, Array]


def folds_of(y: Array, n_folds: int, generator: np.random.Generator) -> NDArray[np.int64]:
    """Return the number of each row's fold, shape (n_rows,).

    Rows are dealt out in the order of their targets, equal ones at random: each fold has each class
    as often as any other, but for one row, and numbers from all over their range.

    Examples
    --------
    >>> import numpy as np
    >>> y = np.array([0, 0, 0, 0, 1, 1])
    >>> folds = folds_of(y, 2, np.random.default_rng(0))
    >>> [np.bincount(y[folds == k]).tolist() for k in range(2)]
    [[2, 1], [2, 1]]
    """
    shuffled = generator.permutation(len(y))
    order = shuffled[np.argsort(y[shuffled], kind="stable")]
    folds = np.empty(len(y), np.int64)
    folds[order] = np.arange(len(y)) % n_folds
    return folds


def drawn(y: Array, n_folds: int, seed: int) -> list[Fold]:
    """Return the folds of a table, at most one for each row."""
    n = min(n_folds, len(y))
    folds = folds_of(y, n, np.random.default_rng([seed, n]))
    return [(np.flatnonzero(folds != k), np.flatnonzero(folds == k)) for k in range(n)]


def validated(folds: Sequence[Fold]) -> Array:
    """Return the places of the rows that some fold validates on, in their order."""
    return np.sort(np.concatenate([second for _, second in folds]))
