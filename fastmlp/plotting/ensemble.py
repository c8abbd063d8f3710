"""Ensembles: predictions along a feature, and the members of a model of tables."""

import warnings
from collections.abc import Sequence
from numbers import Integral
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastmlp.plotting.axes import FAINT, INK, SOFT, WRONG, new_axes, tidy, title

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST_NAMES = 20


class Feature(NamedTuple):
    """A column of a table.

    Attributes
    ----------
    table : (n_samples, n_features) array of float, or pandas data frame
    column : int, from 0
    name : str
    values : (n_samples,) array of float
    """

    table: Any
    column: int
    name: str
    values: NDArray[np.float64]

    @property
    def has_others(self) -> bool:
        """True if the table has other columns."""
        return bool(self.table.shape[1] > 1)

    def rows(self, along: NDArray[np.float64]) -> Any:
        """Return rows of these values, the other columns at their means; of the table's kind."""
        if isinstance(self.table, np.ndarray):
            rows = np.repeat(self.table.mean(axis=0)[None], len(along), axis=0)
            rows[:, self.column] = along
            return rows
        frame = self.table.iloc[np.zeros(len(along), int)].reset_index(drop=True)
        for i in range(frame.shape[1]):
            frame.isetitem(i, along if i == self.column else _middle(self.table.iloc[:, i]))
        return frame


def feature_of(ensemble: Any, X: Any, feature: int | str) -> Feature:
    """Return a column of X, by number or name.

    A pipeline may need the names and kinds of a data frame's columns: its table is the frame.

    Raises
    ------
    TypeError
        If `feature` is neither a number nor a name.
    ValueError
        If X is not a table, or has no such column or one without numbers.
    """
    is_frame = hasattr(ensemble, "steps") and hasattr(X, "iloc")
    table: Any = X if is_frame else np.asarray(X, float)
    if table.ndim != 2:
        raise ValueError(
            f"plot_ensemble: X must have shape (n_samples, n_features), got {table.shape}"
        )
    names = _names(ensemble, X)
    column = _column(feature, names, table.shape[1])
    name = f"feature {column}" if names is None else str(names[column])
    try:
        values = np.asarray(table.iloc[:, column] if is_frame else table[:, column], float)
    except (TypeError, ValueError) as error:
        raise ValueError(f"plot_ensemble: the column {name!r} has no numbers") from error
    return Feature(table, column, name, values)


def _names(ensemble: Any, X: Any) -> Sequence[Any] | None:
    names = getattr(ensemble, "feature_names_in_", None)
    return getattr(X, "columns", None) if names is None else names


def _column(feature: Any, names: Sequence[Any] | None, n_features: int) -> int:
    if isinstance(feature, str):
        known = [] if names is None else [str(name) for name in names]
        if feature in known:
            return known.index(feature)
        some = ", ".join(known[:MOST_NAMES]) + (", ..." if len(known) > MOST_NAMES else "")
        hint = f"they are {some}" if known else "X has no names: give the column's number"
        raise ValueError(f"plot_ensemble: no feature has the name {feature!r}; {hint}")
    if isinstance(feature, bool) or not isinstance(feature, Integral):
        hint = "; the targets are y=..." if hasattr(feature, "__len__") else ""
        raise TypeError(
            "plot_ensemble: feature must be the number or the name of a column of X, "
            f"got {type(feature).__name__}{hint}"
        )
    if not -n_features <= int(feature) < n_features:
        raise ValueError(
            f"plot_ensemble: feature must be from 0 to {n_features - 1}, got {feature}"
        )
    return int(feature) % n_features


def _middle(column: Any) -> Any:
    """Return the mean of a column of numbers, else its most frequent value."""
    return column.mean() if column.dtype.kind in "iuf" else column.mode().iloc[0]


MOST_MARKS, MOST_POINTS = 200, 2000


class Band(NamedTuple):
    """The members along a feature: mean and standard deviation, shape (n_points,) each."""

    mean: NDArray[Any]
    spread: NDArray[Any]
    classifies: bool
    name: str

    def edges(self, times: int) -> tuple[NDArray[Any], NDArray[Any]]:
        """Return the mean, less and plus so many standard deviations; probabilities from 0 to 1."""
        low, high = self.mean - times * self.spread, self.mean + times * self.spread
        return (np.clip(low, 0, 1), np.clip(high, 0, 1)) if self.classifies else (low, high)


