"""The plan: one vector of int64 with the counts and offsets that kernels read.

A launch costs 7 us, and 4 us more for each array, so kernels take five arrays: rows, targets,
`memory` (of the net's dtype), `sums` (float64) and the plan. The constants below are indices into
the plan. Its entries are counts, and offsets into `memory`, `sums` or the plan itself.
"""

from itertools import count, pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastmlp.network.spec import Network

_next = count()
N_LAYERS = next(_next)
N_PARAMETERS = next(_next)
N_OUTPUTS = next(_next)
# Rows of an epoch and of a batch; the number of orders of the rows, 0 for the order of the data.
N_ROWS = next(_next)
BATCH = next(_next)
N_ORDERS = next(_next)
# The steps of a launch, in a window of epochs; the first row of a chunk, for queries.
FIRST = next(_next)
LAST = next(_next)
FIRST_ROW = next(_next)
# Offsets into memory: the flat parameters, the optimizer's state, the parameters at the start of
# the epoch, the gradient, the coefficients of the steps of a call, the weights of the rows.
PARAMETERS = next(_next)
M = next(_next)
V = next(_next)
BACKUP = next(_next)
GRADIENT = next(_next)
COEFFICIENTS = next(_next)
N_COEFFICIENTS = next(_next)
WEIGHTS = next(_next)
WEIGHTED = next(_next)
# The offset of a block's activations, if they are not in shared memory.
SCRATCH = next(_next)
# Offsets into sums, from FIXED_SUMS on: the penalties' strengths, the rows' losses, the penalties'
# values by parts, and the losses of the epochs.
N_PENALTIES = next(_next)
STRENGTHS = next(_next)
ROW_LOSSES = next(_next)
PARTS = next(_next)
N_PARTS = next(_next)
LOSSES = next(_next)
# The mode (TRAIN, PREDICT or EVALUATE); 1 if a gradient continues the previous chunk's; 1 for the
# last chunk.
MODE = next(_next)
MORE = next(_next)
ENDS = next(_next)
N_TILES = next(_next)
# The offset of the orders of the rows in the plan; 1 if the device makes them from random words.
ORDER = next(_next)
SHUFFLED = next(_next)
LAYERS = next(_next)

# Words of layer i, from LAYERS + i * LAYER_WORDS on; one layer more than the net has holds the
# outputs. A layer's inputs end with a column of ones, so that biases are one more row of weights.
_next = count()
N_IN = next(_next)
N_OUT = next(_next)
W = next(_next)
B = next(_next)
CODE = next(_next)
ENTER = next(_next)
ENTER_STRIDE = next(_next)
SLOPE = next(_next)
DELTA = next(_next)
DELTA_STRIDE = next(_next)
# A block's own copies of weights and gradients, whose rows are COPY_STRIDE apart.
COPY = next(_next)
COPY_GRADIENT = next(_next)
COPY_STRIDE = next(_next)
FIRST_TILE = next(_next)
LAYER_WORDS = next(_next)

# In sums.
_next = count()
REACHED = next(_next)
DIVERGED = next(_next)
BAD = next(_next)
EPOCH_LOSS = next(_next)
EPOCH_MASS = next(_next)
BATCH_MASS = next(_next)
BATCH_LOSS = next(_next)
LANES = next(_next)
# The number of partial sums. It does not depend on the number of threads, so neither do the bits.
N_LANES = 32
FIXED_SUMS = LANES + 2 * N_LANES

TRAIN, PREDICT, EVALUATE = 0, 1, 2


class Sizes(NamedTuple):
    """The sizes of a plan: numbers of memory, of sums, and of a block's own space."""

    memory: int
    sums: int
    space: int


