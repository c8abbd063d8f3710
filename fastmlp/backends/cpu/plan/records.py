"""The records that kernels read: a net, its buffers and its rows, as sizes and addresses.

A kernel takes the address of a `Net`, and its control as arguments. Kernels call each other by
address, a third of the compile time of nested ones (11 s).
"""

import ctypes
from ctypes import addressof, c_char
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastmlp.compiler import Record

BUFFERS = (
    "inputs", "raw", "value", "slope", "loss_slope", "targets", "row_losses",
    "parameters", "backup", "zeros", "row_copy",
)  # fmt: skip
# Which transposed weights use non-temporal stores; OTHERS: weights that other threads read.
NONE, OTHERS, ALL = range(3)
# How a layer finishes its products: not at all, by its activation's block, by relu's epilogue, or
# by that and dropout, which writes the slopes.
LINEAR, BLOCK, RELU, RELU_DROPPED = range(4)


class Layer(Record):
    """Weights are packed; training holds a transposed copy too, if it needs one."""

    n_in: int
    n_out: int
    n_panels: int  # of the outputs: n_out in whole vectors
    packed: int  # address of the packed weights
    packed_rows: int
    packed_panels: int
    packed_panel: int  # bytes from a panel to the next
    middle: int  # the first row of the second half of a split layer,
    gap: int  # and how many bytes of room are in front of it
    biases: int  # address
    transposed_copy: int  # address, or 0
    copy_panel: int  # bytes
    weights: int  # address of the form that the forward pass reads, `packed` or its copy
    weight_panel: int  # bytes
    transposed: int  # address of the form that the backward pass reads, or 0
    transposed_panel: int  # bytes
    outputs: int  # address of the layer's values, in panels of the chunk's rows
    deltas: int  # address, perhaps the same; before the backward pass, slopes of the activation
    offset: int  # of the weights in the flat parameters
    bias_offset: int
    is_transposed: int  # 1: `packed` holds W transposed (few outputs)
    form: int  # LINEAR, BLOCK, RELU or RELU_DROPPED
    activation: int  # address of the activation's block, or 0
    weight_coefficients: int  # bytes to the coefficients of its weights, and of its biases, in the
    bias_coefficients: int  # step's row of coefficients, or FROZEN
    steps_biases_with_weights: int  # 1: they are of one group, and the biases one row more
    dropped: int  # its number, from 1, if training drops its outputs; else 0
    pairs: int  # 1: its products take pairs of bfloat16
    inputs_along: int  # addresses of pairs along and across the rows: of its inputs,
    inputs_across: int
    outputs_along: int  # of its outputs, if the next layer's products take pairs,
    outputs_across: int
    deltas_along: int  # and of its deltas; 0 where there are none
    deltas_across: int


class Tile(Record):
    """A piece of phase two: some rows of some panels of a layer's packed weights."""

    layer: int
    first: int  # row
    last: int  # row after the last; equal to `first`: an empty tile
    panel: int
    n_panels: int
    offset: int  # bytes from the net's first packed parameter
    slot: int  # its number in the order of the parameters, the same for any number of threads
    cached_first: int  # transposed rows that the same thread reads in the backward pass, first
    cached_last: int  # and the one after the last: they are stored through the cache


