"""Phase two of the grid's step: tiles of weights, each with its gradient, penalty and update.

And the update alone, by a gradient that the host gives.
"""

from functools import cache
from typing import Any, NamedTuple

from fastmlp.backends.cuda.device.adapter import cuda, device_function, is_finite, kernel, unsigned
from fastmlp.backends.cuda.kernels import rule_blocks
from fastmlp.backends.cuda.kernels.arguments import (
    Batch,
    Extent,
    Net,
    Operand,
    Product,
    batch_of,
    coefficients_at,
    end_batch,
    steps_per_epoch,
    sum_losses,
)
from fastmlp.backends.cuda.kernels.gemm import Update, make_staged_product
from fastmlp.backends.cuda.plan.design import GridShape, KernelRules
from fastmlp.backends.cuda.plan.plan import EVALUATE, NO_STEP, Layer, Nets
from fastmlp.rules.groups import FROZEN


class Tile(NamedTuple):
    """A tile of a layer's weights and biases: its rows and columns."""

    layer: Layer
    top: int
    left: int
    height: int
    width: int


def make_gradient_update(rules: KernelRules, shape: GridShape) -> Any:
    """Make ``gradient_update(staging, net, step)``, which also sums the batch's losses."""
    tile_update = _make_tile_update(rules, shape)
    batch_loss = _make_batch_loss(rules, shape)

    def gradient_update(staging: Any, net: Net, step: int) -> None:
        plan, t, mass = net.plan, cuda.threadIdx.x, net.progress.batch_mass
        if mass == NO_STEP:
            return
        _, n = batch_of(plan, step)
        batch = Batch(-1, n, mass, coefficients_at(plan, step))
        # The last block has no more tiles than the others.
        if cuda.blockIdx.x == cuda.gridDim.x - 1:
            batch_loss(net, step, batch, t)
        if mass == 0 or plan.mode == EVALUATE:
            return
        ends = (step + 1) % steps_per_epoch(plan) == 0
        for q in range(cuda.blockIdx.x, plan.n_tiles, cuda.gridDim.x):
            tile_update(staging, net, q, batch, ends, t)

    return device_function(gradient_update)


def _make_batch_loss(rules: KernelRules, shape: GridShape) -> Any:
    """Make the sum of a batch's losses, and the epoch's mean up to here. Training ends if it is not
    finite; an evaluation does not, since later calls have other parameters."""
    n_threads, training = shape.n_threads, rules.update is not None

    def batch_loss(net: Net, step: int, batch: Batch, t: int) -> None:
        plan, progress, loss = net.plan, net.progress, 0.0
        sum_losses(net, batch.n_rows, t, n_threads)
        cuda.syncthreads()
        if t == 0 and batch.mass != 0:
            loss = end_batch(net, batch.mass)
        if t == 0 and training:
            at = plan.losses + step // steps_per_epoch(plan)
            net.sums[unsigned(at)] = progress.epoch_loss / progress.epoch_mass
            if not is_finite(loss):
                progress.diverged = 1

    return device_function(batch_loss)


def _make_tile_update(rules: KernelRules, shape: GridShape) -> Any:
    """Make the gradient of a tile, and its optimizer step if the rules have an optimizer."""
    product, finish = make_staged_product(rules, shape.weights), _make_finish(rules, shape)
    down, across = shape.weights.tile_rows, shape.weights.tile_columns

    def tile_update(staging: Any, net: Net, q: int, batch: Batch, ends: bool, t: int) -> None:
        plan, i = net.plan, 0
        while q >= net.layers[unsigned(i + 1)].first_tile:
            i += 1
        layer = net.layers[unsigned(i)]
        if layer.weight_coefficients == FROZEN and layer.bias_coefficients == FROZEN:
            return
        n_in, n_out = layer.n_in, layer.n_out
        columns = (n_out + across - 1) // across
        own = q - layer.first_tile
        top, left = own // columns * down, own % columns * across
        tile = Tile(layer, top, left, min(down, n_in + 1 - top), min(across, n_out - left))
        gradient = plan.gradient + layer.w + top * n_out + left
        product(
            staging,
            net.memory,
            Operand(layer.inputs + top, 1, layer.input_stride),
            Operand(layer.deltas + left, 1, layer.delta_stride),
            Extent(tile.height, tile.width, batch.n_rows),
            Product(gradient, n_out, -1),
            Update(plan.accumulate, n_in - top, plan.gradient + layer.b + left),
            t,
        )
        cuda.syncthreads()
        finish(net, tile, batch, ends, t)
        cuda.syncthreads()

    return device_function(tile_update)


