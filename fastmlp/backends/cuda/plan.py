"""The plan of a net: records and arrays that kernels read,
rules, shapes of tiles, and refusals.

A launch takes 7 us and 4 us more for each array: the rows, x and y, and six of `Nets`,
in which a net has a row or a record each. Offsets are into `memory`, of the net's
dtype, or `sums`, float64.

`rules_of` calls `refuse` before a fit copies anything to the GPU or compiles.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastmlp.backends.cuda import device
from fastmlp.backends.cuda.device import Card, type_of
from fastmlp.compiler.memory import Record
from fastmlp.network.spec import Network
from fastmlp.rules import optimizer_protocol
from fastmlp.rules.losses import Link, Loss
from fastmlp.rules.updates import ParameterGroups, groups_of
from fastmlp.validation import Array

TRAIN = 0
PREDICT = 1
EVALUATE = 2
# A net shows its parameters, an average in a slot, or an average that follows from m.
NO_AVERAGE = 0
OWN_AVERAGE = 1
AVERAGE_OF_M = 2
# Losses and row weights are summed by these partial sums; the losses' begin `sums`. The
# number of partial sums, and so the bits, are independent of the number of threads.
N_PARTIAL_SUMS = 32
# The most partial sums of the penalties, whatever the number of blocks.
N_PENALTY_SUMS = 1 << 13
# The mass of a batch that a net does not take:
# its training, or its part of a launch, has ended.
NO_STEP = -1.0
Function = Callable[..., Any]


class Plan(Record):
    """A net: sizes, what a launch does, and,
    unless said otherwise, offsets into memory.
    """

    n_layers: int
    n_parameters: int
    n_outputs: int
    lowest: int  # first layer that is trained
    n_rows: int  # of an epoch
    batch: int  # rows of a batch
    n_orders: int  # orders of the rows; 0: rows in the data's order
    mode: int  # TRAIN, PREDICT or EVALUATE
    first: int  # a launch's steps within its window of epochs
    last: int  # after the last
    first_row: int  # of a chunk of an evaluation
    accumulate: int  # 1: a chunk's gradient is added to the sum so far
    last_chunk: int
    n_tiles: int  # of the weights
    parameters: int  # flat
    m: int  # the optimizer's state
    v: int
    average: int  # the average of the parameters, or the state from which it follows
    backup: int  # parameters before the epoch
    average_backup: int
    gradient: int
    coefficients: int  # of a launch's steps
    n_coefficients: int  # of a step
    draws: int  # offset of dropout's numbers, the last ones
    weights: int  # of the rows
    weighted: int  # 1: rows have weights
    n_penalties: int
    strengths: int  # offsets into sums
    penalty_sums: int  # partial sums
    n_penalty_sums: int
    row_losses: int
    losses: int  # of the epochs


class Layer(Record):
    """A layer; one more than the net's has the outputs.

    The inputs end with a column of ones, so biases are one row more of the weights.
    """

    n_in: int
    n_out: int
    activation: int  # code
    w: int  # offset of the weights
    b: int  # offset of the biases
    inputs: int
    input_stride: int
    derivatives: int  # of the previous layer's activation, at this layer's inputs
    deltas: int
    delta_stride: int
    first_tile: int
    weight_coefficients: int  # offsets in a step's coefficients; FROZEN: no step
    bias_coefficients: int


class NetProgress(Record):
    """A training's, or an evaluation's, progress, which kernels write."""

    reached: int  # step of the window
    diverged: int  # 1: a number was not finite; the training has ended
    epoch_loss: float  # weighted by the rows' weights
    epoch_mass: float
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
    orders : int64, shape (n_nets, n), row numbers, one order after the other
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

        The type is kept, as it takes 0.15 ms of CPU time:
        `Session` makes all arrays alike but for the dtype.
        """
        dtype = self.memory.dtype
        if dtype not in _TYPES:
            _TYPES[dtype] = type_of(self)
        return _TYPES[dtype]


_TYPES: dict[np.dtype[Any], Any] = {}


def dtype_of(kind: type[Record]) -> np.dtype[Any]:
    """Aligned: else kernels read a field by 8 loads of a byte."""
    return np.dtype((np.record, np.dtype(kind.dtype.descr, align=True)))


class Sizes(NamedTuple):
    memory: int
    sums: int