class Net(Record):
    """A net and its buffers, fixed while a session lives."""

    n_layers: int
    lowest: int  # the first layer that is trained
    n_in: int
    n_out: int
    n_targets: int  # numbers of a row's target: n_out, or 1 for class labels
    max_width: int
    n_packed: int  # numbers of packed parameters
    layers: int  # address of `Layer` (n_layers,)
    n_tiles: int
    tiles: int  # address of `Tile` (n_tiles,)
    address: int  # its own
    batch: int  # address of the `Batch`
    blocks: int  # address of the `BlockAddresses`
    panel: int  # bytes of a panel of the chunk's rows
    delta_panel: int  # bytes of a panel of the output layer's deltas, where they lie transposed
    inputs: int  # addresses of the buffers: the chunk's rows in panels,
    raw: int  # pre-activations of the output layer, in columns,
    value: int  # its values,
    slope: int  # slopes of its activation,
    loss_slope: int  # slopes of the loss,
    targets: int  # targets in columns,
    row_losses: int  # float64, each row's loss,
    parameters: int  # the packed parameters,
    backup: int  # those at the start of the epoch,
    zeros: int  # and a vector of zeros
    output_bytes: int  # from one thread's buffers of the output layer to the next one's
    row_copy: int  # address of the first thread's packed rows,
    row_copy_bytes: int  # and from one thread's to the next thread's; 0: rows are not packed
    m: int  # addresses of the optimizer's state, packed like the parameters
    v: int
    n_moments: int  # how many of them the rule uses
    average: int  # address of the average that the net shows, or 0,
    average_backup: int  # and of a copy of it at the start of the epoch
    signs: int  # address of the constraints, packed, in the net's dtype, or 0
    gradient: int  # address of the packed gradient, or 0
    unpacked: int  # address of the flat parameters, where sparse rows are predicted from them
    strip_losses: int  # address of float64, the weighted loss of each strip of rows
    tile_penalties: int  # address of float64 (n_tiles,)
    tile_squares: int  # of clipping by norm: address of float64 (n_tiles, 2), by slot,
    tile_order: int  # of int64 (n_tiles,): the tiles in the order of the parameters,
    factors: int  # of float64 (n_layers, 2): of each layer's weights and biases,
    norm_by_variable: int  # 1: each of these has a norm; 0: one norm of all,
    norm_limit: float  # and the limit
    n_penalties: int
    penalties: int  # addresses of the penalties' blocks, their strengths,
    strengths: int
    scales: int  # and strengths over the rows of the batch
    by_panels: int  # 1: a team shares phase one by panels of each layer
    split_layer: int  # number, from 1, of the layer that is computed by split-K, or 0
    middle: int  # the first input of its second half
    inputs_apart: int  # bytes from the first half's gathered rows to the second's; 0: the same
    non_temporal: int  # NONE, OTHERS or ALL
    prefetches_state: int  # 1: the update's parameters and state are prefetched
    prefetches_rows: int  # 1: else the next batch's rows of X are
    x_columns: int  # of sparse rows: addresses of columns and values,
    x_values: int
    column_starts: int  # and of the chunk's numbers by column (CSC): pointers, rows, values
    column_rows: int
    column_values: int
    expansion: int  # of expanded rows: address of the `Expansion`
    microbatch_rows: int  # 0: none
    replicas: int  # addresses of each thread's `Net` for microbatches
    partials: int  # address of the microbatches' gradients (n_microbatches, n_packed)
    draws: int  # bytes from a step's coefficients to the numbers of dropout
    disturbs: int  # 1: training drops inputs, or adds noise to them


class Expansion(Record):
    """Rows in which a number stands for several inputs: plain numbers first, which stand for
    one, then numbers of pieces, then levels. The last two are columns, and columns are numbered."""

    n_plain: int
    n_pieces: int  # how many columns of pieces,
    n_columns: int  # and of pieces or levels
    n_groups: int
    columns: int  # addresses: int64, the column of each input that is not plain,
    starts: int  # int64 (n_columns + 1,), the first input of each column, and how many there are,
    firsts: int  # the same as int32,
    lasts: int  # (n_columns,), the last piece or level,
    wholes: int  # (n_columns,), 1 for levels: -1, which is none, has the fraction 0, the others 1,
    groups: int  # int64 (n_groups + 1,), columns of pieces whose running sums are made together,
    offsets: int  # and of the chunk's rows: int32 (n_rows, n_columns), bytes to the piece or level,
    fractions: int  # (n_rows, n_columns), how much of the piece; for a level 1, or 0 without one


class Batch(Record):
    """Fields that change with the batch are on one line: workers fetch it."""

    index: int  # address of int64 (n_rows,): where the chunk's rows lie in x; 0: in order
    n_rows: int
    coefficients: int  # address of this step's coefficients of the optimizer
    order_stop: int  # address after the epoch's order of rows
    scale: float  # one over the rows of the batch, or over the sum of their weights
    position: int  # of the chunk's first row in its batch
    x: int  # addresses of the data: rows, or where each sparse row starts,
    y: int  # (n, n_targets),
    weight: int  # (n,), or 0,
    out: int  # and where predictions go, (n_rows, n_out), or 0


