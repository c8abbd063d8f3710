"""One block trains one small net, many steps a launch: design one.

Weights, gradients, activations and errors lie in the block's space, shared memory where they fit,
and the block's threads wait for each other, never for other blocks. A grid trains as many nets as
it has blocks. Sums run in the order of rows or columns, whatever the number of threads.
"""

from typing import Any, NamedTuple

import numpy as np

from fastmlp.backends.cuda import rules as device_rules
from fastmlp.backends.cuda.adapter import SCALARS, cuda, device_function, kernel, unsigned
from fastmlp.backends.cuda.plan import (
    BACKUP,
    BAD,
    BATCH,
    BATCH_LOSS,
    BATCH_MASS,
    CODE,
    COEFFICIENTS,
    COPY,
    COPY_GRADIENT,
    COPY_STRIDE,
    DELTA,
    DELTA_STRIDE,
    DIVERGED,
    ENTER,
    ENTER_STRIDE,
    EPOCH_LOSS,
    EPOCH_MASS,
    FIRST,
    LANES,
    LAST,
    LAYER_WORDS,
    LAYERS,
    LOSSES,
    N_COEFFICIENTS,
    N_IN,
    N_LANES,
    N_LAYERS,
    N_ORDERS,
    N_OUT,
    N_OUTPUTS,
    N_PARAMETERS,
    N_PARTS,
    N_PENALTIES,
    N_ROWS,
    ORDER,
    PARAMETERS,
    PARTS,
    REACHED,
    ROW_LOSSES,
    SCRATCH,
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

THREADS = 256
# A thread's tile of a product: of 16 numbers each load is used four times.
TILE = (4, 4)


class Form(NamedTuple):
    """What a kernel of this kind is compiled for, beside its rules."""

    shared: bool
    threads: int = THREADS


def make_kernel(rules: Rules, form: Form) -> Any:
    """Make the kernel ``train(x, y, memory, sums, plans)``: block b has the b-th row of the last
    three."""
    scalar = SCALARS[rules.dtype]
    train = _make_train(rules, form.threads)

    def in_shared(x: Any, y: Any, memory: Any, sums: Any, plans: Any) -> None:
        space = cuda.shared.array(0, scalar)
        net = cuda.blockIdx.x
        train(x, y, memory[net], sums[net], plans[net], space, 0, cuda.threadIdx.x)

    def in_global(x: Any, y: Any, memory: Any, sums: Any, plans: Any) -> None:
        net = cuda.blockIdx.x
        its = memory[net]
        train(x, y, its, sums[net], plans[net], its, plans[net, SCRATCH], cuda.threadIdx.x)

    return kernel(in_shared if form.shared else in_global)


def _make_train(rules: Rules, n_threads: int) -> Any:
    """Make the run of steps of one net; `base` is where its space begins in `space`."""
    step, load, store = _make_step(rules, n_threads), *_make_copies(n_threads)
    copy, finite = _make_bookkeeping(n_threads)

    def train(
        x: Any, y: Any, memory: Any, sums: Any, plan: Any, space: Any, base: Any, t: Any
    ) -> None:
        if sums[DIVERGED] != 0:
            return
        n_rows, batch, n = plan[N_ROWS], plan[BATCH], plan[N_PARAMETERS]
        per_epoch = (n_rows + batch - 1) // batch
        load(memory, plan, space, base, t)
        for unit in range(plan[FIRST], plan[LAST]):
            epoch = unit // per_epoch
            start = (unit - epoch * per_epoch) * batch
            stop = min(start + batch, n_rows)
            if start == 0:
                store(memory, plan, space, base, plan[BACKUP], t)
                if t == 0:
                    sums[EPOCH_LOSS] = 0.0
                    sums[EPOCH_MASS] = 0.0
                    sums[BAD] = 0.0
            index = plan[ORDER] + epoch % max(plan[N_ORDERS], 1) * n_rows + start
            at = plan[COEFFICIENTS] + (unit - plan[FIRST]) * plan[N_COEFFICIENTS]
            step(x, y, memory, sums, plan, space, base, index, stop - start, at, t)
            if stop == n_rows:
                finite(sums, plan, space, base, t)
            cuda.syncthreads()
            sound = sums[BATCH_LOSS] - sums[BATCH_LOSS] == 0 and sums[BAD] == 0
            if t == 0 and (stop == n_rows or not sound):
                sums[unsigned(plan[LOSSES] + epoch)] = sums[EPOCH_LOSS] / sums[EPOCH_MASS]
            # Nobody may start the next batch, and write, while others read.
            cuda.syncthreads()
            if not sound:
                copy(memory, plan[BACKUP], plan[PARAMETERS], n, t)
                for i in range(t, 2 * n, n_threads):
                    memory[unsigned(plan[M] + i)] = 0
                if t == 0:
                    sums[DIVERGED] = 1.0
                    sums[REACHED] = unit
                return
        store(memory, plan, space, base, plan[PARAMETERS], t)
        if t == 0:
            sums[REACHED] = plan[LAST]

    return device_function(train)


def _make_copies(n_threads: int) -> tuple[Any, Any]:
    """Make what moves flat parameters into the block's space, and back."""

    def load(memory: Any, plan: Any, space: Any, base: Any, t: Any) -> None:
        for i in range(plan[N_LAYERS]):
            a = LAYERS + i * LAYER_WORDS
            n_in, n_out = plan[a + N_IN], plan[a + N_OUT]
            w, b = (
                plan[PARAMETERS] + plan[a + W],
                plan[PARAMETERS] + plan[a + B],
            )
            for q in range(t, (n_in + 1) * n_out, n_threads):
                k = q // n_out
                j = q - k * n_out
                place = base + plan[a + COPY] + k * plan[a + COPY_STRIDE] + j
                space[unsigned(place)] = (
                    memory[unsigned(w + q)] if k < n_in else memory[unsigned(b + j)]
                )
            ones = base + plan[a + ENTER] + n_in
            for r in range(t, plan[BATCH], n_threads):
                space[unsigned(ones + r * plan[a + ENTER_STRIDE])] = 1
        cuda.syncthreads()

    def store(memory: Any, plan: Any, space: Any, base: Any, target: Any, t: Any) -> None:
        for i in range(plan[N_LAYERS]):
            a = LAYERS + i * LAYER_WORDS
            n_in, n_out = plan[a + N_IN], plan[a + N_OUT]
            w, b = target + plan[a + W], target + plan[a + B]
            for q in range(t, (n_in + 1) * n_out, n_threads):
                k = q // n_out
                j = q - k * n_out
                place = base + plan[a + COPY] + k * plan[a + COPY_STRIDE] + j
                memory[unsigned(w + q if k < n_in else b + j)] = space[unsigned(place)]

    return device_function(load), device_function(store)


def _make_bookkeeping(n_threads: int) -> tuple[Any, Any]:
    """Make a copy of n numbers, and the check that all parameters are finite."""

    def copy(memory: Any, source: Any, target: Any, n: Any, t: Any) -> None:
        for i in range(t, n, n_threads):
            memory[unsigned(target + i)] = memory[unsigned(source + i)]

    def finite(sums: Any, plan: Any, space: Any, base: Any, t: Any) -> None:
        for i in range(plan[N_LAYERS]):
            a = LAYERS + i * LAYER_WORDS
            n_in, n_out = plan[a + N_IN], plan[a + N_OUT]
            for q in range(t, (n_in + 1) * n_out, n_threads):
                k = q // n_out
                place = base + plan[a + COPY] + k * plan[a + COPY_STRIDE] + q - k * n_out
                if not space[unsigned(place)] - space[unsigned(place)] == 0:
                    sums[BAD] = 1.0

    return device_function(copy), device_function(finite)


def _make_step(rules: Rules, n_threads: int) -> Any:
    """Make one step: on rows ``plan[index:index + n]``, with the coefficients at `at`."""
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
            # A batch of zero weights takes no step, and its loss counts nothing.
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
    """Make what brings the rows in, and what returns their mass to every thread."""

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
    """Make the forward pass of a layer, and the errors of what enters it."""
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
        # The biases are one row more, but added first, as on the CPU.
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
    """Make the rows' losses, the errors of the outputs, and the partial sums of the losses."""
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
