"""Selection of an ensemble: the candidates whose weighted mean does best on validation rows."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
# Lower is better.
Loss = Callable[[Array], float]


class Selection(NamedTuple):
    """The candidates of an ensemble.

    Attributes
    ----------
    weights : (n_candidates,) array
        Of the mean of their predictions; 0 for those that are left out. Their sum is 1.
    loss : float, of that mean
    """

    weights: NDArray[np.float64]
    loss: float


def greedy(
    predictions: Sequence[Array],
    loss: Loss,
    *,
    n_rounds: int = 50,
    max_members: int | None = None,
    replacement: bool = True,
) -> Selection:
    """Return an ensemble to which each round has added the candidate that helps most.

    Parameters
    ----------
    predictions : sequence of arrays of one shape
        Each candidate's, of the same validation rows.
    loss : function of such an array, lower is better
    n_rounds : int
        How often a candidate is added.
    max_members : int, optional
        How many different candidates there may be.
    replacement : bool
        True: a candidate may be added again, which raises its weight, and every round adds one,
        better or not; the ensemble is that of the best round, the first of equals. False: each
        counts once, and the rounds end where none helps.

    Returns
    -------
    Selection

    References
    ----------
    Caruana, Niculescu-Mizil, Crew & Ksikes (2004), "Ensemble selection from libraries of models".

    Examples
    --------
    >>> import numpy as np
    >>> y = np.zeros(3)
    >>> candidates = [np.full(3, 1.0), np.full(3, -1.0), np.full(3, 4.0)]
    >>> greedy(candidates, lambda mean: float(np.mean((mean - y) ** 2))).weights
    array([0.5, 0.5, 0. ])
    """
    counts = np.zeros(len(predictions), np.int64)
    total = np.zeros_like(predictions[0], dtype=np.float64)
    best = Selection(counts.astype(np.float64), np.inf)
    for n in range(1, n_rounds + 1):
        allowed = _allowed(counts, max_members, replacement=replacement)
        if not len(allowed):
            break
        losses = np.array([loss((total + predictions[i]) / n) for i in allowed])
        if np.isnan(losses).all():
            break
        place = int(np.nanargmin(losses))
        if losses[place] < best.loss:
            chosen = counts.copy()
            chosen[allowed[place]] += 1
            best = Selection(chosen / n, float(losses[place]))
        elif not replacement:
            break
        counts[allowed[place]] += 1
        total += predictions[allowed[place]]
    return best


def _allowed(counts: NDArray[np.int64], most: int | None, *, replacement: bool) -> Array:
    """Return the candidates that a round may add."""
    full = most is not None and np.count_nonzero(counts) >= most
    if not replacement:
        return np.flatnonzero(counts == 0) if not full else np.flatnonzero(counts < 0)
    return np.flatnonzero(counts > 0) if full else np.arange(len(counts))
