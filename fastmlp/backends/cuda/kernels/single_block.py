"""The kernel of one block: it trains one small net, many steps a launch.

The block's space has weights, gradients, activations and deltas, in shared memory if they fit.
Threads wait for threads of their own block only. A grid trains as many nets as it has blocks. Sums
run in the order of rows or columns, whatever the number of threads.
"""

from typing import Any

from fastmlp.backends.cuda.device.adapter import SCALARS, cuda, device_function, kernel, unsigned
from fastmlp.backends.cuda.kernels import rule_blocks
from fastmlp.backends.cuda.kernels.arguments import Net, Rows, Space
from fastmlp.backends.cuda.kernels.single_block_step import make_step
from fastmlp.backends.cuda.plan.design import BlockShape
from fastmlp.backends.cuda.plan.plan import (
    AVERAGE,
    AVERAGE_BACKUP,
    BACKUP,
    BATCH,
    BATCH_LOSS,
    BLOCK_STRIDE,
    BLOCK_WEIGHTS,
    COEFFICIENTS,
    DIVERGED,
    EPOCH_LOSS,
    EPOCH_MASS,
    FIRST,
    INPUT,
    INPUT_STRIDE,
    LAST,
    LAYER_WORDS,
    LAYERS,
    LOSSES,
    N_COEFFICIENTS,
    N_IN,
    N_LAYERS,
    N_ORDERS,
    N_OUT,
    N_PARAMETERS,
    N_ROWS,
    NON_FINITE,
    ORDERS,
    PARAMETERS,
    REACHED,
    SCRATCH,
    B,
    M,
    W,
)
from fastmlp.backends.cuda.plan.rules import Rules


def make_kernel(rules: Rules, shape: BlockShape) -> Any:
    """Make the kernel ``train(x, y, memory, sums, plans)``: block b trains the net of row b of
    `memory`, `sums` and `plans`."""
    scalar = SCALARS[rules.dtype]
    train = _make_train(rules, shape.n_threads)

    def in_shared(x: Any, y: Any, memory: Any, sums: Any, plans: Any) -> None:
        numbers = cuda.shared.array(0, scalar)
        b = cuda.blockIdx.x
        train(Rows(x, y), Net(memory[b], sums[b], plans[b]), Space(numbers, 0), cuda.threadIdx.x)

    def in_global(x: Any, y: Any, memory: Any, sums: Any, plans: Any) -> None:
        b = cuda.blockIdx.x
        net = Net(memory[b], sums[b], plans[b])
        train(Rows(x, y), net, Space(net.memory, net.plan[SCRATCH]), cuda.threadIdx.x)

    return kernel(in_shared if shape.shared else in_global)


def _make_train(rules: Rules, n_threads: int) -> Any:
    """Make the steps FIRST to LAST of one net."""
    step, load, store = make_step(rules, n_threads), _make_load(n_threads), _make_store(n_threads)
    begin_epoch, check_finite = _make_begin_epoch(), _make_finite_check(n_threads)
    diverge, copy_average = _make_divergence(rules, n_threads), rule_blocks.copy_average(rules)

    def train(rows: Any, net: Any, space: Any, t: Any) -> None:
        memory, sums, plan = net.memory, net.sums, net.plan
        if sums[DIVERGED] != 0:
            return
        n_rows, batch = plan[N_ROWS], plan[BATCH]
        per_epoch = (n_rows + batch - 1) // batch
        load(memory, plan, space, t)
        for unit in range(plan[FIRST], plan[LAST]):
            epoch = unit // per_epoch
            start = (unit - epoch * per_epoch) * batch
            stop = min(start + batch, n_rows)
            if start == 0:
                store(memory, plan, space, plan[BACKUP], t)
                average, backup = plan[AVERAGE], plan[AVERAGE_BACKUP]
                copy_average(memory, backup, average, t, plan[N_PARAMETERS], n_threads)
                begin_epoch(sums, t)
            index = plan[ORDERS] + epoch % max(plan[N_ORDERS], 1) * n_rows + start
            at = plan[COEFFICIENTS] + (unit - plan[FIRST]) * plan[N_COEFFICIENTS]
            step(rows, net, space, index, stop - start, at, t)
            if stop == n_rows:
                check_finite(sums, plan, space, t)
            cuda.syncthreads()
            finite = sums[BATCH_LOSS] - sums[BATCH_LOSS] == 0 and sums[NON_FINITE] == 0
            if t == 0 and (stop == n_rows or not finite):
                sums[unsigned(plan[LOSSES] + epoch)] = sums[EPOCH_LOSS] / sums[EPOCH_MASS]
            # All threads have read `finite` before the next batch writes.
            cuda.syncthreads()
            if not finite:
                diverge(net, unit, t)
                return
        store(memory, plan, space, plan[PARAMETERS], t)
        if t == 0:
            sums[REACHED] = plan[LAST]

    return device_function(train)


