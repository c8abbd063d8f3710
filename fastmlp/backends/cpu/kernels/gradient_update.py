"""Phase two: each tile's gradient over the whole batch,
its penalty and its optimizer step.

A tile is up to 64 rows of the weights, as many panels wide as a register tile:
its gradient stays on the stack, and no two threads write to one tile.

Clipping by norm runs phase two twice. First each tile stores its gradient, penalties
included, and the sums of its squares, in float64; then it takes the stored gradient,
times the factor of its variable, and updates. Sums are added in the order of the
parameters, so neither threads nor chunks change the bits. Frozen parameters have no
gradient. Padding is not summed: a user's rule may make NaN of zeros.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastmlp.backends.cpu.kernels import (
    Kernel,
    Piece,
    Scalar,
    Span,
    n_strips_of,
    part_of,
)
from fastmlp.backends.cpu.kernels.memory_traffic import (
    non_temporal_of,
    prefetch_for,
    transposing,
)
from fastmlp.backends.cpu.plan import records
from fastmlp.backends.cpu.plan.plan import Plan, aligned
from fastmlp.backends.cpu.plan.records import (
    Net,
    Tile,
    address,
    batch_of,
    blocks_of,
    layers_of,
)
from fastmlp.backends.cpu.simd.gemm import Shape
from fastmlp.backends.cpu.simd.microkernel import (
    STORE,
    STREAMS_BYTES,
    Epilogue,
    Operands,
    Start,
    skinny,
)
from fastmlp.backends.cpu.simd.pack import moves
from fastmlp.backends.cpu.simd.vector import Panels
from fastmlp.backends.cpu.tuning import LARGEST_TILE, STRIP_ROWS, TILE_ROWS
from fastmlp.compiler import block_of, call, hinted, njit, prange
from fastmlp.compiler.memory import fence, records_at, row, stack
from fastmlp.compiler.target import lanes_of
from fastmlp.rules.optimizer_protocol import NormLimit
from fastmlp.rules.updates import FROZEN, norm_factor

# A tile's gradient on the stack: its rows rounded up, and the biases.
PANEL_ROWS = TILE_ROWS + STRIP_ROWS


class Control(NamedTuple):
    n_rows: int  # to sum over; 0: the gradient has been summed before
    more: int  # 1: the gradient goes on from the chunks before
    ends: int  # 1: the chunk ends its batch, and penalties are added
    apply: int  # 1: the step is taken; 0: the gradient is stored
    split: int  # the layer, from 1, that a team has computed by split-K, or 0


class Scratch(NamedTuple):
    """Addresses on the stack of a tile's thread."""

    gradient: int
    values: int  # of the penalties
    streams: int  # a record of what to prefetch


@njit
def _has_few_outputs(net: Net, tile: Tile, layer: records.Layer) -> bool:
    return layer.is_transposed != 0 and tile.layer == net.n_layers - 1


@njit
def _rows_of_biases(net: Net, control: Control) -> int:
    """Rows of tangents, which follow the rows of values, have no part in a bias."""
    return min(control.n_rows, batch_of(net).n_rows)


@njit
def _shape_of(tile: Tile, layer: records.Layer, p: int, lanes: int) -> tuple[int, int]:
    """Rows of panel p of a tile, and its columns without padding."""
    width = layer.n_in if layer.is_transposed else layer.n_out
    return tile.last - tile.first, min(lanes, width - (tile.panel + p) * lanes)


def _rows_gradient(scalar: Scalar) -> Kernel:
    """Make the function that computes a tile's gradient as one product over the rows of
    the chunk, in the form that the layer's layout asks for.
    """
    lanes = lanes_of(scalar)
    size = np.dtype(scalar).itemsize
    vector = lanes * size

    @njit
    def rows_gradient(
        net: Net, t: int, piece: Piece, inputs: int, control: Control, scratch: Scratch
    ) -> None:
        """X^T D, or D^T X of a transposed layer;
        with `more` added to the chunks before.
        """
        (tile, layer, w), (g, _, streams) = piece, scratch
        n_rows = control.n_rows
        more = control.more
        apply = control.apply
        split = control.split
        blocks = blocks_of(net)
        left = inputs
        right = layer.deltas
        pairs = layer.pairs
        product = blocks.gradient_product
        if pairs:
            right = layer.deltas_across
            product = blocks.pair_gradient_product
        elif layer.is_transposed:
            left, right = layer.deltas, inputs
        panel = net.panel >> pairs
        c = Panels(g, PANEL_ROWS * vector)
        start = Start(net.zeros, 0, 0)
        if more:
            before = w - net.parameters + net.gradient
            start = Start(before, vector, layer.packed_panel)
        b = right + tile.panel * panel
        width = layer.n_in if layer.is_transposed else layer.n_out
        n_columns = min(tile.n_panels * lanes, width - tile.panel * lanes)
        shape = Shape(n_columns, tile.last - tile.first)
        epilogue = Epilogue(STORE, 0)
        if _has_few_outputs(net, tile, layer):
            deltas = layer.deltas + tile.first * vector
            few = Operands(b, panel, deltas, net.delta_panel, n_rows)
            call(blocks.product, (c, start, few, epilogue, shape, 0))
            return
        prefetched = prefetch_for(net, t, piece, apply, split, streams, vector, size)
        columns = left + tile.first // lanes * panel + tile.first % lanes * size
        factors = Operands(b, panel, columns, panel, (n_rows + pairs) >> pairs)
        call(product, (c, start, factors, epilogue, shape, prefetched))

    return rows_gradient


