"""Results as a picture: how many times as long the peers take, by workload."""

from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import machine
from benchmarks.peers import PEERS
from benchmarks.scores import Record, counted
from benchmarks.training import Heat, heats

COLORS = {
    "jax": "#7b3294",
    "compile": "#d7191c",
    "torch": "#fdae61",
    "sklearn": "#2c7bb6",
    "numpy": "#777777",
}
TICKS = [digit * 10.0**power for power in range(-2, 4) for digit in (1, 2, 5)]
MARKERS = {"jax": "o", "compile": "s", "torch": "D", "sklearn": "^", "numpy": "v"}

# Peers that take the same time stay apart.
OFFSETS = {name: 0.11 * (i - 2) for i, name in enumerate(COLORS)}


def draw(results: Record, path: Path) -> None:
    """Write a picture of the heats at the most threads."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    all_heats = heats(results)
    threads = max(heat.threads for heat in all_heats)
    shown = [h for h in all_heats if h.threads == threads and h.ours and h.fastest_peer]
    figure, axes = plt.subplots(figsize=(10, 2.2 + 0.4 * len(shown)), layout="constrained")
    for row, heat in enumerate(shown):
        _draw_heat(axes, row, heat)
    _label(axes, shown)
    note = "short run, not a measurement; " if results.get("quick") else ""
    axes.set_title(f"Training: time of the peers over fastmlp's, {counted(threads)}")
    axes.set_xlabel(
        f"times as long as fastmlp (log scale; left of 1 the peer is ahead)\n{note}"
        f"{machine.short(results)}"
    )
    figure.savefig(path, dpi=120)
    plt.close(figure)


def _draw_heat(axes: Any, row: int, heat: Heat) -> None:
    best = heat.fastest_peer
    assert best is not None
    win = best.ratio.median >= 1
    ends = [[best.ratio.median - best.ratio.low], [best.ratio.high - best.ratio.median]]
    axes.barh(
        row,
        best.ratio.median - 1,
        left=1,
        height=0.62,
        color="#b8dfc0" if win else "#f4b6b0",
        xerr=np.maximum(ends, 0),
        error_kw={"elinewidth": 1, "capsize": 2, "ecolor": "#444444"},
    )
    for score in heat.scores:
        if score.contestant != "fastmlp":
            style = {"color": COLORS[score.contestant], "marker": MARKERS[score.contestant]}
            place = row + OFFSETS[score.contestant]
            axes.plot(score.ratio.median, place, markersize=5, zorder=3, **style)
    text = f"{best.ratio.median:.2f}x"
    axes.text(1.01, row, text, transform=axes.get_yaxis_transform(), va="center", fontsize=9)


def _label(axes: Any, shown: list[Heat]) -> None:
    from matplotlib.patches import Patch

    axes.set_xscale("log")
    axes.set_xlim(left=min(axes.get_xlim()[0], 0.85))
    axes.axvline(1, color="black", linewidth=1)
    axes.set_yticks(range(len(shown)), [h.workload.description for h in shown], fontsize=8)
    axes.set_ylim(len(shown) - 0.4, -0.6)
    axes.grid(axis="x", alpha=0.3)
    low, high = axes.get_xlim()
    ticks = [t for t in TICKS if low <= t <= high]
    axes.set_xticks(ticks, [f"{t:g}" for t in ticks])
    axes.minorticks_off()
    axes.text(1.01, 1.0, "fastest\npeer", transform=axes.transAxes, va="bottom", fontsize=8)
    names = [n for n in COLORS if any(h.of(n) for h in shown)]
    for name in names:
        style = {"color": COLORS[name], "marker": MARKERS[name], "linestyle": ""}
        axes.plot([], [], label=PEERS[name].title, **style)
    handles, _ = axes.get_legend_handles_labels()
    handles.append(Patch(color="#b8dfc0", label="fastest peer, with quartiles (red: it is ahead)"))
    axes.figure.legend(handles=handles, loc="outside lower center", ncols=3, fontsize=8)
