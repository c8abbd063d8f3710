"""Phase two of the wide design: gradient, penalty and update by tiles of weights."""

from typing import Any

import numpy as np

from fastmlp.backends.cuda import rules as device_rules
from fastmlp.backends.cuda.adapter import cuda, device_function, unsigned
from fastmlp.backends.cuda.launch_shape import Form
from fastmlp.backends.cuda.plan import (
    BAD,
    BATCH_LOSS,
    BATCH_MASS,
    COEFFICIENTS,
    DELTA,
    DELTA_STRIDE,
    ENDS,
    ENTER,
    ENTER_STRIDE,
    EPOCH_LOSS,
    EPOCH_MASS,
    EVALUATE,
    FIRST,
    FIRST_TILE,
    GRADIENT,
    LANES,
    LAYER_WORDS,
    LAYERS,
    MODE,
    MORE,
    N_COEFFICIENTS,
    N_IN,
    N_LANES,
    N_OUT,
    N_PARTS,
    N_TILES,
    PARAMETERS,
    PARTS,
    REACHED,
    ROW_LOSSES,
    STRENGTHS,
    B,
    M,
    V,
    W,
)
from fastmlp.backends.cuda.rows import batch_of
from fastmlp.backends.cuda.rules import Rules
from fastmlp.backends.cuda.staged import make_product


def make_weights_phase(rules: Rules, form: Form) -> Any:
    """Make phase two: gradient and update by tiles, and the sum of the batch's losses."""
    tile = _make_tile(rules, form)
    account = _make_account(rules, form)
    find_batch = device_function(batch_of)

    def weights_phase(staging: Any, memory: Any, sums: Any, plan: Any, step: Any) -> None:
        t, mass = cuda.threadIdx.x, sums[BATCH_MASS]
        if mass == 0:
            if t == 0 and cuda.blockIdx.x == 0:
                sums[BATCH_LOSS] = 0.0
                sums[REACHED] = step + 1
            return
        _, n = find_batch(plan, step)
        at = plan[COEFFICIENTS] + (step - plan[FIRST]) * plan[N_COEFFICIENTS]
        # By the last block, which never has more tiles than another.
        if cuda.blockIdx.x == cuda.gridDim.x - 1:
            account(sums, plan, step, n, mass, t)
        if plan[MODE] == EVALUATE:
            return
        for q in range(cuda.blockIdx.x, plan[N_TILES], cuda.gridDim.x):
            tile(staging, memory, sums, plan, q, n, mass, at, t)

    return device_function(weights_phase)


def _make_account(rules: Rules, form: Form) -> Any:
    """Make the sum of the losses of a batch; training ends if it is not finite.

    A query does not end: it is repeated with other parameters.
    """
    n_threads, training = form.n_threads, rules.update is not None

    def account(sums: Any, plan: Any, step: Any, n: Any, mass: Any, t: Any) -> None:
        for lane in range(t, N_LANES, n_threads):
            part = 0.0
            for r in range(lane, n, N_LANES):
                part += sums[unsigned(plan[ROW_LOSSES] + r)]
            sums[unsigned(LANES + lane)] = part
        cuda.syncthreads()
        if t == 0:
            loss = 0.0
            for lane in range(N_LANES):
                loss += sums[unsigned(LANES + lane)]
            loss /= mass
            if plan[ENDS] != 0:
                for part in range(plan[N_PARTS]):
                    loss += sums[unsigned(plan[PARTS] + part)]
            sums[BATCH_LOSS] = loss
            sums[EPOCH_LOSS] += loss * mass
            sums[EPOCH_MASS] += mass
            sums[REACHED] = step + 1
            if training and not loss - loss == 0:
                sums[BAD] = 1.0

    return device_function(account)


def _make_tile(rules: Rules, form: Form) -> Any:
    """Make a tile of the gradient and, with an update rule, the optimizer's step on it."""
    scalar, shape, n_threads = np.dtype(rules.dtype).type, form.weights, form.n_threads
    product, penalise = make_product(rules, shape), device_rules.penalty(rules, scalar)
    change, updates = device_rules.update(rules, scalar), rules.update is not None
    down, across = shape.tile_rows, shape.tile_columns

    def finish(
        memory: Any, sums: Any, plan: Any, a: Any, top: Any, left: Any, height: Any, width: Any,
        mass: Any, at: Any, t: Any,
    ) -> None:  # fmt: skip
        n_in, n_out = plan[a + N_IN], plan[a + N_OUT]
        for q in range(t, height * width, n_threads):
            k, j = top + q // width, left + q % width
            flat = plan[a + W] + k * n_out + j
            if k == n_in:
                flat = plan[a + B] + j
            w, g = plan[PARAMETERS] + flat, plan[GRADIENT] + flat
            slope = memory[unsigned(g)]
            if k < n_in and plan[ENDS] != 0:
                _, more = penalise(memory[unsigned(w)], sums, plan[STRENGTHS], 1.0 / mass)
                slope += more
            if updates:
                m, v = plan[M] + flat, plan[V] + flat
                memory[unsigned(w)], memory[unsigned(m)], memory[unsigned(v)] = change(
                    memory, at, memory[unsigned(w)], slope, memory[unsigned(m)], memory[unsigned(v)]
                )
            else:
                memory[unsigned(g)] = slope

    finish = device_function(finish)

    def tile(
        staging: Any, memory: Any, sums: Any, plan: Any, q: Any, n: Any, mass: Any, at: Any, t: Any
    ) -> None:
        i = 0
        while q >= plan[unsigned(LAYERS + (i + 1) * LAYER_WORDS + FIRST_TILE)]:
            i += 1
        a = LAYERS + i * LAYER_WORDS
        n_in, n_out = plan[a + N_IN], plan[a + N_OUT]
        columns = (n_out + across - 1) // across
        own = q - plan[a + FIRST_TILE]
        top, left = own // columns * down, own % columns * across
        height, width = min(down, n_in + 1 - top), min(across, n_out - left)
        g = plan[GRADIENT] + plan[a + W] + top * n_out + left
        product(
            staging, memory, plan[a + ENTER] + top, 1, plan[a + ENTER_STRIDE],
            plan[a + DELTA] + left, 1, plan[a + DELTA_STRIDE], -1, plan[MORE],
            height, width, n, g, n_out, n_in - top, plan[GRADIENT] + plan[a + B] + left, t,
        )  # fmt: skip
        cuda.syncthreads()
        finish(memory, sums, plan, a, top, left, height, width, mass, at, t)
        cuda.syncthreads()

    return device_function(tile)