def _gradients(scalar: Scalar) -> Kernel:
    """Make the function that writes a tile's gradient to the stack, from where it
    comes: stored before, sparse rows, a single row, or a product over rows.
    """
    lanes = lanes_of(scalar)
    vector = lanes * np.dtype(scalar).itemsize
    rows_gradient = _rows_gradient(scalar)
    outer = moves(scalar, lanes).outer
    copy = moves(scalar, lanes).copy

    @njit
    def stored_gradient(net: Net, piece: Piece, g: int) -> None:
        tile, layer, w = piece
        n = (tile.last - tile.first) * lanes
        for p in range(tile.n_panels):
            panel = w + p * layer.packed_panel
            copy(panel - net.parameters + net.gradient, g + p * PANEL_ROWS * vector, n)

    @njit
    def row_gradient(net: Net, piece: Piece, inputs: int, g: int) -> None:
        """The outer product of a single row's inputs and deltas:
        2.2 -> 1.7 us (32-64-32-1@1).
        """
        tile, layer, _ = piece
        left, right = inputs, layer.deltas
        if layer.is_transposed:
            left, right = layer.deltas, inputs
        numbers = left + tile.first // lanes * net.panel
        for p in range(tile.n_panels):
            deltas = right + (tile.panel + p) * net.panel
            outer(
                numbers,
                net.panel,
                deltas,
                g + p * PANEL_ROWS * vector,
                tile.last - tile.first,
            )

    @njit
    def write_gradient(
        net: Net, t: int, piece: Piece, control: Control, scratch: Scratch
    ) -> None:
        (tile, layer, _), g = piece, scratch.gradient
        inputs = net.inputs
        if layer.pairs:
            inputs = layer.inputs_across
        elif tile.layer > 0:
            inputs = layers_of(net)[tile.layer - 1].outputs
        if tile.layer == 0 and control.split > 1 and tile.panel * lanes >= net.middle:
            inputs += net.inputs_apart
        sparse = blocks_of(net).sparse_gradient
        single = control.n_rows == 1 and control.more == 0 and layer.pairs == 0
        if control.n_rows == 0:
            stored_gradient(net, piece, g)
        elif sparse != 0 and tile.layer == 0:
            call(sparse, (net.address, t, g, PANEL_ROWS * vector, control.more))
        elif single and not _has_few_outputs(net, tile, layer):
            row_gradient(net, piece, inputs, g)
        else:
            rows_gradient(net, t, piece, inputs, control, scratch)

    return write_gradient


def _penalties(scalar: Scalar) -> tuple[Kernel, Kernel]:
    """Two functions: one adds all penalties to a tile's gradient;
    the other adds the only penalty to a panel's gradient and takes the step.
    """
    lanes = lanes_of(scalar)
    panel_bytes = PANEL_ROWS * lanes * np.dtype(scalar).itemsize

    @njit
    def penalise(net: Net, piece: Piece, scratch: Scratch) -> None:
        (tile, layer, w), g = piece, scratch.gradient
        penalties = row(net.penalties, net.n_penalties, np.int64)
        total = net.tile_penalties + tile.slot * 8
        row(total, 1, np.float64)[0] = 0.0
        for i in range(net.n_penalties):
            scale = net.scales + i * 8
            for p in range(tile.n_panels):
                weights = (w + p * layer.packed_panel, g + p * panel_bytes)
                shape = _shape_of(tile, layer, p, lanes)
                call(
                    penalties[i],
                    (*weights, scale, total, scratch.values, net.zeros, *shape),
                )

    @njit
    def step_penalised(
        net: Net, piece: Piece, p: int, w: int, g: int, values: int
    ) -> None:
        tile, layer, _ = piece
        batch, blocks = batch_of(net), blocks_of(net)
        total = net.tile_penalties + tile.slot * 8
        skip = w - net.parameters
        if p == 0:
            row(total, 1, np.float64)[0] = 0.0
        coefficients = batch.coefficients + layer.weight_coefficients
        state = (
            net.m + skip,
            net.v + skip,
            net.average + skip,
            net.signs + skip,
            coefficients,
        )
        penalty = (net.scales, total, values, net.zeros)
        call(
            blocks.penalised,
            (w, g, *state, *penalty, *_shape_of(tile, layer, p, lanes)),
        )

    return penalise, step_penalised


