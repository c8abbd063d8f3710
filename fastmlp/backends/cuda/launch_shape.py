"""What the kernels of design two are compiled for, beside their rules."""

from typing import NamedTuple

from fastmlp.backends.cuda.kernels.shared_memory_gemm import Shape


class Form(NamedTuple):
    """What kernels of this kind are compiled for, beside their rules.

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
        """The numbers of shared memory, for either phase."""
        return max(self.rows.staging, self.weights.staging)
