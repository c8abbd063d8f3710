"""Many blocks train one net: design two.

A step has two phases, between which all blocks wait for each other. In the first, each block takes
strips of rows through forward pass, loss and backpropagation; in the second, each takes tiles of
weights, and makes gradient, penalty and update in one go. Every number is one sum in the order of
its depth, by one thread: its bits depend on no tile, block or launch, and nothing is added
atomically. The phases are launched one by one, or many steps of them in one cooperative launch.
"""

from typing import Any, NamedTuple

import numpy as np

from fastmlp.backends.cuda import rules as device_rules
from fastmlp.backends.cuda.adapter import cuda, device_function, kernel
from fastmlp.backends.cuda.plan import (
    B,
    BACKUP,
    BAD,
    BATCH,
    BATCH_LOSS,
    BATCH_MASS,
    CODE,
    COEFFICIENTS,
    DELTA,
    DELTA_STRIDE,
    DIVERGED,
    ENDS,
    ENTER,
    ENTER_STRIDE,
    EPOCH_LOSS,
    EPOCH_MASS,
    EVALUATE,
    FIRST,
    FIRST_ROW,
    FIRST_TILE,
    GRADIENT,
    LANES,
    LAST,
    LAYER_WORDS,
    LAYERS,
    LOSSES,
    MODE,
    MORE,
    M,
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
    N_TILES,
    ORDER,
    PARAMETERS,
    PARTS,
    PREDICT,
    REACHED,
    ROW_LOSSES,
    SLOPE,
    STRENGTHS,
    TRAIN,
    V,
    W,
    WEIGHTED,
    WEIGHTS,
)
from fastmlp.backends.cuda.rules import Rules
from fastmlp.backends.cuda.staged import Shape, make_product

ROWS_PHASE, WEIGHTS_PHASE, SETTLE_PHASE, END_PHASE = 0, 1, 2, 3


class Form(NamedTuple):
    """What kernels of this kind are compiled for, beside their rules.

    Attributes
    ----------
    rows, weights : the shapes of the blocks in the two phases, of the same number of threads
    """

    rows: Shape
    weights: Shape

    @property
    def n_threads(self) -> int:
        """The threads of a block."""
        return self.rows.n_threads


class Kernels(NamedTuple):
    """The kernels of a form.

    Attributes
    ----------
    phase : ``f(x, y, memory, sums, plan, step, phase)``, one phase of one step
    run : ``f(x, y, memory, sums, plan)``, steps first to last in one cooperative launch
    """

    phase: Any
    run: Any


def make_kernels(rules: Rules, form: Form) -> Kernels:
    """Make the kernels for these rules."""
    rows_phase, weights_phase = _make_rows_phase(rules, form), _make_weights_phase(rules, form)
    settle, end = _make_settle(form), _make_end(form)
    training = rules.update is not None

    def phase(x: Any, y: Any, memory: Any, sums: Any, plan: Any, step: Any, which: Any) -> None:
        # Blocks of the phase that found it may see it or not: what they write is put back.
        if sums[BAD] != 0 and which != END_PHASE:
            return
        if which == ROWS_PHASE:
            rows_phase(x, y, memory, sums, plan, step)
        elif which == WEIGHTS_PHASE:
            weights_phase(memory, sums, plan, step)
        elif training and which == SETTLE_PHASE:
            settle(memory, sums, plan)
        elif training:
            end(memory, sums, plan)

    def run(x: Any, y: Any, memory: Any, sums: Any, plan: Any) -> None:
        grid = cuda.cg.this_grid()
        if sums[BAD] != 0:
            return
        per_epoch = (plan[N_ROWS] + plan[BATCH] - 1) // plan[BATCH]
        for step in range(plan[FIRST], plan[LAST]):
            rows_phase(x, y, memory, sums, plan, step)
            grid.sync()
            weights_phase(memory, sums, plan, step)
            grid.sync()
            if (step + 1) % per_epoch == 0:
                settle(memory, sums, plan)
                grid.sync()
                end(memory, sums, plan)
                grid.sync()
            if sums[BAD] != 0:
                break
        if sums[BAD] != 0:
            end(memory, sums, plan)

    return Kernels(kernel(phase), kernel(run) if training else None)


