"""The records that kernels read: a net,
its buffers and its rows, as sizes and addresses.

A kernel takes the address of a `Net`, and its control as arguments. Kernels call each
other by address, a third of the compile time of nested ones (11 s).
"""

import ctypes
from collections.abc import Sequence
from ctypes import addressof, c_char
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastmlp.compiler import njit
from fastmlp.compiler.memory import Record, record_at, records_at

BUFFER_NAMES = (
    "inputs", "raw", "value", "slope", "loss_slope", "targets", "row_losses",
    "parameters", "backup", "zeros", "row_copy",
)  # fmt: skip
# The transposed weights that use non-temporal stores;
# STORE_OTHERS_PAST: weights that other threads read.
STORE_NO_COPY_PAST, STORE_OTHERS_PAST, STORE_ALL_PAST = range(3)
# How a layer finishes its products: not at all, by its activation's block,
# by relu's epilogue, or by that and dropout, which writes the slopes.
LINEAR, BLOCK, RELU, RELU_DROPPED = range(4)
# How predictions depend on raw outputs: not at all, each on one, or by softmax.
LINKLESS, BY_NUMBER, SOFTMAX = range(3)


class Layer(Record):
    """Weights are packed; training holds a transposed copy too, if it needs one."""

    n_in: int
    n_out: int
    n_panels: int  # n_out in whole vectors
    packed: int  # address of the packed weights
    packed_rows: int
    packed_panels: int
    packed_panel: int  # bytes of a panel
    middle: int  # first row of a split layer's second half
    gap: int  # bytes of room in front of it
    biases: int  # address
    transposed_copy: int  # address, or 0
    copy_panel: int  # bytes
    weights: int  # address of the form that the forward pass reads
    weight_panel: int  # bytes
    transposed: int  # address of the form that the backward pass reads, or 0
    transposed_panel: int  # bytes
    outputs: int  # address of the values, in panels of the chunk's rows
    deltas: int  # address, perhaps the same; first slopes of the activation
    offset: int  # of the weights in the flat parameters
    bias_offset: int
    is_transposed: int  # 1: `packed` holds W transposed
    form: int  # LINEAR, BLOCK, RELU or RELU_DROPPED
    activation: int  # address of a block, or 0
    weight_coefficients: int  # bytes into a step's row of coefficients, or FROZEN
    bias_coefficients: int
    steps_biases_with_weights: int  # 1: one group; the biases are one row more
    dropped: int  # number of the dropped layer, from 1, or 0
    pairs: int  # 1: its products take pairs of bfloat16
    inputs_along: int  # addresses of pairs along and across the rows, or 0
    inputs_across: int
    outputs_along: int  # if the next layer's products take pairs
    outputs_across: int
    deltas_along: int
    deltas_across: int
    stages: int  # 1: its sums are finished by rows, in stages
    sums: int  # address of its sums, where they are not the values
    values: int  # of its activation's values: outputs, unless a norm follows
    slopes: int  # of its activation's slopes: deltas, unless other deltas come between
    inner_form: (
        int  # how its activation is finished; `form` has the products' part of it
    )
    defers: int  # 1: slopes are not multiplied by products, as other deltas come first
    added: int  # address of the values that are added to its sums, or 0
    skip_deltas: int  # of the deltas of the layer to which its values are added, or 0
    norm: int  # addresses of a `Norm`, or 0: of the sums
    end_norm: int  # of the values
    norm_rows: int  # rows of gains and shifts, which follow the biases in a panel
    norm_offsets: (
        int  # address of their offsets in the flat parameters, int64 (norm_rows,)
    )
    norm_sums: int  # of their gradients by strips, in panels
    norm_sums_bytes: int  # from one row's to the next
    takes_inputs: int  # 1: the rows' inputs follow its outputs, for the output layer


class Norm(Record):
    """A norm of a layer's units."""

    centred: int  # 1: "layer", whose shifts follow the gains in a panel; 0: "rms"
    gains: int  # addresses: packed
    means: int  # a number a row
    roots: int  # one over the root of the variance, a number a row
    gain_sums: int  # the gradient by strips, in panels
    shift_sums: int
    numbers: int  # see `plan.stages.Numbers`


class Tile(Record):
    """A piece of phase two: some rows of some panels of a layer's packed weights."""

    layer: int
    first: int  # row
    last: int  # after the last; equal to `first`: an empty tile
    panel: int
    n_panels: int
    offset: int  # bytes from the net's first packed parameter
    slot: int  # number in the order of the parameters, for any number of threads
    cached_first: int  # first transposed row that its thread reads in the backward pass
    cached_last: int  # after the last; stored through the cache


