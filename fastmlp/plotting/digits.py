"""Images of digits with their predictions, for the demo's picture."""

from collections.abc import Iterable, Sequence
from typing import Any

from numpy.typing import NDArray

from fastmlp.plotting.axes import FAINT, INK, WRONG


def plot_digits(
    images: NDArray[Any],
    labels: Sequence[int] | NDArray[Any],
    predictions: Sequence[int] | NDArray[Any],
    axes: Iterable[Any],
) -> None:
    """Draw images of digits with their predictions; wrong ones are red, with the label."""
    for ax, image, label, prediction in zip(axes, images, labels, predictions, strict=True):
        right = prediction == label
        ax.imshow(image, cmap="Greys", interpolation="nearest")
        ax.set_title(
            f"{prediction}" if right else f"{prediction}, not {label}",
            color=INK if right else WRONG,
            fontsize=11,
            fontweight="normal" if right else "bold",
        )
        ax.set(xticks=[], yticks=[])
        for side in ax.spines.values():
            side.set(color=FAINT if right else WRONG, linewidth=1.0 if right else 2.0)
