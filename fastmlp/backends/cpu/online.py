"""Plain descent by one row at a time: the update of a step waits for the next row.

By batches a step reads all weights on the way forth, those above the first layer on the way back,
and all of them again to update them. Here whatever the next row reads is updated on the way:
32-64-32-1 takes 0.19 us for 0.41, 784-100-10 2.6 for 6.3, 784-512-512-10 36 for 66.
"""

from typing import Any

import numpy as np

from fastmlp._compile import call, leaf, row
from fastmlp.backends.cpu.ahead import prefetch_lines
from fastmlp.backends.cpu.drive import training
from fastmlp.backends.cpu.epilogue import Epilogue
from fastmlp.backends.cpu.outputs import skinny
from fastmlp.backends.cpu.passes import Row, fused_steps
from fastmlp.backends.cpu.plan import BLOCK, LAYER
from fastmlp.backends.cpu.plan import RELU as RELU_LAYER
from fastmlp.backends.cpu.registers import LINE_BYTES, lanes_of
from fastmlp.backends.cpu.rows import slopes_of
from fastmlp.backends.cpu.scores import scale_errors
from fastmlp.backends.cpu.vector_toolkit import Panels
from fastmlp.network import Network
from fastmlp.optimizers import Optimizer
from fastmlp.updates import sgd

# What a layer's outputs have room for: this row's and the row's before, in turns, and sums.
SUMS = 2


def is_plain(network: Network, optimizer: Optimizer) -> bool:
    """Whether a step is the rate times the loss's gradient, and nothing else."""
    return optimizer.rule is sgd and not network.penalties


@leaf
def _errors_of(net: Any, layers: Any, i: Any) -> Any:
    """Where the errors of layer i lie, and then its steps."""
    return net.loss_slope if i == net.n_layers - 1 else layers[i].deltas


def _forward(scalar: type[np.floating[Any]]) -> Any:
    """Make the functions of a pass over one layer, and over all of them for the row at x."""
    lanes = lanes_of(scalar)
    vector = lanes * np.dtype(scalar).itemsize
    its = fused_steps(scalar, lanes)
    forth, forth_transposed = its.forward, its.forward_transposed

    def place_of(layer: Any, turn: Any) -> Any:
        return layer.outputs + turn * layer.n_panels * vector

    place_of = leaf(place_of)

    def go_forth(net: Any, layers: Any, i: Any, before: Any, now: Any, sums: Any) -> None:
        layer = layers[i]
        numbers = Row(before, now, _errors_of(net, layers, i), sums)
        positive = 1 if layer.form == RELU_LAYER else 0
        if layer.turned:
            shape = (layer.n_in, layer.n_out)
            forth_transposed(layer.master, layer.biases, *shape, numbers, positive)
        else:
            weights = Panels(layer.master, layer.master_panel)
            forth(weights, layer.n_in, numbers, layer.n_panels, positive)

    go_forth = leaf(go_forth)

    def forward(net: Any, layers: Any, x: Any) -> None:
        before, now, last = net.previous, x, net.n_layers - 1
        for i in range(last):
            layer = layers[i]
            old, new = place_of(layer, net.turn), place_of(layer, 1 - net.turn)
            z = place_of(layer, SUMS) if layer.form == BLOCK else new
            go_forth(net, layers, i, before, now, z)
            if layer.form == BLOCK:
                call(layer.activation, (z, new, layer.deltas, layer.n_panels * lanes))
            before, now = old, new
        go_forth(net, layers, last, before, now, net.raw)
        net.previous, net.turn = x, 1 - net.turn

    def settle(net: Any, job: Any) -> None:
        """Take the step that waits: forth once more, for nothing."""
        if net.due:
            layers, before = row(net.layers, net.n_layers, LAYER), net.previous
            for i in range(net.n_layers):
                go_forth(net, layers, i, before, before, place_of(layers[i], SUMS))
                before = place_of(layers[i], net.turn)
            net.due = 0

    return place_of, leaf(forward), leaf(settle)


