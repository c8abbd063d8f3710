"""Clipping by norm: sums of squares of the gradient, norms, and the factors that clip it.

The step runs phase two twice. First each tile stores its gradient, penalties included, and the sums
of its squares, in float64; then it takes the stored gradient, times the factor of its variable, and
updates. Sums are added in the order of the parameters, so neither threads nor chunks change the
bits. Frozen parameters have no gradient. Padding is not summed: a user's rule may make NaN of
zeros.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastmlp.backends.cpu.kernels.parts import Kernel, Scalar, Span
from fastmlp.backends.cpu.plan.plan import Plan
from fastmlp.backends.cpu.plan.records import BlockAddresses, Net, Tile, address
from fastmlp.backends.cpu.plan.workspace import aligned
from fastmlp.compiler import block_of, call, njit, record_at, records_at, row, stack
from fastmlp.compiler.target import lanes_of
from fastmlp.rules.optimizer_protocol import NormLimit
from fastmlp.rules.updates import norm_factor

# A layer's variables, and a tile's sums.
WEIGHTS, BIASES = range(2)
_factor = njit(norm_factor)


def squares(scalar: Scalar) -> Kernel:
    """Make the block that adds the squares of rows of a panel, `width` columns of them, to `total`;
    `goes_on` is 0 at the beginning of a sum."""
    lanes = lanes_of(scalar)
    vector, room = lanes * np.dtype(scalar).itemsize, lanes * 8

    def add(total: int, g: int, n_rows: int, width: int, goes_on: int) -> None:
        sums, result = row(stack(room), lanes, np.float64), row(total, 1, np.float64)
        sums[:] = 0.0
        for r in range(n_rows):
            values = row(g + r * vector, lanes, scalar)
            for j in range(lanes):
                sums[j] += np.float64(values[j]) * np.float64(values[j])
        whole = result[0] if goes_on else 0.0
        for j in range(width):
            whole += sums[j]
        result[0] = whole

    return add


def scaled(scalar: Scalar) -> Kernel:
    def scale(factor: int, g: int, n: int) -> None:
        values, by = row(g, n, scalar), scalar(row(factor, 1, np.float64)[0])
        for i in range(n):
            values[i] *= by

    return scale


def clipping(scalar: Scalar) -> Kernel:
    """Make the function that adds rows of a panel to the sums of their tile, or clips them for the
    step."""
    lanes = lanes_of(scalar)

    @njit
    def by_norm(
        net: Net, tile: Tile, p: int, variable: int, g: int, shape: Span, when: Span
    ) -> None:
        blocks, (n_rows, width), (ends, apply) = record_at(net.blocks, BlockAddresses), shape, when
        if apply:
            factor = net.factors + (2 * tile.layer + variable) * 8
            call(blocks.scaled, (factor, g, n_rows * lanes))
        elif ends:
            total = net.tile_squares + (2 * tile.slot + variable) * 8
            call(blocks.squares, (total, g, n_rows, width, p))

    return by_norm


@njit
def unclipped(net: Net, tile: Tile, p: int, variable: int, g: int, shape: Span, when: Span) -> None:
    """Do nothing: the gradient is not clipped by its norm."""


@njit
def take_norms(net: Net) -> None:
    """Write the factor of each variable, from the sums of squares of all tiles."""
    n = 2 * net.n_layers
    factors, tiles = row(net.factors, n, np.float64), records_at(net.tiles, net.n_tiles, Tile)
    order = row(net.tile_order, net.n_tiles, np.int64)
    factors[:] = 0.0
    for i in range(net.n_tiles):
        tile = tiles[order[i]]
        sums = row(net.tile_squares + 2 * tile.slot * 8, 2, np.float64)
        factors[2 * tile.layer] += sums[WEIGHTS]
        factors[2 * tile.layer + 1] += sums[BIASES]
    whole = 0.0
    for i in range(n):
        whole += factors[i]
    for i in range(n):
        norm = np.sqrt(factors[i] if net.norm_by_variable else whole)
        factors[i] = _factor(norm, net.norm_limit)


class Norms:
    """The buffers of a net's clipping by norm.

    Parameters
    ----------
    plan : Plan, of the training
    dtype : of the net
    """

    def __init__(self, plan: Plan, dtype: np.dtype[Any]) -> None:
        tiles = plan.tiles
        self._squares: NDArray[np.float64] = aligned(2 * len(tiles), np.float64)
        self._factors: NDArray[np.float64] = aligned(2 * len(plan.layers), np.float64)
        # Slots depend on the rows of a chunk.
        order = np.lexsort((tiles["first"], tiles["panel"], tiles["layer"]))
        self._order = np.ascontiguousarray(order, np.int64)
        self._blocks = {f.__name__: block_of(f, dtype).address for f in (squares, scaled)}

    def attach(self, net: Any, blocks: Any, limit: NormLimit) -> None:
        """Write addresses and the limit to the records of the net and its blocks."""
        net["tile_squares"], net["tile_order"] = address(self._squares), address(self._order)
        net["factors"], net["norm_limit"] = address(self._factors), limit.limit
        net["norm_by_variable"] = limit.by_variable
        for name, where in self._blocks.items():
            blocks[name] = where
