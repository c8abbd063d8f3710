"""The scores of a hyperparameter search."""

from collections.abc import Sequence
from numbers import Real
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fastmlp.plotting.axes import INK, LOG_SCALE_FACTOR, SOFT, WRONG, new_axes, tidy, whole_ticks

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def plot_search(search: Any, ax: "Axes | None" = None, *, parameter: str | None = None) -> "Axes":
    """Plot the mean score of each candidate on the held-out folds, and its standard deviation.

    Without `parameter` the candidates are ordered by score, the highest first. With it, candidates
    are placed at their value of that parameter, on an axis that is logarithmic if the values are
    positive and span more than a factor of 20. The candidate that the search chose is marked: under
    halving, or with a function as `refit`, it need not have the highest score.

    Parameters
    ----------
    search : fitted MLPSearchCV, or any other of scikit-learn's searches
    ax : matplotlib Axes, optional
        Where to draw; by default, on a new figure.
    parameter : str, optional
        The name of a searched parameter.

    Returns
    -------
    matplotlib Axes

    Raises
    ------
    ImportError
        If matplotlib is missing.
    ValueError
        If the search is not fitted, has several metrics, or did not search the parameter.

    Examples
    --------
    >>> import matplotlib
    >>> matplotlib.use("Agg")
    >>> from types import SimpleNamespace
    >>> results = {"mean_test_score": [0.8, 0.9], "std_test_score": [0.1, 0.05],
    ...            "params": [{"alpha": 0.1}, {"alpha": 1.0}]}
    >>> ax = plot_search(SimpleNamespace(cv_results_=results), parameter="alpha")
    >>> ax.get_xlabel(), ax.get_ylabel()
    ('alpha', 'score')
    """
    results = getattr(search, "cv_results_", None)
    if results is None or "mean_test_score" not in results:
        raise ValueError("plot_search: search must be fitted, with one metric")
    scores = np.asarray(results["mean_test_score"], float)
    spread = np.asarray(results["std_test_score"], float)
    order = np.argsort(-scores, kind="stable")
    best = getattr(search, "best_index_", order[0])
    if parameter is None:
        ax = new_axes() if ax is None else ax
        places = np.arange(1.0, len(scores) + 1)
        ax.set_xlabel("candidate, by rank")
        whole_ticks(ax)
    else:
        values = _values(results["params"], parameter)
        order = np.array([i for i in order if i in values])
        ax = new_axes() if ax is None else ax
        places = _places(ax, list(values.values()))[np.searchsorted([*values], order)]
        ax.set_xlabel(parameter)
    marked, scores, spread = order == best, scores[order], spread[order]
    style: dict[str, Any] = {
        "linestyle": "",
        "marker": "o",
        "markersize": 4,
        "capsize": 2,
        "elinewidth": 1,
    }
    ax.errorbar(places, scores, spread, color=INK, ecolor=SOFT, label="mean and spread", **style)
    ax.plot(places[marked], scores[marked], "o", color=WRONG, markersize=7, label="best")
    ax.set_ylabel("score")
    tidy(ax)
    return ax


def _values(candidates: Sequence[Any], parameter: str) -> dict[int, Any]:
    """Return the values of a parameter by candidate number, for candidates that have it."""
    values = {i: each[parameter] for i, each in enumerate(candidates) if parameter in each}
    if not values:
        raise ValueError(
            f"plot_search: no parameter {parameter!r} was searched; there are "
            f"{', '.join(sorted({name for each in candidates for name in each}))}"
        )
    return values


def _places(ax: "Axes", values: list[Any]) -> NDArray[Any]:
    """Return positions on the axis: numbers at their value, other values at 0, 1, 2, ..."""
    if all(isinstance(value, Real) and not isinstance(value, bool) for value in values):
        numbers = np.asarray(values, float)
        if numbers.min() > 0 and numbers.max() > LOG_SCALE_FACTOR * numbers.min():
            ax.set_xscale("log")
        return numbers
    names = [str(value) for value in values]
    known = sorted(set(names), key=names.index)
    ax.set_xticks(range(len(known)), known)
    return np.array([known.index(name) for name in names])
