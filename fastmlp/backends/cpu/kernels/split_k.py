"""Split-K for one layer, the first or the second: its inputs are split in two halves.

Each half of the inputs, its weight rows and their gradient stay on one thread; only partial sums
cross cores. By rows half of W would cross, by panels half of X. One thread computes the same two
sums, for the same bits: it adds the second as it stores it.
"""

from collections.abc import Sequence

import numpy as np

from fastmlp.backends.cpu.kernels.by_panels import backward_by_panels
from fastmlp.backends.cpu.kernels.forward_backward import layer_kernels
from fastmlp.backends.cpu.kernels.parts import (
    Kernel,
    Scalar,
    Span,
    layers_of,
    n_strips_of,
    part_of,
)
from fastmlp.backends.cpu.plan.packing import row_offset
from fastmlp.backends.cpu.plan.records import Batch, BlockAddresses, Net
from fastmlp.backends.cpu.simd.microkernel import STORE
from fastmlp.backends.cpu.tuning import LARGEST_TILE, ROW_BLOCK, STRIP_ROWS
from fastmlp.compiler import (
    call,
    flushed,
    njit,
    prange,
    record_at,
    records_at,
    restored,
    stack,
)
from fastmlp.compiler.target import lanes_of


def split_k(scalar: Scalar) -> Kernel:
    """Make the block of the split layer's products, and of the layer or rows below it."""
    lanes = lanes_of(scalar)
    vector = lanes * np.dtype(scalar).itemsize
    layer_functions = layer_kernels(scalar)
    gather, forward_layer = layer_functions.gather, layer_functions.forward
    z_bytes = LARGEST_TILE[1] * ROW_BLOCK * vector

    @njit
    def multiply(net: Net, inputs: int, half: int, features: Span, rows: Span) -> None:
        """Write the partial sums of n rows over one half of the inputs: the first half's, with
        biases, to the layer's outputs; the second half's to its deltas, which are free till then.
        """
        layer = layers_of(net)[net.split_layer - 1]
        (low, high), (at, n) = features, rows
        to, start, start_panel = layer.outputs, layer.biases, layer.packed_panel
        if half:
            to, start, start_panel = layer.deltas, net.zeros, 0
        down = at * vector
        left = (inputs + low // lanes * net.panel + down, net.panel, high - low, STORE, 0)
        weights = (layer.weights + row_offset(layer, low, vector), layer.weight_panel)
        c = (to + down, net.panel)
        product = record_at(net.blocks, BlockAddresses).product
        call(product, (*c, start, 0, start_panel, *weights, *left, layer.n_out, n, 0))

    @njit
    def multiply_half(net: Net, half: int, apart: int, rows: Span, z: int) -> None:
        """Gather one half of the inputs, or compute it from the layer below; then multiply it."""
        layers = layers_of(net)
        low, high = half * net.middle, layers[net.split_layer - 1].n_in if half else net.middle
        inputs = net.inputs + half * apart
        if net.split_layer == 1:
            gather(net, inputs, rows, rows[0], (low, high))
            multiply(net, inputs, half, (low, high), rows)
        else:
            if half == 0 or apart > 0:
                gather(net, inputs, rows, rows[0], (0, net.n_in))
            below = layers[net.split_layer - 2]
            panels = (low // lanes, (high - low + lanes - 1) // lanes)
            forward_layer(net, below, inputs, 0, panels, rows, z)
            multiply(net, below.outputs, half, (low, high), rows)

    @njit(parallel=True)
    def multiply_split(team: int, nets: Sequence[Net], n_parts: int) -> None:
        """Parts are strips of rows of the first half, then strips of the second half."""
        for part in prange(n_parts):
            flush, z, net = flushed(), stack(z_bytes), nets[0]
            n_rows = record_at(net.batch, Batch).n_rows
            n_strips = n_strips_of(n_rows)
            first, last = part_of(part, n_parts, 2 * n_strips)
            for half in range(2):
                begin = max(first - half * n_strips, 0) * STRIP_ROWS
                end = min(min(last - half * n_strips, n_strips) * STRIP_ROWS, n_rows)
                for at in range(begin, end, ROW_BLOCK):
                    rows = (at, min(ROW_BLOCK, end - at))
                    multiply_half(net, half, net.inputs_apart, rows, z)
            restored(flush)

    def enter(team: int, net: int, n_parts: int) -> None:
        multiply_split(team, records_at(net, 1, Net), n_parts)

    return enter


def split_k_backward(scalar: Scalar) -> Kernel:
    """Make the block that computes the deltas below the split layer, by panels."""
    backward = backward_by_panels(scalar)

    def enter(team: int, net: int, n_parts: int) -> None:
        nets = records_at(net, 1, Net)
        backward(team, nets, n_parts, nets[0].split_layer - 1)

    return enter
