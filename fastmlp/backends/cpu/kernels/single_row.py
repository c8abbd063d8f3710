"""Plain descent by single rows: each step is pending until the next row's forward pass applies it.

By batches a step reads all weights in the forward pass, those above the first layer in the backward
pass, and all of them again in the update. Here the forward pass of the next row updates the weights
that it reads: 0.41 -> 0.19 us (32-64-32-1@1), 6.3 -> 2.6 us (784-100-10@1), 66 -> 36 us
(784-512-512-10@1).
"""

from typing import Any

import numpy as np

from fastmlp.backends.cpu.kernels.elementwise import Loop
from fastmlp.backends.cpu.kernels.epoch import training
from fastmlp.backends.cpu.kernels.forward_backward import slope_epilogue
from fastmlp.backends.cpu.kernels.output_layer import losses
from fastmlp.backends.cpu.kernels.parts import Kernel, Scalar, layers_of
from fastmlp.backends.cpu.plan.records import BLOCK, Batch, BlockAddresses, Job, Layer, Net
from fastmlp.backends.cpu.plan.records import RELU as RELU_LAYER
from fastmlp.backends.cpu.simd.fused_step import Row, fused_steps
from fastmlp.backends.cpu.simd.microkernel import Epilogue, prefetch_lines
from fastmlp.backends.cpu.simd.skinny import skinny
from fastmlp.backends.cpu.simd.vector import Panels
from fastmlp.compiler import call, njit, record_at, row
from fastmlp.compiler.target import LINE_BYTES, lanes_of
from fastmlp.network.spec import Network
from fastmlp.rules.groups import groups_of
from fastmlp.rules.optimizers import Optimizer, gradient_rule_of, is_averaged, norm_limit_of
from fastmlp.rules.updates import sgd

# A layer's output buffers: two in turns, for this row and the one before, and the third for sums.
SUMS = 2


def is_plain(network: Network, optimizer: Optimizer) -> bool:
    """Return True if a step is the rate, the same for all layers, times the loss's gradient."""
    changed = gradient_rule_of(optimizer) or norm_limit_of(optimizer) or is_averaged(optimizer)
    plain = optimizer.rule is sgd and not changed
    plain = plain and not (network.penalties or network.dropout or network.signs)
    return plain and groups_of(optimizer, network.factors).alike


@njit
def _deltas_of(net: Net, i: int) -> int:
    """Return the address of layer i's deltas, which `steps` replaces by its pending step."""
    return net.loss_slope if i == net.n_layers - 1 else layers_of(net)[i].deltas


def _forward(scalar: Scalar) -> tuple[Kernel, Kernel, Kernel]:
    """Make three functions: a layer's output buffers, a row's forward pass with the pending step,
    and the pending step alone."""
    lanes = lanes_of(scalar)
    vector = lanes * np.dtype(scalar).itemsize
    fused = fused_steps(scalar, lanes)
    forward_panels, forward_transposed = fused.forward, fused.forward_transposed

    @njit
    def place_of(layer: Layer, turn: int) -> int:
        return layer.outputs + turn * layer.n_panels * vector

    @njit
    def forward_layer(net: Net, i: int, before: int, now: int, sums: int) -> None:
        """Update a layer's weights with the row before, and multiply this row with them."""
        layer, numbers = layers_of(net)[i], Row(before, now, _deltas_of(net, i), sums)
        positive = 1 if layer.form == RELU_LAYER else 0
        if layer.is_transposed:
            shape = (layer.n_in, layer.n_out)
            forward_transposed(layer.packed, layer.biases, *shape, numbers, positive)
        else:
            weights = Panels(layer.packed, layer.packed_panel)
            forward_panels(weights, layer.n_in, numbers, layer.n_panels, positive)

    @njit
    def forward(net: Net, batch: Batch, x: int) -> None:
        layers, before, now, last = layers_of(net), batch.previous, x, net.n_layers - 1
        for i in range(last):
            layer = layers[i]
            old, new = place_of(layer, batch.turn), place_of(layer, 1 - batch.turn)
            z = place_of(layer, SUMS) if layer.form == BLOCK else new
            forward_layer(net, i, before, now, z)
            if layer.form == BLOCK:
                call(layer.activation, (z, new, layer.deltas, layer.n_panels * lanes))
            before, now = old, new
        forward_layer(net, last, before, now, net.raw)
        batch.previous, batch.turn = x, 1 - batch.turn

    @njit
    def settle(net: Net, job: Job) -> None:
        """Take the pending step: a forward pass, the sums of which are not used."""
        batch = record_at(net.batch, Batch)
        if batch.due:
            layers, before = layers_of(net), batch.previous
            for i in range(net.n_layers):
                forward_layer(net, i, before, before, place_of(layers[i], SUMS))
                before = place_of(layers[i], batch.turn)
            batch.due = 0

    return place_of, forward, settle