def plot_ensemble(
    ensemble: Any,
    X: Any,
    feature: int | str = 0,
    ax: "Axes | None" = None,
    *,
    y: ArrayLike | None = None,
    label: int = -1,
    n_points: int = 200,
) -> "Axes":
    """Plot an ensemble's mean prediction along one feature, and its members' standard deviation.

    The other features are held at their means. The axis extends a quarter of the range beyond the
    rows on each side, where members disagree. The bands show how far the members are apart, and no
    more: they leave out the noise of y, so that far fewer than 95 % of new targets may lie within
    two standard deviations.

    Parameters
    ----------
    ensemble : fitted MLPEnsembleRegressor or MLPEnsembleClassifier, or a Pipeline that ends in one
    X : (n_samples, n_features) array or data frame
        Rows that give the range and the means; marks on the axis show them. For a Pipeline, columns
        of a pandas data frame that are not numbers are held at their most frequent value.
    feature : int or str, default 0
        The column of X on the axis, by its number or, of a data frame, by its name.
    ax : matplotlib Axes, optional
        Where to draw; by default, on a new figure.
    y : (n_samples,) or (n_samples, n_outputs) array, optional
        The targets or labels of the rows, drawn as points instead of the marks. The points have
        their own values of the other features.
    label : int, default -1
        The index of the output, or of the class whose probability is drawn.
    n_points : int, default 200

    Returns
    -------
    matplotlib Axes

    Raises
    ------
    ImportError
        If matplotlib is missing.
    TypeError
        If `ensemble` has no `predict_std`, or `feature` is neither a number nor a name.
    ValueError
        If X is not a table, has no such column or one without numbers, or y has other rows.

    Examples
    --------
    >>> import matplotlib, numpy as np
    >>> matplotlib.use("Agg")
    >>> from types import SimpleNamespace
    >>> line = SimpleNamespace(predict=lambda X: X[:, 0], predict_std=lambda X: 0 * X[:, 0])
    >>> ax = plot_ensemble(line, np.array([[0.0], [4.0]]), y=[0.5, 3.5])
    >>> [float(x) for x in ax.get_lines()[0].get_xdata()[[0, -1]]]
    [-1.0, 5.0]
    """
    members = ensemble.steps[-1][1] if hasattr(ensemble, "steps") else ensemble
    if not hasattr(members, "predict_std"):
        raise TypeError(
            "plot_ensemble: ensemble must be a fitted MLPEnsembleRegressor or "
            "MLPEnsembleClassifier, or a Pipeline that ends in one, got "
            f"{type(members).__name__}"
        )
    its = feature_of(ensemble, X, feature)
    points = None if y is None else _points(members, np.asarray(y), label, len(its.values))
    low, high = its.values.min(), its.values.max()
    margin = (high - low) / 4
    along = np.linspace(low - margin, high + margin, n_points)
    band = _band(ensemble, members, its.rows(along), label)
    ax = new_axes() if ax is None else ax
    _draw(ax, along, band)
    _draw_rows(ax, its, points)
    ax.set_xlabel(its.name)
    ax.set_ylabel(band.name)
    held = "other features at their means" if its.has_others else None
    tidy(ax, title=held, fontsize="small", title_fontsize="small")
    return ax


def _band(ensemble: Any, members: Any, rows: Any, label: int) -> Band:
    classifies = hasattr(members, "predict_proba")
    with warnings.catch_warnings():
        # The ensemble may have been fitted on a data frame; these rows are an array.
        warnings.filterwarnings("ignore", "X does not have valid feature names")
        # A Pipeline has no predict_std: its last step has.
        for _, step in getattr(ensemble, "steps", [])[:-1]:
            rows = rows if step in (None, "passthrough") else step.transform(rows)
        mean = members.predict_proba(rows) if classifies else members.predict(rows)
        spread = members.predict_std(rows)
    name = f"probability of class {members.classes_[label]}" if classifies else "prediction"
    return Band(_output(mean, label), _output(spread, label), classifies, name)


def _points(members: Any, y: NDArray[Any], label: int, n_rows: int) -> NDArray[Any]:
    """Return what is drawn of y: an output, or 1 for rows of the class and 0 for others."""
    if y.ndim not in (1, 2) or len(y) != n_rows:
        raise ValueError(f"plot_ensemble: y must have the {n_rows} rows of X, got shape {y.shape}")
    if y.ndim == 1 and hasattr(members, "predict_proba"):
        return (y == members.classes_[label]).astype(float)
    return _output(y, label)


