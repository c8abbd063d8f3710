"""Images of digits with their predictions."""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from fastmlp.plotting.axes import FAINT, INK, WRONG, new_row

if TYPE_CHECKING:
    from matplotlib.axes import Axes


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
    drawn = new_row(len(images)) if axes is None else list(axes)
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
