"""The output layer of rows: values, losses, predictions and deltas, in columns.

A column has one output of a block of rows; losses run along rows.
"""

import numpy as np

from fastmlp.backends.cpu.kernels import Kernel, Scalar, Span, layers_of
from fastmlp.backends.cpu.kernels.memory_traffic import pair_deltas
from fastmlp.backends.cpu.plan.records import Batch, BlockAddresses, Layer, Net
from fastmlp.backends.cpu.simd.pack import moves
from fastmlp.backends.cpu.simd.skinny import delta_unit, skinny
from fastmlp.backends.cpu.simd.vector import Panels
from fastmlp.backends.cpu.tuning import STRIP_ROWS
from fastmlp.compiler import call, njit, record_at, row
from fastmlp.compiler.target import lanes_of

# Predictions, losses, or losses and deltas.
FORWARD, EVALUATE, TRAIN = range(3)


def losses(scalar: Scalar) -> tuple[Kernel, Kernel, Kernel]:
    """Functions that gather targets, sum losses by strips, and scale the deltas.

    `skip` is the offset in bytes of the thread's columns in the buffers of the output layer.
    """
    size, lanes = np.dtype(scalar).itemsize, lanes_of(scalar)
    gather_columns = moves(scalar, lanes).gather_columns

    @njit
    def gather_targets(net: Net, rows: Span, skip: int) -> int:
        batch, n_targets, place, (first, n) = _of(net), net.n_targets, net.targets + skip, rows
        if n_targets >= lanes:
            gather_columns(batch.y, batch.index + first * 8, place, n_targets, n)
            return place
        targets, index = (
            row(place, n * n_targets, scalar),
            row(batch.index + first * 8, n, np.int64),
        )
        for r in range(n):
            y = row(batch.y + index[r] * n_targets * size, n_targets, scalar)
            for j in range(n_targets):
                targets[j * n + r] = y[j]
        return place

    @njit
    def sum_losses(net: Net, rows: Span, at: int, skip: int) -> None:
        batch, (first, n) = _of(net), rows
        loss = row(net.row_losses + skip, n, np.float64)
        n_strips = (n + STRIP_ROWS - 1) // STRIP_ROWS
        sums = row(net.strip_losses + at // STRIP_ROWS * 8, n_strips, np.float64)
        if batch.weight:
            index = row(batch.index + first * 8, n, np.int64)
            for r in range(n):
                loss[r] *= row(batch.weight + index[r] * size, 1, scalar)[0]
        for strip in range(n_strips):
            # A local sum stays in a register; in memory it took 5 % of a step (4-16-3@32).
            total = 0.0
            for r in range(strip * STRIP_ROWS, min((strip + 1) * STRIP_ROWS, n)):
                total += loss[r]
            sums[strip] = total

    @njit
    def scale_deltas(net: Net, outer: Layer, rows: Span, skip: int) -> None:
        """Slopes of the loss times the activation's slope and the row's weight."""
        batch, width, (first, n) = _of(net), net.n_out, rows
        count = n * width
        deltas, factor = row(net.loss_slope + skip, count, scalar), scalar(batch.scale)
        if outer.activation:
            slope = row(net.slope + skip, count, scalar)
            for i in range(count):
                deltas[i] *= slope[i]
        if batch.weight == 0:
            for i in range(count):
                deltas[i] *= factor
            return
        index = row(batch.index + first * 8, n, np.int64)
        for r in range(n):
            weight = float(row(batch.weight + index[r] * size, 1, scalar)[0])
            share = scalar(batch.scale * weight)
            for j in range(width):
                deltas[j * n + r] *= share

    return gather_targets, sum_losses, scale_deltas


@njit
def _of(net: Net) -> Batch:
    return record_at(net.batch, Batch)


def _values(scalar: Scalar) -> Kernel:
    lanes = lanes_of(scalar)
    vector = lanes * np.dtype(scalar).itemsize
    dots, unpack_columns = skinny(scalar, lanes).dots, moves(scalar, lanes).unpack_columns

    @njit
    def write_values(net: Net, outer: Layer, n: int, at: int, values: int) -> None:
        if outer.is_transposed:
            inputs = net.inputs
            if net.n_layers > 1:
                inputs = layers_of(net)[net.n_layers - 2].outputs
            weights, shape = (outer.packed, outer.biases), (outer.n_in, net.n_out, n)
            dots(Panels(inputs + at * vector, net.panel), *weights, values, *shape)
        else:
            unpack_columns(outer.outputs + at * vector, net.panel, values, net.n_out, n)

    return write_values


def _predictions(scalar: Scalar) -> Kernel:
    lanes = lanes_of(scalar)
    size = np.dtype(scalar).itemsize
    vector = lanes * size
    vector_moves = moves(scalar, lanes)
    pack_columns, unpack_row = vector_moves.pack_columns, vector_moves.unpack_row

    @njit
    def write_predictions(
        net: Net, outer: Layer, rows: Span, at: int, values: int, place: int
    ) -> None:
        start, n = rows
        link = record_at(net.blocks, BlockAddresses).link
        if net.n_out == 1:
            # A single column has the order of the rows.
            call(link, (values, _of(net).out + start * size, n, 1))
            return
        call(link, (values, place, n, net.n_out))
        # From columns to rows through panels: one by one a number took 4 ns.
        panels = outer.outputs + at * vector
        pack_columns(place, panels, net.panel, net.n_out, n)
        for r in range(n):
            target = _of(net).out + (start + r) * net.n_out * size
            unpack_row(panels + r * vector, net.panel, target, net.n_out)

    return write_predictions


def _deltas(scalar: Scalar) -> Kernel:
    lanes = lanes_of(scalar)
    size = np.dtype(scalar).itemsize
    vector, unit = lanes * size, delta_unit(lanes)
    vector_moves = moves(scalar, lanes)
    pack_columns, unpack_row = vector_moves.pack_columns, vector_moves.unpack_row

    @njit
    def place_deltas(net: Net, outer: Layer, n: int, at: int, deltas: int) -> None:
        if outer.is_transposed == 0:
            pack_columns(deltas, outer.deltas + at * vector, net.panel, net.n_out, n)
            return
        for r in range(0, n, unit):
            place = outer.deltas + (at + r) // lanes * net.delta_panel + (at + r) % lanes * size
            for j in range(net.n_out):
                unpack_row(deltas + (j * n + r) * size, 0, place + j * vector, unit)

    return place_deltas


def output_layer(scalar: Scalar) -> Kernel:
    """Finishes the output layer of n rows, as far as `mode` asks.

    Each thread has its columns. Predictions are written to the batch's `out`, if set.
    """
    lanes = lanes_of(scalar)
    write_values, write_predictions = _values(scalar), _predictions(scalar)
    gather_targets, sum_losses, scale_deltas = losses(scalar)
    place_deltas = _deltas(scalar)

    @njit
    def finish(net: Net, rows: Span, at: int, mode: int, thread: int) -> None:
        """Rows (start, n) of the chunk are buffer rows `at` and following."""
        outer = layers_of(net)[net.n_layers - 1]
        skip, n = thread * net.output_bytes, rows[1]
        values, slopes = net.raw + skip, net.loss_slope + skip
        write_values(net, outer, n, at, values)
        if outer.activation:
            place = net.value + skip
            # Whole vectors, for which there is room: a remainder would be done one by one.
            count = (n * net.n_out + lanes - 1) // lanes * lanes
            call(outer.activation, (values, place, net.slope + skip, count))
            values = place
        if mode != FORWARD:
            targets = gather_targets(net, rows, skip)
            row_losses, shape = net.row_losses + skip, (n, net.n_out, net.n_targets)
            blocks = record_at(net.blocks, BlockAddresses)
            call(blocks.loss, (values, targets, slopes, row_losses, blocks.loss_settings, *shape))
            sum_losses(net, rows, at, skip)
        if _of(net).out:
            write_predictions(net, outer, rows, at, values, slopes)
        if mode == TRAIN:
            scale_deltas(net, outer, rows, skip)
            place_deltas(net, outer, n, at, slopes)
            pair_deltas(net, outer, (0, net.max_width), (at, n))

    return finish
