"""The kernel of one block: it trains one small net, many steps a launch.

The block's space has weights, gradients, activations and deltas, in shared memory if they fit.
Threads wait for threads of their own block only. A grid trains as many nets as it has blocks. Sums
run in the order of rows or columns, whatever the number of threads.
"""

from typing import Any

from fastmlp.backends.cuda.device.adapter import (
    SCALARS,
    cuda,
    device_function,
    is_finite,
    kernel,
    unsigned,
)
from fastmlp.backends.cuda.kernels import rule_blocks
from fastmlp.backends.cuda.kernels.arguments import (
    Net,
    Samples,
    Space,
    coefficients_at,
    steps_per_epoch,
)
from fastmlp.backends.cuda.kernels.single_block_step import make_step
from fastmlp.backends.cuda.plan.design import BlockShape
from fastmlp.backends.cuda.plan.records import Layer, Nets
from fastmlp.backends.cuda.plan.rules import KernelRules


def make_kernel(rules: KernelRules, shape: BlockShape) -> Any:
    """Make the kernel ``train(x, y, nets)``: block b trains net b."""
    scalar = SCALARS[rules.dtype]
    train = _make_train(rules, shape.n_threads)

    def in_shared(x: Any, y: Any, nets: Nets) -> None:
        train(Samples(x, y), nets, Space(cuda.shared.array(0, scalar), 0), cuda.blockIdx.x)

    def in_global(x: Any, y: Any, nets: Nets) -> None:
        b = cuda.blockIdx.x
        train(Samples(x, y), nets, Space(nets.memory[b], nets.plans[b].scratch), b)

    return kernel(in_shared if shape.shared else in_global)


def _make_train(rules: KernelRules, n_threads: int) -> Any:
    """Make the plan's steps of one net."""
    step, load, store = make_step(rules, n_threads), _make_load(n_threads), _make_store(n_threads)
    check_finite, restore = _make_finite_check(n_threads), rule_blocks.restore(rules)
    copy_average = rule_blocks.copy_average(rules)

    def train(rows: Samples, nets: Nets, space: Space, b: int) -> None:
        memory, plan, progress = nets.memory[b], nets.plans[b], nets.progress[b]
        net = Net(memory, nets.sums[b], progress, plan, nets.layers, nets.orders[b])
        t = cuda.threadIdx.x
        if progress.diverged != 0:
            return
        n_rows, batch, per_epoch = plan.n_rows, plan.batch, steps_per_epoch(plan)
        load(net, space, t)
        for unit in range(plan.first, plan.last):
            epoch = unit // per_epoch
            start = (unit - epoch * per_epoch) * batch
            stop = min(start + batch, n_rows)
            if start == 0:
                store(net, space, plan.backup, t)
                average, backup = plan.average, plan.average_backup
                copy_average(memory, backup, average, t, plan.n_parameters, n_threads)
                if t == 0:
                    progress.epoch_loss = 0.0
                    progress.epoch_mass = 0.0
                    progress.non_finite = 0
            index = epoch % max(plan.n_orders, 1) * n_rows + start
            step(rows, net, space, index, stop - start, coefficients_at(plan, unit), t)
            if stop == n_rows:
                check_finite(net, space, t)
            cuda.syncthreads()
            finite = is_finite(progress.batch_loss) and progress.non_finite == 0
            if t == 0 and (stop == n_rows or not finite):
                net.sums[unsigned(plan.losses + epoch)] = progress.epoch_loss / progress.epoch_mass
            # All threads have read `finite` before the next batch writes.
            cuda.syncthreads()
            if not finite:
                restore(memory, plan, t, n_threads)
                if t == 0:
                    progress.diverged = 1
                    progress.reached = unit
                return
        store(net, space, plan.parameters, t)
        if t == 0:
            progress.reached = plan.last

    return device_function(train)


@device_function
def _places(layer: Layer, space: Space, q: int) -> tuple[int, int]:
    """Return the offsets of number q of a layer's weights and biases: in the block's space, and in
    the flat parameters."""
    k = q // layer.n_out
    j = q - k * layer.n_out
    place = space.base + layer.block_weights + k * layer.block_stride + j
    return place, (layer.w + q if k < layer.n_in else layer.b + j)


def _make_load(n_threads: int) -> Any:
    """Make the copy of the flat parameters to the block's space, and the inputs' columns of 1."""

    def load(net: Net, space: Space, t: int) -> None:
        memory, plan, numbers = net.memory, net.plan, space.numbers
        for i in range(plan.n_layers):
            layer = net.layers[i]
            for q in range(t, (layer.n_in + 1) * layer.n_out, n_threads):
                place, flat = _places(layer, space, q)
                numbers[unsigned(place)] = memory[unsigned(plan.parameters + flat)]
            ones = space.base + layer.inputs + layer.n_in
            for r in range(t, plan.batch, n_threads):
                numbers[unsigned(ones + r * layer.input_stride)] = 1
        cuda.syncthreads()

    return device_function(load)


def _make_store(n_threads: int) -> Any:
    """Make the copy of the parameters from the block's space to ``memory[target:]``, flat."""

    def store(net: Net, space: Space, target: int, t: int) -> None:
        for i in range(net.plan.n_layers):
            layer = net.layers[i]
            for q in range(t, (layer.n_in + 1) * layer.n_out, n_threads):
                place, flat = _places(layer, space, q)
                net.memory[unsigned(target + flat)] = space.numbers[unsigned(place)]

    return device_function(store)


def _make_finite_check(n_threads: int) -> Any:
    """Make the check, at the end of an epoch, that all parameters are finite."""

    def check_finite(net: Net, space: Space, t: int) -> None:
        for i in range(net.plan.n_layers):
            layer = net.layers[i]
            for q in range(t, (layer.n_in + 1) * layer.n_out, n_threads):
                place, _ = _places(layer, space, q)
                if not is_finite(space.numbers[unsigned(place)]):
                    net.progress.non_finite = 1

    return device_function(check_finite)
