"""One step of one small net by one block: gather, forward, losses, backward, update.

The block's space holds everything except the rows, their weights and the optimizer's state. A
barrier separates writes of one thread from reads of another.
"""

from typing import Any

import numpy as np

from fastmlp.backends.cuda import rules as device_rules
from fastmlp.backends.cuda.adapter import cuda, device_function, unsigned
from fastmlp.backends.cuda.plan import (
    BATCH_LOSS,
    BATCH_MASS,
    CODE,
    COPY,
    COPY_GRADIENT,
    COPY_STRIDE,
    DELTA,
    DELTA_STRIDE,
    ENTER,
    ENTER_STRIDE,
    EPOCH_LOSS,
    EPOCH_MASS,
    LANES,
    LAYER_WORDS,
    LAYERS,
    N_IN,
    N_LANES,
    N_LAYERS,
    N_OUT,
    N_OUTPUTS,
    N_PARTS,
    N_PENALTIES,
    PARTS,
    ROW_LOSSES,
    SLOPE,
    STRENGTHS,
    WEIGHTED,
    WEIGHTS,
    B,
    M,
    V,
    W,
)
from fastmlp.backends.cuda.rules import Rules
from fastmlp.backends.cuda.tile import make_tiles

# A thread's tile of a product: 16 sums, in which each load is used four times.
TILE = (4, 4)


def make_step(rules: Rules, n_threads: int) -> Any:
    """Make one step on the rows ``plan[index:index + n]``, with the coefficients at `at`."""
    gather, masses = _make_gather(n_threads)
    forward, backward = _make_layers(rules, n_threads)
    losses = _make_losses(rules, n_threads)
    update = _make_update(rules, n_threads)
    end = _make_end(rules)

    def step(
        x: Any, y: Any, memory: Any, sums: Any, plan: Any, space: Any, base: Any, index: Any,
        n: Any, at: Any, t: Any,
    ) -> None:  # fmt: skip
        n_layers = plan[N_LAYERS]
        gather(x, plan, space, base, index, n, t)
        mass = masses(memory, sums, plan, index, n, t)
        if mass == 0:
            # A batch whose weights are all zero takes no step and adds no loss.
            if t == 0:
                sums[BATCH_LOSS] = 0.0
            return
        for i in range(n_layers):
            forward(plan, space, base, i, n, t)
            cuda.syncthreads()
        losses(y, memory, sums, plan, space, base, index, n, mass, t)
        for i in range(n_layers - 1, 0, -1):
            backward(plan, space, base, i, n, t)
            cuda.syncthreads()
        for i in range(n_layers):
            update(memory, sums, plan, space, base, i, n, mass, at, t)
        cuda.syncthreads()
        end(sums, plan, mass, t)

    return device_function(step)


def _make_gather(n_threads: int) -> tuple[Any, Any]:
    """Make the gathering of rows, and the sum of their weights, which every thread returns."""

    def gather(x: Any, plan: Any, space: Any, base: Any, index: Any, n: Any, t: Any) -> None:
        n_in, stride = plan[LAYERS + N_IN], plan[LAYERS + ENTER_STRIDE]
        enter = base + plan[LAYERS + ENTER]
        for q in range(t, n * n_in, n_threads):
            r = q // n_in
            k = q - r * n_in
            space[unsigned(enter + r * stride + k)] = x[plan[unsigned(index + r)], k]
        cuda.syncthreads()

    def masses(memory: Any, sums: Any, plan: Any, index: Any, n: Any, t: Any) -> Any:
        if plan[WEIGHTED] == 0:
            return float(n)
        weights = plan[WEIGHTS]
        for lane in range(t, N_LANES, n_threads):
            part = 0.0
            for r in range(lane, n, N_LANES):
                part += memory[unsigned(weights + plan[unsigned(index + r)])]
            sums[unsigned(LANES + N_LANES + lane)] = part
        cuda.syncthreads()
        total = 0.0
        for lane in range(N_LANES):
            total += sums[unsigned(LANES + N_LANES + lane)]
        return total

    return device_function(gather), device_function(masses)


def _make_layers(rules: Rules, n_threads: int) -> tuple[Any, Any]:
    """Make the forward pass and the backward pass of a layer."""
    large, fits = make_tiles(rules, TILE, n_threads)
    fine, _ = make_tiles(rules, (1, 1), n_threads)
    activate = device_rules.activation(rules)

    def forward(plan: Any, space: Any, base: Any, i: Any, n: Any, t: Any) -> None:
        a = LAYERS + i * LAYER_WORDS
        after = a + LAYER_WORDS
        n_in, n_out, code = (
            plan[a + N_IN],
            plan[a + N_OUT],
            plan[a + CODE],
        )
        enter, stride = base + plan[a + ENTER], plan[a + ENTER_STRIDE]
        copy, across = base + plan[a + COPY], plan[a + COPY_STRIDE]
        z, z_stride = base + plan[after + ENTER], plan[after + ENTER_STRIDE]
        # Biases are one more row of weights, but are added first, as on the CPU.
        bias = copy + n_in * across
        if fits(n, n_out):
            large(space, enter, stride, 1, copy, 1, across, bias, 1, n, n_out, n_in, z, z_stride, t)
        else:
            fine(space, enter, stride, 1, copy, 1, across, bias, 1, n, n_out, n_in, z, z_stride, t)
        cuda.syncthreads()
        slope = base + plan[after + SLOPE]
        for q in range(t, n * n_out, n_threads):
            r = q // n_out
            place = r * z_stride + q - r * n_out
            space[unsigned(z + place)], space[unsigned(slope + place)] = activate(
                code, space[unsigned(z + place)]
            )

    def backward(plan: Any, space: Any, base: Any, i: Any, n: Any, t: Any) -> None:
        a = LAYERS + i * LAYER_WORDS
        before = a - LAYER_WORDS
        n_in, n_out = plan[a + N_IN], plan[a + N_OUT]
        delta, stride = base + plan[a + DELTA], plan[a + DELTA_STRIDE]
        copy, across = base + plan[a + COPY], plan[a + COPY_STRIDE]
        out, out_stride = (
            base + plan[before + DELTA],
            plan[before + DELTA_STRIDE],
        )
        if fits(n, n_in):
            large(
                space, delta, stride, 1, copy, across, 1, -1, 0, n, n_in, n_out, out, out_stride, t
            )
        else:
            fine(
                space, delta, stride, 1, copy, across, 1, -1, 0, n, n_in, n_out, out, out_stride, t
            )
        cuda.syncthreads()
        slope, slope_stride = base + plan[a + SLOPE], plan[a + ENTER_STRIDE]
        for q in range(t, n * n_in, n_threads):
            r = q // n_in
            k = q - r * n_in
            space[unsigned(out + r * out_stride + k)] *= space[
                unsigned(slope + r * slope_stride + k)
            ]

    return device_function(forward), device_function(backward)


