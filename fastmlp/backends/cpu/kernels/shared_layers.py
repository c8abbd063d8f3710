"""Layers shared among a team's threads: by panels of their outputs, or by halves of their inputs.

By panels, for wide layers, each thread reads only its part of the weights, which is in its cache.
By rows every thread reads all weights, half of them just written by another core: 0.4 of 2.1 ms
(784-512-512-10@128, 2 threads).

Split-K is for one layer, the first or the second. Each half of its inputs, its weight rows and
their gradient stay on one thread; only partial sums cross cores. By rows half of W would cross, by
panels half of X. One thread computes the same two sums, for the same bits.
"""

from collections.abc import Sequence

import numpy as np

from fastmlp.backends.cpu.kernels import (
    Kernel,
    Scalar,
    Span,
    layers_of,
    n_strips_of,
    part_of,
    rows_of_part,
)
from fastmlp.backends.cpu.kernels.forward_backward import (
    TRAIN,
    inputs_of,
    layer_kernels,
    output_layer,
    packed_of,
    product_of,
)
from fastmlp.backends.cpu.plan.packing import row_offset
from fastmlp.backends.cpu.plan.records import Batch, BlockAddresses, Net
from fastmlp.backends.cpu.simd.gemm import groups_of_panels
from fastmlp.backends.cpu.simd.microkernel import STORE
from fastmlp.backends.cpu.tuning import LARGEST_TILE, ROW_BLOCK, STRIP_ROWS
from fastmlp.compiler import call, flushed, hinted, njit, prange, restored, thread_number
from fastmlp.compiler.memory import record_at, records_at, stack
from fastmlp.compiler.target import lanes_of

_groups_of_panels = njit(groups_of_panels)


@njit
def panels_of_part(part: int, n_parts: int, n_panels: int) -> Span:
    first, last = part_of(part, n_parts, _groups_of_panels(n_panels))
    return first * LARGEST_TILE[1], (last - first) * LARGEST_TILE[1]


def backward_by_panels(scalar: Scalar) -> Kernel:
    """One layer's deltas, shared by panels of the layer below."""
    backward_layer = layer_kernels(scalar).backward

    @njit(parallel=True)
    def backward_by_panels(team: int, nets: Sequence[Net], n_parts: int, i: int) -> None:
        for part in prange(n_parts):
            flush, net = flushed(), nets[0]
            below = layers_of(net)[i - 1]
            panels = panels_of_part(part, n_parts, below.n_panels)
            n_rows = record_at(net.batch, Batch).n_rows if panels[1] > 0 else 0
            for at in range(0, n_rows, ROW_BLOCK):
                packed = packed_of(net, thread_number())
                backward_layer(net, i, panels, (at, min(ROW_BLOCK, n_rows - at)), packed)
            restored(flush)

    return backward_by_panels


def _forward_by_panels(scalar: Scalar) -> Kernel:
    layer_functions = layer_kernels(scalar)
    forward_layer, add_partial_sums = layer_functions.forward, layer_functions.add_partial_sums
    z_bytes = LARGEST_TILE[1] * ROW_BLOCK * lanes_of(scalar) * np.dtype(scalar).itemsize

    @njit(parallel=True)
    def forward_by_panels(team: int, nets: Sequence[Net], n_parts: int, i: int, split: int) -> None:
        for part in prange(n_parts):
            flush, z, net = flushed(), stack(z_bytes), nets[0]
            layers = layers_of(net)
            panels = panels_of_part(part, n_parts, layers[i].n_panels)
            n_rows = record_at(net.batch, Batch).n_rows if panels[1] > 0 else 0
            inputs = inputs_of(net, i)
            middle = net.middle if i + 1 == net.split_layer else 0
            for at in range(0, n_rows, ROW_BLOCK):
                rows = (at, min(ROW_BLOCK, n_rows - at))
                if i + 1 == split:
                    add_partial_sums(net, layers[i], panels, rows, z)
                else:
                    scratch = (z, packed_of(net, thread_number()))
                    forward_layer(net, layers[i], inputs, middle, panels, rows, scratch)
            restored(flush)

    return forward_by_panels


