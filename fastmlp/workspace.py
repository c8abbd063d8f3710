"""Every buffer that training and prediction need, allocated before the first step."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import DTypeLike, NDArray

from fastmlp.layout import Layout

Buffer = NDArray[Any]
CHUNK_NUMBERS = 4_000_000
CHUNK_FLOPS = 10_000_000_000
MIN_CHUNK_ROWS = 64


class Workspace(NamedTuple):
    """Buffers for a chunk of rows. Rows of a chunk are the first axis of the first five.

    Attributes
    ----------
    outputs, deltas : one flat buffer each, per layer (chunk_rows, n_out) one after the other
        Values after the activation; its slopes, then the back-propagated errors in their place.
    raw : (chunk_rows, max_width)
        Pre-activations of one layer at a time, and products on the way back.
    targets : (chunk_rows, n_targets)
    row_losses : (chunk_rows,) float64
    transposed : (n_weights,)
        Each weight matrix transposed, kept in step with the parameters.
    gradient, backup : (n_parameters,)
    identity : (max of chunk_rows and widths,) int64
        0, 1, 2, ...
    """

    chunk_rows: int
    outputs: Buffer
    deltas: Buffer
    raw: Buffer
    targets: Buffer
    row_losses: Buffer
    transposed: Buffer
    gradient: Buffer
    backup: Buffer
    identity: Buffer


def chunk_rows(layout: Layout, n_rows: int) -> int:
    """Return how many rows to take at once.

    At most what `CHUNK_NUMBERS` of activations hold and what 0.25 s of one core can train on
    (`CHUNK_FLOPS`), so that memory does not grow with the data and Ctrl-C is heard in time.
    """
    by_memory = CHUNK_NUMBERS // sum(layout.sizes)
    by_time = CHUNK_FLOPS // (6 * layout.n_weights)
    return max(1, min(n_rows, max(MIN_CHUNK_ROWS, min(by_memory, by_time))))


def make_workspace(
    layout: Layout, rows: int, n_targets: int, dtype: DTypeLike, *, train: bool
) -> Workspace:
    """Allocate for chunks of `rows` rows; without `train`, only what a forward pass needs."""
    widths = layout.sizes[1:]
    n = layout.n_parameters if train else 0
    return Workspace(
        chunk_rows=rows,
        outputs=np.empty(rows * sum(widths), dtype),
        deltas=np.empty(rows * sum(widths), dtype),
        raw=np.empty(rows * max(layout.sizes), dtype),
        targets=np.empty(rows * n_targets, dtype),
        row_losses=np.empty(rows, np.float64),
        transposed=np.empty(layout.n_weights if train else 0, dtype),
        gradient=np.empty(n, dtype),
        backup=np.empty(n, dtype),
        identity=np.arange(max(rows, *layout.sizes), dtype=np.int64),
    )