def _make_load(n_threads: int) -> Any:
    """Make the copy of the flat parameters to the block's space, and the inputs' columns of 1."""

    def load(memory: Any, plan: Any, space: Any, t: Any) -> None:
        numbers, base = space.numbers, space.base
        for i in range(plan[N_LAYERS]):
            a = LAYERS + i * LAYER_WORDS
            n_in, n_out = plan[a + N_IN], plan[a + N_OUT]
            w, b = plan[PARAMETERS] + plan[a + W], plan[PARAMETERS] + plan[a + B]
            for q in range(t, (n_in + 1) * n_out, n_threads):
                k = q // n_out
                j = q - k * n_out
                place = base + plan[a + BLOCK_WEIGHTS] + k * plan[a + BLOCK_STRIDE] + j
                numbers[unsigned(place)] = (
                    memory[unsigned(w + q)] if k < n_in else memory[unsigned(b + j)]
                )
            ones = base + plan[a + INPUT] + n_in
            for r in range(t, plan[BATCH], n_threads):
                numbers[unsigned(ones + r * plan[a + INPUT_STRIDE])] = 1
        cuda.syncthreads()

    return device_function(load)


def _make_store(n_threads: int) -> Any:
    """Make the copy of the parameters from the block's space to ``memory[target:]``, flat."""

    def store(memory: Any, plan: Any, space: Any, target: Any, t: Any) -> None:
        for i in range(plan[N_LAYERS]):
            a = LAYERS + i * LAYER_WORDS
            n_in, n_out = plan[a + N_IN], plan[a + N_OUT]
            w, b = target + plan[a + W], target + plan[a + B]
            for q in range(t, (n_in + 1) * n_out, n_threads):
                k = q // n_out
                j = q - k * n_out
                place = space.base + plan[a + BLOCK_WEIGHTS] + k * plan[a + BLOCK_STRIDE] + j
                memory[unsigned(w + q if k < n_in else b + j)] = space.numbers[unsigned(place)]

    return device_function(store)


def _make_begin_epoch() -> Any:
    """Make the reset of an epoch's sums."""

    def begin_epoch(sums: Any, t: Any) -> None:
        if t == 0:
            sums[EPOCH_LOSS] = 0.0
            sums[EPOCH_MASS] = 0.0
            sums[NON_FINITE] = 0.0

    return device_function(begin_epoch)


def _make_finite_check(n_threads: int) -> Any:
    """Make the check that all parameters are finite, which sets NON_FINITE if not."""

    def check_finite(sums: Any, plan: Any, space: Any, t: Any) -> None:
        numbers = space.numbers
        for i in range(plan[N_LAYERS]):
            a = LAYERS + i * LAYER_WORDS
            n_in, n_out = plan[a + N_IN], plan[a + N_OUT]
            for q in range(t, (n_in + 1) * n_out, n_threads):
                k = q // n_out
                place = space.base + plan[a + BLOCK_WEIGHTS] + k * plan[a + BLOCK_STRIDE]
                place += q - k * n_out
                if not numbers[unsigned(place)] - numbers[unsigned(place)] == 0:
                    sums[NON_FINITE] = 1.0

    return device_function(check_finite)


def _make_divergence(rules: Rules, n_threads: int) -> Any:
    """Make the end of a training that diverged in step `unit`: the parameters from before the
    epoch, and zeros for the optimizer's state."""
    copy_average = rule_blocks.copy_average(rules)

    def diverge(net: Any, unit: Any, t: Any) -> None:
        memory, plan = net.memory, net.plan
        n = plan[N_PARAMETERS]
        for i in range(t, n, n_threads):
            memory[unsigned(plan[PARAMETERS] + i)] = memory[unsigned(plan[BACKUP] + i)]
        for i in range(t, 2 * n, n_threads):
            memory[unsigned(plan[M] + i)] = 0
        copy_average(memory, plan[AVERAGE], plan[AVERAGE_BACKUP], t, n, n_threads)
        if t == 0:
            net.sums[DIVERGED] = 1.0
            net.sums[REACHED] = unit

    return device_function(diverge)
