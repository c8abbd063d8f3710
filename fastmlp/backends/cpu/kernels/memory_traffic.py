"""Memory traffic beside sums: prefetches,
transposed copies of the weights, pairs of bfloat16.

Mixed precision rounds the operands of products to bfloat16 once, as they are written.
Gathered rows, outputs and deltas are rounded while their block of rows is in the
first-level cache; weights after the step of their tile, or once a call of predictions.
All else stays float32.
"""

from typing import Any

import numpy as np

from fastmlp.backends.cpu.kernels import Kernel, Piece, Scalar, Span
from fastmlp.backends.cpu.plan import records
from fastmlp.backends.cpu.plan.records import (
    Layer,
    Net,
    Tile,
    batch_of,
    blocks_of,
    layers_of,
)
from fastmlp.backends.cpu.simd.microkernel import STREAMS
from fastmlp.backends.cpu.simd.pack import moves
from fastmlp.backends.cpu.simd.vector import Panels
from fastmlp.backends.cpu.tuning import CACHE_BYTES, MOST_STREAMS, PREFETCHED_ROW_BYTES
from fastmlp.compiler import call, njit
from fastmlp.compiler.memory import record_at, records_at, row
from fastmlp.compiler.target import LINE_BYTES, PairProducts, lanes_of

HEAD_BYTES = STREAMS.itemsize


def prefetches_rows_of(x: Any, batch_rows: int) -> bool:
    """True if a batch's rows of X are prefetched during the batch before: X exceeds the
    second-level cache, and a row has `PREFETCHED_ROW_BYTES` or is the whole batch."""
    if not isinstance(x, np.ndarray) or x.nbytes <= CACHE_BYTES:
        return False
    return batch_rows == 1 or bool(x[:1].nbytes >= PREFETCHED_ROW_BYTES)


@njit
def prefetch_for(
    net: Net,
    t: int,
    piece: Piece,
    apply: int,
    split: int,
    streams: int,
    vector: int,
    size: int,
) -> int:
    """List the addresses that tile t prefetches; return the list's address, or 0."""
    if net.prefetches_state and apply:
        return prefetch_weights(net, piece, streams, vector)
    if net.prefetches_rows:
        return prefetch_rows(net, t, split, streams, size)
    return 0


@njit
def prefetch_weights(net: Net, piece: Piece, streams: int, vector: int) -> int:
    """List the tile's parameters and state, for the update;
    return the address of the streams.

    `vector` is the bytes of a panel's row. A step of 784-2048-2048-10, in batches of
    32 rows, takes 14.0 ms with these streams, 15.0 ms without.
    """
    tile, layer, w = piece
    record = row(streams, 1, STREAMS)[0]
    n = 0
    skip = w - net.parameters
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
    record.n_streams = n
    record.n_lines = (tile.last - tile.first) * vector // LINE_BYTES
    return streams


