"""Pictures of a fit, with matplotlib: ``pip install "fastmlp[plot]"``."""

import warnings
from collections.abc import Iterable, Sequence
from numbers import Real
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fastmlp.training.history import History

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# The ratio of largest to smallest value above which an axis is logarithmic.
LOG_SCALE_FACTOR = 20
INK, SOFT, FAINT, WRONG = "#333333", "#999999", "#d9d9d9", "#c62828"


def plot_history(
    history: History, ax: "Axes | None" = None, *, label: str = "training", **line: Any
) -> "Axes":
    """Plot the loss of each epoch, and the validation loss if there is one.

    The loss axis is logarithmic if its curves are positive and span more than a factor of 20. A
    second call with the same `ax` adds curves to compare.

    Parameters
    ----------
    history : History
        The result of `MLP.fit`.
    ax : matplotlib Axes, optional
        Where to draw; by default, on a new figure.
    label : str, default "training"
        The name of the loss in the legend.
    **line
        Arguments for matplotlib's `Axes.plot`, for both curves: color, linewidth, ...

    Returns
    -------
    matplotlib Axes

    Raises
    ------
    ImportError
        If matplotlib is missing.
    TypeError
        If `history` is not a History, such as the list of them that `fit_many` returns.

    Examples
    --------
    >>> import matplotlib
    >>> matplotlib.use("Agg")
    >>> from fastmlp import History
    >>> ax = plot_history(History(loss=[2.0, 0.3, 0.04]))
    >>> ax.get_xlabel(), ax.get_ylabel(), ax.get_yscale()
    ('epoch', 'loss', 'log')
    """
    if not isinstance(history, History):
        raise TypeError(
            f"plot_history: history must be the History of one fit, got {type(history).__name__}"
        )
    ax = _new_axes() if ax is None else ax
    # A curve of a single epoch needs a marker to be visible.
    dot = {"marker": "o"} if len(history.loss) == 1 else {}
    line = {"linewidth": 1.8, **dot, **line}
    (curve,) = ax.plot(_epochs(history.loss), history.loss, label=label, **line)
    if history.validation_loss:
        style = {**line, "color": curve.get_color(), "linestyle": "--"}
        style |= {"markerfacecolor": "none"} if dot else {}
        name = "validation" if label == "training" else f"{label}, validation"
        ax.plot(_epochs(history.validation_loss), history.validation_loss, label=name, **style)
    _dress(ax)
    return ax


def plot_digits(
    images: NDArray[Any],
    labels: Sequence[int] | NDArray[Any],
    predictions: Sequence[int] | NDArray[Any],
    axes: "Iterable[Axes] | None" = None,
) -> "list[Axes]":
    """Draw images of digits with their predictions; wrong ones are red, with the label.

    Parameters
    ----------
    images : array, shape (n_images, height, width)
        Grey values; the largest of each image is drawn black.
    labels : sequence of int, length n_images
        The true digits.
    predictions : sequence of int, length n_images
        The predicted digits.
    axes : iterable of n_images matplotlib Axes, optional
        By default, one row on a new figure.

    Returns
    -------
    list of matplotlib Axes

    Raises
    ------
    ImportError
        If matplotlib is missing.
    ValueError
        If images, labels, predictions and axes differ in number.

    Examples
    --------
    >>> import matplotlib, numpy as np
    >>> matplotlib.use("Agg")
    >>> drawn = plot_digits(np.eye(8)[None], [1], [7])
    >>> drawn[0].get_title()
    '7, not 1'
    """
    drawn = _new_row(len(images)) if axes is None else list(axes)
    numbers = (len(images), len(labels), len(predictions), len(drawn))
    if len(set(numbers)) > 1:
        raise ValueError(
            "plot_digits: images, labels, predictions and axes must be as many, "
            f"got {numbers[0]}, {numbers[1]}, {numbers[2]} and {numbers[3]}"
        )
    for ax, image, label, prediction in zip(drawn, images, labels, predictions, strict=True):
        _draw_digit(ax, image, int(label), int(prediction))
    return drawn


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
        ax = _new_axes() if ax is None else ax
        places = np.arange(1.0, len(scores) + 1)
        ax.set_xlabel("candidate, by rank")
        _whole_ticks(ax)
    else:
        values = _values(results["params"], parameter)
        order = np.array([i for i in order if i in values])
        ax = _new_axes() if ax is None else ax
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
    _tidy(ax)
    return ax


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
    ax = _new_axes() if ax is None else ax
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
    _tidy(ax)
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


def _column(table: NDArray[Any], label: int) -> NDArray[Any]:
    return table if table.ndim == 1 else table[:, label]


def _draw_digit(ax: "Axes", image: NDArray[Any], label: int, prediction: int) -> None:
    right = prediction == label
    color = INK if right else WRONG
    ax.imshow(image, cmap="Greys", interpolation="nearest")
    ax.set_title(
        f"{prediction}" if right else f"{prediction}, not {label}",
        color=color,
        fontsize=11,
        fontweight="normal" if right else "bold",
    )
    ax.set_xticks([])
    ax.set_yticks([])
    for side in ax.spines.values():
        side.set_color(FAINT if right else WRONG)
        side.set_linewidth(1.0 if right else 2.0)


def _epochs(values: Sequence[float]) -> NDArray[np.int64]:
    return np.arange(1, len(values) + 1)


def _dress(ax: "Axes") -> None:
    log = _calls_for_log(ax)
    ax.set_xlabel("epoch")
    ax.set_ylabel("loss")
    ax.set_yscale("log" if log else "linear")
    if log:
        ax.yaxis.set_major_formatter("{x:g}")
    _whole_ticks(ax)
    _tidy(ax)


def _whole_ticks(ax: "Axes") -> None:
    from matplotlib.ticker import MaxNLocator

    ax.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10], min_n_ticks=1))


def _tidy(ax: "Axes") -> None:
    ax.grid(color=FAINT, linewidth=0.6)
    ax.set_axisbelow(True)
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(frameon=False)


def _calls_for_log(ax: "Axes") -> bool:
    values = np.concatenate([np.asarray(line.get_ydata(), float) for line in ax.get_lines()])
    values = values[np.isfinite(values)]
    return bool(values.size and values.min() > 0 and values.max() > LOG_SCALE_FACTOR * values.min())


def _new_axes() -> "Axes":
    ax: Axes = _pyplot().subplots(layout="constrained")[1]
    return ax


def _new_row(n: int) -> "list[Axes]":
    size = (1.1 * max(n, 1), 1.5)
    _, axes = _pyplot().subplots(1, n, figsize=size, squeeze=False, layout="constrained")
    return list(axes[0])


def _pyplot() -> Any:
    try:
        from matplotlib import pyplot
    except ImportError as error:
        raise ImportError('plotting needs matplotlib: pip install "fastmlp[plot]"') from error
    return pyplot
