"""Phase two of the grid's step: tiles of weights, each with its gradient, penalty and update.

And the update alone, by a gradient that the host gives.
"""

from typing import Any, NamedTuple

import numpy as np

from fastmlp.backends.cuda.device.adapter import cuda, device_function, kernel, unsigned
from fastmlp.backends.cuda.kernels import rule_blocks
from fastmlp.backends.cuda.kernels.arguments import (
    Batch,
    Extent,
    Operand,
    Product,
    batch_of,
)
from fastmlp.backends.cuda.kernels.gemm import Update, make_staged_product
from fastmlp.backends.cuda.plan.design import GridShape
from fastmlp.backends.cuda.plan.plan import (
    ACCUMULATE,
    AVERAGE,
    BATCH_LOSS,
    BATCH_MASS,
    BIAS_COEFFICIENTS,
    COEFFICIENTS,
    DELTA,
    DELTA_STRIDE,
    EPOCH_LOSS,
    EPOCH_MASS,
    EVALUATE,
    FIRST,
    FIRST_TILE,
    GRADIENT,
    INPUT,
    INPUT_STRIDE,
    LAST_CHUNK,
    LAYER_WORDS,
    LAYERS,
    LOSS_SUMS,
    MODE,
    N_COEFFICIENTS,
    N_IN,
    N_LAYERS,
    N_OUT,
    N_PARAMETERS,
    N_PARTIAL_SUMS,
    N_PENALTY_SUMS,
    N_TILES,
    NON_FINITE,
    PARAMETERS,
    PENALTY_SUMS,
    REACHED,
    ROW_LOSSES,
    STRENGTHS,
    WEIGHT_COEFFICIENTS,
    B,
    M,
    V,
    W,
)
from fastmlp.backends.cuda.plan.rules import Rules
from fastmlp.rules.groups import FROZEN


class Tile(NamedTuple):
    """A tile of a layer's weights and biases.

    Attributes
    ----------
    layer : index of the layer's words in the plan
    top, left, height, width : rows and columns
    """

    layer: Any
    top: Any
    left: Any
    height: Any
    width: Any


def make_gradient_update(rules: Rules, shape: GridShape) -> Any:
    """Make ``gradient_update(staging, net, step)``, which also sums the batch's losses."""
    tile_update = _make_tile_update(rules, shape)
    batch_loss = _make_batch_loss(rules, shape)
    find_batch = device_function(batch_of)

    def gradient_update(staging: Any, net: Any, step: Any) -> None:
        sums, plan = net.sums, net.plan
        t, mass = cuda.threadIdx.x, sums[BATCH_MASS]
        if mass == 0:
            if t == 0 and cuda.blockIdx.x == 0:
                sums[BATCH_LOSS] = 0.0
                sums[REACHED] = step + 1
            return
        _, n = find_batch(plan, step)
        at = plan[COEFFICIENTS] + (step - plan[FIRST]) * plan[N_COEFFICIENTS]
        batch = Batch(-1, n, mass, at)
        # The last block has no more tiles than the others.
        if cuda.blockIdx.x == cuda.gridDim.x - 1:
            batch_loss(sums, plan, step, batch, t)
        if plan[MODE] == EVALUATE:
            return
        for q in range(cuda.blockIdx.x, plan[N_TILES], cuda.gridDim.x):
            tile_update(staging, net, q, batch, t)

    return device_function(gradient_update)


def _make_batch_loss(rules: Rules, shape: GridShape) -> Any:
    """Make the sum of a batch's losses. Training ends if it is not finite; an evaluation does not,
    since later calls have other parameters."""
    n_threads, training = shape.n_threads, rules.update is not None

    def batch_loss(sums: Any, plan: Any, step: Any, batch: Any, t: Any) -> None:
        for s in range(t, N_PARTIAL_SUMS, n_threads):
            part = 0.0
            for r in range(s, batch.n_rows, N_PARTIAL_SUMS):
                part += sums[unsigned(plan[ROW_LOSSES] + r)]
            sums[unsigned(LOSS_SUMS + s)] = part
        cuda.syncthreads()
        if t == 0:
            loss = 0.0
            for s in range(N_PARTIAL_SUMS):
                loss += sums[unsigned(LOSS_SUMS + s)]
            loss /= batch.mass
            if plan[LAST_CHUNK] != 0:
                for s in range(plan[N_PENALTY_SUMS]):
                    loss += sums[unsigned(plan[PENALTY_SUMS] + s)]
            sums[BATCH_LOSS] = loss
            sums[EPOCH_LOSS] += loss * batch.mass
            sums[EPOCH_MASS] += batch.mass
            sums[REACHED] = step + 1
            if training and not loss - loss == 0:
                sums[NON_FINITE] = 1.0

    return device_function(batch_loss)


