"""The kernel of one block: it trains one small net, many steps a launch.

The block's space has weights, gradients, activations and deltas, in shared memory if they fit; not
the data, the rows' weights and the optimizer's state. A barrier separates a thread's writes from
other threads' reads. Threads wait for threads of their own block only. A grid trains as many nets
as it has blocks. Sums run in the order of rows or columns, whatever the number of threads.
"""

from functools import cache
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
    Batch,
    Extent,
    Net,
    Operand,
    Product,
    Samples,
    Space,
    coefficients_at,
    end_batch,
    steps_per_epoch,
    sum_losses,
)
from fastmlp.backends.cuda.kernels.dropout import make_drawing
from fastmlp.backends.cuda.kernels.gemm import make_register_product
from fastmlp.backends.cuda.plan.design import BlockShape, KernelRules
from fastmlp.backends.cuda.plan.plan import MASS_SUMS, N_PARTIAL_SUMS, Layer, Nets
from fastmlp.rules.groups import FROZEN


@cache
def make_kernel(rules: KernelRules, shape: BlockShape) -> Any:
    """Make the kernel ``train(x, y, nets)``, once per process: block b trains net b."""
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


def make_step(rules: KernelRules, n_threads: int) -> Any:
    """Make ``step(rows, net, space, index, n, at, t)``: one step on n rows.

    The rows' numbers begin at ``net.orders[index]``, the coefficients at ``memory[at]``.
    """
    gather, mass_of = _make_gather(rules, n_threads), _make_mass(n_threads)
    forward, backward = _make_forward(rules, n_threads), _make_backward(rules, n_threads)
    losses, update = _make_losses(rules, n_threads), _make_update(rules, n_threads)

    def step(rows: Samples, net: Net, space: Space, index: int, n: int, at: int, t: int) -> None:
        plan, n_layers = net.plan, net.plan.n_layers
        batch = Batch(index, n, 1.0, at)
        gather(rows.x, net, space, batch, t)
        mass = mass_of(net, index, n, t)
        if mass == 0:
            # A batch of zero weights: no step, no loss.
            if t == 0:
                net.progress.batch_loss = 0.0
            return
        batch = Batch(index, n, mass, at)
        for i in range(n_layers):
            forward(net, space, i, batch, t)
            cuda.syncthreads()
        losses(rows.y, net, space, batch, t)
        for i in range(n_layers - 1, plan.lowest, -1):
            backward(net, space, i, n, t)
            cuda.syncthreads()
        for i in range(n_layers):
            update(net, space, i, batch, t)
        cuda.syncthreads()
        if t == 0:
            net.progress.batch_mass = mass
            end_batch(net, mass)

    return device_function(step)


def _make_gather(rules: KernelRules, n_threads: int) -> Any:
    """Make the copy of a batch's features to the block's space, with noise and dropout."""
    disturb, draws = make_drawing(rules).disturbed, rules.draws

    def gather(x: Any, net: Net, space: Space, batch: Batch, t: int) -> None:
        plan, index, n = net.plan, batch.order, batch.n_rows
        at, layer = batch.coefficients + plan.draws, net.layers[0]
        n_in, stride = layer.n_in, layer.input_stride
        inputs = space.base + layer.inputs
        for q in range(t, n * n_in, n_threads):
            r = q // n_in
            k = q - r * n_in
            value = x[net.orders[unsigned(index + r)], k]
            if draws:
                value = disturb(net.memory, at, value, r, k)
            space.numbers[unsigned(inputs + r * stride + k)] = value
        cuda.syncthreads()

    return device_function(gather)


def _make_mass(n_threads: int) -> Any:
    """Make the sum of a batch's row weights, which every thread gets."""

    def mass_of(net: Net, index: int, n: int, t: int) -> Any:
        memory, sums, plan = net.memory, net.sums, net.plan
        if plan.weighted == 0:
            return float(n)
        weights = plan.weights
        for s in range(t, N_PARTIAL_SUMS, n_threads):
            part = 0.0
            for r in range(s, n, N_PARTIAL_SUMS):
                part += memory[unsigned(weights + net.orders[unsigned(index + r)])]
            sums[unsigned(MASS_SUMS + s)] = part
        cuda.syncthreads()
        total = 0.0
        for s in range(N_PARTIAL_SUMS):
            total += sums[unsigned(MASS_SUMS + s)]
        return total

    return device_function(mass_of)


