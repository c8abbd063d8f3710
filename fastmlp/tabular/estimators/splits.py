"""Rows to hold out of a table: as many of each class, and of each part of a number's range."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


def held_out(
    y: Array, fraction: float, generator: np.random.Generator, *, classes: bool
) -> NDArray[np.bool_]:
    """Return which rows are held out, shape (n_rows,): at least one, and not all.

    Rows are taken at equal steps in the order of their targets, equal ones at random. Of a class
    none is held out that has one row only.

    Examples
    --------
    >>> y = np.array([0] * 8 + [1] * 4 + [2])
    >>> mask = held_out(y, 0.25, np.random.default_rng(0), classes=True)
    >>> np.bincount(y[mask]).tolist()
    [2, 1]
    """
    shuffled = generator.permutation(len(y))
    order = shuffled[np.argsort(y[shuffled], kind="stable")]
    places = np.floor((np.arange(len(y) + 1) + 0.5) * fraction)
    mask = np.zeros(len(y), np.bool_)
    mask[order] = np.diff(places) > 0
    if classes:
        mask &= np.bincount(y)[y] > 1
    if not mask.any():
        mask[order[len(y) // 2]] = True
    elif mask.all():
        mask[order[len(y) // 2]] = False
    return mask
