"""The plan of a net: the records that kernels read, and the sizes of the arrays that they describe.

A launch takes 7 us and 4 us more for each array: the rows, x and y, and six of `Nets`. Of these a
net has a row or a record each. Offsets are into `memory`, of the net's dtype, or `sums`, float64.
"""

from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastmlp.backends.cuda.device.adapter import type_of
from fastmlp.compiler import Record
from fastmlp.network.spec import Network
from fastmlp.rules.groups import ParameterGroups

TRAIN, PREDICT, EVALUATE = 0, 1, 2
# What a net shows: its parameters, an average in a slot of its own, one that follows from m.
NO_AVERAGE, OWN_AVERAGE, AVERAGE_OF_M = 0, 1, 2
# Sums of losses and of the rows' weights are partial sums first; the losses' begin `sums`. Their
# number is independent of the number of threads, and so are the bits.
N_PARTIAL_SUMS = 32
# The most partial sums of the penalties, whatever the number of blocks.
N_PENALTY_SUMS = 1 << 13
# The mass of a batch that a net does not take: its training has ended, or its part of a launch.
NO_STEP = -1.0


class Plan(Record):
    """A net: sizes, what a launch does, and offsets into memory if nothing else is said."""

    n_layers: int
    n_parameters: int
    n_outputs: int
    lowest: int  # the first layer that is trained
    n_rows: int  # of an epoch
    batch: int  # rows of a batch
    n_orders: int  # orders of the rows; 0: rows in the data's order
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
    n_penalties: int
    strengths: int  # offsets into sums: the penalties' strengths,
    penalty_sums: int  # partial sums of the penalties,
    n_penalty_sums: int
    row_losses: int  # the rows' losses,
    losses: int  # and the epochs'


class Layer(Record):
    """A layer; one more than the net's has the outputs.

    Its inputs end with a column of ones, so biases are one row more of the weights.
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
    first_tile: int
    weight_coefficients: int  # offsets in a step's coefficients of those of the weights,
    bias_coefficients: int  # and of the biases; FROZEN: no step


class NetProgress(Record):
    """The progress of a net's training, or of an evaluation: what kernels write."""

    reached: int  # the step of the window
    diverged: int  # 1: a number was not finite, and the training has ended
    epoch_loss: float  # weighted by the rows' weights
    epoch_mass: float  # the sum of these
    batch_mass: float  # or NO_STEP


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


class Sizes(NamedTuple):
    """Numbers that a plan needs in memory and in sums."""

    memory: int
    sums: int


class Need(NamedTuple):
    """The requirements of a plan.

    Attributes
    ----------
    rows : rows of a batch, or of a chunk
    n_rows : rows of an epoch
    n_weights : rows with a weight; 0: rows count alike
    n_coefficients, n_steps : coefficients of a step, and steps of the longest launch
    n_drawn : numbers of dropout, which end a step's coefficients
    places : each layer's offsets of the coefficients of its weights and biases, or FROZEN; empty:
        all are 0
    lowest : the first layer that is trained
    n_epochs : epochs of the longest window
    train : True if memory has the optimizer's state and a backup of the parameters
    average : NO_AVERAGE, OWN_AVERAGE or AVERAGE_OF_M
    with_penalties : True if the objective has the penalties
    tile : rows and columns of a tile of weights
    """

    rows: int
    n_rows: int
    n_weights: int = 0
    n_coefficients: int = 0
    n_steps: int = 0
    n_epochs: int = 0
    train: bool = False
    average: int = NO_AVERAGE
    with_penalties: bool = False
    tile: tuple[int, int] = (1, 1)
    places: tuple[tuple[int, int], ...] = ()
    lowest: int = 0
    n_drawn: int = 0

    def of_groups(self, groups: ParameterGroups, width: int) -> "Need":
        """Return the need of these groups of parameters, with `width` coefficients each."""
        n, places = width * len(groups.groups) + self.n_drawn, groups.places(width)
        return self._replace(n_coefficients=n, places=places, lowest=groups.lowest)


class _Allocator:
    """Assigns consecutive offsets."""

    def __init__(self, start: int = 0) -> None:
        self.end = start

    def take(self, n: int) -> int:
        start, self.end = self.end, self.end + n
        return start


class NetPlan(NamedTuple):
    """A net's plan, shape (1,), its layers, shape (n_layers + 1,), and the sizes of its arrays."""

    plan: NDArray[Any]
    layers: NDArray[Any]
    sizes: Sizes


def make_plan(network: Network, need: Need) -> NetPlan:
    """Return a net's records, and the sizes of its arrays."""
    layout, plans = network.layout, np.zeros(1, dtype_of(Plan))
    plan: Any = plans[0]
    memory, sums = _Allocator(), _Allocator(N_PARTIAL_SUMS)
    plan.n_layers, plan.n_parameters = layout.n_layers, layout.n_parameters
    plan.n_outputs, plan.lowest = layout.sizes[-1], need.lowest
    plan.n_rows, plan.batch, plan.last_chunk = need.n_rows, need.rows, 1
    plan.parameters = memory.take(layout.n_parameters)
    if need.train:
        for name in ("m", "v", "backup"):
            plan[name] = memory.take(layout.n_parameters)
    if need.average != NO_AVERAGE:
        own = need.average == OWN_AVERAGE
        plan.average = memory.take(layout.n_parameters) if own else plan.m
        plan.average_backup = memory.take(layout.n_parameters)
    plan.gradient = memory.take(layout.n_parameters)
    plan.n_coefficients, plan.draws = need.n_coefficients, need.n_coefficients - need.n_drawn
    plan.coefficients = memory.take(need.n_coefficients * need.n_steps)
    plan.weighted, plan.weights = need.n_weights > 0, memory.take(need.n_weights)
    plan.n_penalties = len(network.penalties)
    plan.strengths, plan.row_losses = sums.take(len(network.penalties)), sums.take(need.rows)
    if network.penalties and need.with_penalties:
        plan.n_penalty_sums = min(N_PENALTY_SUMS, layout.n_weights)
    plan.penalty_sums = sums.take(int(plan.n_penalty_sums))
    plan.losses = sums.take(need.n_epochs)
    layers = _layers(network, need, memory)
    plan.n_tiles = layers[-1].first_tile
    return NetPlan(plans, layers, Sizes(memory.end, sums.end))


def _layers(network: Network, need: Need, memory: _Allocator) -> NDArray[Any]:
    layout, sizes = network.layout, network.layout.sizes
    codes = {rule: code for code, rule in enumerate(dict.fromkeys(network.activations))}
    places = need.places or [(0, 0)] * layout.n_layers
    layers: Any = np.zeros(layout.n_layers + 1, dtype_of(Layer))
    tiles = 0
    for i, (n_in, n_out) in enumerate(pairwise((*sizes, sizes[-1]))):
        layer = layers[i]
        layer.n_in, layer.n_out, layer.first_tile = n_in, n_out, tiles
        layer.input_stride = n_in + 1
        layer.inputs = memory.take(need.rows * (n_in + 1))
        layer.derivatives = memory.take(need.rows * (n_in + 1) if i > 0 else 0)
        if i == layout.n_layers:
            break
        layer.w, layer.b = layout.weights[i], layout.biases[i]
        layer.weight_coefficients, layer.bias_coefficients = places[i]
        layer.activation = codes[network.activations[i]]
        layer.delta_stride, layer.deltas = n_out, memory.take(need.rows * n_out)
        tiles += -(-(n_in + 1) // need.tile[0]) * -(-n_out // need.tile[1])
    return layers