def _make_forward(rules: KernelRules, n_threads: int) -> Any:
    """Make ``forward(net, space, i, batch, t)``: layer i's values and derivatives of the rows."""
    product, activate = make_register_product(rules, n_threads), rule_blocks.activation(rules)
    kept, draws = make_drawing(rules).factor, rules.draws

    def forward(net: Net, space: Space, i: int, batch: Batch, t: int) -> None:
        plan, n, at = net.plan, batch.n_rows, batch.coefficients + net.plan.draws
        numbers, base = space.numbers, space.base
        layer, after = net.layers[i], net.layers[i + 1]
        n_in, n_out, code = layer.n_in, layer.n_out, layer.activation
        inputs = Operand(base + layer.inputs, layer.input_stride, 1)
        weights = Operand(base + layer.block_weights, 1, layer.block_stride)
        z, z_stride = base + after.inputs, after.input_stride
        # The biases are the last row of the weights, but the first term of a sum, as on the CPU.
        biases = weights.start + n_in * weights.depth_stride
        product(numbers, inputs, weights, Extent(n, n_out, n_in), Product(z, z_stride, biases), t)
        cuda.syncthreads()
        derivative = base + after.derivatives
        for q in range(t, n * n_out, n_threads):
            r = q // n_out
            place = r * z_stride + q - r * n_out
            value, slope = activate(code, numbers[unsigned(z + place)])
            if draws and i < plan.n_layers - 1:
                factor = kept(net.memory, at, i, r, q - r * n_out)
                value, slope = value * factor, slope * factor
            numbers[unsigned(z + place)], numbers[unsigned(derivative + place)] = value, slope

    return device_function(forward)


def _make_backward(rules: KernelRules, n_threads: int) -> Any:
    """Make ``backward(net, space, i, n, t)``: the deltas of the layer below layer i, n rows."""
    product = make_register_product(rules, n_threads)

    def backward(net: Net, space: Space, i: int, n: int, t: int) -> None:
        numbers, base = space.numbers, space.base
        layer, before = net.layers[i], net.layers[i - 1]
        n_in, n_out = layer.n_in, layer.n_out
        deltas = Operand(base + layer.deltas, layer.delta_stride, 1)
        weights = Operand(base + layer.block_weights, layer.block_stride, 1)
        out, out_stride = base + before.deltas, before.delta_stride
        product(numbers, deltas, weights, Extent(n, n_in, n_out), Product(out, out_stride, -1), t)
        cuda.syncthreads()
        derivative, derivative_stride = base + layer.derivatives, layer.input_stride
        for q in range(t, n * n_in, n_threads):
            r = q // n_in
            k = q - r * n_in
            numbers[unsigned(out + r * out_stride + k)] *= numbers[
                unsigned(derivative + r * derivative_stride + k)
            ]

    return device_function(backward)


def _make_update(rules: KernelRules, n_threads: int) -> Any:
    """Make ``update(net, space, i, batch, t)``: layer i's gradient, penalty, optimizer step."""
    product, penalty = make_register_product(rules, n_threads), rule_blocks.penalty(rules)
    optimizer, follow = rule_blocks.update(rules), rule_blocks.follow(rules)

    def update(net: Net, space: Space, i: int, batch: Batch, t: int) -> None:
        memory, sums, plan = net.memory, net.sums, net.plan
        numbers, base, layer = space.numbers, space.base, net.layers[i]
        n_in, n_out = layer.n_in, layer.n_out
        inputs = Operand(base + layer.inputs, 1, layer.input_stride)
        deltas = Operand(base + layer.deltas, 1, layer.delta_stride)
        weights, gradient = base + layer.block_weights, base + layer.block_gradient
        stride = layer.block_stride
        of_weights, of_biases = layer.weight_coefficients, layer.bias_coefficients
        if of_weights != FROZEN or of_biases != FROZEN:
            extent = Extent(n_in + 1, n_out, batch.n_rows)
            product(numbers, inputs, deltas, extent, Product(gradient, stride, -1), t)
        cuda.syncthreads()
        penalties, scale = 0.0, 1.0 / batch.mass
        for q in range(t, (n_in + 1) * n_out, n_threads):
            k = q // n_out
            j = q - k * n_out
            place = k * stride + j
            w, g = numbers[unsigned(weights + place)], numbers[unsigned(gradient + place)]
            flat, at = layer.w + q, of_weights
            if k == n_in:
                flat, at = layer.b + j, of_biases
            else:
                value, derivative = penalty(w, sums, plan.strengths, scale)
                penalties += value
                g += derivative
            if at == FROZEN:
                continue
            m, v, at = plan.m + flat, plan.v + flat, batch.coefficients + at
            numbers[unsigned(weights + place)], memory[unsigned(m)], memory[unsigned(v)] = (
                optimizer(memory, at, w, g, memory[unsigned(m)], memory[unsigned(v)])
            )
            follow(memory, plan.average + flat, at, numbers[unsigned(weights + place)])
        if plan.n_penalties > 0:
            part = plan.penalty_sums + t
            sums[unsigned(part)] = penalties if i == 0 else sums[unsigned(part)] + penalties

    return device_function(update)


def _make_losses(rules: KernelRules, n_threads: int) -> Any:
    """Make the rows' losses, the deltas of the output layer, and the partial sums of the losses."""
    loss = rule_blocks.output_loss(rules)

    def losses(y: Any, net: Net, space: Space, batch: Batch, t: int) -> None:
        for r in range(t, batch.n_rows, n_threads):
            row = net.orders[unsigned(batch.order + r)]
            loss(y, net, space.numbers, space.base, r, row, batch.mass)
        cuda.syncthreads()
        sum_losses(net, batch.n_rows, t, n_threads)

    return device_function(losses)
