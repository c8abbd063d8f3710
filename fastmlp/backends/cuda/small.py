"""The small design: one block trains one net, many steps a launch.

Weights, gradients, activations and deltas lie in the block's space, which is shared memory if they
fit. Barriers are within a block. A grid trains as many nets as it has blocks. Sums run in the order
of rows or columns, for any number of threads.
"""

from typing import Any, NamedTuple

from fastmlp.backends.cuda.adapter import SCALARS, cuda, device_function, kernel, unsigned
from fastmlp.backends.cuda.plan import (
    BACKUP,
    BAD,
    BATCH,
    BATCH_LOSS,
    COEFFICIENTS,
    COPY,
    COPY_STRIDE,
    DIVERGED,
    ENTER,
    ENTER_STRIDE,
    EPOCH_LOSS,
    EPOCH_MASS,
    FIRST,
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
    ORDER,
    PARAMETERS,
    REACHED,
    SCRATCH,
    B,
    M,
    W,
)
from fastmlp.backends.cuda.rules import Rules
from fastmlp.backends.cuda.step import make_step

THREADS = 256


class Form(NamedTuple):
    """The form of a kernel, beside its rules: True for shared memory, and threads of a block."""

    shared: bool
    threads: int = THREADS


def make_kernel(rules: Rules, form: Form) -> Any:
    """Make the kernel ``train(x, y, memory, sums, plans)``; block b uses row b of the last 3."""
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
    """Make the loop over steps of one net; `base` is the offset of its space in `space`."""
    step, load, store = make_step(rules, n_threads), *_make_copies(n_threads)
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
            # No thread may start the next batch, and write, while other threads read.
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
    """Make the copies of flat parameters to the block's space, and back."""

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
