"""A look at the order of a source's rows: sorted ones mix badly, and nothing else would say so."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastmlp._process.warnings import warn

# Means of two buffers are further apart than chance has them.
MOST_ERRORS = 6.0


class Moments(NamedTuple):
    """Number, mean and variance of the targets of some rows, shape (n_targets,)."""

    n: int
    mean: NDArray[np.float64]
    variance: NDArray[np.float64]


def moments(y: NDArray[Any]) -> Moments:
    """Return the moments of targets, shape (n_rows, n_targets)."""
    return Moments(len(y), y.mean(0, dtype=np.float64), y.var(0, dtype=np.float64))


def warn_of_order(first: Moments, later: Moments, who: str) -> bool:
    """Warn if the means of two buffers are more than six standard errors apart; return if so."""
    error = np.sqrt(first.variance / first.n + later.variance / later.n)
    far = np.abs(first.mean - later.mean) > MOST_ERRORS * error
    if far.any():
        j = int(np.argmax(far))
        warn(
            f"{who}: the mean of y is {first.mean[j]:.4g} in the first buffer and "
            f"{later.mean[j]:.4g} in a later one: are the rows sorted? They mix badly then: mix "
            "the source once, or use smaller blocks and a larger buffer_rows",
            UserWarning,
        )
    return bool(far.any())