class Need(NamedTuple):
    """The requirements of a plan.

    Attributes
    ----------
    rows : rows of a batch, or of a chunk
    n_rows : rows of an epoch
    n_weights : number of row weights, or 0
    n_coefficients, n_steps : coefficients of the optimizer; steps of the longest call
    n_epochs : epochs of the longest window
    train : True if the optimizer's state and a backup are kept
    block : True if a block keeps weights, gradients and activations in a space of its own
    n_parts : number of parts in which the penalties' values are summed
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
    block: bool = False
    n_parts: int = 0
    tile: tuple[int, int] = (1, 1)


class _Ruler:
    """Allocates consecutive ranges."""

    def __init__(self, start: int = 0) -> None:
        self.end = start

    def take(self, n: int) -> int:
        start, self.end = self.end, self.end + n
        return start


def _odd(n: int) -> int:
    """Return an odd stride, with which neither rows nor columns conflict in shared-memory banks."""
    return n | 1


def make_plan(network: Network, need: Need) -> tuple[NDArray[np.int64], Sizes]:
    """Return the plan, with room for the orders of the rows, and its sizes."""
    layout, n_layers = network.layout, network.layout.n_layers
    head = LAYERS + (n_layers + 1) * LAYER_WORDS
    plan = np.zeros(head + need.n_orders * need.n_rows, np.int64)
    memory, sums = _Ruler(), _Ruler(FIXED_SUMS)
    plan[N_LAYERS], plan[N_PARAMETERS] = n_layers, layout.n_parameters
    plan[N_OUTPUTS], plan[N_ROWS], plan[BATCH] = layout.sizes[-1], need.n_rows, need.rows
    plan[PARAMETERS] = memory.take(layout.n_parameters)
    for place in (M, V, BACKUP) if need.train else ():
        plan[place] = memory.take(layout.n_parameters)
    plan[GRADIENT] = memory.take(0 if need.block else layout.n_parameters)
    plan[N_COEFFICIENTS] = need.n_coefficients
    plan[COEFFICIENTS] = memory.take(need.n_coefficients * need.n_steps)
    plan[WEIGHTED], plan[WEIGHTS] = need.n_weights > 0, memory.take(need.n_weights)
    plan[SCRATCH] = memory.end
    plan[N_PENALTIES] = len(network.penalties)
    plan[STRENGTHS] = sums.take(len(network.penalties))
    plan[ROW_LOSSES], plan[PARTS] = sums.take(need.rows), sums.take(need.n_parts)
    plan[N_PARTS], plan[LOSSES] = need.n_parts, sums.take(need.n_epochs)
    plan[ORDER] = head
    space = _Ruler(0 if need.block else memory.end)
    _lay_out_layers(network, need, plan, space)
    if need.block:
        return plan, Sizes(memory.end, sums.end, space.end)
    return plan, Sizes(space.end, sums.end, 0)


def _lay_out_layers(network: Network, need: Need, plan: NDArray[np.int64], space: _Ruler) -> None:
    layout, sizes = network.layout, network.layout.sizes
    codes = {rule: code for code, rule in enumerate(dict.fromkeys(network.activations))}
    stride = _odd if need.block else int
    tiles = 0
    for i, (n_in, n_out) in enumerate(pairwise((*sizes, sizes[-1]))):
        at = LAYERS + i * LAYER_WORDS
        layer = plan[at : at + LAYER_WORDS]
        layer[N_IN], layer[N_OUT] = n_in, n_out
        layer[ENTER_STRIDE] = stride(n_in + 1)
        layer[ENTER] = space.take(need.rows * int(layer[ENTER_STRIDE]))
        layer[SLOPE] = space.take(need.rows * int(layer[ENTER_STRIDE]) if i > 0 else 0)
        if i == layout.n_layers:
            break
        layer[W], layer[B], layer[CODE] = (
            layout.weights[i],
            layout.biases[i],
            codes[network.activations[i]],
        )
        layer[DELTA_STRIDE] = layer[COPY_STRIDE] = stride(n_out)
        layer[DELTA] = space.take(need.rows * int(layer[DELTA_STRIDE]))
        if need.block:
            layer[COPY] = space.take((n_in + 1) * int(layer[COPY_STRIDE]))
            layer[COPY_GRADIENT] = space.take((n_in + 1) * int(layer[COPY_STRIDE]))
        layer[FIRST_TILE] = tiles
        tiles += -(-(n_in + 1) // need.tile[0]) * -(-n_out // need.tile[1])
    plan[LAYERS + layout.n_layers * LAYER_WORDS + FIRST_TILE] = plan[N_TILES] = tiles


def layer_at(plan: Any, i: int) -> Any:
    """Return a layer's words of the plan."""
    return plan[LAYERS + i * LAYER_WORDS : LAYERS + (i + 1) * LAYER_WORDS]