def _make_finish(rules: KernelRules, shape: GridShape) -> Any:
    """Make the penalty's part of a tile's gradient, and the optimizer step; training ends if a
    parameter is not finite where an epoch ends."""
    n_threads, training = shape.n_threads, rules.update is not None
    penalty, take_step = rule_blocks.penalty(rules), _make_step(rules)

    def finish(net: Net, tile: Tile, batch: Batch, ends: bool, t: int) -> None:
        memory, plan, layer = net.memory, net.plan, tile.layer
        n_in, n_out = layer.n_in, layer.n_out
        for q in range(t, tile.height * tile.width, n_threads):
            k, j = tile.top + q // tile.width, tile.left + q % tile.width
            flat, at = layer.w + k * n_out + j, layer.weight_coefficients
            if k == n_in:
                flat, at = layer.b + j, layer.bias_coefficients
            if at == FROZEN:
                continue
            gradient = memory[unsigned(plan.gradient + flat)]
            if k < n_in and plan.last_chunk != 0:
                w = memory[unsigned(plan.parameters + flat)]
                _, derivative = penalty(w, net.sums, plan.strengths, 1.0 / batch.mass)
                gradient += derivative
            if training:
                take_step(net, flat, batch.coefficients + at, gradient)
                if ends and not is_finite(memory[unsigned(plan.parameters + flat)]):
                    net.progress.diverged = 1
            else:
                memory[unsigned(plan.gradient + flat)] = gradient

    return device_function(finish)


def _make_step(rules: KernelRules) -> Any:
    """Make ``take_step(net, i, at, gradient)``: parameter i's optimizer step, by the coefficients
    from ``memory[at]`` on; nothing for rules without an optimizer."""
    optimizer, follow = rule_blocks.update(rules), rule_blocks.follow(rules)

    def take_step(net: Net, i: int, at: int, gradient: Any) -> None:
        memory, plan = net.memory, net.plan
        w, m, v = unsigned(plan.parameters + i), unsigned(plan.m + i), unsigned(plan.v + i)
        memory[w], memory[m], memory[v] = optimizer(
            memory, at, memory[w], gradient, memory[m], memory[v]
        )
        follow(memory, plan.average + i, at, memory[w])

    return device_function(take_step)


@device_function
def _coefficients_of(net: Net, i: int) -> int:
    """Return the offset of parameter i's coefficients in a step's, or FROZEN."""
    offset = FROZEN
    for j in range(net.plan.n_layers):
        layer = net.layers[j]
        if 0 <= i - layer.w < layer.n_in * layer.n_out:
            offset = layer.weight_coefficients
        if 0 <= i - layer.b < layer.n_out:
            offset = layer.bias_coefficients
    return offset


@cache
def make_apply(rules: KernelRules, n_threads: int) -> Any:
    """Make the kernel ``apply(nets)``, once per process: a step of the first net, by the
    gradient in memory."""
    take_step = _make_step(rules)

    def apply(nets: Nets) -> None:
        progress, plan = nets.progress[0], nets.plans[0]
        net = Net(nets.memory[0], nets.sums[0], progress, plan, nets.layers, nets.orders[0])
        first = cuda.blockIdx.x * n_threads + cuda.threadIdx.x
        for i in range(first, plan.n_parameters, cuda.gridDim.x * n_threads):
            at = _coefficients_of(net, i)
            if at != FROZEN:
                gradient = net.memory[unsigned(plan.gradient + i)]
                take_step(net, i, plan.coefficients + at, gradient)

    return kernel(apply)
