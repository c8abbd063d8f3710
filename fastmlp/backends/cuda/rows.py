"""Phase one of the wide design: forward pass, loss and backpropagation by strips of rows."""

from typing import Any

import numpy as np

from fastmlp.backends.cuda import rules as device_rules
from fastmlp.backends.cuda.adapter import SCALARS, cuda, device_function, unsigned
from fastmlp.backends.cuda.launch_shape import Form
from fastmlp.backends.cuda.plan import (
    BACKUP,
    BATCH,
    BATCH_MASS,
    CODE,
    DELTA,
    DELTA_STRIDE,
    ENTER,
    ENTER_STRIDE,
    EPOCH_LOSS,
    EPOCH_MASS,
    FIRST_ROW,
    LAYER_WORDS,
    LAYERS,
    MODE,
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
    PREDICT,
    ROW_LOSSES,
    SLOPE,
    STRENGTHS,
    TRAIN,
    WEIGHTED,
    WEIGHTS,
    B,
    W,
)
from fastmlp.backends.cuda.rules import Rules
from fastmlp.backends.cuda.staged import make_product


def make_rows_phase(rules: Rules, form: Form) -> Any:
    """Make phase one; by `MODE` it trains, writes predictions to `y`, or evaluates."""
    strip_rows, n_threads = form.rows.tile_rows, form.n_threads
    one_pass = _make_pass(rules, form)
    finish = _make_finish(rules, form)
    mass_of = _make_mass(form)

    def gather(x: Any, memory: Any, plan: Any, index: Any, low: Any, n: Any, t: Any) -> None:
        n_in, stride = plan[LAYERS + N_IN], plan[LAYERS + ENTER_STRIDE]
        enter = plan[LAYERS + ENTER] + low * stride
        for q in range(t, n * n_in, n_threads):
            r = q // n_in
            k = q - r * n_in
            row = plan[unsigned(index + low + r)] if index >= 0 else plan[FIRST_ROW] + low + r
            memory[unsigned(enter + r * stride + k)] = x[row, k]
        # The column of ones behind each layer's inputs: biases are one more row of weights.
        for i in range(plan[N_LAYERS]):
            a = LAYERS + i * LAYER_WORDS
            for r in range(t, n, n_threads):
                at = plan[a + ENTER] + (low + r) * plan[a + ENTER_STRIDE] + plan[a + N_IN]
                memory[unsigned(at)] = 1
        cuda.syncthreads()

    gather = device_function(gather)

    def rows_phase(
        staging: Any, x: Any, y: Any, memory: Any, sums: Any, plan: Any, step: Any
    ) -> None:
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
            n_passes = 2 * n_layers - 1 if training else n_layers
            for p in range(n_passes):
                back = p >= n_layers
                i = 2 * n_layers - 1 - p if back else p
                one_pass(staging, memory, plan, i, back, low, height, t)
                if p == n_layers - 1:
                    finish(y, memory, sums, plan, index, low, height, mass, t)

    _batch_of = device_function(batch_of)
    _begin = _make_begin(rules, form)
    return device_function(rows_phase)


def batch_of(plan: Any, step: Any) -> Any:
    """Return the first row of a step's batch in its epoch, and the batch's number of rows."""
    per_epoch = (plan[N_ROWS] + plan[BATCH] - 1) // plan[BATCH]
    start = step % per_epoch * plan[BATCH]
    return start, min(plan[BATCH], plan[N_ROWS] - start)


def _make_mass(form: Form) -> Any:
    """Make the sum of a batch's row weights, which every block computes in the same order.

    For a gradient by chunks the host writes the sum over all chunks.
    """
    n_threads, double = form.n_threads, SCALARS["float64"]

    def mass_of(memory: Any, sums: Any, plan: Any, index: Any, n: Any, t: Any) -> Any:
        if index < 0:
            return sums[BATCH_MASS]
        if plan[WEIGHTED] == 0:
            return float(n)
        lanes = cuda.shared.array(N_LANES, double)
        for lane in range(t, N_LANES, n_threads):
            part = 0.0
            for r in range(lane, n, N_LANES):
                part += memory[unsigned(plan[WEIGHTS] + plan[unsigned(index + r)])]
            lanes[lane] = part
        cuda.syncthreads()
        total = 0.0
        for lane in range(N_LANES):
            total += lanes[lane]
        cuda.syncthreads()
        return total

    return device_function(mass_of)


