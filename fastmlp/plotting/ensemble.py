"""The predictions of an ensemble along a feature."""

import warnings
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastmlp.plotting.axes import INK, new_axes, tidy
from fastmlp.plotting.grid import Feature, feature_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

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