def _backward(scalar: Scalar, place_of: Kernel) -> Kernel:
    """Make the function that computes all deltas, and multiplies them by minus the rate."""
    lanes = lanes_of(scalar)
    vector = lanes * np.dtype(scalar).itemsize
    fused, backward_dots = fused_steps(scalar, lanes), skinny(scalar, lanes).backward_dots
    backward_transposed, steps = fused.backward_transposed, fused.steps

    @njit
    def backward(net: Net, batch: Batch) -> None:
        layers = layers_of(net)
        for i in range(net.n_layers - 1, -1, -1):
            layer, deltas = layers[i], _deltas_of(net, i)
            if i > 0:
                below = layers[i - 1]
                number, operand = slope_epilogue(below)
                if below.form == RELU_LAYER:
                    operand = place_of(below, batch.turn)
                to = (below.deltas, Epilogue(number, operand))
                if layer.is_transposed:
                    backward_transposed(layer.packed, deltas, layer.n_out, *to, below.n_panels)
                else:
                    weights = Panels(layer.packed, layer.packed_panel)
                    right = Panels(deltas, vector)
                    backward_dots(weights, right, *to, layer.n_out, layer.n_in)
            steps(deltas, batch.coefficients, deltas, layer.n_panels)

    return backward


def _rows(scalar: Scalar) -> tuple[Kernel, Kernel, Kernel]:
    """Make three functions: a row's loss and deltas, a fit's start, the next row's prefetch."""
    lanes, size = lanes_of(scalar), np.dtype(scalar).itemsize
    scale_deltas = losses(scalar)[2]

    @njit
    def loss_of(net: Net, batch: Batch, r: int) -> float:
        """Write the deltas of the output layer; return the row's loss, weighted."""
        outer, values = layers_of(net)[net.n_layers - 1], net.raw
        if outer.activation:
            values = net.value
            call(outer.activation, (net.raw, values, net.slope, outer.n_panels * lanes))
        targets, shape = batch.y + r * net.n_targets * size, (1, net.n_out, net.n_targets)
        block = record_at(net.blocks, BlockAddresses).loss
        call(block, (values, targets, net.loss_slope, net.row_losses, *shape))
        scale_deltas(net, outer, (0, 1), 0)
        loss = row(net.row_losses, 1, np.float64)[0]
        if batch.weight:
            loss *= row(batch.weight + r * size, 1, scalar)[0]
        return loss

    @njit
    def begin(net: Net, batch: Batch, x: int) -> None:
        """Make a pending step of zeros, with finite inputs to multiply it by."""
        layers = layers_of(net)
        row(net.loss_slope, layers[net.n_layers - 1].n_panels * lanes, scalar)[:] = 0
        for i in range(net.n_layers):
            n = layers[i].n_panels * lanes
            row(layers[i].deltas, n, scalar)[:] = 0
            row(layers[i].outputs, SUMS * n, scalar)[:] = 0
        batch.due, batch.previous = 1, x

    @njit
    def prefetch_next(net: Net, batch: Batch) -> None:
        """Prefetch the next row in the order: 0.21 -> 0.18 us (32-64-32-1@1, 100,000 rows)."""
        if net.prefetches_rows and batch.index + 8 < batch.order_stop:
            r, n_bytes = row(batch.index, 2, np.int64)[1], net.n_in * size
            prefetch_lines(batch.x + r * n_bytes, (n_bytes + LINE_BYTES - 1) // LINE_BYTES)

    return loss_of, begin, prefetch_next


def row_steps(scalar: Scalar) -> tuple[Kernel, Kernel]:
    """Make the function that does a row, and leaves its step pending, and the one that takes it."""
    size = np.dtype(scalar).itemsize
    place_of, forward, settle = _forward(scalar)
    backward, (loss_of, begin, prefetch_next) = _backward(scalar, place_of), _rows(scalar)

    @njit
    def step(job: Job, net: Net, more: int, ends: int, apply: int) -> float:
        batch = record_at(net.batch, Batch)
        r = row(batch.index, 1, np.int64)[0]
        x = batch.x + r * net.n_in * size
        if batch.due == 0:
            begin(net, batch, x)
        prefetch_next(net, batch)
        forward(net, batch, x)
        loss = loss_of(net, batch, r)
        backward(net, batch)
        return loss

    return step, settle


def descend(scalar: Scalar) -> Kernel:
    """Make the driver of training by plain descent on single rows; a unit is a row."""
    return training(scalar, *row_steps(scalar))


def row_backward(scalar: type[np.floating[Any]]) -> Loop:
    """Make the block that computes one row's deltas of layer i - 1, for some panels.

    It is a block of its own: few nets need it, and it takes a fifth of phase one's compile time.
    """
    lanes = lanes_of(scalar)
    backward_dots = skinny(scalar, lanes).backward_dots
    vector = lanes * np.dtype(scalar).itemsize

    def backward(address: int, i: int, panel: int, most: int) -> None:
        net = record_at(address, Net)
        layers = layers_of(net)
        layer, below = layers[i], layers[i - 1]
        first, count = panel * lanes, min(most, below.n_panels - panel) * lanes
        weights = Panels(layer.packed + first * vector, layer.packed_panel)
        (number, operand), down = slope_epilogue(below), panel * net.panel
        deltas, epilogue = Panels(layer.deltas, net.panel), Epilogue(number, operand + down)
        shape = (layer.n_out, min(count, layer.n_in - first))
        backward_dots(weights, deltas, below.deltas + down, epilogue, *shape)

    return backward