def _make_tile_update(rules: Rules, shape: GridShape) -> Any:
    """Make the gradient of a tile, and its optimizer step if the rules have an optimizer."""
    product, down, across = (
        make_staged_product(rules, shape.weights),
        shape.weights.tile_rows,
        shape.weights.tile_columns,
    )
    finish = _make_finish(rules, shape)

    def tile_update(staging: Any, net: Any, q: Any, batch: Any, t: Any) -> None:
        plan, i = net.plan, 0
        while q >= plan[unsigned(LAYERS + (i + 1) * LAYER_WORDS + FIRST_TILE)]:
            i += 1
        a = LAYERS + i * LAYER_WORDS
        if plan[a + WEIGHT_COEFFICIENTS] == FROZEN and plan[a + BIAS_COEFFICIENTS] == FROZEN:
            return
        n_in, n_out = plan[a + N_IN], plan[a + N_OUT]
        columns = (n_out + across - 1) // across
        own = q - plan[a + FIRST_TILE]
        top, left = own // columns * down, own % columns * across
        tile = Tile(a, top, left, min(down, n_in + 1 - top), min(across, n_out - left))
        gradient = plan[GRADIENT] + plan[a + W] + top * n_out + left
        product(
            staging,
            net.memory,
            Operand(plan[a + INPUT] + top, 1, plan[a + INPUT_STRIDE]),
            Operand(plan[a + DELTA] + left, 1, plan[a + DELTA_STRIDE]),
            Extent(tile.height, tile.width, batch.n_rows),
            Product(gradient, n_out, -1),
            Update(plan[ACCUMULATE], n_in - top, plan[GRADIENT] + plan[a + B] + left),
            t,
        )
        cuda.syncthreads()
        finish(net, tile, batch, t)
        cuda.syncthreads()

    return device_function(tile_update)


def _make_finish(rules: Rules, shape: GridShape) -> Any:
    """Make the penalty's part of a tile's gradient, and the optimizer step."""
    scalar, n_threads = np.dtype(rules.dtype).type, shape.n_threads
    penalty, training = rule_blocks.penalty(rules, scalar), rules.update is not None
    optimizer, follow = rule_blocks.update(rules, scalar), rule_blocks.follow(rules)

    def finish(net: Any, tile: Any, batch: Any, t: Any) -> None:
        memory, plan, a = net.memory, net.plan, tile.layer
        n_in, n_out = plan[a + N_IN], plan[a + N_OUT]
        for q in range(t, tile.height * tile.width, n_threads):
            k, j = tile.top + q // tile.width, tile.left + q % tile.width
            flat, at = plan[a + W] + k * n_out + j, plan[a + WEIGHT_COEFFICIENTS]
            if k == n_in:
                flat, at = plan[a + B] + j, plan[a + BIAS_COEFFICIENTS]
            if at == FROZEN:
                continue
            w, g = plan[PARAMETERS] + flat, plan[GRADIENT] + flat
            gradient = memory[unsigned(g)]
            if k < n_in and plan[LAST_CHUNK] != 0:
                _, derivative = penalty(
                    memory[unsigned(w)], net.sums, plan[STRENGTHS], 1.0 / batch.mass
                )
                gradient += derivative
            if training:
                m, v, at = plan[M] + flat, plan[V] + flat, batch.coefficients + at
                memory[unsigned(w)], memory[unsigned(m)], memory[unsigned(v)] = optimizer(
                    memory,
                    at,
                    memory[unsigned(w)],
                    gradient,
                    memory[unsigned(m)],
                    memory[unsigned(v)],
                )
                follow(memory, plan[AVERAGE] + flat, at, memory[unsigned(w)])
            else:
                memory[unsigned(g)] = gradient

    return device_function(finish)


def _place_of(plan: Any, i: Any) -> Any:
    """Return where the coefficients of parameter i begin in a step's, or FROZEN."""
    place = FROZEN
    for layer in range(plan[N_LAYERS]):
        a = LAYERS + layer * LAYER_WORDS
        n_out = plan[a + N_OUT]
        if 0 <= i - plan[a + W] < plan[a + N_IN] * n_out:
            place = plan[a + WEIGHT_COEFFICIENTS]
        if 0 <= i - plan[a + B] < n_out:
            place = plan[a + BIAS_COEFFICIENTS]
    return place


def make_apply(rules: Rules, n_threads: int) -> Any:
    """Make the kernel ``apply(memory, plan)``: one optimizer step with the gradient in memory."""
    optimizer = rule_blocks.update(rules, np.dtype(rules.dtype).type)
    find_place = device_function(_place_of)
    follow = rule_blocks.follow(rules)

    def apply(memory: Any, plan: Any) -> None:
        first = cuda.blockIdx.x * n_threads + cuda.threadIdx.x
        for i in range(first, plan[N_PARAMETERS], cuda.gridDim.x * n_threads):
            w, m, v = plan[PARAMETERS] + i, plan[M] + i, plan[V] + i
            g, place = memory[unsigned(plan[GRADIENT] + i)], find_place(plan, i)
            if place == FROZEN:
                continue
            place += plan[COEFFICIENTS]
            memory[unsigned(w)], memory[unsigned(m)], memory[unsigned(v)] = optimizer(
                memory,
                place,
                memory[unsigned(w)],
                g,
                memory[unsigned(m)],
                memory[unsigned(v)],
            )
            follow(memory, plan[AVERAGE] + i, place, memory[unsigned(w)])

    return kernel(apply)
