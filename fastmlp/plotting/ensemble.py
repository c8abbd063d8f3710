"""The predictions of an ensemble along a feature."""

import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fastmlp.plotting.axes import INK, new_axes, tidy

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def plot_ensemble(
    ensemble: Any,
    X: Any,
    feature: int = 0,
    ax: "Axes | None" = None,
    *,
    label: int = -1,
    n_points: int = 200,
) -> "Axes":
    """Plot an ensemble's mean prediction along one feature, and its members' standard deviation.

    The other features are held at their means. The axis extends a quarter of the range beyond the
    rows on each side, where members disagree.

    Parameters
    ----------
    ensemble : fitted MLPEnsembleRegressor or MLPEnsembleClassifier
    X : (n_samples, n_features) array or data frame
        Rows that give the range and the means; marks on the axis show them.
    feature : int, default 0
        The column of X on the axis.
    ax : matplotlib Axes, optional
        Where to draw; by default, on a new figure.
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

    Examples
    --------
    >>> import matplotlib, numpy as np
    >>> matplotlib.use("Agg")
    >>> from types import SimpleNamespace
    >>> line = SimpleNamespace(predict=lambda X: X[:, 0], predict_std=lambda X: 0 * X[:, 0])
    >>> ax = plot_ensemble(line, np.array([[0.0], [4.0]]))
    >>> [float(x) for x in ax.get_lines()[0].get_xdata()[[0, -1]]]
    [-1.0, 5.0]
    """
    X = np.asarray(X, float)
    low, high = X[:, feature].min(), X[:, feature].max()
    margin = (high - low) / 4
    along = np.linspace(low - margin, high + margin, n_points)
    rows = np.repeat(X.mean(axis=0)[None], n_points, axis=0)
    rows[:, feature] = along
    classifies = hasattr(ensemble, "predict_proba")
    with warnings.catch_warnings():
        # The ensemble may have been fitted on a data frame; these rows are an array.
        warnings.filterwarnings("ignore", "X does not have valid feature names")
        mean = ensemble.predict_proba(rows) if classifies else ensemble.predict(rows)
        mean, spread = (_column(table, label) for table in (mean, ensemble.predict_std(rows)))
    ax = new_axes() if ax is None else ax
    (line,) = ax.plot(along, mean, linewidth=1.8, label="mean of the members")
    for times, alpha in ((2, 0.15), (1, 0.25)):
        name = f"{times} standard deviation{'s' if times > 1 else ''}"
        band = [mean - times * spread, mean + times * spread]
        if classifies:
            band = [np.clip(edge, 0, 1) for edge in band]
        ax.fill_between(along, *band, color=line.get_color(), alpha=alpha, linewidth=0, label=name)
    marks: dict[str, Any] = {"transform": ax.get_xaxis_transform(), "color": INK, "alpha": 0.4}
    shown = X[:: max(1, len(X) // 200), feature]
    ax.plot(shown, np.full(len(shown), 0.01), "|", markersize=8, label="rows", **marks)
    names = getattr(ensemble, "feature_names_in_", None)
    ax.set_xlabel(f"feature {feature}" if names is None else names[feature])
    ax.set_ylabel(
        f"probability of class {ensemble.classes_[label]}" if classifies else "prediction"
    )
    tidy(ax)
    return ax


def _column(table: NDArray[Any], label: int) -> NDArray[Any]:
    return table if table.ndim == 1 else table[:, label]
