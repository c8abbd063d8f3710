"""The shapes that kernels are compiled for: threads of a block, tiles of a matrix product."""

from typing import NamedTuple


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