class Net(Record):
    """A net and its buffers, fixed while a session lives."""

    n_layers: int
    lowest: int  # first layer that is trained
    n_in: int
    n_out: int
    n_targets: int  # numbers of a row's target: n_out, or 1 for class labels
    max_width: int
    n_packed: int  # packed parameters
    layers: int  # address of `Layer` (n_layers,)
    n_tiles: int
    tiles: int  # address of `Tile` (n_tiles,)
    address: int  # of this record
    batch: int  # address of the `Batch`
    blocks: int  # address of the `BlockAddresses`
    panel: int  # bytes of a panel of the chunk's rows
    delta_panel: int  # bytes of a panel of the output layer's deltas, where transposed
    inputs: int  # addresses of buffers: the chunk's rows in panels
    raw: int  # output layer: pre-activations, in columns
    value: int  # values
    slope: int  # slopes of the activation
    loss_slope: int  # slopes of the loss
    targets: int  # in columns
    row_losses: int  # float64
    parameters: int  # packed
    backup: int  # parameters at the start of the epoch
    zeros: int  # a vector
    output_bytes: int  # from one thread's buffers of the output layer to the next one's
    row_copy: int  # address of the first thread's packed rows
    row_copy_bytes: int  # from one thread's to the next; 0: rows are not packed
    m: int  # addresses of the optimizer's state, packed
    v: int
    n_moments: int  # that the rule uses
    average: int  # address of the average that the net shows, or 0
    average_backup: int  # of a copy at the start of the epoch
    signs: int  # address of the constraints, packed, in the net's dtype, or 0
    gradient: int  # address of the packed gradient, or 0
    unpacked: int  # address of the flat parameters, for predictions of sparse rows
    strip_losses: int  # address of float64, each strip's weighted loss
    n_heads: int  # 0: the net has one loss
    head_strips: (
        int  # bytes from the strips' losses to the first head's, and to the next
    )
    tile_penalties: int  # address of float64 (n_tiles,)
    tile_squares: int  # clipping by norm: float64 (n_tiles, n_variables), by slot
    tile_order: int  # int64 (n_tiles,): tiles in the order of the parameters
    factors: int  # float64 (n_layers, n_variables)
    norm_by_variable: int  # 1: each variable has a norm; 0: one norm of all
    norm_limit: float
    n_penalties: int
    penalties: int  # addresses of blocks
    strengths: int
    scales: int  # strengths over the rows of the batch
    by_panels: int  # 1: a team shares phase one by panels of each layer
    split_layer: int  # from 1, or 0
    middle: int  # first input of the split layer's second half
    inputs_apart: int  # bytes from the first half's gathered rows to the second's
    non_temporal: int  # STORE_NO_COPY_PAST, STORE_OTHERS_PAST or STORE_ALL_PAST
    prefetches_state: int  # 1: the update's parameters and state are prefetched
    prefetches_rows: int  # 1: the next batch's rows of X are
    x_columns: int  # sparse rows: addresses
    x_values: int
    column_starts: int  # the chunk's numbers by column (CSC)
    column_rows: int
    column_values: int
    expansion: int  # expanded rows: address of the `Expansion`
    microbatch_rows: int  # or 0
    replicas: int  # addresses of each thread's `Net` for microbatches
    partials: int  # address of gradients (n_microbatches, n_packed)
    draws: int  # bytes from a step's coefficients to dropout's numbers
    disturbs: int  # 1: training drops inputs, or adds noise to them
    strip_panel: int  # bytes of a panel of gradients by strips
    derivatives: (
        int  # steps with derivatives by the inputs: address of the record, or 0
    )


class Derivatives(Record):
    """A chunk's derivatives of outputs by inputs,
    and each thread's buffers for a block of rows.

    A thread's buffer has panels of a block of rows, one after the other: of all hidden
    layers the slopes, the curvatures, the second-order terms, and for each output the
    products; then the Jacobian of raw outputs, and with a link the Jacobian of
    predictions.
    """

    given: int  # 1: gradients by the raw Jacobian; 0: targets of the Jacobian
    values: int  # address of (n_rows, n_out, n_in)
    known: int  # float64 (n_rows,): each row's known targets, times its weight
    weights: int  # (n_out, n_in in whole vectors): of the columns' squares
    limit: int  # address of a number above all targets
    scale: float  # the batch's mass over the sum of `known`, or 0
    squares: int  # float64 (n_strips,): each strip's squares, without `weights`
    buffers: int  # address of the first thread's
    buffer_bytes: int  # from one thread's to the next one's
    n_panels: int  # of all hidden layers
    link: int  # LINKLESS, BY_NUMBER or SOFTMAX
    link_block: int  # address of the slopes' block, or of softmax's
    epoch_squares: float
    epoch_known: float
    losses: int  # float64 (n_epochs,), mean squares, or 0


