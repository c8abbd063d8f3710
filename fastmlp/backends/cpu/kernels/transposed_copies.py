"""The transposed copies of the weights, which phase two writes for the next backward pass."""

import numpy as np

from fastmlp.backends.cpu.kernels.parts import Kernel, Piece, Scalar
from fastmlp.backends.cpu.plan.records import ALL, NONE, OTHERS, Net, Tile
from fastmlp.backends.cpu.simd.pack import moves
from fastmlp.compiler import njit
from fastmlp.compiler.target import lanes_of


@njit
def non_temporal_of(net: Net, split: int) -> int:
    """Return which transposes use non-temporal stores: without split-K a team stores its few
    through the cache."""
    return NONE if net.non_temporal == OTHERS and split == 0 else net.non_temporal


@njit
def passes_by(tile: Tile, r: int, non_temporal: int) -> bool:
    """Return True if row r of a tile, transposed, is stored past the caches."""
    of_others = r < tile.cached_first or r >= tile.cached_last
    return non_temporal == ALL or (non_temporal == OTHERS and of_others)


def transposing(scalar: Scalar) -> Kernel:
    """Make the function that transposes a tile's panel into the copy of the weights."""
    lanes = lanes_of(scalar)
    vector = lanes * np.dtype(scalar).itemsize
    square, its = lanes * vector, moves(scalar, lanes)
    transpose, transpose_non_temporal = its.transpose, its.transpose_non_temporal

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