def _make_losses(rules: Rules, n_threads: int) -> Any:
    """Make the rows' losses, the output deltas, and the partial sums of the losses."""
    row_loss = device_rules.row_loss(rules, np.dtype(rules.dtype).type)

    def losses(
        y: Any, memory: Any, sums: Any, plan: Any, space: Any, base: Any, index: Any, n: Any,
        mass: Any, t: Any,
    ) -> None:  # fmt: skip
        a = LAYERS + (plan[N_LAYERS] - 1) * LAYER_WORDS
        after, width, values = a + LAYER_WORDS, plan[N_OUTPUTS], plan[ROW_LOSSES]
        for r in range(t, n, n_threads):
            row = plan[unsigned(index + r)]
            weight = 1.0
            if plan[WEIGHTED] != 0:
                weight = float(memory[unsigned(plan[WEIGHTS] + row)])
            o = r * plan[after + ENTER_STRIDE]
            d = base + plan[a + DELTA] + r * plan[a + DELTA_STRIDE]
            row_loss(
                space, base + plan[after + ENTER] + o, space, base + plan[after + SLOPE] + o,
                space, d, sums, values + r, y, row, width, weight / mass,
            )  # fmt: skip
            sums[unsigned(values + r)] *= weight
        cuda.syncthreads()
        for lane in range(t, N_LANES, n_threads):
            part = 0.0
            for r in range(lane, n, N_LANES):
                part += sums[unsigned(values + r)]
            sums[unsigned(LANES + lane)] = part

    return device_function(losses)


def _make_update(rules: Rules, n_threads: int) -> Any:
    """Make the gradient of a layer, and the optimizer's step."""
    scalar = np.dtype(rules.dtype).type
    large, fits = make_tiles(rules, TILE, n_threads)
    fine, _ = make_tiles(rules, (1, 1), n_threads)
    penalise, change = device_rules.penalty(rules, scalar), device_rules.update(rules, scalar)

    def update(
        memory: Any, sums: Any, plan: Any, space: Any, base: Any, i: Any, n: Any, mass: Any,
        at: Any, t: Any,
    ) -> None:  # fmt: skip
        a = LAYERS + i * LAYER_WORDS
        n_in, n_out = plan[a + N_IN], plan[a + N_OUT]
        enter, stride = base + plan[a + ENTER], plan[a + ENTER_STRIDE]
        delta, across = base + plan[a + DELTA], plan[a + DELTA_STRIDE]
        g, copy, wide = (
            base + plan[a + COPY_GRADIENT],
            base + plan[a + COPY],
            plan[a + COPY_STRIDE],
        )
        if fits(n_in + 1, n_out):
            large(space, enter, 1, stride, delta, 1, across, -1, 0, n_in + 1, n_out, n, g, wide, t)
        else:
            fine(space, enter, 1, stride, delta, 1, across, -1, 0, n_in + 1, n_out, n, g, wide, t)
        cuda.syncthreads()
        values, scale = 0.0, 1.0 / mass
        for q in range(t, (n_in + 1) * n_out, n_threads):
            k = q // n_out
            j = q - k * n_out
            place = k * wide + j
            w, slope = space[unsigned(copy + place)], space[unsigned(g + place)]
            flat = plan[a + W] + q
            if k == n_in:
                flat = plan[a + B] + j
            else:
                value, more = penalise(w, sums, plan[STRENGTHS], scale)
                values += value
                slope += more
            m, v = plan[M] + flat, plan[V] + flat
            space[unsigned(copy + place)], memory[unsigned(m)], memory[unsigned(v)] = change(
                memory, at, w, slope, memory[unsigned(m)], memory[unsigned(v)]
            )
        if plan[N_PENALTIES] > 0:
            part = plan[PARTS] + t
            sums[unsigned(part)] = values if i == 0 else sums[unsigned(part)] + values

    return device_function(update)


def _make_end(rules: Rules) -> Any:
    """Make the bookkeeping at the end of a batch."""

    def end(sums: Any, plan: Any, mass: Any, t: Any) -> None:
        if t == 0:
            total = 0.0
            for lane in range(N_LANES):
                total += sums[unsigned(LANES + lane)]
            loss = total / mass
            if plan[N_PENALTIES] > 0:
                for part in range(plan[N_PARTS]):
                    loss += sums[unsigned(plan[PARTS] + part)]
            sums[BATCH_MASS] = mass
            sums[BATCH_LOSS] = loss
            sums[EPOCH_LOSS] += loss * mass
            sums[EPOCH_MASS] += mass

    return device_function(end)
