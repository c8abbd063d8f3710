"""Derivatives of one row's outputs by its inputs: forward as predictions, slopes kept, then back.

Backward, the sums are dot products with rows of weights, by vectors, whose bits differ from the
product of many rows.
"""

from collections.abc import Callable

import numpy as np

from fastmlp.backends.cpu.predict.row_blocks import FlatLayer, FlatNet
from fastmlp.backends.cpu.simd.flat_weights import one_row, row_dots
from fastmlp.backends.cpu.simd.vector import Scalar
from fastmlp.compiler import call, flush_denormals, njit, restore_denormals
from fastmlp.compiler.memory import record_at, records_at, row
from fastmlp.rules.elementary import exp
from fastmlp.rules.losses import LEAST_LOG_VARIANCE

# Links, by number.
DERIVED = ("identity", "sigmoid", "exp", "softmax", "mean_std", "sorted")
SIGMOID, EXP, SOFTMAX, MEAN_STD, SORTED = range(1, 6)


def times_slopes(scalar: Scalar) -> Callable[[FlatLayer, int, int, int], None]:
    """Multiplies the derivatives by n of a layer's values by its slopes."""
    zero = scalar(0)

    @njit
    def through(layer: FlatLayer, n: int, kept: int, numbers: int) -> None:
        values, slopes = row(numbers, n, scalar), row(kept, n, scalar)
        if layer.relu:
            for i in range(n):
                values[i] = values[i] if slopes[i] > zero else zero
        elif layer.activation:
            for i in range(n):
                values[i] *= slopes[i]

    return through


def _link_slopes(scalar: Scalar) -> Callable[[FlatNet, int, int, int, int], None]:
    """Changes derivatives of raw outputs to derivatives of predictions."""
    size, zero, one = np.dtype(scalar).itemsize, scalar(0), scalar(1)
    half, least = scalar(0.5), scalar(LEAST_LOG_VARIANCE)

    @njit
    def exchange(first: int, second: int, n: int) -> None:
        ones, others = row(first, n, scalar), row(second, n, scalar)
        for k in range(n):
            number = ones[k]
            ones[k] = others[k]
            others[k] = number

    @njit
    def through_link(net: FlatNet, kind: int, raw: int, out: int, grad: int) -> None:
        n_out, n_in = net.n_out, net.n_in
        raws, values = row(raw, n_out, scalar), row(out, n_out, scalar)
        if kind == SOFTMAX:
            for k in range(n_in):
                mean = zero
                for j in range(n_out):
                    mean += values[j] * row(grad + (j * n_in + k) * size, 1, scalar)[0]
                for j in range(n_out):
                    numbers = row(grad + (j * n_in + k) * size, 1, scalar)
                    numbers[0] = values[j] * (numbers[0] - mean)
        elif kind == SORTED:
            # By insertion, which leaves equal outputs in their order.
            for i in range(1, n_out):
                j = i
                while j > 0 and raws[j - 1] > raws[j]:
                    exchange(raw + (j - 1) * size, raw + j * size, 1)
                    exchange(grad + (j - 1) * n_in * size, grad + j * n_in * size, n_in)
                    j -= 1
        else:
            for j in range(n_out):
                small, factor = exp(-abs(raws[j])), values[j]
                if kind == SIGMOID:
                    factor = small / ((one + small) * (one + small))
                if kind == MEAN_STD:
                    factor = half * values[j] if raws[j] >= least else zero
                    factor = factor if j % 2 == 1 else one
                numbers = row(grad + j * n_in * size, n_in, scalar)
                for k in range(n_in):
                    numbers[k] *= factor

    return through_link


def row_gradient(scalar: Scalar) -> Callable[[int, int, int, int, int, int], None]:
    """Predicts a row of a net, and writes its derivatives, shape (n_out, n_in).

    The buffers are two vectors of the widest layer, one of slopes for each layer, and one more.
    """
    size, forward, dots = np.dtype(scalar).itemsize, one_row(scalar), row_dots(scalar)
    through, through_link, one = times_slopes(scalar), _link_slopes(scalar), scalar(1)

    def derive(model: int, kind: int, x: int, out: int, grad: int, work: int) -> None:
        mode = flush_denormals()
        net = record_at(model, FlatNet)
        layers = records_at(net.layers, net.n_layers, FlatLayer)
        unit, n_last = net.block_bytes, net.n_layers - 1
        inputs, free, slopes = x, work, work + 2 * unit
        for i in range(net.n_layers):
            layer = layers[i]
            # Relu's values are positive where its slopes are 1: they are kept.
            target = slopes if layer.relu else free
            w, b = net.parameters + layer.weights, net.parameters + layer.biases
            forward(target, b, w, layer.n_out, inputs, layer.n_in, layer.relu)
            inputs = target
            if layer.activation:
                target = work + unit if free == work else work
                call(layer.activation, (inputs, target, slopes, layer.n_out))
                inputs = target
            free = work + unit if inputs == work else work
            slopes += unit
        raw, predictions = row(inputs, net.n_out, scalar), row(out, net.n_out, scalar)
        if net.link:
            call(net.link, (inputs, out, 1, net.n_out))
        else:
            for j in range(net.n_out):
                predictions[j] = raw[j]
        # The raw outputs are read after the derivatives: in the place of slopes already used.
        kept = row(slopes, net.n_out, scalar)
        for j in range(net.n_out):
            kept[j] = raw[j]
        for j in range(net.n_out):
            last, target = layers[n_last], grad + j * net.n_in * size
            deltas = work if n_last > 0 else target
            w, numbers = net.parameters + last.weights, row(deltas, last.n_in, scalar)
            factor = one
            if last.activation:
                factor = row(work + (2 + n_last) * unit, net.n_out, scalar)[j]
            for k in range(last.n_in):
                numbers[k] = factor * row(w + (k * net.n_out + j) * size, 1, scalar)[0]
            for i in range(n_last - 1, -1, -1):
                layer = layers[i]
                through(layer, layer.n_out, work + (2 + i) * unit, deltas)
                before = target if i == 0 else work + unit if deltas == work else work
                dots(before, net.parameters + layer.weights, layer.n_in, deltas, layer.n_out)
                deltas = before
        if kind > 0:
            through_link(net, kind, slopes, out, grad)
        restore_denormals(mode)

    return derive
