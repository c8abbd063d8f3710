"""Pictures of a fit, with matplotlib: ``pip install "fastmlp[plot]"``."""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fastmlp.history import History

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Curves that span more than this factor are told apart only on a logarithmic axis.
LOG_SCALE_FACTOR = 20
INK, FAINT, WRONG = "#333333", "#d9d9d9", "#c62828"


def plot_history(
    history: History, ax: "Axes | None" = None, *, label: str = "training", **line: Any
) -> "Axes":
    """Plot the loss of each epoch, and the validation loss where there is one.

    The loss axis is logarithmic where the curves on it are positive and span more than a
    factor of 20. Called again with the same `ax`, it adds curves to compare.

    Parameters
    ----------
    history : History
        What `MLP.fit` returned.
    ax : matplotlib Axes, optional
        Where to draw; by default, on a new figure.
    label : str, default "training"
        The name of the loss in the legend.
    **line
        Passed on to matplotlib's `Axes.plot`, for both curves: color, linewidth, ...

    Returns
    -------
    matplotlib Axes

    Raises
    ------
    ImportError
        Where matplotlib is missing.

    Examples
    --------
    >>> import matplotlib
    >>> matplotlib.use("Agg")
    >>> from fastmlp import History
    >>> ax = plot_history(History(loss=[2.0, 0.3, 0.04]))
    >>> ax.get_xlabel(), ax.get_ylabel(), ax.get_yscale()
    ('epoch', 'loss', 'log')
    """
    ax = _new_axes() if ax is None else ax
    line = {"linewidth": 1.8, **line}
    (curve,) = ax.plot(_epochs(history.loss), history.loss, label=label, **line)
    if history.validation_loss:
        style = {**line, "color": curve.get_color(), "linestyle": "--"}
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
    """Draw images with what was read in them; what was misread is red and names the label.

    Parameters
    ----------
    images : array, shape (n_images, height, width)
        Grey values; the largest of each image is drawn black.
    labels : sequence of int, length n_images
        What the images show.
    predictions : sequence of int, length n_images
        What was read in them.
    axes : iterable of n_images matplotlib Axes, optional
        By default, one row on a new figure.

    Returns
    -------
    list of matplotlib Axes

    Raises
    ------
    ImportError
        Where matplotlib is missing.
    ValueError
        Where images, labels, predictions and axes differ in number.

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
    from matplotlib.ticker import MaxNLocator

    log = _calls_for_log(ax)
    ax.set_xlabel("epoch")
    ax.set_ylabel("loss")
    ax.set_yscale("log" if log else "linear")
    if log:
        ax.yaxis.set_major_formatter("{x:g}")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
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
