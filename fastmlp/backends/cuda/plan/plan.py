"""The plan: one vector of integers, from which a kernel reads sizes and offsets.

A launch costs 7 us and 4 us more for each array. So kernels take five arrays: features, targets,
`memory` (of the net's dtype), `sums` (float64) and the plan (int64). The constants below are
indices into the plan. The plan's values are counts, and offsets into `memory`, `sums` or the plan.
"""

from itertools import count, pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastmlp.network.spec import Network
from fastmlp.rules.groups import ParameterGroups

_next = count()
N_LAYERS = next(_next)
N_PARAMETERS = next(_next)
N_OUTPUTS = next(_next)
# Rows of an epoch and of a batch; orders of the rows in the plan, 0: rows in the data's order.
N_ROWS = next(_next)
BATCH = next(_next)
N_ORDERS = next(_next)
# A launch's steps within its window of epochs; the first row of a chunk of an evaluation.
FIRST = next(_next)
LAST = next(_next)
FIRST_ROW = next(_next)
# Offsets into memory: flat parameters, the optimizer's state, the average of the parameters or the
# state from which it follows, parameters and average before the epoch, the gradient, the
# coefficients of a launch's steps, the rows' weights.
PARAMETERS = next(_next)
M = next(_next)
V = next(_next)
AVERAGE = next(_next)
BACKUP = next(_next)
AVERAGE_BACKUP = next(_next)
GRADIENT = next(_next)
COEFFICIENTS = next(_next)
N_COEFFICIENTS = next(_next)
# Where the numbers of dropout begin in a step's coefficients.
DRAWS = next(_next)
# The first layer that is trained.
LOWEST = next(_next)
WEIGHTS = next(_next)
WEIGHTED = next(_next)
# The space of a block that has no shared memory for it.
SCRATCH = next(_next)
# Offsets into sums: the penalties' strengths, the rows' losses, the partial sums of the penalties,
# the epochs' losses.
N_PENALTIES = next(_next)
STRENGTHS = next(_next)
ROW_LOSSES = next(_next)
PENALTY_SUMS = next(_next)
N_PENALTY_SUMS = next(_next)
LOSSES = next(_next)
# TRAIN, PREDICT or EVALUATE; True if a gradient adds to the previous chunk's; True for the last
# chunk.
MODE = next(_next)
ACCUMULATE = next(_next)
LAST_CHUNK = next(_next)
N_TILES = next(_next)
# The offset of the row orders in the plan; True if the device makes them from random words.
ORDERS = next(_next)
SHUFFLED = next(_next)
LAYERS = next(_next)

# A layer's words, from LAYERS + i * LAYER_WORDS on. One layer more than the net's has the outputs.
# A layer's inputs end with a column of ones, so biases are one row more of the weights.
_next = count()
N_IN = next(_next)
N_OUT = next(_next)
W = next(_next)
B = next(_next)
ACTIVATION = next(_next)
INPUT = next(_next)
INPUT_STRIDE = next(_next)
# The derivative of the previous layer's activation, at this layer's inputs.
DERIVATIVE = next(_next)
DELTA = next(_next)
DELTA_STRIDE = next(_next)
# The block's own weights and gradient, rows BLOCK_STRIDE apart.
BLOCK_WEIGHTS = next(_next)
BLOCK_GRADIENT = next(_next)
BLOCK_STRIDE = next(_next)
FIRST_TILE = next(_next)
# Offsets of the coefficients of the layer's weights and biases in a step's; FROZEN: no step.
WEIGHT_COEFFICIENTS = next(_next)
BIAS_COEFFICIENTS = next(_next)
LAYER_WORDS = next(_next)

# Indices into sums.
_next = count()
REACHED = next(_next)
DIVERGED = next(_next)
NON_FINITE = next(_next)
EPOCH_LOSS = next(_next)
EPOCH_MASS = next(_next)
BATCH_MASS = next(_next)
BATCH_LOSS = next(_next)
LOSS_SUMS = next(_next)
# The number of partial sums is independent of the number of threads, and so are the bits.
N_PARTIAL_SUMS = 32
MASS_SUMS = LOSS_SUMS + N_PARTIAL_SUMS
FIXED_SUMS = MASS_SUMS + N_PARTIAL_SUMS

TRAIN, PREDICT, EVALUATE = 0, 1, 2
# What a net shows: its parameters, an average in a slot of its own, one that follows from M.
NO_AVERAGE, OWN_AVERAGE, AVERAGE_OF_M = 0, 1, 2


class Sizes(NamedTuple):
    """Numbers that a plan needs in memory, in sums, and in the block's space."""

    memory: int
    sums: int
    space: int


