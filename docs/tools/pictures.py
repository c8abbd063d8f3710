"""The look of the gallery's pictures,
on light pages and on dark ones, on a desk and on a phone.

Pictures have no ground of their own, and a dark page turns their lightness round
(fastmlp.css). Text is large, as a phone shows 600 pixels in 330.
"""

from typing import Any

STYLE: dict[str, Any] = {
    "axes.edgecolor": "#555555",
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": "medium",
    "figure.constrained_layout.use": True,
    "figure.figsize": (6, 4),
    "font.size": 12,
    "legend.fontsize": "small",
    "legend.frameon": False,
    "lines.linewidth": 2,
    "savefig.transparent": True,
}


def style(gallery_conf: dict[str, Any], program: str | None) -> None:
    """Set the look before each program, after matplotlib's own was restored."""
    import matplotlib
    from cycler import cycler

    colours = cycler(color=["#1f77b4", "#d95f02", "#1b9e77", "#7570b3"])
    matplotlib.rcParams.update({**STYLE, "axes.prop_cycle": colours})