def _finishing(scalar: Scalar) -> Kernel:
    """Make the function that ends n numbers of a tile: it takes the optimizer's step,
    or stores the gradient for a later call.
    """
    copy = moves(scalar, lanes_of(scalar)).copy

    @njit
    def finish(net: Net, w: int, g: int, n: int, coefficients: int, apply: int) -> None:
        skip = w - net.parameters
        if apply:
            batch, blocks = batch_of(net), blocks_of(net)
            coefficients += batch.coefficients
            state = (
                net.m + skip,
                net.v + skip,
                net.average + skip,
                net.signs + skip,
                coefficients,
            )
            call(blocks.optimizer, (w, g, *state, n))
        else:
            copy(g, net.gradient + skip, n)

    return finish


def _steps(
    scalar: Scalar, step_penalised: Kernel, by_norm: bool
) -> tuple[Kernel, Kernel]:
    lanes = lanes_of(scalar)
    size = np.dtype(scalar).itemsize
    vector = lanes * size
    finish = _finishing(scalar)
    vector_moves = moves(scalar, lanes)
    add_row = skinny(scalar, lanes).add_row
    pack_row = vector_moves.pack_row
    sum_rows = vector_moves.sum_rows
    clip = clipping(scalar) if by_norm else unclipped

    @njit
    def sum_norms(
        net: Net, piece: Piece, p: int, control: Control, biases: int, slopes: int
    ) -> None:
        """Gradients of gains and shifts, rows that follow the biases, from sums by
        strips.
        """
        (tile, layer, _), width = piece, piece[1].n_out
        sums = layer.norm_sums
        n_strips = n_strips_of(control.n_rows)
        if not layer.is_transposed:
            sums += (tile.panel + p) * net.strip_panel
            width = _shape_of(tile, layer, p, lanes)[1]
        when = (control.ends, control.apply)
        for v in range(layer.norm_rows):
            down = (v + 1) * vector
            start = net.zeros
            if control.more:
                start = biases + down - net.parameters + net.gradient
            source = sums + v * layer.norm_sums_bytes
            sum_rows(source, start, slopes + down, n_strips)
            clip(net, tile, p, BIASES + 1 + v, slopes + down, (1, width), when)

    @njit
    def step_panel(
        net: Net, piece: Piece, p: int, control: Control, scratch: Scratch
    ) -> None:
        """Step the panel, and its biases if they are of the same group:
        their gradient is summed here.
        """
        (tile, layer, w), g = piece, scratch.gradient
        n = (tile.last - tile.first) * lanes
        n_before = 0
        shape = _shape_of(tile, layer, p, lanes)
        when = (control.ends, control.apply)
        w = w + p * layer.packed_panel
        g = g + p * PANEL_ROWS * vector
        clip(net, tile, p, WEIGHTS, g, shape, when)
        if control.ends and control.apply and blocks_of(net).penalised != 0:
            step_penalised(net, piece, p, w, g, scratch.values)
            n_before = n
        if tile.last == layer.packed_rows and layer.steps_biases_with_weights:
            # The biases are one more row.
            biases = w + n // lanes * vector
            slopes = g + n // lanes * vector
            start = (
                biases - net.parameters + net.gradient if control.more else net.zeros
            )
            sum_rows(
                layer.deltas + (tile.panel + p) * net.panel,
                start,
                slopes,
                _rows_of_biases(net, control),
            )
            clip(net, tile, p, BIASES, slopes, (1, shape[1]), when)
            sum_norms(net, piece, p, control, biases, slopes)
            n += (1 + layer.norm_rows) * lanes
        if n > n_before:
            skip = n_before // lanes * vector
            of_weights = layer.weight_coefficients
            finish(net, w + skip, g + skip, n - n_before, of_weights, control.apply)

    @njit
    def step_biases(net: Net, piece: Piece, p: int, control: Control, g: int) -> None:
        """Step biases whose coefficients differ from the weights': their gradient is
        the sum of the deltas over rows.
        """
        (tile, layer, _), n_rows = piece, _rows_of_biases(net, control)
        biases = layer.biases
        deltas = layer.deltas
        width = layer.n_out
        if not layer.is_transposed:
            biases += (tile.panel + p) * layer.packed_panel
            deltas += (tile.panel + p) * net.panel
            width = _shape_of(tile, layer, p, lanes)[1]
        start = biases - net.parameters + net.gradient if control.more else net.zeros
        if _has_few_outputs(net, tile, layer):
            pack_row(net.zeros, g, 0, lanes)
            for j in range(layer.n_out):
                skip = j * size if control.more else 0
                total = g + j * size
                add_row(
                    deltas + j * vector, net.delta_panel, start + skip, total, n_rows
                )
        else:
            sum_rows(deltas, start, g, n_rows)
        clip(net, tile, p, BIASES, g, (1, width), (control.ends, control.apply))
        sum_norms(net, piece, p, control, biases, g)
        n = (1 + layer.norm_rows) * lanes
        finish(net, biases, g, n, layer.bias_coefficients, control.apply)

    return step_panel, step_biases


