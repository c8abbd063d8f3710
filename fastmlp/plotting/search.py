"""The scores of a hyperparameter search: its candidates, and which parameters matter."""

from collections.abc import Sequence
from numbers import Integral, Real
from textwrap import wrap
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastmlp.plotting.axes import (
    INK,
    LOG_SCALE_FACTOR,
    SOFT,
    WRONG,
    new_axes,
    number_ticks,
    tidy,
    title,
)
from fastmlp.plotting.history import metric_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Numbers of more values than this are put into so many groups of equal size.
MOST_GROUPS = 4


class Candidates(NamedTuple):
    """The candidates of a fitted search.

    Attributes
    ----------
    params : parameters by name, one mapping a candidate
    mean, spread : (n_candidates,) arrays, over the folds
    best : the index of the candidate that the search chose
    metric : str, the name of the scores' metric
    """

    params: Sequence[dict[str, Any]]
    mean: NDArray[np.float64]
    spread: NDArray[np.float64]
    best: int
    metric: str

    def values(self, name: str) -> dict[int, Any]:
        """Return the values of a parameter by candidate, for candidates that have it."""
        return {i: params[name] for i, params in enumerate(self.params) if name in params}

    def short(self, name: str) -> str:
        """Return a name without its step of a pipeline, if no other parameter is called so."""
        last = name.rpartition("__")[2]
        names = {other for params in self.params for other in params}
        return last if sum(other.rpartition("__")[2] == last for other in names) == 1 else name

    def by_influence(self) -> list[str]:
        """Return parameters of several values, by the variance of the means that they explain."""
        names = dict.fromkeys(name for params in self.params for name in params)
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
    is_single = "mean_test_score" in results
    metric = "score" if is_single else str(refit)
    if f"mean_test_{metric}" not in results:
        raise ValueError(
            "plot_search: search has several metrics: set its refit to the name of one of them"
        )
    mean = np.asarray(results[f"mean_test_{metric}"], float)
    spread = np.asarray(results[f"std_test_{metric}"], float)
    best = getattr(search, "best_index_", np.argsort(-mean, kind="stable")[0])
    if is_single:
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


# Numbers of more values than this have a colour bar.
MOST_COLOURS = 6
TITLE_WIDTH = 70


def plot_search(
    search: Any,
    ax: "Axes | None" = None,
    *,
    parameter: str | None = None,
    color: str | None = None,
) -> "Axes":
    """Plot the mean score of each candidate on the held-out folds, and its standard deviation.

    Candidates are placed at their value of one parameter, on an axis that is logarithmic if the
    values are positive and span more than a factor of 20; colours show a second parameter. The
    candidate that the search chose is marked, and its parameters are in the title: under halving,
    or with a function as `refit`, it need not have the highest score.

    Parameters
    ----------
    search : fitted MLPSearchCV, or any other of scikit-learn's searches
        Of several metrics, the one that `refit` names is drawn.
    ax : matplotlib Axes, optional
        Where to draw; by default, on a new figure.
    parameter : str, optional
        The name of a searched parameter; by default, the one whose values explain most of the
        variance of the scores.
    color : str, optional
        The name of another one; by default, the one that explains most after it.

    Returns
    -------
    matplotlib Axes

    Raises
    ------
    ImportError
        If matplotlib is missing.
    ValueError
        If the search is not fitted, has several metrics and no name of one as `refit`, or did not
        search a parameter.

    Examples
    --------
    >>> import matplotlib
    >>> matplotlib.use("Agg")
    >>> from types import SimpleNamespace
    >>> results = {"mean_test_score": [0.8, 0.9], "std_test_score": [0.1, 0.05],
    ...            "params": [{"alpha": 0.1}, {"alpha": 1.0}]}
    >>> ax = plot_search(SimpleNamespace(cv_results_=results))
    >>> ax.get_xlabel(), ax.get_ylabel(), ax.get_title(loc="left")
    ('alpha', 'score', 'best: score 0.9 with alpha=1')
    """
    candidates = candidates_of(search)
    parameter, color = _choose(candidates, parameter, color)
    ax = new_axes() if ax is None else ax
    values = candidates.values(parameter)
    order = np.array([i for i in np.argsort(-candidates.mean, kind="stable") if i in values])
    places = np.full(len(candidates.mean), np.nan)
    places[[*values]] = _places(ax, list(values.values()))
    style: dict[str, Any] = {"linestyle": "", "marker": "o", "markersize": 4, "capsize": 2}
    style |= {"color": INK, "ecolor": SOFT, "elinewidth": 1}
    folds = getattr(search, "n_splits_", "the")
    label = f"mean and standard deviation of {folds} folds"
    mean, spread = candidates.mean[order], candidates.spread[order]
    ax.errorbar(places[order], mean, spread, label=label, **style)
    if color is not None:
        _colour(ax, candidates, places, color)
    best = order[order == candidates.best]
    ring: dict[str, Any] = {"markersize": 11, "markerfacecolor": "none", "markeredgewidth": 2}
    ax.plot(places[best], candidates.mean[best], "o", color=WRONG, label="best", **ring)
    ax.set_xlabel(parameter)
    ax.set_ylabel(candidates.metric)
    tidy(ax)
    title(ax, "\n".join(wrap(_best_candidate_text(candidates), TITLE_WIDTH)))
    return ax