class BlockAddresses(Record):
    forward_backward: int  # (team, net, n_parts, mode, split): phase one, by rows
    by_panels: int  # (team, net, n_parts, mode, split): phase one, by panels of each layer
    split_k: int  # (team, net, n_parts): the products of the split layer and of those below
    split_k_backward: int  # (team, net, n_parts): the deltas below it
    microbatches: int  # (team, net): both phases, but the update
    update: int  # (team, net, n_parts, n_rows, more, ends, apply, split): phase two
    row_backward: int  # (net, layer, panel, n_panels): deltas of a single row
    product: int  # C = start + A B
    packed_product: int  # the same, on packed rows of A; 0: no layer takes it
    gradient_product: int  # the same, A read by columns
    pair_product: int  # both, of pairs of bfloat16
    pair_gradient_product: int
    pair_rows: int  # (source, stride, along, across, width, panel, n_panels, at, n): rounds rows
    pair_tiles: int  # (net, first, last, non_temporal): rounds the weights of some tiles
    pair_weights: int  # (net, flat): rounds the weights of a flat vector, for predictions
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
    link: int  # (raw, values, n_rows, n_out)
    optimizer: int  # (w, g, m, v, average, signs, coefficients, n)
    penalised: int  # a penalty and the optimizer's step in one, or 0
    drop: int  # (net, layer, panel, n_panels, at, n): dropout of outputs and slopes
    disturb: int  # (net, inputs, panel, n_panels, at, n): noise and dropout of inputs


class Job(Record):
    """The arguments of a driver, and its results."""

    net: int  # address of its `Net`, or of its `FlatNet`
    team: int  # address of the team's record; 0: the calling thread alone
    n_parts: int  # the number of parts of a loop that a team shares
    n_rows: int  # of the data
    batch_size: int
    chunk_rows: int  # rows of a chunk
    first: int  # the units to do, of a window of epochs: first,
    last: int  # and the one after the last
    reached: int  # the unit at which the driver stopped
    order: int  # addresses: int64 (n_orders, n_rows), the rows' order in each epoch,
    n_orders: int
    coefficients: int  # the optimizer's (n_steps, n_coefficients),
    n_coefficients: int
    losses: int  # and float64 (n_epochs,), the mean objective of each epoch
    more: int  # of a gradient: 1 if it goes on from the chunks before,
    ends: int  # and 1 if this is the last chunk;
    deltas_alone: int  # 1: without phase two
    guarded: int  # 1: a number that is not finite ends the training
    by_rows: int  # 1: an epoch's loss weighs batches by rows; 0: by the rows' weights
    mass: float  # rows of the data, or the sum of their weights
    loss: float  # weighted
    batch_mass: float
    batch_loss: float
    epoch_mass: float
    epoch_loss: float
    diverged: float  # 1 where a number was not finite
    starts: int  # of ranks, addresses of a number for each step of the epoch: int64, the place of
    positions: int  # the rank's first row in its order, and one more; int64, in the batch;
    masses: int  # float64, of the rows whose mean is taken: the rank's, or the batch's,
    wholes: int  # and of the batch's rows


# Fields that are 0 unless a net, its rows or its optimizer use a feature. Where all are 0, phases
# run in their plain form.
FEATURES: dict[type[Record], tuple[str, ...]] = {
    Layer: (
        "dropped", "pairs", "inputs_along", "inputs_across", "outputs_along", "outputs_across",
        "deltas_along", "deltas_across",
    ),
    Net: (
        "lowest", "average", "average_backup", "signs", "factors", "by_panels", "split_layer",
        "middle",
        "inputs_apart", "non_temporal", "prefetches_state", "prefetches_rows", "expansion",
        "microbatch_rows", "disturbs",
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
    return fields_of_each(record)[0]


def fields_of_each(records: NDArray[Any]) -> Any:
    """Live records as an array of `Fields`."""
    memory: Any = records
    return (_fields(records.dtype) * len(records)).from_buffer(memory)