def forward_backward_by_panels(scalar: Scalar) -> Kernel:
    """Phase one by panels of each layer."""
    gather, finish = layer_kernels(scalar).gather, output_layer(scalar)
    forward_by_panels, backward = _forward_by_panels(scalar), backward_by_panels(scalar)

    @njit(parallel=True)
    def gather_rows(team: int, nets: Sequence[Net], n_parts: int) -> None:
        for part in prange(n_parts):
            net = nets[0]
            begin, stop = rows_of_part(net, part, n_parts)
            for start in range(begin, stop, ROW_BLOCK):
                n = min(ROW_BLOCK, stop - start)
                gather(net, net.inputs, (start, n), start, (0, net.n_in))

    @njit(parallel=True)
    def finish_rows(team: int, nets: Sequence[Net], n_parts: int, mode: int) -> None:
        for part in prange(n_parts):
            flush, net = flushed(), nets[0]
            begin, stop = rows_of_part(net, part, n_parts)
            for start in range(begin, stop, ROW_BLOCK):
                finish(net, (start, min(ROW_BLOCK, stop - start)), start, mode, thread_number())
            restored(flush)

    @njit
    def forward_backward_by_panels(
        team: int, nets: Sequence[Net], n_parts: int, mode: int, split: int
    ) -> None:
        """The team joins after each layer.

        Layers up to `split` (from 1, or 0), which is computed by split-K, are done already.
        """
        net = nets[0]
        outer = layers_of(net)[net.n_layers - 1]
        if split == 0:
            gather_rows(team, nets, n_parts)
        for i in range(max(split - 1, 0), net.n_layers - outer.is_transposed):
            forward_by_panels(team, nets, n_parts, i, split)
        finish_rows(team, nets, n_parts, mode)
        for i in range(net.n_layers - 1 if mode == TRAIN else 0, net.lowest, -1):
            backward(team, nets, n_parts, i)

    @hinted(control=True)
    def enter(team: int, net: int, n_parts: int, mode: int, split: int) -> None:
        forward_backward_by_panels(team, records_at(net, 1, Net), n_parts, mode, split)

    return enter


def split_k(scalar: Scalar) -> Kernel:
    """The split layer's products, and the layer or rows below it."""
    lanes = lanes_of(scalar)
    vector = lanes * np.dtype(scalar).itemsize
    layer_functions = layer_kernels(scalar)
    gather, forward_layer = layer_functions.gather, layer_functions.forward
    z_bytes = LARGEST_TILE[1] * ROW_BLOCK * vector

    @njit
    def multiply(net: Net, inputs: int, half: int, features: Span, rows: Span, packed: int) -> None:
        """The partial sums of n rows over one half of the inputs: the first half's, with biases,
        to the layer's outputs; the second half's to its deltas, which are free till then."""
        layer = layers_of(net)[net.split_layer - 1]
        (low, high), (at, n) = features, rows
        to, start, start_panel = layer.outputs, layer.biases, layer.packed_panel
        if half:
            to, start, start_panel = layer.deltas, net.zeros, 0
        down = at * vector
        left = (inputs + low // lanes * net.panel + down, net.panel, high - low, STORE, 0)
        weights = (layer.weights + row_offset(layer, low, vector), layer.weight_panel)
        c = (to + down, net.panel)
        shape = (layer.n_out, n, packed)
        product = product_of(record_at(net.blocks, BlockAddresses), 0, high - low, shape)
        call(product, (*c, start, 0, start_panel, *weights, *left, *shape))

    @njit
    def multiply_half(net: Net, half: int, apart: int, rows: Span, scratch: Span) -> None:
        """Gather one half of the inputs, or compute it from the layer below; then multiply it."""
        layers = layers_of(net)
        low, high = half * net.middle, layers[net.split_layer - 1].n_in if half else net.middle
        inputs = net.inputs + half * apart
        if net.split_layer == 1:
            gather(net, inputs, rows, rows[0], (low, high))
            multiply(net, inputs, half, (low, high), rows, scratch[1])
        else:
            if half == 0 or apart > 0:
                gather(net, inputs, rows, rows[0], (0, net.n_in))
            below = layers[net.split_layer - 2]
            panels = (low // lanes, (high - low + lanes - 1) // lanes)
            forward_layer(net, below, inputs, 0, panels, rows, scratch)
            multiply(net, below.outputs, half, (low, high), rows, scratch[1])

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
                    scratch = (z, packed_of(net, thread_number()))
                    multiply_half(net, half, net.inputs_apart, rows, scratch)
            restored(flush)

    def enter(team: int, net: int, n_parts: int) -> None:
        multiply_split(team, records_at(net, 1, Net), n_parts)

    return enter


def split_k_backward(scalar: Scalar) -> Kernel:
    """The deltas below the split layer, by panels."""
    backward = backward_by_panels(scalar)

    def enter(team: int, net: int, n_parts: int) -> None:
        nets = records_at(net, 1, Net)
        backward(team, nets, n_parts, nets[0].split_layer - 1)

    return enter
