"""The output layer of rows: its values, losses, predictions and errors, in columns.

One output's numbers of a block of rows lie after the other's, so that losses run along rows.
"""

from typing import Any

import numpy as np

from fastmlp._compile import call, leaf, row
from fastmlp.backends.cpu.outputs import delta_unit, skinny
from fastmlp.backends.cpu.registers import lanes_of
from fastmlp.backends.cpu.vector_toolkit import Panels
from fastmlp.backends.cpu.vectors import moves
from fastmlp.workspace import STRIP_ROWS

# What phase one is for: predictions, losses, or losses and errors.
FORWARD, EVALUATE, TRAIN = range(3)


@leaf
def n_strips_of(n_rows: Any) -> Any:
    """How many strips so many rows make."""
    return (n_rows + STRIP_ROWS - 1) // STRIP_ROWS


@leaf
def _gather_targets(net: Any, first: Any, n: Any, skip: Any, like: Any) -> Any:
    """Copy the rows' targets to columns in the part's buffer, and return where that is."""
    n_targets, size, place = net.n_targets, like.itemsize, net.targets + skip
    targets, index = row(place, n * n_targets, like.dtype), row(net.index + first * 8, n, np.int64)
    for r in range(n):
        y = row(net.y + index[r] * n_targets * size, n_targets, like.dtype)
        for j in range(n_targets):
            targets[j * n + r] = y[j]
    return place


@leaf
def _sum_losses(net: Any, first: Any, n: Any, at: Any, skip: Any, like: Any) -> None:
    """The weighted loss of each strip of rows."""
    loss = row(net.row_losses + skip, n, np.float64)
    n_strips = n_strips_of(n)
    sums = row(net.strip_losses + at // STRIP_ROWS * 8, n_strips, np.float64)
    if net.weight:
        index = row(net.index + first * 8, n, np.int64)
        for r in range(n):
            loss[r] *= row(net.weight + index[r] * like.itemsize, 1, like.dtype)[0]
    for strip in range(n_strips):
        # In a register: through memory, 32 rows took 5 % of a step of 4-16-3.
        total = 0.0
        for r in range(strip * STRIP_ROWS, min((strip + 1) * STRIP_ROWS, n)):
            total += loss[r]
        sums[strip] = total


@leaf
def scale_errors(net: Any, outer: Any, first: Any, n: Any, skip: Any, like: Any) -> None:
    """Turn the slopes of the loss into errors: times the activation's, and the row's share."""
    width, size = net.n_out, like.itemsize
    count = n * width
    errors, factor = row(net.loss_slope + skip, count, like.dtype), like.dtype.type(net.scale)
    if outer.activation:
        slope = row(net.slope + skip, count, like.dtype)
        for i in range(count):
            errors[i] *= slope[i]
    if net.weight == 0:
        for i in range(count):
            errors[i] *= factor
        return
    index = row(net.index + first * 8, n, np.int64)
    for r in range(n):
        weight = float(row(net.weight + index[r] * size, 1, like.dtype)[0])
        factor = like.dtype.type(net.scale * weight)
        for j in range(width):
            errors[j * n + r] *= factor


def _values(scalar: type[np.floating[Any]]) -> Any:
    """Make the function that writes n rows' last pre-activations to columns."""
    lanes = lanes_of(scalar)
    vector = lanes * np.dtype(scalar).itemsize
    dots, unpack_columns = skinny(scalar, lanes).dots, moves(scalar, lanes).unpack_columns

    def write_values(net: Any, layers: Any, outer: Any, n: Any, at: Any, values: Any) -> None:
        if outer.turned:
            inputs = layers[net.n_layers - 2].outputs if net.n_layers > 1 else net.inputs
            weights, shape = (outer.master, outer.biases), (outer.n_in, net.n_out, n)
            dots(Panels(inputs + at * vector, net.panel), *weights, values, *shape)
        else:
            unpack_columns(outer.outputs + at * vector, net.panel, values, net.n_out, n)

    return leaf(write_values)


def _predictions(scalar: type[np.floating[Any]]) -> Any:
    """Make the function that writes n rows' predictions to where the record says."""
    lanes = lanes_of(scalar)
    size = np.dtype(scalar).itemsize
    vector = lanes * size
    pack_columns, unpack_row = moves(scalar, lanes).pack_columns, moves(scalar, lanes).unpack_row

    def write_predictions(
        net: Any, outer: Any, start: Any, n: Any, at: Any, values: Any, place: Any
    ) -> None:
        call(net.link, (values, place, n, net.n_out))
        # Back to rows by way of the panels: number by number took 4 ns each.
        panels = outer.outputs + at * vector
        pack_columns(place, panels, net.panel, net.n_out, n)
        for r in range(n):
            target = net.out + (start + r) * net.n_out * size
            unpack_row(panels + r * vector, net.panel, target, net.n_out)

    return leaf(write_predictions)


def _errors(scalar: type[np.floating[Any]]) -> Any:
    """Make the function that brings n rows' errors from columns to where products read them."""
    lanes = lanes_of(scalar)
    size = np.dtype(scalar).itemsize
    vector, unit = lanes * size, delta_unit(lanes)
    pack_columns, unpack_row = moves(scalar, lanes).pack_columns, moves(scalar, lanes).unpack_row

    def place_errors(net: Any, outer: Any, n: Any, at: Any, errors: Any) -> None:
        if outer.turned == 0:
            pack_columns(errors, outer.deltas + at * vector, net.panel, net.n_out, n)
            return
        for r in range(0, n, unit):
            place = outer.deltas + (at + r) // lanes * net.error_panel + (at + r) % lanes * size
            for j in range(net.n_out):
                unpack_row(errors + (j * n + r) * size, 0, place + j * vector, unit)

    return leaf(place_errors)


def scores(scalar: type[np.floating[Any]]) -> Any:
    """Make the function that does the output layer of n rows, as far as the mode asks for.

    Each part of a team has columns of its own. Predictions are written where the record says, if it
    does.
    """
    lanes = lanes_of(scalar)
    write_values, write_predictions = _values(scalar), _predictions(scalar)
    place_errors = _errors(scalar)

    def score(net: Any, layers: Any, start: Any, n: Any, at: Any, part: Any, like: Any) -> None:
        outer, skip = layers[net.n_layers - 1], part * net.desk
        values, slopes = net.raw + skip, net.loss_slope + skip
        write_values(net, layers, outer, n, at, values)
        if outer.activation:
            place = net.value + skip
            # Whole vectors, for which there is room: what is left is done one by one.
            count = (n * net.n_out + lanes - 1) // lanes * lanes
            call(outer.activation, (values, place, net.slope + skip, count))
            values = place
        if net.mode != FORWARD:
            targets = _gather_targets(net, start, n, skip, like)
            losses, shape = net.row_losses + skip, (n, net.n_out, net.n_targets)
            call(net.loss, (values, targets, slopes, losses, *shape))
            _sum_losses(net, start, n, at, skip, like)
        if net.out:
            write_predictions(net, outer, start, n, at, values, slopes)
        if net.mode == TRAIN:
            scale_errors(net, outer, start, n, skip, like)
            place_errors(net, outer, n, at, slopes)

    return leaf(score)