def _tile_update(scalar: Scalar, by_norm: bool) -> Kernel:
    write_gradient = _gradients(scalar)
    transpose_panel = transposing(scalar)
    penalise, step_penalised = _penalties(scalar)
    step_panel, step_biases = _steps(scalar, step_penalised, by_norm)

    @njit
    def update_tile(
        net: Net, t: int, tile: Tile, control: Control, scratch: Scratch
    ) -> None:
        layer = layers_of(net)[tile.layer]
        apply = control.apply
        trains = layer.weight_coefficients != FROZEN
        piece = (tile, layer, net.parameters + tile.offset)
        non_temporal = non_temporal_of(net, control.split)
        if trains:
            write_gradient(net, t, piece, control, scratch)
        if control.ends and not (trains and apply and blocks_of(net).penalised):
            # Frozen weights too: their values count in the loss.
            penalise(net, piece, scratch)
        for p in range(tile.n_panels if trains else 0):
            step_panel(net, piece, p, control, scratch)
            if apply and layer.transposed_copy:
                transpose_panel(piece, p, non_temporal)
        if trains and apply and layer.pairs:
            call(
                blocks_of(net).pair_tiles,
                (net.address, t, t + 1, non_temporal),
            )
        if tile.last == layer.packed_rows and not layer.steps_biases_with_weights:
            n = tile.n_panels
            if layer.is_transposed:
                n = 1 if tile.panel + n == layer.packed_panels else 0
            for p in range(n if layer.bias_coefficients != FROZEN else 0):
                step_biases(net, piece, p, control, scratch.gradient)

    return update_tile


def update(scalar: Scalar, by_norm: bool = False, plain: bool = False) -> Kernel:
    """Phase two; with `plain` for nets without `FEATURES`.

    With `by_norm`, squares of a gradient are summed as it is stored,
    and it is clipped for the step.
    """
    update_tile = _tile_update(scalar, by_norm)
    panel_bytes = PANEL_ROWS * lanes_of(scalar) * np.dtype(scalar).itemsize
    gradient_bytes = LARGEST_TILE[1] * panel_bytes

    @njit(parallel=True)
    def update(
        team: int,
        nets: Sequence[Net],
        n_parts: int,
        n_rows: int,
        more: int,
        ends: int,
        apply: int,
        split: int,
    ) -> None:
        """With `more` the gradient goes on from the chunks before. Penalties are added
        in the chunk that `ends` its batch. With `apply` the step is taken, else the
        gradient is stored.
        """
        for part in prange(n_parts):
            net = nets[0]
            g = stack(gradient_bytes)
            values = stack(panel_bytes)
            streams = stack(STREAMS_BYTES)
            scratch = Scratch(g, values, streams)
            control = Control(n_rows, more, ends, apply, split)
            tiles = records_at(net.tiles, net.n_tiles, Tile)
            first, last = part_of(part, n_parts, net.n_tiles)
            for t in range(first, last):
                if tiles[t].first < tiles[t].last:
                    update_tile(net, t, tiles[t], control, scratch)
            # One for all tiles: one after each took 7 % of 1024-2048-2048-1000@32 on 1
            # thread.
            if non_temporal_of(net, split) != records.STORE_NO_COPY_PAST:
                fence()

    @hinted(control=True, zeros=records.FEATURES if plain else {})
    def enter(
        team: int,
        net: int,
        n_parts: int,
        n_rows: int,
        more: int,
        ends: int,
        apply: int,
        split: int,
    ) -> None:
        update(team, records_at(net, 1, Net), n_parts, n_rows, more, ends, apply, split)

    return enter


