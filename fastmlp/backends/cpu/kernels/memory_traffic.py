"""Memory traffic of phase two beside its sums: prefetches, and transposed copies of the weights."""

from typing import Any

import numpy as np

from fastmlp.backends.cpu.kernels.parts import Kernel, Piece, Scalar
from fastmlp.backends.cpu.plan.records import ALL, NONE, OTHERS, Batch, Net, Tile
from fastmlp.backends.cpu.simd.microkernel import STREAMS
from fastmlp.backends.cpu.simd.pack import moves
from fastmlp.backends.cpu.tuning import CACHE_BYTES, MOST_STREAMS, PREFETCHED_ROW_BYTES
from fastmlp.compiler import njit, record_at, row
from fastmlp.compiler.target import LINE_BYTES, lanes_of

HEAD_BYTES = STREAMS.itemsize


def prefetches_rows_of(x: Any, batch_rows: int) -> bool:
    """Return True if a batch's rows of X are prefetched during the batch before: X exceeds the
    second-level cache, and a row has `PREFETCHED_ROW_BYTES` or is the whole batch."""
    if not isinstance(x, np.ndarray) or x.nbytes <= CACHE_BYTES:
        return False
    return batch_rows == 1 or bool(x[:1].nbytes >= PREFETCHED_ROW_BYTES)


@njit
def prefetch_for(
    net: Net, t: int, piece: Piece, apply: int, split: int, streams: int, vector: int, size: int
) -> int:
    """List the addresses that tile t prefetches; return the list's address, or 0."""
    if net.prefetches_state and apply:
        return prefetch_weights(net, piece, streams, vector)
    if net.prefetches_rows:
        return prefetch_rows(net, t, split, streams, size)
    return 0


@njit
def prefetch_weights(net: Net, piece: Piece, streams: int, vector: int) -> int:
    """List the tile's parameters and state, for the update; return the address of the streams. 15.0
    -> 14.0 ms (784-2048-2048-10@32)."""
    tile, layer, w = piece
    record, n, skip = row(streams, 1, STREAMS)[0], 0, w - net.parameters
    places = row(streams + HEAD_BYTES, MOST_STREAMS, np.int64)
    for p in range(tile.n_panels):
        down = p * layer.packed_panel
        places[n] = w + down
        n += 1
        if net.n_moments > 0:
            places[n] = net.m + skip + down
            n += 1
        if net.n_moments > 1:
            places[n] = net.v + skip + down
            n += 1
    record.n_streams, record.n_lines = n, (tile.last - tile.first) * vector // LINE_BYTES
    return streams


@njit
def prefetch_rows(net: Net, t: int, split: int, streams: int, size: int) -> int:
    """List the tile's share of the next batch's rows of X; return the address of the streams."""
    batch, record = record_at(net.batch, Batch), row(streams, 1, STREAMS)[0]
    places = row(streams + HEAD_BYTES, MOST_STREAMS, np.int64)
    after = batch.index + batch.n_rows * 8
    n_rows = max(min((batch.order_stop - after) // 8, batch.n_rows), 0)
    low, high, n_tiles = 0, net.n_in, net.n_tiles
    if split == 1:
        # Each half gathers its features of all rows.
        n_tiles = n_tiles // 2
        if t < n_tiles:
            high = net.middle
        else:
            t, low = t - n_tiles, net.middle
    first, last = t * n_rows // n_tiles, (t + 1) * n_rows // n_tiles
    n = min(last - first, MOST_STREAMS)
    index = row(after, n_rows, np.int64)
    for i in range(n):
        places[i] = batch.x + (index[first + i] * net.n_in + low) * size
    record.n_streams, record.n_lines = n, ((high - low) * size + LINE_BYTES - 1) // LINE_BYTES
    return streams


@njit
def non_temporal_of(net: Net, split: int) -> int:
    """Return the transposes that use non-temporal stores: without split-K a team stores its few
    through the cache."""
    return NONE if net.non_temporal == OTHERS and split == 0 else net.non_temporal


@njit
def passes_by(tile: Tile, r: int, non_temporal: int) -> bool:
    """Return True if row r of a tile, transposed, is stored past the caches."""
    of_others = r < tile.cached_first or r >= tile.cached_last
    return non_temporal == ALL or (non_temporal == OTHERS and of_others)


def transposing(scalar: Scalar) -> Kernel:
    lanes = lanes_of(scalar)
    vector = lanes * np.dtype(scalar).itemsize
    square, vector_moves = lanes * vector, moves(scalar, lanes)
    transpose, transpose_non_temporal = vector_moves.transpose, vector_moves.transpose_non_temporal

    @njit
    def transpose_panel(piece: Piece, p: int, non_temporal: int) -> None:
        tile, layer, w = piece
        w += p * layer.packed_panel
        for r in range(tile.first, tile.last, lanes):
            source, left = w + (r - tile.first) * vector, layer.packed_rows - r
            target = (
                layer.transposed_copy + r // lanes * layer.copy_panel + (tile.panel + p) * square
            )
            if passes_by(tile, r, non_temporal):
                transpose_non_temporal(source, target, left)
            else:
                transpose(source, target, left)

    return transpose_panel