def _make_rows_phase(rules: Rules, form: Form) -> Any:
    """Make phase one; with `MODE` it trains, predicts into `y`, or evaluates."""
    strip_rows, n_threads = form.rows.tile_rows, form.n_threads
    forward, backward = _make_layers(rules, form)
    finish = _make_finish(rules, form)
    mass_of = _make_mass(form)

    def gather(x: Any, memory: Any, plan: Any, index: Any, low: Any, n: Any, t: Any) -> None:
        n_in, stride = plan[LAYERS + N_IN], plan[LAYERS + ENTER_STRIDE]
        enter = plan[LAYERS + ENTER] + low * stride
        for q in range(t, n * n_in, n_threads):
            r = q // n_in
            k = q - r * n_in
            row = plan[index + low + r] if index >= 0 else plan[FIRST_ROW] + low + r
            memory[enter + r * stride + k] = x[row, k]
        # The ones behind what enters each layer: biases are one row more of the weights.
        for i in range(plan[N_LAYERS]):
            a = LAYERS + i * LAYER_WORDS
            for r in range(t, n, n_threads):
                at = plan[a + ENTER] + (low + r) * plan[a + ENTER_STRIDE] + plan[a + N_IN]
                memory[at] = 1
        cuda.syncthreads()

    gather = device_function(gather)

    def rows_phase(x: Any, y: Any, memory: Any, sums: Any, plan: Any, step: Any) -> None:
        t, n_layers = cuda.threadIdx.x, plan[N_LAYERS]
        start, n = _batch_of(plan, step)
        index = -1
        if plan[N_ORDERS] > 0:
            per_epoch = (plan[N_ROWS] + plan[BATCH] - 1) // plan[BATCH]
            index = plan[ORDER] + step // per_epoch % plan[N_ORDERS] * plan[N_ROWS] + start
        training = plan[MODE] == TRAIN
        mass = 1.0
        if training:
            mass = mass_of(memory, sums, plan, index, n, t)
            _begin(memory, sums, plan, start, mass, t)
        if mass == 0:
            return
        for strip in range(cuda.blockIdx.x, (n + strip_rows - 1) // strip_rows, cuda.gridDim.x):
            low = strip * strip_rows
            height = min(strip_rows, n - low)
            gather(x, memory, plan, index, low, height, t)
            for i in range(n_layers):
                forward(memory, plan, i, low, height, t)
            finish(y, memory, sums, plan, index, low, height, mass, t)
            if training:
                for i in range(n_layers - 1, 0, -1):
                    backward(memory, plan, i, low, height, t)

    _batch_of = device_function(batch_of)
    _begin = _make_begin(rules, form)
    return device_function(rows_phase)


def batch_of(plan: Any, step: Any) -> Any:
    """The first row of a step's batch in its epoch, and the number of its rows."""
    per_epoch = (plan[N_ROWS] + plan[BATCH] - 1) // plan[BATCH]
    start = step % per_epoch * plan[BATCH]
    return start, min(plan[BATCH], plan[N_ROWS] - start)


def _make_mass(form: Form) -> Any:
    """Make the mass of a batch: every block adds it up by itself, in the same order.

    A gradient in chunks has the mass of all of them, which the host writes.
    """
    n_threads = form.n_threads

    def mass_of(memory: Any, sums: Any, plan: Any, index: Any, n: Any, t: Any) -> Any:
        if index < 0:
            return sums[BATCH_MASS]
        if plan[WEIGHTED] == 0:
            return float(n)
        lanes = cuda.shared.array(N_LANES, "float64")
        for lane in range(t, N_LANES, n_threads):
            part = 0.0
            for r in range(lane, n, N_LANES):
                part += memory[plan[WEIGHTS] + plan[index + r]]
            lanes[lane] = part
        cuda.syncthreads()
        total = 0.0
        for lane in range(N_LANES):
            total += lanes[lane]
        cuda.syncthreads()
        return total

    return device_function(mass_of)


def _make_begin(rules: Rules, form: Form) -> Any:
    """Make what all blocks do before a batch: keep what an epoch began with, and the values of the
    penalties, while nobody changes the weights."""
    scalar, n_threads = np.dtype(rules.dtype).type, form.n_threads
    penalise = device_rules.penalty(rules, scalar)

    def begin(memory: Any, sums: Any, plan: Any, start: Any, mass: Any, t: Any) -> None:
        first, n_all = cuda.blockIdx.x * n_threads + t, cuda.gridDim.x * n_threads
        if start == 0 and plan[N_ORDERS] > 0:
            for i in range(first, plan[N_PARAMETERS], n_all):
                memory[plan[BACKUP] + i] = memory[plan[PARAMETERS] + i]
            if first == 0:
                sums[EPOCH_LOSS] = 0.0
                sums[EPOCH_MASS] = 0.0
        if first == 0:
            sums[BATCH_MASS] = mass
        if plan[N_PENALTIES] == 0 or mass == 0:
            return
        # As many parts as the host says, each the sum of every so manieth weight.
        n_weights = plan[LAYERS + B]
        for part in range(first, plan[N_PARTS], n_all):
            total = 0.0
            for i in range(part, n_weights, plan[N_PARTS]):
                value, _ = penalise(memory[plan[PARAMETERS] + i], sums, plan[STRENGTHS], 1.0 / mass)
                total += value
            sums[plan[PARTS] + part] = total

    return device_function(begin)


def _make_layers(rules: Rules, form: Form) -> tuple[Any, Any]:
    """Make a layer's forward pass of a strip of rows, and the errors of what enters it."""
    product, activate = make_product(rules, form.rows), device_rules.activation(rules)
    tile_columns, n_threads = form.rows.tile_columns, form.n_threads

    def forward(memory: Any, plan: Any, i: Any, low: Any, n: Any, t: Any) -> None:
        a = LAYERS + i * LAYER_WORDS
        after = a + LAYER_WORDS
        n_in, n_out, code = plan[a + N_IN], plan[a + N_OUT], plan[a + CODE]
        stride, z_stride = plan[a + ENTER_STRIDE], plan[after + ENTER_STRIDE]
        enter = plan[a + ENTER] + low * stride
        z, slope = plan[after + ENTER] + low * z_stride, plan[after + SLOPE] + low * z_stride
        w, b = plan[PARAMETERS] + plan[a + W], plan[PARAMETERS] + plan[a + B]
        for left in range(0, n_out, tile_columns):
            product(
                memory, enter, stride, 1, w + left, 1, n_out, b + left, 0,
                n, n_out - left, n_in, z + left, z_stride, -1, 0, t,
            )  # fmt: skip
        cuda.syncthreads()
        for q in range(t, n * n_out, n_threads):
            r = q // n_out
            at = r * z_stride + q - r * n_out
            memory[z + at], memory[slope + at] = activate(code, memory[z + at])
        cuda.syncthreads()

    def backward(memory: Any, plan: Any, i: Any, low: Any, n: Any, t: Any) -> None:
        a = LAYERS + i * LAYER_WORDS
        before = a - LAYER_WORDS
        n_in, n_out = plan[a + N_IN], plan[a + N_OUT]
        stride, out_stride = plan[a + DELTA_STRIDE], plan[before + DELTA_STRIDE]
        delta = plan[a + DELTA] + low * stride
        out, w = plan[before + DELTA] + low * out_stride, plan[PARAMETERS] + plan[a + W]
        for left in range(0, n_in, tile_columns):
            product(
                memory, delta, stride, 1, w + left * n_out, n_out, 1, -1, 0,
                n, n_in - left, n_out, out + left, out_stride, -1, 0, t,
            )  # fmt: skip
        cuda.syncthreads()
        slope_stride = plan[a + ENTER_STRIDE]
        slope = plan[a + SLOPE] + low * slope_stride
        for q in range(t, n * n_in, n_threads):
            r = q // n_in
            k = q - r * n_in
            memory[out + r * out_stride + k] *= memory[slope + r * slope_stride + k]
        cuda.syncthreads()

    return device_function(forward), device_function(backward)


def _make_finish(rules: Rules, form: Form) -> Any:
    """Make what becomes of a strip's outputs: predictions, or losses and errors."""
    n_threads = form.n_threads
    row_loss = device_rules.row_loss(rules, np.dtype(rules.dtype).type)
    link = device_rules.row_link(rules)

    def finish(
        y: Any, memory: Any, sums: Any, plan: Any, index: Any, low: Any, n: Any, mass: Any, t: Any
    ) -> None:
        a = LAYERS + (plan[N_LAYERS] - 1) * LAYER_WORDS
        after, width = a + LAYER_WORDS, plan[N_OUTPUTS]
        for r in range(low + t, low + n, n_threads):
            row = plan[index + r] if index >= 0 else plan[FIRST_ROW] + r
            o = r * plan[after + ENTER_STRIDE]
            outputs, slopes = plan[after + ENTER] + o, plan[after + SLOPE] + o
            if plan[MODE] == PREDICT:
                link(memory, outputs, y, row, width)
            else:
                weight = 1.0
                if plan[WEIGHTED] != 0:
                    weight = float(memory[plan[WEIGHTS] + row])
                d = plan[a + DELTA] + r * plan[a + DELTA_STRIDE]
                values = plan[ROW_LOSSES] + r
                row_loss(
                    memory, outputs, memory, slopes, memory, d, sums, values, y, row, width,
                    weight / mass,
                )  # fmt: skip
                sums[values] *= weight
        cuda.syncthreads()

    return device_function(finish)


def _make_weights_phase(rules: Rules, form: Form) -> Any:
    """Make phase two: gradient and update by tiles, and the sum of the batch's losses."""
    tile = _make_tile(rules, form)
    account = _make_account(form)
    find_batch = device_function(batch_of)

    def weights_phase(memory: Any, sums: Any, plan: Any, step: Any) -> None:
        t, mass = cuda.threadIdx.x, sums[BATCH_MASS]
        if mass == 0:
            if t == 0 and cuda.blockIdx.x == 0:
                sums[BATCH_LOSS] = 0.0
                sums[REACHED] = step + 1
            return
        _, n = find_batch(plan, step)
        at = plan[COEFFICIENTS] + (step - plan[FIRST]) * plan[N_COEFFICIENTS]
        # The last block, which has no more tiles than the others.
        if cuda.blockIdx.x == cuda.gridDim.x - 1:
            account(sums, plan, step, n, mass, t)
        if plan[MODE] == EVALUATE:
            return
        for q in range(cuda.blockIdx.x, plan[N_TILES], cuda.gridDim.x):
            tile(memory, sums, plan, q, n, mass, at, t)

    return device_function(weights_phase)


def _make_account(form: Form) -> Any:
    """Make the sum of the losses of a batch, which ends the training where it is not finite."""
    n_threads = form.n_threads

    def account(sums: Any, plan: Any, step: Any, n: Any, mass: Any, t: Any) -> None:
        for lane in range(t, N_LANES, n_threads):
            part = 0.0
            for r in range(lane, n, N_LANES):
                part += sums[plan[ROW_LOSSES] + r]
            sums[LANES + lane] = part
        cuda.syncthreads()
        if t == 0:
            loss = 0.0
            for lane in range(N_LANES):
                loss += sums[LANES + lane]
            loss /= mass
            if plan[ENDS] != 0:
                for part in range(plan[N_PARTS]):
                    loss += sums[plan[PARTS] + part]
            sums[BATCH_LOSS] = loss
            sums[EPOCH_LOSS] += loss * mass
            sums[EPOCH_MASS] += mass
            sums[REACHED] = step + 1
            if not loss - loss == 0:
                sums[BAD] = 1.0

    return device_function(account)


def _make_tile(rules: Rules, form: Form) -> Any:
    """Make a tile of the gradient and, where the rules have one, the optimizer's step of it."""
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
            slope = memory[g]
            if k < n_in and plan[ENDS] != 0:
                _, more = penalise(memory[w], sums, plan[STRENGTHS], 1.0 / mass)
                slope += more
            if updates:
                m, v = plan[M] + flat, plan[V] + flat
                memory[w], memory[m], memory[v] = change(
                    memory, at, memory[w], slope, memory[m], memory[v]
                )
            else:
                memory[g] = slope

    finish = device_function(finish)

    def tile(
        memory: Any, sums: Any, plan: Any, q: Any, n: Any, mass: Any, at: Any, t: Any
    ) -> None:
        i = 0
        while q >= plan[LAYERS + (i + 1) * LAYER_WORDS + FIRST_TILE]:
            i += 1
        a = LAYERS + i * LAYER_WORDS
        n_in, n_out = plan[a + N_IN], plan[a + N_OUT]
        columns = (n_out + across - 1) // across
        own = q - plan[a + FIRST_TILE]
        top, left = own // columns * down, own % columns * across
        height, width = min(down, n_in + 1 - top), min(across, n_out - left)
        g = plan[GRADIENT] + plan[a + W] + top * n_out + left
        product(
            memory, plan[a + ENTER] + top, 1, plan[a + ENTER_STRIDE],
            plan[a + DELTA] + left, 1, plan[a + DELTA_STRIDE], -1, plan[MORE],
            height, width, n, g, n_out, n_in - top, plan[GRADIENT] + plan[a + B] + left, t,
        )  # fmt: skip
        cuda.syncthreads()
        finish(memory, sums, plan, a, top, left, height, width, mass, at, t)
        cuda.syncthreads()

    return device_function(tile)


def _make_settle(form: Form) -> Any:
    """Make the check, at the end of an epoch, that all parameters are finite."""
    n_threads = form.n_threads

    def settle(memory: Any, sums: Any, plan: Any) -> None:
        first, n_all = cuda.blockIdx.x * n_threads + cuda.threadIdx.x, cuda.gridDim.x * n_threads
        for i in range(first, plan[N_PARAMETERS], n_all):
            w = memory[plan[PARAMETERS] + i]
            if not w - w == 0:
                sums[BAD] = 1.0

    return device_function(settle)


def _make_end(form: Form) -> Any:
    """Make the end of an epoch: its loss; or, where a number is not finite, of the training, with
    the parameters that the epoch began with, and no state."""
    n_threads = form.n_threads

    def end(memory: Any, sums: Any, plan: Any) -> None:
        first, n_all = cuda.blockIdx.x * n_threads + cuda.threadIdx.x, cuda.gridDim.x * n_threads
        bad = sums[BAD] != 0
        if bad:
            for i in range(first, plan[N_PARAMETERS], n_all):
                memory[plan[PARAMETERS] + i] = memory[plan[BACKUP] + i]
                memory[plan[M] + i] = 0
                memory[plan[V] + i] = 0
        if first == 0 and sums[DIVERGED] == 0:
            per_epoch = (plan[N_ROWS] + plan[BATCH] - 1) // plan[BATCH]
            done = int(sums[REACHED])
            if bad or done % per_epoch == 0:
                sums[plan[LOSSES] + (done - 1) // per_epoch] = sums[EPOCH_LOSS] / sums[EPOCH_MASS]
            if bad:
                sums[REACHED] = done - 1
                sums[DIVERGED] = 1.0

    return device_function(end)


def make_apply(rules: Rules, n_threads: int) -> Any:
    """Make the kernel ``apply(memory, plan)``: one step with the gradient that is there."""
    change = device_rules.update(rules, np.dtype(rules.dtype).type)

    def apply(memory: Any, plan: Any) -> None:
        first = cuda.blockIdx.x * n_threads + cuda.threadIdx.x
        for i in range(first, plan[N_PARAMETERS], cuda.gridDim.x * n_threads):
            w, m, v = plan[PARAMETERS] + i, plan[M] + i, plan[V] + i
            memory[w], memory[m], memory[v] = change(
                memory, plan[COEFFICIENTS], memory[w], memory[plan[GRADIENT] + i],
                memory[m], memory[v],
            )  # fmt: skip

    return kernel(apply)
