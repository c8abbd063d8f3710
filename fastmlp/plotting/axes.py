"""Axes of the pictures: new ones, their ticks, frame and colours."""

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fastmlp.validation.packages import needs

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis

# The ratio of largest to smallest value above which an axis is logarithmic.
LOG_SCALE_FACTOR = 20
# As many numbers of a parameter have ticks of their own.
MOST_TICKS = 6
INK, SOFT, FAINT, WRONG = "#333333", "#999999", "#d9d9d9", "#c62828"


def new_axes() -> "Axes":
    ax: Axes = _pyplot().subplots(layout="constrained")[1]
    return ax


def whole_ticks(ax: "Axes") -> None:
    from matplotlib.ticker import MaxNLocator

    ax.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10], min_n_ticks=1))


def log_ticks(axis: "Axis", low: float, high: float) -> None:
    """Set the ticks of a logarithmic axis from `low` to `high`: all decimal, or all powers."""
    from matplotlib.ticker import LogFormatterMathtext, LogFormatterSciNotation, LogLocator

    # Less than two decades have one or two powers of ten: 2 and 5 times them are marked too.
    is_short = high < 100 * low
    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if is_short else (1.0,)))
    if _are_decimal(low, high):
        axis.set_major_formatter(lambda value, _: _decimal(value))
    elif is_short:
        axis.set_major_formatter(LogFormatterSciNotation(minor_thresholds=(np.inf, np.inf)))
    else:
        axis.set_major_formatter(LogFormatterMathtext())


def number_ticks(axis: "Axis", numbers: NDArray[np.float64]) -> None:
    """Set ticks at the numbers, if they are few, else as `log_ticks` or matplotlib does."""
    once = np.unique(numbers)
    if len(once) <= MOST_TICKS and _are_decimal(*np.abs(once[once != 0])):
        axis.set_ticks(once, [_decimal(number) for number in once])
        axis.set_ticks([], minor=True)
    elif axis.get_scale() == "log":
        log_ticks(axis, once[0], once[-1])


def _are_decimal(*numbers: float) -> bool:
    """Return True if `_decimal` shows positive numbers well."""
    return all(1e-5 <= number < 1e6 for number in numbers)


def _decimal(number: float) -> str:
    return f"{number:.6f}".rstrip("0").rstrip(".")


def title(ax: "Axes", text: str) -> None:
    """Set the title on the left, unless the user has set another one."""
    if not ax.get_title(loc="left") or ax.get_title(loc="left").startswith("best"):
        ax.set_title(text, loc="left", fontsize="medium")


def tidy(ax: "Axes", over: "Axes | None" = None, **options: Any) -> None:
    """Draw grid, frame and legend; the axes `over` these, if there are some, have the legend."""
    ax.grid(color=FAINT, linewidth=0.6)
    ax.set_axisbelow(True)
    ax.spines[["top", "right"]].set_visible(False)
    frame = {"facecolor": ax.get_facecolor(), "edgecolor": "none", "alignment": "left"}
    (over or ax).legend(**frame, **options)


def _pyplot() -> Any:
    try:
        from matplotlib import pyplot
    except ImportError as error:
        raise ImportError(needs("plotting", "matplotlib")) from error
    return pyplot
