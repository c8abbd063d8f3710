"""What memory is asked for while a gradient is summed: what is used next, and is in no cache."""

from typing import Any

import numpy as np

from fastmlp._compile import leaf, row
from fastmlp.backends.cpu.ahead import MOST_STREAMS, STREAMS
from fastmlp.backends.cpu.plan import ALL
from fastmlp.backends.cpu.registers import LINE_BYTES


@leaf
def want(
    net: Any, t: Any, piece: Any, layer: Any, w: Any, wanted: Any, vector: Any, lanes: Any
) -> Any:
    """Write to a record what products should ask memory for, and return its address, or 0."""
    if net.past == ALL and net.update:
        _want_weights(net, piece, layer, w, wanted, vector)
        return wanted
    if net.asks_rows:
        _want_rows(net, t, wanted, vector // lanes)
        return wanted
    return 0


@leaf
def _want_weights(net: Any, piece: Any, layer: Any, w: Any, wanted: Any, vector: Any) -> None:
    """The tile's parameters and their state, for the update: at 32 rows 784-2048-2048-10 takes
    15.0 ms without, 14.0 so."""
    record, n, skip = row(wanted, 1, STREAMS)[0], 0, w - net.parameters
    streams = row(wanted + STREAMS.itemsize, MOST_STREAMS, np.int64)
    for p in range(piece.n_panels):
        down = p * layer.master_panel
        streams[n] = w + down
        n += 1
        if net.n_moments > 0:
            streams[n] = net.m + skip + down
            n += 1
        if net.n_moments > 1:
            streams[n] = net.v + skip + down
            n += 1
    record.n_streams, record.n_lines = n, (piece.last - piece.first) * vector // LINE_BYTES


@leaf
def _want_rows(net: Any, t: Any, wanted: Any, size: Any) -> None:
    """This tile's share of the rows of X that come next in their order."""
    record = row(wanted, 1, STREAMS)[0]
    streams = row(wanted + STREAMS.itemsize, MOST_STREAMS, np.int64)
    after = net.index + net.n_rows * 8
    n_rows = max(min((net.order_stop - after) // 8, net.n_rows), 0)
    low, high, n_tiles = 0, net.n_in, net.n_tiles
    if net.divided == 1:
        # Each of two gathers the features of its half, of all rows.
        n_tiles = n_tiles // 2
        if t < n_tiles:
            high = net.middle
        else:
            t, low = t - n_tiles, net.middle
    first, last = t * n_rows // n_tiles, (t + 1) * n_rows // n_tiles
    n = min(last - first, MOST_STREAMS)
    index = row(after, n_rows, np.int64)
    for i in range(n):
        streams[i] = net.x + (index[first + i] * net.n_in + low) * size
    record.n_streams, record.n_lines = n, ((high - low) * size + LINE_BYTES - 1) // LINE_BYTES