def _choose(
    candidates: Candidates, parameter: str | None, color: str | None
) -> tuple[str, str | None]:
    """Return the parameters for the axis and, if there is one of several values, the colours."""
    known = sorted({name for params in candidates.params for name in params})
    for chosen in (parameter, color):
        if chosen is not None and chosen not in known:
            raise ValueError(
                f"plot_search: no parameter {chosen!r} was searched; there are {', '.join(known)}"
            )
    if not known:
        raise ValueError("plot_search: search has no parameters: its only candidate is {}")
    ranked = candidates.by_influence()
    parameter = parameter or next((name for name in ranked if name != color), ranked[0])
    others = (name for name in ranked if name != parameter and _has_colours(candidates, name))
    return parameter, color or next(others, None)


def _has_colours(candidates: Candidates, name: str) -> bool:
    values = [*candidates.values(name).values()]
    n = len(distinct(values))
    return 1 < n <= MOST_COLOURS or (n > 1 and are_numbers(values))


def _places(ax: "Axes", values: list[Any]) -> NDArray[Any]:
    """Return positions on the axis: numbers at their value, other values at 0, 1, 2, ..."""
    if are_numbers(values):
        numbers = np.asarray(values, float)
        if _spans_decades(numbers):
            ax.set_xscale("log")
        number_ticks(ax.xaxis, numbers)
        return numbers
    known = [text_of(value) for value in distinct(values)]
    ax.set_xticks(range(len(known)), known)
    return np.array([known.index(text_of(value)) for value in values])


def _colour(ax: "Axes", candidates: Candidates, places: NDArray[Any], name: str) -> None:
    """Draw the candidates' means again, in the colours of their values of a parameter."""
    from matplotlib import colormaps

    values, viridis = candidates.values(name), colormaps["viridis"]
    once, mean = distinct([*values.values()]), candidates.mean
    if len(once) > MOST_COLOURS and are_numbers(once):
        drawn, numbers = [*values], np.asarray([*values.values()], float)
        scale = "log" if _spans_decades(numbers) else "linear"
        points = ax.scatter(places[drawn], mean[drawn], 30, numbers, norm=scale, zorder=3)
        ax.figure.colorbar(points, ax=ax, label=name)
        return
    for i, value in enumerate(once):
        drawn = [j for j, text in values.items() if text_of(text) == text_of(value)]
        # viridis ends in a light green and a yellow that are hard to see on white.
        color = viridis(0.7 * i / max(len(once) - 1, 1))
        label = f"{candidates.short(name)}={text_of(value)}"
        ax.scatter(places[drawn], mean[drawn], 30, [color], label=label, zorder=3)


def _spans_decades(numbers: NDArray[np.float64]) -> bool:
    return bool(numbers.min() > 0 and numbers.max() > LOG_SCALE_FACTOR * numbers.min())


def _best_candidate_text(candidates: Candidates) -> str:
    """Return a sentence on the candidate that the search chose."""
    params = candidates.params[candidates.best]
    settings = ", ".join(
        f"{candidates.short(key)}={text_of(value)}" for key, value in params.items()
    )
    return f"best: {candidates.metric} {candidates.mean[candidates.best]:.4g} with {settings}"