class Need(NamedTuple):
    """Requirements of a plan.

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
    train : True if memory has the optimizer's state and a backup of the parameters
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
        """`width`: coefficients of each group."""
        n = width * len(groups.groups) + self.n_drawn
        places = groups.places(width)
        return self._replace(n_coefficients=n, places=places, lowest=groups.lowest)


class _Allocator:
    def __init__(self, start: int = 0) -> None:
        self.end = start

    def take(self, n: int) -> int:
        start = self.end
        self.end = self.end + n
        return start


class NetPlan(NamedTuple):
    """A net's plan, shape (1,), its layers,
    shape (n_layers + 1,), and the sizes of its arrays.
    """

    plan: NDArray[Any]
    layers: NDArray[Any]
    sizes: Sizes


def make_plan(network: Network, need: Need) -> NetPlan:
    """Lay a net's numbers out in two vectors of the card, one of the net's dtype and
    one of float64 sums; places are counted from their starts.
    """
    layout = network.layout
    plans = np.zeros(1, dtype_of(Plan))
    plan: Any = plans[0]
    memory = _Allocator()
    sums = _Allocator(N_PARTIAL_SUMS)
    plan.n_layers = layout.n_layers
    plan.n_parameters = layout.n_parameters
    plan.n_outputs = layout.sizes[-1]
    plan.lowest = need.lowest
    plan.n_rows = need.n_rows
    plan.batch = need.rows
    plan.last_chunk = 1
    plan.parameters = memory.take(layout.n_parameters)
    if need.train:
        for name in ("m", "v", "backup"):
            plan[name] = memory.take(layout.n_parameters)
    if need.average != NO_AVERAGE:
        own = need.average == OWN_AVERAGE
        plan.average = memory.take(layout.n_parameters) if own else plan.m
        plan.average_backup = memory.take(layout.n_parameters)
    plan.gradient = memory.take(layout.n_parameters)
    plan.n_coefficients = need.n_coefficients
    plan.draws = need.n_coefficients - need.n_drawn
    plan.coefficients = memory.take(need.n_coefficients * need.n_steps)
    plan.weighted, plan.weights = need.n_weights > 0, memory.take(need.n_weights)
    plan.n_penalties = len(network.penalties)
    plan.strengths, plan.row_losses = (
        sums.take(len(network.penalties)),
        sums.take(need.rows),
    )
    if network.penalties and need.with_penalties:
        plan.n_penalty_sums = min(N_PENALTY_SUMS, layout.n_weights)
    plan.penalty_sums = sums.take(int(plan.n_penalty_sums))
    plan.losses = sums.take(need.n_epochs)
    layers = _layers(network, need, memory)
    plan.n_tiles = layers[-1].first_tile
    return NetPlan(plans, layers, Sizes(memory.end, sums.end))


def _layers(network: Network, need: Need, memory: _Allocator) -> NDArray[Any]:
    """Places of each layer's buffers, and a last record that has the outputs alone and
    the number of all tiles.
    """
    layout = network.layout
    sizes = network.layout.sizes
    codes = {rule: code for code, rule in enumerate(dict.fromkeys(network.activations))}
    places = need.places or [(0, 0)] * layout.n_layers
    layers: Any = np.zeros(layout.n_layers + 1, dtype_of(Layer))
    tiles = 0
    for i, (n_in, n_out) in enumerate(pairwise((*sizes, sizes[-1]))):
        layer = layers[i]
        layer.n_in = n_in
        layer.n_out = n_out
        layer.first_tile = tiles
        layer.input_stride = n_in + 1
        layer.inputs = memory.take(need.rows * (n_in + 1))
        layer.derivatives = memory.take(need.rows * (n_in + 1) if i > 0 else 0)
        if i == layout.n_layers:
            break
        layer.w = layout.weights[i]
        layer.b = layout.biases[i]
        layer.weight_coefficients, layer.bias_coefficients = places[i]
        layer.activation = codes[network.activations[i]]
        layer.delta_stride, layer.deltas = n_out, memory.take(need.rows * n_out)
        tiles += -(-(n_in + 1) // need.tile[0]) * -(-n_out // need.tile[1])
    return layers


def refuse(network: Network, optimizer: optimizer_protocol.Optimizer) -> None:
    """Raise a ValueError, with the feature and the alternative,
    for a training that needs the CPU.
    """
    if optimizer_protocol.norm_limit_of(optimizer) is not None:
        feature = (
            "clip gradients by their norm (clipnorm, global_clipnorm): use clipvalue"
        )
        raise refused(feature)
    if network.compute_dtype is not None:
        raise refused(
            "train in mixed precision (compute_dtype): use compute_dtype=None"
        )
    if network.signs:
        raise refused("keep the signs of weights (monotonic_cst): leave it out")


def refused(feature: str) -> ValueError:
    return ValueError(f'MLP: device="cuda" does not {feature}, or device="cpu"')


class KernelRules(NamedTuple):
    """The rules of a kernel, the key of the cache of compiled kernels.

    Attributes
    ----------
    activations : the distinct activations of a net; an activation's code is its index here
    update : the optimizer's rule, or None for a kernel without an update
    n_coefficients : of the optimizer's rule and the gradient rule
    gradient_rule : name, or ""
    average : NO_AVERAGE, OWN_AVERAGE (the gain is the last coefficient) or AVERAGE_OF_M
    draws : with dropout or noise
    """

    dtype: str
    activations: tuple[Function, ...]
    loss: Loss
    link: Link
    penalties: tuple[Function, ...]
    update: Function | None = None
    n_coefficients: int = 0
    gradient_rule: str = ""
    average: int = NO_AVERAGE
    draws: bool = False

    @property
    def scalar(self) -> type[Any]:
        return np.dtype(self.dtype).type


def rules_of(
    network: Network, optimizer: optimizer_protocol.Optimizer | None = None
) -> KernelRules:
    """The rules of a network, and of its optimizer if there is one;
    a ValueError if kernels are missing.
    """
    if not network.layout.is_plain:
        raise refused("compute norms, residual blocks or skip: use layers without")
    if network.heads or network.link.parts:
        raise refused(
            "take heads, a loss for each slice of the outputs: use a net a loss"
        )
    update = None
    n = 0
    gradient_rule = ""
    average = NO_AVERAGE
    if optimizer is not None:
        refuse(network, optimizer)
        update = optimizer.rule
        gradient_rule = optimizer_protocol.gradient_rule_of(optimizer)
        n = optimizer_protocol.coefficients_of(optimizer, 1, np.ones(1)).shape[1]
        if optimizer_protocol.is_averaged(optimizer):
            if optimizer_protocol.lag_of(optimizer):
                average = AVERAGE_OF_M
            else:
                average = OWN_AVERAGE
    return KernelRules(
        network.dtype.name,
        tuple(dict.fromkeys(network.activations)),
        network.loss,
        network.link,
        tuple(rule for rule, _ in network.penalties),
        update,
        n,
        gradient_rule,
        average,
        optimizer is not None and network.dropout is not None,
    )


class TileShape(NamedTuple):
    """The tile of a matrix product that a block computes.

    Attributes
    ----------
    across, down : threads along columns and along rows
    rows, columns : sums of a thread
    depth : of the tiles in shared memory
    """

    across: int
    down: int
    rows: int
    columns: int
    depth: int = 16

    @property
    def n_threads(self) -> int:
        return self.across * self.down

    @property
    def tile_rows(self) -> int:
        return self.down * self.rows

    @property
    def tile_columns(self) -> int:
        return self.across * self.columns

    @property
    def staging(self) -> int:
        """Numbers of shared memory; one padding column reduces bank conflicts."""
        return self.depth * (self.tile_rows + 1 + self.tile_columns + 1)


class GridShape(NamedTuple):
    """Both phases have the same number of threads.

    Attributes
    ----------
    rows : tile of the forward and the backward pass
    weights : tile of the gradient
    """

    rows: TileShape
    weights: TileShape

    @property
    def n_threads(self) -> int:
        return self.rows.n_threads

    @property
    def staging(self) -> int:
        """Numbers of shared memory, enough for either phase."""
        return max(self.rows.staging, self.weights.staging)


# 16 rows of 128, or 64 of 64; weights in 32 of 32, or in 64 of 64.
FEW_ROWS_TILE = TileShape(32, 8, 2, 4)
MANY_ROWS = TileShape(16, 16, 4, 4)
FEW_WEIGHTS = TileShape(16, 16, 2, 2)
MANY_WEIGHTS = TileShape(16, 16, 4, 4)
# The simulator takes 0.3 s for a block of 256 threads.
SIMULATED_TILE = TileShape(2, 2, 2, 2, 3)
SIMULATED_THREADS = 8


def grid_shape(network: Network, n_rows: int, card: Card, n_nets: int = 1) -> GridShape:
    """Large tiles if there are enough of them for all multiprocessors;
    n rows pass at once.
    """
    if device.SIMULATED:
        return GridShape(SIMULATED_TILE, SIMULATED_TILE)
    enough = card.n_multiprocessors
    if n_nets * n_rows >= enough * MANY_ROWS.tile_rows:
        rows = MANY_ROWS
    else:
        rows = FEW_ROWS_TILE
    if n_nets * n_tiles(network, MANY_WEIGHTS) >= enough:
        weights = MANY_WEIGHTS
    else:
        weights = FEW_WEIGHTS
    return GridShape(rows, weights)


def training_need(
    shape: GridShape,
    network: Network,
    optimizer: optimizer_protocol.Optimizer,
    batch: int,
    n_rows: int,
    n_weights: int,
    n_steps: int,
) -> Need:
    """`n_steps`: the most of a launch."""
    rules = rules_of(network, optimizer)
    groups = groups_of(optimizer, network.factors)
    need = Need(
        batch,
        n_rows,
        n_weights=n_weights,
        n_steps=n_steps,
        n_epochs=n_steps + 1,
        train=True,
        average=rules.average,
        with_penalties=True,
        n_drawn=network.dropout.n_numbers if network.dropout else 0,
        tile=(shape.weights.tile_rows, shape.weights.tile_columns),
    )
    return need.of_groups(groups, rules.n_coefficients)


def n_tiles(network: Network, shape: TileShape) -> int:
    need = Need(1, 1, tile=(shape.tile_rows, shape.tile_columns))
    return int(make_plan(network, need).plan["n_tiles"][0])


class Session:
    """The memory of nets with the same layers, one plan for each net.

    Attributes
    ----------
    plans : `Plan`, shape (n_nets,), on the host
    nets : arrays on the GPU
    """

    plans: NDArray[Any]
    nets: Nets
    sizes: Sizes

    def __init__(
        self, card: Card, networks: Sequence[Network], need: Need, *, who: str
    ) -> None:
        self.card = card
        n_nets = len(networks)
        dtype = networks[0].dtype
        plan, layers, self.sizes = make_plan(networks[0], need)
        self.plans = np.repeat(plan, n_nets)
        numbers = bytes_of(networks[0], need) + 8 * need.n_rows
        card.require_bytes(n_nets * numbers + self.plans.nbytes + layers.nbytes, who)
        with card.current():
            self.nets = Nets(
                card.copied(np.zeros((n_nets, self.sizes.memory), dtype)),
                card.copied(self._first_sums(networks)),
                card.copied(np.zeros(n_nets, dtype_of(NetProgress))),
                card.copied(self.plans),
                card.copied(layers),
                card.empty((n_nets, need.n_rows), np.int64),
            )

    def _first_sums(self, networks: Sequence[Network]) -> Array:
        sums = np.zeros((len(networks), self.sizes.sums))
        start = int(self.plans["strengths"][0])
        for net, network in enumerate(networks):
            strengths = [strength for _, strength in network.penalties]
            sums[net, start : start + len(strengths)] = strengths
        return sums

    def set(self, net: int = 0, **fields: int) -> None:
        for name, value in fields.items():
            self.plans[name][net] = value

    def send_plans(self) -> None:
        self.nets.plans.copy_to_device(self.plans)

    def send_orders(
        self, orders: Mapping[int, NDArray[np.int64]], changed: Iterable[int]
    ) -> None:
        """Copy the nets' row orders to the GPU;
        all where they need more room there than before.
        """
        n = max(order.size for order in orders.values())
        if self.nets.orders.shape[1] < n:
            self.nets = self.nets._replace(orders=None)
            changed = [*orders]
            table = self.card.empty((len(self.plans), n), np.int64)
            self.nets = self.nets._replace(orders=table)
        for net in changed:
            flat = np.ascontiguousarray(orders[net]).reshape(-1)
            self.nets.orders[net, : flat.size].copy_to_device(flat)

    def put(self, field: str, values: Any, net: int = 0) -> None:
        """Copy flat values, from host or GPU,
        to a net's memory, at the offset in this field.
        """
        self.get(field, len(values), net).copy_to_device(values)

    def get(self, field: str, n: int, net: int = 0) -> Any:
        """A view, on the GPU, of n numbers of memory from the offset in this field
        on.
        """
        start = int(self.plans[field][net])
        return self.nets.memory[net, start : start + n]

    @property
    def n_bytes(self) -> int:
        """Bytes on the GPU."""
        return int(self.nets.memory.size * self.nets.memory.dtype.itemsize)

    def progress(self) -> Any:
        """A copy of each net's `NetProgress`, after all launches have ended."""
        return self.nets.progress.copy_to_host()

    def set_progress(self, net: int = 0, **fields: float) -> None:
        progress = self.progress()
        for name, value in fields.items():
            progress[name][net] = value
        self.nets.progress.copy_to_device(progress)


def bytes_of(network: Network, need: Need) -> int:
    """GPU memory of one net, without the row orders."""
    sizes = make_plan(network, need).sizes
    return sizes.memory * network.dtype.itemsize + 8 * sizes.sums
