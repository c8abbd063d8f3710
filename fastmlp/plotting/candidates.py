"""The candidates of a search: their scores, their parameters, and which of these matter."""

from collections.abc import Sequence
from numbers import Integral, Real
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastmlp.plotting.curves import metric_of

# Numbers of more values than this are put into so many groups of equal size.
MOST_GROUPS = 4


class Candidates(NamedTuple):
    """The candidates of a fitted search.

    Attributes
    ----------
    params : parameters by name, one mapping a candidate
    mean, spread : (n_candidates,) arrays, over the folds
    best : the index of the candidate that the search chose
    metric : str, what the scores measure
    """

    params: Sequence[dict[str, Any]]
    mean: NDArray[np.float64]
    spread: NDArray[np.float64]
    best: int
    metric: str

    def values(self, name: str) -> dict[int, Any]:
        """Return the values of a parameter by candidate, for candidates that have it."""
        return {i: each[name] for i, each in enumerate(self.params) if name in each}

    def short(self, name: str) -> str:
        """Return a name without its step of a pipeline, if no other parameter is called so."""
        last = name.rpartition("__")[2]
        names = {each for params in self.params for each in params}
        return last if sum(each.rpartition("__")[2] == last for each in names) == 1 else name

    def by_influence(self) -> list[str]:
        """Return parameters of several values, by the variance of the means that they explain."""
        names = dict.fromkeys(name for each in self.params for name in each)
        several = [name for name in names if len(distinct([*self.values(name).values()])) > 1]
        return sorted(several, key=self._influence, reverse=True) or list(names)

    def _influence(self, name: str) -> float:
        """Return the adjusted share of variance: a parameter of many values has no advantage."""
        values, mean = self.values(name), self.mean
        known = np.isfinite(mean)
        groups = np.full(len(mean), -1)
        groups[[*values]] = _groups([*values.values()])
        groups, mean = groups[known], mean[known]
        n, k = len(mean), len(np.unique(groups))
        total = ((mean - mean.mean()) ** 2).sum() if n else 0.0
        if n <= k or not total:
            return -np.inf
        within = sum(
            ((mean[groups == group] - mean[groups == group].mean()) ** 2).sum()
            for group in np.unique(groups)
        )
        return float(1 - (within / (n - k)) / (total / (n - 1)))


def candidates_of(search: Any) -> Candidates:
    """Return the candidates of a fitted search; of several metrics, by the one of `refit`.

    Raises
    ------
    ValueError
        If it is not fitted, or has several metrics and `refit` is not one's name.
    """
    results, refit = getattr(search, "cv_results_", None), getattr(search, "refit", None)
    if results is None:
        raise ValueError("plot_search: search must be fitted")
    one = "mean_test_score" in results
    metric = "score" if one else str(refit)
    if f"mean_test_{metric}" not in results:
        raise ValueError(
            "plot_search: search has several metrics: set its refit to the name of one of them"
        )
    mean = np.asarray(results[f"mean_test_{metric}"], float)
    spread = np.asarray(results[f"std_test_{metric}"], float)
    best = getattr(search, "best_index_", np.argsort(-mean, kind="stable")[0])
    if one:
        metric = metric_of(getattr(search, "estimator", None), getattr(search, "scoring", None))
    return Candidates(results["params"], mean, spread, int(best), metric)


def are_numbers(values: Sequence[Any]) -> bool:
    """Return True if all values are real numbers, none of them a bool."""
    return all(isinstance(value, Real) and not isinstance(value, bool) for value in values)


def distinct(values: Sequence[Any]) -> list[Any]:
    """Return each value once: sizes and names sorted, values that have no order as they come."""
    once = list({text_of(value): value for value in values}.values())
    try:
        return sorted(once, key=lambda value: tuple(value) if _is_sizes(value) else (value,))
    except TypeError:
        return once


def text_of(value: Any) -> str:
    """Return a parameter's value as it is shown: numbers with four digits, functions by name."""
    if isinstance(value, Real) and not isinstance(value, Integral):
        return f"{float(value):.4g}"
    return str(getattr(value, "__name__", value))


def _is_sizes(value: Any) -> bool:
    return isinstance(value, tuple | list | np.ndarray)


def _groups(values: Sequence[Any]) -> NDArray[np.int64]:
    """Return the number of each value's group: values that are equal, or numbers that are near."""
    once = distinct(values)
    if are_numbers(values) and len(once) > MOST_GROUPS:
        numbers = np.asarray(values, float)
        edges = np.quantile(numbers, np.linspace(0, 1, MOST_GROUPS + 1)[1:-1])
        return np.digitize(numbers, edges)
    places = {text_of(value): i for i, value in enumerate(once)}
    return np.array([places[text_of(value)] for value in values])