def _backward(scalar: type[np.floating[Any]], place_of: Any) -> Any:
    """Make the function that sends errors down, and makes them steps."""
    lanes = lanes_of(scalar)
    vector = lanes * np.dtype(scalar).itemsize
    its, backward_dots = fused_steps(scalar, lanes), skinny(scalar, lanes).backward_dots
    backward_transposed, steps = its.backward_transposed, its.steps

    def backward(net: Any, layers: Any) -> None:
        for i in range(net.n_layers - 1, -1, -1):
            layer, errors = layers[i], _errors_of(net, layers, i)
            if i > 0:
                below = layers[i - 1]
                number, operand = slopes_of(below)
                if below.form == RELU_LAYER:
                    operand = place_of(below, net.turn)
                way = (below.deltas, Epilogue(number, operand))
                if layer.turned:
                    backward_transposed(layer.master, errors, layer.n_out, *way, below.n_panels)
                else:
                    weights = Panels(layer.master, layer.master_panel)
                    deltas = Panels(errors, vector)
                    backward_dots(weights, deltas, *way, layer.n_out, layer.n_in)
            steps(errors, net.coefficients, errors, layer.n_panels)

    return leaf(backward)


@leaf
def _score(net: Any, layers: Any, r: Any, lanes: Any, like: Any) -> Any:
    """Write the errors of the output layer; return the row's loss, weighted."""
    outer, values, size = layers[net.n_layers - 1], net.raw, like.itemsize
    if outer.activation:
        values = net.value
        call(outer.activation, (net.raw, values, net.slope, outer.n_panels * lanes))
    targets, shape = net.y + r * net.n_targets * size, (1, net.n_out, net.n_targets)
    call(net.loss, (values, targets, net.loss_slope, net.row_losses, *shape))
    scale_errors(net, outer, 0, 1, 0, like)
    loss = row(net.row_losses, 1, np.float64)[0]
    if net.weight:
        loss *= row(net.weight + r * size, 1, like.dtype)[0]
    return loss


@leaf
def _begin(net: Any, layers: Any, lanes: Any, like: Any) -> None:
    """No step waits: they are zeros, and what they are multiplied with is finite."""
    row(net.loss_slope, layers[net.n_layers - 1].n_panels * lanes, like.dtype)[:] = 0
    for i in range(net.n_layers):
        n = layers[i].n_panels * lanes
        row(layers[i].deltas, n, like.dtype)[:] = 0
        row(layers[i].outputs, SUMS * n, like.dtype)[:] = 0


@leaf
def _ask_for_next(net: Any, size: Any) -> None:
    """Ask memory for the row that comes next in the order: of 100,000 of 32 numbers a step of
    32-64-32-1 takes 0.21 us without, 0.18 so."""
    if net.asks_rows and net.index + 8 < net.order_stop:
        r, n_bytes = row(net.index, 2, np.int64)[1], net.n_in * size
        prefetch_lines(net.x + r * n_bytes, (n_bytes + LINE_BYTES - 1) // LINE_BYTES)


def descend(scalar: type[np.floating[Any]]) -> Any:
    """Make the driver of such a training; a unit is a row."""
    lanes = lanes_of(scalar)
    size = np.dtype(scalar).itemsize
    place_of, forward, settle = _forward(scalar)
    backward = _backward(scalar, place_of)

    def step(net: Any, job: Any, more: Any, ends: Any, like: Any) -> None:
        if job.batch_mass == 0:
            return
        layers, r = row(net.layers, net.n_layers, LAYER), row(net.index, 1, np.int64)[0]
        x = net.x + r * net.n_in * size
        if net.due == 0:
            _begin(net, layers, lanes, like)
            net.due, net.previous = 1, x
        _ask_for_next(net, size)
        forward(net, layers, x)
        job.batch_loss += _score(net, layers, r, lanes, like) / job.batch_mass
        backward(net, layers)

    return training(scalar, leaf(step), settle)
