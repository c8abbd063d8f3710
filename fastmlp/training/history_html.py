"""A history in a notebook: its losses as a table, and as a small line."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastmlp.network import summary

HEADER = ("loss", "first", "best", "in epoch", "last")
WIDTH, HEIGHT, MARGIN = 320, 64, 3


def history_html(
    loss: Sequence[float], validation_loss: Sequence[float], seconds: float, status: str
) -> str:
    """Return the losses, the seconds and the status as HTML; epochs are counted from 1."""
    curves = {"training": np.asarray(loss, float), "validation": np.asarray(validation_loss, float)}
    rows = [HEADER, *(_row(name, curve) for name, curve in curves.items() if curve.size)]
    n = f"{len(loss):,} epoch{'' if len(loss) == 1 else 's'} in {seconds:.3g} s; {status}"
    parts = [summary.html_text(n, strong="History")]
    if len(rows) > 1:
        parts.append(summary.html_table(rows))
    if len(loss) > 1:
        parts.append(_line(list(curves.values())))
    return f"<div>{''.join(parts)}</div>"


def _row(name: str, curve: NDArray[Any]) -> tuple[str, ...]:
    finite = np.where(np.isfinite(curve), curve, np.inf)
    best = int(finite.argmin())
    return (name, f"{curve[0]:.4g}", f"{curve[best]:.4g}", f"{best + 1:,}", f"{curve[-1]:.4g}")


def _line(curves: list[NDArray[Any]]) -> str:
    """Return the losses as a drawing, logarithmic where all are positive; validation is dashed."""
    finite = np.concatenate(curves)
    finite = finite[np.isfinite(finite)]
    if not finite.size:
        return ""
    is_log = finite.min() > 0
    low, high = (np.log(finite) if is_log else finite)[[finite.argmin(), finite.argmax()]]
    lines = ""
    for curve, dash in zip(curves, ("", ' stroke-dasharray="4 3"'), strict=True):
        # At most WIDTH points, whatever the number of epochs.
        epochs = np.unique(np.linspace(0, max(len(curve) - 1, 0), WIDTH).astype(int))[: len(curve)]
        epochs = epochs[np.isfinite(curve[epochs])]
        values = np.log(curve[epochs]) if is_log else curve[epochs]
        x = MARGIN + (WIDTH - 2 * MARGIN) * epochs / (len(curves[0]) - 1)
        y = MARGIN + (HEIGHT - 2 * MARGIN) * (high - values) / ((high - low) or 1)
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in zip(x, y, strict=True))
        lines += f'<polyline points="{path}"{dash}/>' if path else ""
    name = f"loss by epoch{', logarithmic' if is_log else ''}: solid for training, dashed for "
    return (
        f'<svg width="{WIDTH}" height="{HEIGHT}" role="img" fill="none" stroke="currentColor" '
        f'stroke-width="1.5"><title>{name}validation</title>{lines}</svg>'
    )
