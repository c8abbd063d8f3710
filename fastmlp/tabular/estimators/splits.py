"""Rows to hold out of a table: as many of each class, and of each part of a number's range."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


def held_out(
    y: Array, fraction: float, generator: np.random.Generator, *, classes: bool
) -> NDArray[np.bool_]:
    """Return which rows are held out, shape (n_rows,): at least one, and not all.

    In the order of their targets, equal ones at random, the rows are cut into groups of about one
    size, and of each group one row is drawn. Of a class none is held out that has one row only.

    Examples
    --------
    >>> y = np.array([0] * 8 + [1] * 4 + [2])
    >>> mask = held_out(y, 0.25, np.random.default_rng(0), classes=True)
    >>> np.bincount(y[mask]).tolist()
    [2, 1]
    """
    n = len(y)
    shuffled = generator.permutation(n)
    order = shuffled[np.argsort(y[shuffled], kind="stable")]
    n_out = min(max(round(n * fraction), 1), n - 1)
    edges = np.arange(n_out + 1) * n // n_out
    mask = np.zeros(n, np.bool_)
    mask[order[generator.integers(edges[:-1], edges[1:])]] = True
    if classes:
        mask &= np.bincount(y)[y] > 1
    if not mask.any():
        mask[order[n // 2]] = True
    return mask