# A layer's variables, and a tile's sums: gains and shifts follow, of at most two norms.
WEIGHTS, BIASES = range(2)
VARIABLES = BIASES + 5
_factor = njit(norm_factor)


def squares(scalar: Scalar) -> Kernel:
    """Adds the squares of rows of a panel, `width` columns of them,
    to `total`; `goes_on` is 0 at the beginning of a sum.
    """
    lanes = lanes_of(scalar)
    vector = lanes * np.dtype(scalar).itemsize
    room = lanes * 8

    def add(total: int, g: int, n_rows: int, width: int, goes_on: int) -> None:
        sums = row(stack(room), lanes, np.float64)
        result = row(total, 1, np.float64)
        sums[:] = 0.0
        for r in range(n_rows):
            values = row(g + r * vector, lanes, scalar)
            for j in range(lanes):
                sums[j] += np.float64(values[j]) * np.float64(values[j])
        whole = result[0] if goes_on else 0.0
        for j in range(width):
            whole += sums[j]
        result[0] = whole

    return add


def scaled(scalar: Scalar) -> Kernel:
    def scale(factor: int, g: int, n: int) -> None:
        values = row(g, n, scalar)
        by = scalar(row(factor, 1, np.float64)[0])
        for i in range(n):
            values[i] *= by

    return scale


def clipping(scalar: Scalar) -> Kernel:
    """Adds rows of a panel to the sums of their tile, or clips them for the step."""
    lanes = lanes_of(scalar)

    @njit
    def by_norm(
        net: Net, tile: Tile, p: int, variable: int, g: int, shape: Span, when: Span
    ) -> None:
        blocks, (n_rows, width), (ends, apply) = blocks_of(net), shape, when
        if apply:
            factor = net.factors + (VARIABLES * tile.layer + variable) * 8
            call(blocks.scaled, (factor, g, n_rows * lanes))
        elif ends:
            total = net.tile_squares + (VARIABLES * tile.slot + variable) * 8
            call(blocks.squares, (total, g, n_rows, width, p))

    return by_norm


@njit
def unclipped(
    net: Net, tile: Tile, p: int, variable: int, g: int, shape: Span, when: Span
) -> None:
    """The gradient is not clipped."""


@njit
def take_norms(net: Net) -> None:
    """The factor of each variable, from the sums of squares of all tiles."""
    n = VARIABLES * net.n_layers
    factors = row(net.factors, n, np.float64)
    tiles = records_at(net.tiles, net.n_tiles, Tile)
    order = row(net.tile_order, net.n_tiles, np.int64)
    factors[:] = 0.0
    for i in range(net.n_tiles):
        tile = tiles[order[i]]
        sums = row(net.tile_squares + VARIABLES * tile.slot * 8, VARIABLES, np.float64)
        for v in range(VARIABLES):
            factors[VARIABLES * tile.layer + v] += sums[v]
    whole = 0.0
    for i in range(n):
        whole += factors[i]
    for i in range(n):
        norm = np.sqrt(factors[i] if net.norm_by_variable else whole)
        factors[i] = _factor(norm, net.norm_limit)


class Norms:
    def __init__(self, plan: Plan, dtype: np.dtype[Any]) -> None:
        tiles = plan.tiles
        self._squares: NDArray[np.float64] = aligned(VARIABLES * len(tiles), np.float64)
        self._factors: NDArray[np.float64] = aligned(
            VARIABLES * len(plan.layers), np.float64
        )
        # Slots depend on the rows of a chunk.
        order = np.lexsort((tiles["first"], tiles["panel"], tiles["layer"]))
        self._order = np.ascontiguousarray(order, np.int64)
        self._blocks = {
            f.__name__: block_of(f, dtype).address for f in (squares, scaled)
        }

    def attach(self, net: Any, blocks: Any, limit: NormLimit) -> None:
        net["tile_squares"], net["tile_order"] = (
            address(self._squares),
            address(self._order),
        )
        net["factors"] = address(self._factors)
        net["norm_limit"] = limit.limit
        net["norm_by_variable"] = limit.by_variable
        for name, where in self._blocks.items():
            blocks[name] = where
