"""Axes of the pictures: new ones, their ticks, frame and colours."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# The ratio of largest to smallest value above which an axis is logarithmic.
LOG_SCALE_FACTOR = 20
INK, SOFT, FAINT, WRONG = "#333333", "#999999", "#d9d9d9", "#c62828"


def new_axes() -> "Axes":
    ax: Axes = _pyplot().subplots(layout="constrained")[1]
    return ax


def new_row(n: int) -> "list[Axes]":
    size = (1.1 * max(n, 1), 1.5)
    _, axes = _pyplot().subplots(1, n, figsize=size, squeeze=False, layout="constrained")
    return list(axes[0])


def whole_ticks(ax: "Axes") -> None:
    from matplotlib.ticker import MaxNLocator

    ax.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10], min_n_ticks=1))


def tidy(ax: "Axes") -> None:
    ax.grid(color=FAINT, linewidth=0.6)
    ax.set_axisbelow(True)
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(frameon=False)


def _pyplot() -> Any:
    try:
        from matplotlib import pyplot
    except ImportError as error:
        raise ImportError('plotting needs matplotlib: pip install "fastmlp[plot]"') from error
    return pyplot