def _make_begin(rules: Rules, form: Form) -> Any:
    """Make the start of a batch: back up the parameters of an epoch, and sum the penalties' values,
    before any block changes the weights."""
    scalar, n_threads = np.dtype(rules.dtype).type, form.n_threads
    penalise = device_rules.penalty(rules, scalar)

    def begin(memory: Any, sums: Any, plan: Any, start: Any, mass: Any, t: Any) -> None:
        first, n_all = cuda.blockIdx.x * n_threads + t, cuda.gridDim.x * n_threads
        if start == 0 and plan[N_ORDERS] > 0:
            for i in range(first, plan[N_PARAMETERS], n_all):
                memory[unsigned(plan[BACKUP] + i)] = memory[unsigned(plan[PARAMETERS] + i)]
            if first == 0:
                sums[EPOCH_LOSS] = 0.0
                sums[EPOCH_MASS] = 0.0
        if first == 0:
            sums[BATCH_MASS] = mass
        if plan[N_PENALTIES] == 0 or mass == 0:
            return
        # Part p is the sum over the weights p, p + n_parts, p + 2 n_parts, ...
        n_weights = plan[LAYERS + B]
        for part in range(first, plan[N_PARTS], n_all):
            total = 0.0
            for i in range(part, n_weights, plan[N_PARTS]):
                value, _ = penalise(
                    memory[unsigned(plan[PARAMETERS] + i)], sums, plan[STRENGTHS], 1.0 / mass
                )
                total += value
            sums[unsigned(plan[PARTS] + part)] = total

    return device_function(begin)


def _make_pass(rules: Rules, form: Form) -> Any:
    """Make the forward or the backward pass of a strip of rows through a layer. Both are the same
    product, which is compiled once."""
    product, activate = make_product(rules, form.rows), device_rules.activation(rules)
    tile_columns, n_threads = form.rows.tile_columns, form.n_threads

    def one_pass(
        staging: Any, memory: Any, plan: Any, i: Any, back: Any, low: Any, n: Any, t: Any
    ) -> None:
        a = LAYERS + i * LAYER_WORDS
        after, before = a + LAYER_WORDS, a - LAYER_WORDS
        n_in, n_out, code = (
            plan[a + N_IN],
            plan[a + N_OUT],
            plan[a + CODE],
        )
        w, bias = plan[PARAMETERS] + plan[a + W], plan[PARAMETERS] + plan[a + B]
        source, stride, depth, width = (
            plan[a + ENTER],
            plan[a + ENTER_STRIDE],
            n_in,
            n_out,
        )
        out, out_stride, column, down = (
            plan[after + ENTER],
            plan[after + ENTER_STRIDE],
            1,
            n_out,
        )
        slope, slope_stride = plan[after + SLOPE], out_stride
        if back:
            source, stride, depth, width = (
                plan[a + DELTA],
                plan[a + DELTA_STRIDE],
                n_out,
                n_in,
            )
            out, out_stride, column, down = (
                plan[before + DELTA],
                plan[before + DELTA_STRIDE],
                n_out,
                1,
            )
            slope, slope_stride, bias = (
                plan[a + SLOPE],
                plan[a + ENTER_STRIDE],
                -1,
            )
        source, out, slope = (
            source + low * stride,
            out + low * out_stride,
            slope + low * slope_stride,
        )
        for left in range(0, width, tile_columns):
            start = bias + left if bias >= 0 else -1
            product(
                staging, memory, source, stride, 1, w + left * column, column, down, start, 0,
                n, width - left, depth, out + left, out_stride, -1, 0, t,
            )  # fmt: skip
        cuda.syncthreads()
        for q in range(t, n * width, n_threads):
            r = q // width
            j = q - r * width
            at, slope_at = out + r * out_stride + j, slope + r * slope_stride + j
            if back:
                memory[unsigned(at)] *= memory[unsigned(slope_at)]
            else:
                memory[unsigned(at)], memory[unsigned(slope_at)] = activate(
                    code, memory[unsigned(at)]
                )
        cuda.syncthreads()

    return device_function(one_pass)


def _make_finish(rules: Rules, form: Form) -> Any:
    """Make the end of a strip's forward pass: predictions, or losses and deltas."""
    n_threads = form.n_threads
    row_loss = device_rules.row_loss(rules, np.dtype(rules.dtype).type)
    link = device_rules.row_link(rules)

    def finish(
        y: Any, memory: Any, sums: Any, plan: Any, index: Any, low: Any, n: Any, mass: Any, t: Any
    ) -> None:
        a = LAYERS + (plan[N_LAYERS] - 1) * LAYER_WORDS
        after, width = a + LAYER_WORDS, plan[N_OUTPUTS]
        for r in range(low + t, low + n, n_threads):
            row = plan[unsigned(index + r)] if index >= 0 else plan[FIRST_ROW] + r
            o = r * plan[after + ENTER_STRIDE]
            outputs, slopes = plan[after + ENTER] + o, plan[after + SLOPE] + o
            if plan[MODE] == PREDICT:
                link(memory, outputs, y, row, width)
            else:
                weight = 1.0
                if plan[WEIGHTED] != 0:
                    weight = float(memory[unsigned(plan[WEIGHTS] + row)])
                d = plan[a + DELTA] + r * plan[a + DELTA_STRIDE]
                values = plan[ROW_LOSSES] + r
                row_loss(
                    memory, outputs, memory, slopes, memory, d, sums, values, y, row, width,
                    weight / mass,
                )  # fmt: skip
                sums[unsigned(values)] *= weight
        cuda.syncthreads()

    return device_function(finish)