class Expansion(Record):
    """Rows in which a number stands for several inputs: plain numbers first, which
    stand for one, then numbers of pieces, then levels. The last two are columns, and
    columns are numbered.
    """

    n_plain: int
    n_pieces: int  # columns of pieces
    n_columns: int  # of pieces or levels
    n_groups: int
    columns: int  # int64, the column of each input that is not plain
    # int64 (n_columns + 1,), first input of each column, and the number of inputs
    starts: int
    firsts: int  # int32 (n_columns,), the same
    lasts: int  # (n_columns,), last piece or level
    # (n_columns,), 1 for levels: -1, no level, has the fraction 0, the others 1
    wholes: int
    groups: int  # int64 (n_groups + 1,), columns whose running sums are made together
    offsets: int  # int32 (n_rows, n_columns), bytes to the piece or level
    fractions: int  # (n_rows, n_columns), of the piece; 1 for a level, 0 without one


class Batch(Record):
    """Fields that change with the batch are on one line: workers fetch it."""

    index: int  # address of int64 (n_rows,): the chunk's rows in x; 0: in order
    n_rows: int
    coefficients: int  # address of this step's coefficients
    order_stop: int  # address after the epoch's order of rows
    scale: float  # 1 / rows of the batch, or 1 / sum of their weights
    position: int  # of the chunk's first row in its batch
    x: int  # addresses: rows, or the start of each sparse row
    y: int  # (n, n_targets)
    weight: int  # (n,), or 0
    out: int  # predictions, (n_rows, n_out), or 0


class BlockAddresses(Record):
    forward_backward: int  # (team, net, n_parts, mode, split): phase one, by rows
    by_panels: (
        int  # (team, net, n_parts, mode, split): phase one, by panels of each layer
    )
    split_k: int  # (team, net, n_parts): products of the split layer and below
    split_k_backward: int  # (team, net, n_parts): deltas below it
    microbatches: int  # (team, net): both phases, but the update
    update: int  # (team, net, n_parts, n_rows, more, ends, apply, split): phase two
    row_backward: int  # (net, layer, panel, n_panels): deltas of a single row
    product: int  # C = start + A B
    packed_product: int  # on packed rows of A; 0: no layer takes it
    gradient_product: int  # A is read by columns
    pair_product: int  # of pairs of bfloat16
    pair_gradient_product: int
    # (source, stride, along, across, width, panel, n_panels, at, n): rounds rows
    pair_rows: int
    pair_tiles: int  # (net, first, last, non_temporal): rounds weights of tiles
    pair_weights: int  # (net, flat): rounds flat weights
    transposes: int  # (net,): every transposed copy
    pack: int  # (net, flat, packed)
    unpack: int  # (net, flat, packed)
    sparse_forward: int  # (net, first, last, at): the first layer's products
    sparse_columns: int  # (net,): the chunk's numbers by column
    sparse_gradient: int  # (net, tile, gradient, gradient_panel, more)
    squares: int  # (total, g, n_rows, width, goes_on): clipping by norm
    scaled: int  # (factor, g, n)
    loss: int  # (outputs, targets, slopes, losses, constants, n_rows, n_out, n_targets)
    loss_settings: int  # the loss's constants, or 0
    link: int  # (raw, values, settings, n_rows, n_out)
    link_settings: int  # address of each head's `Slice`, or 0
    optimizer: int  # (w, g, m, v, average, signs, coefficients, n)
    penalised: int  # a penalty and the optimizer's step, or 0
    drop: int  # (net, layer, panel, n_panels, at, n): dropout of values and slopes
    drop_alone: int  # (net, layer, values, at, n): dropout of sums, or of their deltas
    stages_forward: int  # (net, layer, at, n): from sums to outputs
    stages_backward: (
        int  # (net, layer, at, n): from deltas of the outputs to deltas of the sums
    )
    disturb: int  # (net, inputs, panel, n_panels, at, n): noise and dropout of inputs


class Slice(Record):
    """A slice of the outputs, with the blocks of its loss and its link;
    the next slice follows.
    """

    n_outputs: int
    target: int  # first column of the targets
    n_targets: int  # columns that the loss takes
    factor: int  # column of a factor for whole rows, or -1
    loss: int  # addresses of a block, and of its constants
    loss_settings: int
    link: int  # address of a block
    weight: float


