"""Mixed precision: operands of products in bfloat16, rounded once, as they are written.

Gathered rows, outputs and deltas are rounded while their block of rows is in the first-level cache;
weights after the step of their tile, or once a call of predictions. All else stays float32. Only
mixed precision compiles these blocks.
"""

import numpy as np

from fastmlp.backends.cpu.kernels.memory_traffic import passes_by
from fastmlp.backends.cpu.kernels.parts import Kernel, Scalar, Span, layers_of
from fastmlp.backends.cpu.plan.records import BlockAddresses, Layer, Net, Tile
from fastmlp.backends.cpu.simd.pack import moves
from fastmlp.backends.cpu.simd.vector import Panels
from fastmlp.compiler import call, njit, record_at, records_at
from fastmlp.compiler.target import PairProducts, lanes_of


@njit
def pair_outputs(net: Net, layer: Layer, panels: Span, rows: Span) -> None:
    if layer.outputs_along:
        forms = (layer.outputs_along, layer.outputs_across)
        outputs = (layer.outputs, net.panel, *forms, layer.n_out)
        call(record_at(net.blocks, BlockAddresses).pair_rows, (*outputs, *panels, *rows))


@njit
def pair_deltas(net: Net, layer: Layer, panels: Span, rows: Span) -> None:
    if layer.pairs:
        forms = (layer.deltas_along, layer.deltas_across)
        deltas = (layer.deltas, net.panel, *forms, layer.n_out)
        call(record_at(net.blocks, BlockAddresses).pair_rows, (*deltas, *panels, *rows))


def pair_rows(scalar: Scalar, pairs: PairProducts) -> Kernel:
    """Make the block that rounds some panels of n rows to both forms of pairs."""
    lanes = lanes_of(scalar)
    vector, store = lanes * np.dtype(scalar).itemsize, moves(scalar, lanes).pair_rows

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
        down, n_columns = panel * stride + at * vector, min(n_panels * lanes, width - panel * lanes)
        half = down // 2
        if n_columns > 0:
            store(Panels(source + down, stride), along + half, across + half, n_columns, n)

    return run


def pair_tiles(scalar: Scalar, pairs: PairProducts) -> Kernel:
    """Make the block that rounds the weights of some tiles, for the passes forward and back."""
    lanes = lanes_of(scalar)
    vector, stores = lanes * np.dtype(scalar).itemsize, moves(scalar, lanes)
    square, non_temporal_square, half = (
        stores.pair_square,
        stores.pair_square_non_temporal,
        lanes // 2,
    )

    @njit
    def pair_panel(net: Net, tile: Tile, p: int, non_temporal: int) -> None:
        layer, panel = layers_of(net)[tile.layer], tile.panel + p
        w = net.parameters + tile.offset + p * layer.packed_panel
        across, transposed = layer.weights + panel * layer.weight_panel, 0
        for r in range(tile.first, tile.last, lanes):
            if layer.transposed:
                transposed = layer.transposed + r // lanes * layer.transposed_panel
                transposed += panel * half * vector
            source = w + (r - tile.first) * vector
            where = (source, across + r // 2 * vector, transposed, layer.packed_rows - r)
            if passes_by(tile, r, non_temporal):
                non_temporal_square(*where)
            else:
                square(*where)

    def run(address: int, first: int, last: int, non_temporal: int) -> None:
        net = record_at(address, Net)
        tiles, layers = records_at(net.tiles, net.n_tiles, Tile), layers_of(net)
        for t in range(first, last):
            if layers[tiles[t].layer].pairs and tiles[t].first < tiles[t].last:
                for p in range(tiles[t].n_panels):
                    pair_panel(net, tiles[t], p, non_temporal)

    return run


def pair_weights(scalar: Scalar, pairs: PairProducts) -> Kernel:
    """Make the block that rounds the weights in a flat vector, for predictions."""
    lanes, size = lanes_of(scalar), np.dtype(scalar).itemsize
    vector, pack_pairs = lanes * size, moves(scalar, lanes).pack_pairs

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
