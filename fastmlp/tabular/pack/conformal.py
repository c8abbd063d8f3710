"""Intervals that hold a wanted share of the targets: a conformal step on held-out rows."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


def half_width(residuals: Array, coverage: float) -> float:
    """Return the half width of intervals around predictions that hold a share of the targets.

    Of n residuals in ascending order it is the one at place ``ceil((n + 1) coverage)``. If the rows
    of the residuals and new rows come in any order equally often, and the model has not seen
    either, intervals hold a new target with at least this probability, on average over all rows.

    Parameters
    ----------
    residuals : (n_rows,) array
        Absolute differences of targets and predictions in rows that the model was not trained on,
        ascending.
    coverage : float in (0, 1)

    Returns
    -------
    float
        Infinite if there are too few rows for the coverage: fewer than about
        ``coverage / (1 - coverage)``.

    References
    ----------
    Lei, G'Sell, Rinaldo, Tibshirani & Wasserman (2018), "Distribution-free predictive inference for
    regression", section 2.2.

    Examples
    --------
    >>> half_width(np.arange(1.0, 10.0), 0.8)
    8.0
    """
    place = math.ceil((len(residuals) + 1) * coverage - 1e-9)
    return float(residuals[place - 1]) if place <= len(residuals) else math.inf


def sorted_residuals(y: Array, predictions: Array) -> NDArray[np.float64]:
    """Return what `half_width` takes, shape (n_rows,)."""
    found: NDArray[np.float64] = np.sort(np.abs(y - predictions).astype(np.float64))
    return found