class Job(Record):
    """The arguments of a driver, and its results."""

    net: int  # address of a `Net`
    team: int  # address; 0: the calling thread alone
    n_parts: int  # parts of a loop that a team shares
    n_rows: int  # of the data
    batch_size: int
    chunk_rows: int
    first: int  # units to do, of a window of epochs
    last: int  # after the last
    reached: int  # unit at which the driver stopped
    order: int  # addresses: int64 (n_orders, n_rows)
    n_orders: int
    coefficients: int  # (n_steps, n_coefficients)
    n_coefficients: int
    losses: int  # float64 (n_epochs,), mean objectives
    head_losses: int  # float64 (n_epochs, n_heads), of nets with heads
    more: int  # gradient: 1: it goes on from the chunks before
    ends: int  # 1: this is the last chunk
    deltas_alone: int  # 1: without phase two
    guarded: int  # 1: a number that is not finite ends the training
    by_rows: int  # 1: an epoch's loss weighs batches by rows; 0: by weights
    mass: float  # rows of the data, or the sum of their weights
    loss: float  # weighted
    batch_mass: float
    batch_loss: float
    epoch_mass: float
    epoch_loss: float
    diverged: float  # 1 where a number was not finite
    starts: int  # ranks: int64 (n_steps + 1,), the rank's first row in its order
    positions: int  # int64 (n_steps,), in the batch
    masses: int  # float64, of the rows whose mean is taken: the rank's, or the batch's
    wholes: int  # float64, of the batch's rows


@njit
def layers_of(net: Net) -> Sequence[Layer]:
    return records_at(net.layers, net.n_layers, Layer)


@njit
def batch_of(net: Net) -> Batch:
    return record_at(net.batch, Batch)


@njit
def blocks_of(net: Net) -> BlockAddresses:
    return record_at(net.blocks, BlockAddresses)


# Fields that are 0 unless a net, its rows or its optimizer use a feature.
# Phases run in their plain form if all are 0.
FEATURES: dict[type[Record], tuple[str, ...]] = {
    Layer: (
        "dropped", "pairs", "inputs_along", "inputs_across", "outputs_along", "outputs_across",
        "deltas_along", "deltas_across", "stages", "norm_rows",
    ),
    Net: (
        "lowest", "average", "average_backup", "signs", "factors", "by_panels", "split_layer",
        "middle",
        "inputs_apart", "non_temporal", "prefetches_state", "prefetches_rows", "expansion",
        "microbatch_rows", "disturbs", "derivatives", "n_heads", "head_strips",
    ),
    BlockAddresses: ("sparse_forward", "sparse_columns", "sparse_gradient"),
}  # fmt: skip


class Watch:
    """Looks at the fields of `FEATURES` in a table of records of class `kind`.

    Making the view takes longer than looking.
    """

    def __init__(self, table: NDArray[Any], kind: type[Record]) -> None:
        fields = list(kind.dtype.names or ())
        self._words = np.asarray(table).view(np.int64).ravel()
        places = [fields.index(name) for name in FEATURES[kind]]
        rows = np.arange(len(table))[:, None] * len(fields)
        self._places: NDArray[np.int64] = (rows + places).ravel()

    def sees(self) -> bool:
        """True if a field is not 0; takes 1 us."""
        return bool(np.count_nonzero(self._words[self._places]))


def address(array: NDArray[Any], offset: int = 0) -> int:
    """The address of element `offset` of a C-contiguous array."""
    buffer: Any = array
    try:
        # 1.15 -> 0.15 us.
        start = addressof(c_char.from_buffer(buffer))
    except (TypeError, ValueError):  # of a read-only array, or an empty one
        start = int(array.ctypes.data)
    return start + offset * array.itemsize


class Fields(ctypes.Structure):
    """A record's fields by their names, as in ``fields["x"]``.

    A call sets 20 fields: item of a record array -> of a structure, 0.4 -> 0.07 us.
    """

    __slots__ = ()
    __getitem__ = ctypes.Structure.__getattribute__
    __setitem__ = ctypes.Structure.__setattr__


@cache
def _fields(dtype: np.dtype[Any]) -> type[Fields]:
    fields: Any = dtype.fields
    kinds = [
        (name, ctypes.c_double if fields[name][0] == np.float64 else ctypes.c_int64)
        for name in dtype.names or ()
    ]
    return type("FieldsOfRecord", (Fields,), {"__slots__": (), "_fields_": kinds})


def fields_of(record: NDArray[Any]) -> Any:
    """A live record's fields; shape (1,)."""
    memory: Any = record
    return _fields(record.dtype).from_buffer(memory)


def fields_of_each(records: NDArray[Any]) -> Any:
    """Live records as an array of `Fields`."""
    memory: Any = records
    return (_fields(records.dtype) * len(records)).from_buffer(memory)
