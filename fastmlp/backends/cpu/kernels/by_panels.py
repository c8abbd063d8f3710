"""Phase one by panels of each layer, for a team and wide layers.

Each thread then reads its own weights only, which are in its cache. By rows every thread reads all
weights, half of them just written by another core: 0.4 of 2.1 ms (784-512-512-10@128, 2 threads).
"""

from collections.abc import Sequence

import numpy as np

from fastmlp.backends.cpu.kernels.forward_backward import inputs_of, layer_kernels
from fastmlp.backends.cpu.kernels.output_layer import TRAIN, output_layer
from fastmlp.backends.cpu.kernels.parts import (
    Kernel,
    Scalar,
    Span,
    layers_of,
    part_of,
    rows_of_part,
)
from fastmlp.backends.cpu.plan.records import Batch, Net
from fastmlp.backends.cpu.simd.gemm import groups_of_panels
from fastmlp.backends.cpu.tuning import LARGEST_TILE, ROW_BLOCK
from fastmlp.compiler import (
    flushed,
    hinted,
    njit,
    prange,
    record_at,
    records_at,
    restored,
    stack,
    thread_number,
)
from fastmlp.compiler.target import lanes_of

_groups_of_panels = njit(groups_of_panels)


@njit
def panels_of_part(part: int, n_parts: int, n_panels: int) -> Span:
    """Return the first panel of a part's groups, and how many panels they have at most."""
    first, last = part_of(part, n_parts, _groups_of_panels(n_panels))
    return first * LARGEST_TILE[1], (last - first) * LARGEST_TILE[1]


def backward_by_panels(scalar: Scalar) -> Kernel:
    """Make the block that computes one layer's deltas, shared by panels of the layer below."""
    backward_layer = layer_kernels(scalar).backward

    @njit(parallel=True)
    def backward_by_panels(team: int, nets: Sequence[Net], n_parts: int, i: int) -> None:
        for part in prange(n_parts):
            flush, net = flushed(), nets[0]
            below = layers_of(net)[i - 1]
            panels = panels_of_part(part, n_parts, below.n_panels)
            n_rows = record_at(net.batch, Batch).n_rows if panels[1] > 0 else 0
            for at in range(0, n_rows, ROW_BLOCK):
                backward_layer(net, i, panels, (at, min(ROW_BLOCK, n_rows - at)))
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
                    forward_layer(net, layers[i], inputs, middle, panels, rows, z)
            restored(flush)

    return forward_by_panels


def forward_backward_by_panels(scalar: Scalar) -> Kernel:
    """Make the block of phase one by panels of each layer."""
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
        """Phase one: the team joins after each layer.

        With layer `split` (from 1; 0: none) computed by split-K, the layers below it are done.
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
