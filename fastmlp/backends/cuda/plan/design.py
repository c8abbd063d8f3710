"""The kernel for a net and a batch, and its shapes: threads of a block, tiles of a product."""

from typing import Literal, NamedTuple

from fastmlp.backends.cuda.device import adapter
from fastmlp.backends.cuda.device.card import Card
from fastmlp.backends.cuda.plan.plan import Need, make_plan
from fastmlp.network.spec import Network


class BlockShape(NamedTuple):
    """The shape of the kernel of one block.

    Attributes
    ----------
    shared : True if the block's space is in shared memory, False if in global memory
    n_threads : int
    """

    shared: bool
    n_threads: int = 256


class TileShape(NamedTuple):
    """The tile of a matrix product that a block computes.

    Attributes
    ----------
    across, down : threads along columns and along rows
    rows, columns : sums of a thread
    depth : depth of the tiles in shared memory
    """

    across: int
    down: int
    rows: int
    columns: int
    depth: int = 16

    @property
    def n_threads(self) -> int:
        """The threads of a block."""
        return self.across * self.down

    @property
    def tile_rows(self) -> int:
        """The rows of a block's tile."""
        return self.down * self.rows

    @property
    def tile_columns(self) -> int:
        """The columns of a block's tile."""
        return self.across * self.columns

    @property
    def staging(self) -> int:
        """The numbers of shared memory; one padding column reduces bank conflicts."""
        return self.depth * (self.tile_rows + 1 + self.tile_columns + 1)


class GridShape(NamedTuple):
    """The shapes of the grid's kernels; both phases have the same number of threads.

    Attributes
    ----------
    rows : the tile of the forward and the backward pass
    weights : the tile of the gradient
    """

    rows: TileShape
    weights: TileShape

    @property
    def n_threads(self) -> int:
        """The threads of a block."""
        return self.rows.n_threads

    @property
    def staging(self) -> int:
        """The numbers of shared memory, enough for either phase."""
        return max(self.rows.staging, self.weights.staging)


# One block does about 0.2 TFLOP/s of an H100's 25. It takes 15 us for 3 MFLOP a step, the least
# time of a grid's two barriers and phases. An estimate, not yet measured on a GPU.
SINGLE_BLOCK_FLOPS = 4_000_000
# 16 rows of 128, or 64 of 64; weights in 32 of 32, or in 64 of 64.
FEW_ROWS, MANY_ROWS = TileShape(32, 8, 2, 4), TileShape(16, 16, 4, 4)
FEW_WEIGHTS, MANY_WEIGHTS = TileShape(16, 16, 2, 2), TileShape(16, 16, 4, 4)
# The simulator takes 0.3 s for a block of 256 threads.
SIMULATED_TILE = TileShape(2, 2, 2, 2, 3)
SIMULATED_THREADS = 8
Kind = Literal["single_block", "grid", "phases"]


class Design(NamedTuple):
    """The way to train a net.

    Attributes
    ----------
    kind : "single_block", "grid" (one cooperative launch for many steps) or "phases" (a grid, one
        launch for each phase of a step)
    block, grid : the shapes of the kernels of either kind
    """

    kind: Kind
    block: BlockShape
    grid: GridShape


def design_for(
    network: Network, batch: int, card: Card, kind: Kind | None = None, n_nets: int = 1
) -> Design:
    """Return the design for batches of so many rows; `kind` overrides the choice."""
    fits = space_bytes(network, batch) <= card.shared_bytes
    if kind is None:
        light = 6 * network.layout.n_weights * batch <= SINGLE_BLOCK_FLOPS
        kind = "phases" if adapter.SIMULATED else "grid"
        if n_nets > 1 or (fits and light):
            kind = "single_block"
    block = BlockShape(fits, SIMULATED_THREADS) if adapter.SIMULATED else BlockShape(fits)
    return Design(kind, block, grid_shape(network, batch, card))


def grid_shape(network: Network, n_rows: int, card: Card) -> GridShape:
    """Return the tiles for a grid: large ones if there are enough for all multiprocessors."""
    if adapter.SIMULATED:
        return GridShape(SIMULATED_TILE, SIMULATED_TILE)
    enough = card.n_multiprocessors
    rows = MANY_ROWS if n_rows >= enough * MANY_ROWS.tile_rows else FEW_ROWS
    weights = MANY_WEIGHTS if n_tiles(network, MANY_WEIGHTS) >= enough else FEW_WEIGHTS
    return GridShape(rows, weights)


def n_tiles(network: Network, shape: TileShape) -> int:
    """Return the number of tiles of a net's weights."""
    need = Need(1, 1, tile=(shape.tile_rows, shape.tile_columns))
    return int(make_plan(network, need).plan["n_tiles"][0])


def space_bytes(network: Network, batch: int) -> int:
    """Return the bytes of shared memory in which one block trains a net."""
    sizes = make_plan(network, Need(batch, batch, block=True)).sizes
    return sizes.space * network.dtype.itemsize
