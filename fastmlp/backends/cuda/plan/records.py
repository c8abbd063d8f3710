"""The records of some nets that kernels read: plans, layers, and the progress of a training.

A launch takes 7 us and 4 us more for each array: the rows, x and y, and six of `Nets`. Of these a
net has a row or a record each. Offsets are into `memory`, of the net's dtype, or `sums`, float64.
"""

from typing import Any, NamedTuple

import numpy as np

from fastmlp.backends.cuda.device.adapter import type_of
from fastmlp.compiler import Record

TRAIN, PREDICT, EVALUATE = 0, 1, 2
# What a net shows: its parameters, an average in a slot of its own, one that follows from m.
NO_AVERAGE, OWN_AVERAGE, AVERAGE_OF_M = 0, 1, 2
# Sums of losses and of the rows' weights are partial sums first, at these offsets in `sums`. Their
# number is independent of the number of threads, and so are the bits.
N_PARTIAL_SUMS = 32
LOSS_SUMS, MASS_SUMS, FIXED_SUMS = 0, N_PARTIAL_SUMS, 2 * N_PARTIAL_SUMS


class Plan(Record):
    """A net: sizes, what a launch does, and offsets into memory if nothing else is said."""

    n_layers: int
    n_parameters: int
    n_outputs: int
    lowest: int  # the first layer that is trained
    n_rows: int  # of an epoch
    batch: int  # rows of a batch
    n_orders: int  # orders of the rows; 0: rows in the data's order
    shuffled: int  # 1: the GPU makes the orders from random words
    mode: int  # TRAIN, PREDICT or EVALUATE
    first: int  # a launch's steps within its window of epochs: first,
    last: int  # and the one after the last
    first_row: int  # of a chunk of an evaluation
    accumulate: int  # 1: a chunk's gradient adds to that of the chunks before
    last_chunk: int  # 1: this is the last chunk
    n_tiles: int  # of the weights
    parameters: int  # flat
    m: int  # the optimizer's state
    v: int
    average: int  # the average of the parameters, or the state from which it follows
    backup: int  # parameters before the epoch,
    average_backup: int  # and the average
    gradient: int
    coefficients: int  # of a launch's steps,
    n_coefficients: int  # so many each,
    draws: int  # of which the last ones, from here on, are the numbers of dropout
    weights: int  # of the rows,
    weighted: int  # 1: they have weights
    scratch: int  # the space of a block that has no shared memory for it
    n_penalties: int
    strengths: int  # offsets into sums: the penalties' strengths,
    penalty_sums: int  # partial sums of the penalties,
    n_penalty_sums: int
    row_losses: int  # the rows' losses,
    losses: int  # and the epochs'


class Layer(Record):
    """A layer; one more than the net's has the outputs.

    Its inputs end with a column of ones, so biases are one row more of the weights. Offsets of
    inputs, derivatives, deltas and a block's own numbers are into memory, or into a block's space.
    """

    n_in: int
    n_out: int
    activation: int  # its code
    w: int  # offsets in the parameters: weights,
    b: int  # and biases
    inputs: int
    input_stride: int
    derivatives: int  # of the previous layer's activation, at this layer's inputs
    deltas: int
    delta_stride: int
    block_weights: int  # a block's own weights,
    block_gradient: int  # and gradient,
    block_stride: int  # of which rows are so far apart
    first_tile: int
    weight_coefficients: int  # offsets in a step's coefficients of those of the weights,
    bias_coefficients: int  # and of the biases; FROZEN: no step


class NetProgress(Record):
    """The progress of a net's training, or of an evaluation: what kernels write."""

    reached: int  # the step of the window
    diverged: int  # 1: a number was not finite, and the training has ended
    non_finite: int  # 1: a number of this epoch was not finite
    epoch_loss: float  # weighted by the rows' weights
    epoch_mass: float  # the sum of these
    batch_loss: float
    batch_mass: float


class Nets(NamedTuple):
    """The arrays of nets with the same layers, as kernels take them.

    Attributes
    ----------
    memory : of the nets' dtype, shape (n_nets, n)
    sums : float64, shape (n_nets, n)
    progress : `NetProgress`, shape (n_nets,)
    plans : `Plan`, shape (n_nets,)
    layers : `Layer`, shape (n_layers + 1,)
    orders : int64, shape (n_nets, n), the numbers of a net's rows, one order after the other
    """

    memory: Any
    sums: Any
    progress: Any
    plans: Any
    layers: Any
    orders: Any

    @property
    def _numba_type_(self) -> Any:
        """The type by which a launch finds the compiled kernel.

        It is kept, as it takes 0.15 ms of CPU time: `Session` makes all arrays alike but for the
        dtype.
        """
        dtype = self.memory.dtype
        if dtype not in _TYPES:
            _TYPES[dtype] = type_of(self)
        return _TYPES[dtype]


_TYPES: dict[np.dtype[Any], Any] = {}


def dtype_of(kind: type[Record]) -> np.dtype[Any]:
    """Return a record's dtype, aligned: else kernels read a field by 8 loads of a byte."""
    return np.dtype((np.record, np.dtype(kind.dtype.descr, align=True)))
