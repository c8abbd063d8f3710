"""The block shapes that the kernels of the wide design are compiled for."""

from typing import NamedTuple

from fastmlp.backends.cuda.staged import Shape


class Form(NamedTuple):
    """The block shapes of both phases; beside the rules, the key of compiled kernels.

    Attributes
    ----------
    rows, weights : the shapes of the blocks in the two phases, of the same number of threads
    """

    rows: Shape
    weights: Shape

    @property
    def n_threads(self) -> int:
        """The threads of a block."""
        return self.rows.n_threads

    @property
    def staging(self) -> int:
        """The numbers of shared memory that either phase needs."""
        return max(self.rows.staging, self.weights.staging)