class Need(NamedTuple):
    """The requirements of a plan.

    Attributes
    ----------
    rows : rows of a batch, or of a chunk
    n_rows : rows of an epoch
    n_weights : rows with a weight; 0: rows count alike
    n_coefficients, n_steps : coefficients of a step, and steps of the longest launch
    n_drawn : numbers of dropout, the last of a step's coefficients
    places : of each layer, where its weights' and its biases' coefficients begin, or FROZEN; empty:
        all at 0
    lowest : the first layer that is trained
    n_epochs : epochs of the longest window
    n_orders : orders of the rows
    train : True if memory has the optimizer's state and a backup of the parameters
    average : NO_AVERAGE, OWN_AVERAGE or AVERAGE_OF_M
    block : True if a block keeps weights, gradients and activations in a space of its own
    n_penalty_sums : partial sums of the penalties
    tile : rows and columns of a tile of weights
    """

    rows: int
    n_rows: int
    n_weights: int = 0
    n_coefficients: int = 0
    n_steps: int = 0
    n_epochs: int = 0
    n_orders: int = 0
    train: bool = False
    average: int = NO_AVERAGE
    block: bool = False
    n_penalty_sums: int = 0
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


def _odd(n: int) -> int:
    """Return a stride at which neither rows nor columns share a bank of shared memory."""
    return n | 1


def make_plan(network: Network, need: Need) -> tuple[NDArray[np.int64], Sizes]:
    """Return a net's plan, with room for the row orders, and the sizes of its arrays."""
    layout, n_layers = network.layout, network.layout.n_layers
    head = LAYERS + (n_layers + 1) * LAYER_WORDS
    plan = np.zeros(head + need.n_orders * need.n_rows, np.int64)
    memory, sums = _Allocator(), _Allocator(FIXED_SUMS)
    plan[N_LAYERS], plan[N_PARAMETERS] = n_layers, layout.n_parameters
    plan[N_OUTPUTS], plan[N_ROWS], plan[BATCH] = layout.sizes[-1], need.n_rows, need.rows
    plan[PARAMETERS] = memory.take(layout.n_parameters)
    offsets = [M, V, BACKUP] if need.train else []
    if need.average == OWN_AVERAGE:
        offsets.append(AVERAGE)
    if need.average != NO_AVERAGE:
        offsets.append(AVERAGE_BACKUP)
    for offset in offsets:
        plan[offset] = memory.take(layout.n_parameters)
    if need.average == AVERAGE_OF_M:
        plan[AVERAGE] = plan[M]
    plan[GRADIENT] = memory.take(0 if need.block else layout.n_parameters)
    plan[N_COEFFICIENTS], plan[LOWEST] = need.n_coefficients, need.lowest
    plan[DRAWS] = need.n_coefficients - need.n_drawn
    plan[COEFFICIENTS] = memory.take(need.n_coefficients * need.n_steps)
    plan[WEIGHTED], plan[WEIGHTS] = need.n_weights > 0, memory.take(need.n_weights)
    plan[SCRATCH] = memory.end
    plan[N_PENALTIES] = len(network.penalties)
    plan[STRENGTHS] = sums.take(len(network.penalties))
    plan[ROW_LOSSES] = sums.take(need.rows)
    plan[PENALTY_SUMS] = sums.take(need.n_penalty_sums)
    plan[N_PENALTY_SUMS], plan[LOSSES] = need.n_penalty_sums, sums.take(need.n_epochs)
    plan[ORDERS] = head
    space = _Allocator(0 if need.block else memory.end)
    _lay_out_layers(network, need, plan, space)
    if need.block:
        return plan, Sizes(memory.end, sums.end, space.end)
    return plan, Sizes(space.end, sums.end, 0)


def _lay_out_layers(
    network: Network, need: Need, plan: NDArray[np.int64], space: _Allocator
) -> None:
    layout, sizes = network.layout, network.layout.sizes
    codes = {rule: code for code, rule in enumerate(dict.fromkeys(network.activations))}
    stride = _odd if need.block else int
    places = need.places or [(0, 0)] * layout.n_layers
    tiles = 0
    for i, (n_in, n_out) in enumerate(pairwise((*sizes, sizes[-1]))):
        at = LAYERS + i * LAYER_WORDS
        layer = plan[at : at + LAYER_WORDS]
        layer[N_IN], layer[N_OUT] = n_in, n_out
        layer[INPUT_STRIDE] = stride(n_in + 1)
        layer[INPUT] = space.take(need.rows * int(layer[INPUT_STRIDE]))
        layer[DERIVATIVE] = space.take(need.rows * int(layer[INPUT_STRIDE]) if i > 0 else 0)
        if i == layout.n_layers:
            break
        layer[W], layer[B] = layout.weights[i], layout.biases[i]
        layer[WEIGHT_COEFFICIENTS], layer[BIAS_COEFFICIENTS] = places[i]
        layer[ACTIVATION] = codes[network.activations[i]]
        layer[DELTA_STRIDE] = layer[BLOCK_STRIDE] = stride(n_out)
        layer[DELTA] = space.take(need.rows * int(layer[DELTA_STRIDE]))
        if need.block:
            layer[BLOCK_WEIGHTS] = space.take((n_in + 1) * int(layer[BLOCK_STRIDE]))
            layer[BLOCK_GRADIENT] = space.take((n_in + 1) * int(layer[BLOCK_STRIDE]))
        layer[FIRST_TILE] = tiles
        tiles += -(-(n_in + 1) // need.tile[0]) * -(-n_out // need.tile[1])
    plan[LAYERS + layout.n_layers * LAYER_WORDS + FIRST_TILE] = plan[N_TILES] = tiles
