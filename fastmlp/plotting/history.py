"""The losses of a fit."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fastmlp.plotting.axes import LOG_SCALE_FACTOR, new_axes, tidy, whole_ticks
from fastmlp.training.history import History

if TYPE_CHECKING:
    from matplotlib.axes import Axes


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
    ax = new_axes() if ax is None else ax
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


def _epochs(values: Sequence[float]) -> NDArray[np.int64]:
    return np.arange(1, len(values) + 1)


def _dress(ax: "Axes") -> None:
    log = _calls_for_log(ax)
    ax.set_xlabel("epoch")
    ax.set_ylabel("loss")
    ax.set_yscale("log" if log else "linear")
    if log:
        ax.yaxis.set_major_formatter("{x:g}")
    whole_ticks(ax)
    tidy(ax)


def _calls_for_log(ax: "Axes") -> bool:
    values = np.concatenate([np.asarray(line.get_ydata(), float) for line in ax.get_lines()])
    values = values[np.isfinite(values)]
    return bool(values.size and values.min() > 0 and values.max() > LOG_SCALE_FACTOR * values.min())