def _draw(ax: "Axes", along: NDArray[Any], band: Band) -> None:
    (line,) = ax.plot(along, band.mean, linewidth=1.8, label="mean of the members")
    style: dict[str, Any] = {"color": line.get_color(), "linewidth": 0}
    for times, alpha, more in ((2, 0.15, ", no prediction interval"), (1, 0.25, "")):
        low, high = band.edges(times)
        name = f"spread of the members (± {times} sd){more}"
        ax.fill_between(along, low, high, alpha=alpha, label=name, **style)


def _draw_rows(ax: "Axes", feature: Feature, points: NDArray[Any] | None) -> None:
    """Draw the rows: as points if there is a y, else as marks on the axis."""
    if points is None:
        marks: dict[str, Any] = {"transform": ax.get_xaxis_transform(), "color": INK, "alpha": 0.4}
        shown = feature.values[:: max(1, len(feature.values) // MOST_MARKS)]
        ax.plot(shown, np.full(len(shown), 0.01), "|", markersize=8, label="rows", **marks)
        return
    some = slice(None, None, -(-len(points) // MOST_POINTS))
    style: dict[str, Any] = {"markersize": 3, "alpha": 0.35, "markeredgewidth": 0}
    ax.plot(
        feature.values[some], points[some], "o", color=INK, label="y of the rows", zorder=1, **style
    )


def _output(table: NDArray[Any], label: int) -> NDArray[Any]:
    return table if table.ndim == 1 else table[:, label]


# Of names; a longer one is cut.
MOST_LETTERS = 60


def plot_leaderboard(model: Any, ax: "Axes | None" = None, *, most: int = 15) -> "Axes":
    """Plot the score of each member on the rows to validate on, and its weight.

    The best is at the top; a line marks the score of the ensemble, which is to be right of the
    members'. The dots are the larger, the more a member weighs; those without weight are hollow.

    Parameters
    ----------
    model : fitted TabularMLPClassifier or TabularMLPRegressor, or a Pipeline that ends in one
    ax : matplotlib Axes, optional
        Where to draw; by default, on a new figure.
    most : int, default 15
        The most members that are drawn.

    Returns
    -------
    matplotlib Axes

    Raises
    ------
    ImportError
        If matplotlib is missing.
    TypeError
        If `model` has no `leaderboard_`.

    Examples
    --------
    >>> import matplotlib
    >>> matplotlib.use("Agg")
    >>> from types import SimpleNamespace
    >>> board = [{"member": "64x64 relu", "weight": 1.0, "validation_score": -0.5}]
    >>> ax = plot_leaderboard(SimpleNamespace(leaderboard_=board, validation_score_=-0.5))
    >>> [label.get_text() for label in ax.get_yticklabels()], ax.get_title(loc="left")
    (['64x64 relu'], 'ensemble of 1 member: -0.5')
    """
    its = model.steps[-1][1] if hasattr(model, "steps") else model
    board = getattr(its, "leaderboard_", None)
    if board is None:
        raise TypeError(
            "plot_leaderboard: model must be a fitted TabularMLPClassifier or "
            f"TabularMLPRegressor, or a Pipeline that ends in one, got {type(its).__name__}"
        )
    every = board if isinstance(board, list) else board.to_dict("records")
    rows, n = every[:most], sum(row["weight"] > 0 for row in every)
    ax = new_axes() if ax is None else ax
    for place, row in enumerate(rows):
        score, weight = row["validation_score"], row["weight"]
        ax.plot([score, its.validation_score_], [place, place], color=FAINT, zorder=1)
        face = INK if weight else "none"
        ax.scatter([score], [place], 25 + 250 * weight, face, edgecolors=INK, zorder=3)
        told = f"{weight:.2f}" if weight else ""
        ax.annotate(
            told, (score, place), (0, 8), textcoords="offset points", color=SOFT, ha="center"
        )
    ax.axvline(its.validation_score_, color=WRONG, linewidth=1.4, label="the ensemble")
    ax.set_yticks(range(len(rows)), [str(row["member"])[:MOST_LETTERS] for row in rows])
    ax.set_ylim(len(rows) - 0.4, -0.7)
    ax.set_xlabel("score on the rows to validate on")
    tidy(ax)
    members = "1 member" if n == 1 else f"{n} members"
    title(ax, f"ensemble of {members}: {its.validation_score_:.4g}")
    return ax