@njit
def prefetch_rows(net: Net, t: int, split: int, streams: int, size: int) -> int:
    """List the share of tile `t` in the next batch's rows of X;
    return the address of the streams.

    `split` is 1 where two tiles share a row's features, cut at `net.middle`. `size` is
    the bytes of a number.
    """
    batch = batch_of(net)
    record = row(streams, 1, STREAMS)[0]
    places = row(streams + HEAD_BYTES, MOST_STREAMS, np.int64)
    # The next batch's indices, of 8 bytes each, follow the batch's.
    after = batch.index + batch.n_rows * 8
    n_rows = max(min((batch.order_stop - after) // 8, batch.n_rows), 0)
    low = 0
    high = net.n_in
    n_tiles = net.n_tiles
    if split == 1:
        # Each half gathers its features of all rows.
        n_tiles = n_tiles // 2
        if t < n_tiles:
            high = net.middle
        else:
            t = t - n_tiles
            low = net.middle
    first = t * n_rows // n_tiles
    last = (t + 1) * n_rows // n_tiles
    n = min(last - first, MOST_STREAMS)
    index = row(after, n_rows, np.int64)
    for i in range(n):
        places[i] = batch.x + (index[first + i] * net.n_in + low) * size
    record.n_streams = n
    record.n_lines = ((high - low) * size + LINE_BYTES - 1) // LINE_BYTES
    return streams


@njit
def non_temporal_of(net: Net, split: int) -> int:
    """Transposes that use non-temporal stores:
    without split-K a team stores its few through the cache.
    """
    return (
        records.STORE_NO_COPY_PAST
        if net.non_temporal == records.STORE_OTHERS_PAST and split == 0
        else net.non_temporal
    )


@njit
def passes_by(tile: Tile, r: int, non_temporal: int) -> bool:
    """True if row r of a tile, transposed, is stored past the caches."""
    of_others = r < tile.cached_first or r >= tile.cached_last
    return non_temporal == records.STORE_ALL_PAST or (
        non_temporal == records.STORE_OTHERS_PAST and of_others
    )


def transposing(scalar: Scalar) -> Kernel:
    """Make the function that writes a tile's panel to the transposed copy, square by
    square, right after its step, while the weights are in the cache.
    """
    lanes = lanes_of(scalar)
    vector = lanes * np.dtype(scalar).itemsize
    square = lanes * vector
    vector_moves = moves(scalar, lanes)
    transpose = vector_moves.transpose
    transpose_non_temporal = vector_moves.transpose_non_temporal

    @njit
    def transpose_panel(piece: Piece, p: int, non_temporal: int) -> None:
        tile, layer, w = piece
        w += p * layer.packed_panel
        for r in range(tile.first, tile.last, lanes):
            source = w + (r - tile.first) * vector
            left = layer.packed_rows - r
            target = (
                layer.transposed_copy
                + r // lanes * layer.copy_panel
                + (tile.panel + p) * square
            )
            if passes_by(tile, r, non_temporal):
                transpose_non_temporal(source, target, left)
            else:
                transpose(source, target, left)

    return transpose_panel


@njit
def pair_outputs(net: Net, layer: Layer, panels: Span, rows: Span) -> None:
    if layer.outputs_along:
        forms = (layer.outputs_along, layer.outputs_across)
        outputs = (layer.outputs, net.panel, *forms, layer.n_out)
        call(blocks_of(net).pair_rows, (*outputs, *panels, *rows))


@njit
def pair_deltas(net: Net, layer: Layer, panels: Span, rows: Span) -> None:
    if layer.pairs:
        forms = (layer.deltas_along, layer.deltas_across)
        deltas = (layer.deltas, net.panel, *forms, layer.n_out)
        call(blocks_of(net).pair_rows, (*deltas, *panels, *rows))


def pair_rows(scalar: Scalar, pairs: PairProducts) -> Kernel:
    """Rounds some panels of n rows to both forms of pairs."""
    lanes = lanes_of(scalar)
    vector = lanes * np.dtype(scalar).itemsize
    store = moves(scalar, lanes).pair_rows

    def run(
        values: Panels,
        along: int,
        across: int,
        width: int,
        panel: int,
        n_panels: int,
        at: int,
        n: int,
    ) -> None:
        source, stride = values
        down = panel * stride + at * vector
        n_columns = min(n_panels * lanes, width - panel * lanes)
        half = down // 2
        if n_columns > 0:
            store(
                Panels(source + down, stride), along + half, across + half, n_columns, n
            )

    return run


def pair_tiles(scalar: Scalar, pairs: PairProducts) -> Kernel:
    """Rounds the weights of some tiles, for the passes forward and back."""
    lanes = lanes_of(scalar)
    vector = lanes * np.dtype(scalar).itemsize
    half = lanes // 2
    stores = moves(scalar, lanes)
    square = stores.pair_square
    non_temporal_square = stores.pair_square_non_temporal

    @njit
    def pair_panel(net: Net, tile: Tile, p: int, non_temporal: int) -> None:
        """A square of a panel is read once and written in both forms: for the pass
        forward, and transposed for the pass back.
        """
        layer = layers_of(net)[tile.layer]
        panel = tile.panel + p
        w = net.parameters + tile.offset + p * layer.packed_panel
        across = layer.weights + panel * layer.weight_panel
        transposed = 0
        for r in range(tile.first, tile.last, lanes):
            if layer.transposed:
                transposed = layer.transposed + r // lanes * layer.transposed_panel
                transposed += panel * half * vector
            source = w + (r - tile.first) * vector
            where = (
                source,
                across + r // 2 * vector,
                transposed,
                layer.packed_rows - r,
            )
            if passes_by(tile, r, non_temporal):
                non_temporal_square(*where)
            else:
                square(*where)

    def run(address: int, first: int, last: int, non_temporal: int) -> None:
        net = record_at(address, Net)
        tiles = records_at(net.tiles, net.n_tiles, Tile)
        layers = layers_of(net)
        for t in range(first, last):
            if layers[tiles[t].layer].pairs and tiles[t].first < tiles[t].last:
                for p in range(tiles[t].n_panels):
                    pair_panel(net, tiles[t], p, non_temporal)

    return run


def pair_weights(scalar: Scalar, pairs: PairProducts) -> Kernel:
    """Rounds the weights in a flat vector, for predictions."""
    lanes = lanes_of(scalar)
    size = np.dtype(scalar).itemsize
    vector = lanes * size
    pack_pairs = moves(scalar, lanes).pack_pairs

    def run(address: int, flat: int) -> None:
        net = record_at(address, Net)
        layers = layers_of(net)
        for i in range(net.n_layers):
            layer = layers[i]
            for k in range(0, layer.n_in if layer.pairs else 0, 2):
                source = flat + (layer.offset + k * layer.n_out) * size
                target = layer.weights + k // 2 * vector
                n = min(2, layer.n_in - k)
                pack_pairs(source, n, target, layer.weight_panel, layer.n_out)

    return run
