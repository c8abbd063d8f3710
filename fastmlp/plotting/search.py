"""The scores of a hyperparameter search."""

from textwrap import wrap
from typing import TYPE_CHECKING, Any

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
from fastmlp.plotting.candidates import (
    Candidates,
    are_numbers,
    candidates_of,
    distinct,
    text_of,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

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
    title(ax, "\n".join(wrap(_told(candidates), TITLE_WIDTH)))
    return ax


def _choose(
    candidates: Candidates, parameter: str | None, color: str | None
) -> tuple[str, str | None]:
    """Return the parameters for the axis and, if there is one of several values, the colours."""
    known = sorted({name for each in candidates.params for name in each})
    for given in (parameter, color):
        if given is not None and given not in known:
            raise ValueError(
                f"plot_search: no parameter {given!r} was searched; there are {', '.join(known)}"
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
        some, numbers = [*values], np.asarray([*values.values()], float)
        scale = "log" if _spans_decades(numbers) else "linear"
        points = ax.scatter(places[some], mean[some], 30, numbers, norm=scale, zorder=3)
        ax.figure.colorbar(points, ax=ax, label=name)
        return
    for i, value in enumerate(once):
        some = [j for j, its in values.items() if text_of(its) == text_of(value)]
        # viridis ends in a yellow that is hard to see on white.
        color = viridis(0.9 * i / max(len(once) - 1, 1))
        label = f"{candidates.short(name)}={text_of(value)}"
        ax.scatter(places[some], mean[some], 30, [color], label=label, zorder=3)


def _spans_decades(numbers: NDArray[np.float64]) -> bool:
    return bool(numbers.min() > 0 and numbers.max() > LOG_SCALE_FACTOR * numbers.min())


def _told(candidates: Candidates) -> str:
    """Return a sentence on the candidate that the search chose."""
    params = candidates.params[candidates.best]
    told = ", ".join(f"{candidates.short(name)}={text_of(value)}" for name, value in params.items())
    return f"best: {candidates.metric} {candidates.mean[candidates.best]:.4g} with {told}"
