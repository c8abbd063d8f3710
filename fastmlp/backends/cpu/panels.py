"""Into panels and out of them: parameters, their transposes, rows of X, and outputs."""

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from fastmlp._compile import INTERPRETED, leaf, row
from fastmlp.backends.cpu.microkernel import lanes_of
from fastmlp.backends.cpu.plan import LAYER, NET


def transposer(scalar: type[np.floating[Any]]) -> Any:
    """Return ``transpose(source, target, n)``: one square block of panels, `lanes` on a side.

    Reads n rows of the source and takes the others for zeros; both blocks are contiguous.
    """
    lanes = lanes_of(scalar)
    size = np.dtype(scalar).itemsize

    def interpreted(source: int, target: int, n: int) -> None:
        block = np.zeros((lanes, lanes), scalar)
        block[:n] = row(source, n * lanes, scalar).reshape(n, lanes)
        row(target, lanes * lanes, scalar)[:] = block.T.ravel()

    @intrinsic
    def transpose(typing_context: Any, source: Any, target: Any, n: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            _emit_transpose(builder, lanes, size, *arguments)
            return context.get_dummy_value()

        return types.void(types.intp, types.intp, types.intp), generate

    return interpreted if INTERPRETED else transpose


def _emit_transpose(builder: Any, lanes: int, size: int, source: Any, target: Any, n: Any) -> None:
    """Swap halves, quarters, ... of pairs of rows: log2(lanes) rounds of shuffles."""
    word, lane = ir.IntType(64), ir.IntType(32)
    vector = ir.VectorType(ir.FloatType() if size == 4 else ir.DoubleType(), lanes)

    def pointer(base: Any, r: int) -> Any:
        place = builder.add(base, ir.Constant(word, r * lanes * size))
        return builder.inttoptr(place, vector.as_pointer())

    def shuffled(a: Any, b: Any, order: list[int]) -> Any:
        return builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(lane, lanes), order))

    rows = []
    for r in range(lanes):
        there = builder.icmp_signed("<", ir.Constant(word, r), n)
        number = builder.load(pointer(source, r), align=size)
        rows.append(builder.select(there, number, ir.Constant(vector, None)))
    half = lanes // 2
    while half:
        for r in range(lanes):
            if r & half:
                continue
            a, b = rows[r], rows[r + half]
            low = [j if not j & half else lanes + j - half for j in range(lanes)]
            high = [j + half if not j & half else lanes + j for j in range(lanes)]
            rows[r], rows[r + half] = shuffled(a, b, low), shuffled(a, b, high)
        half //= 2
    for r in range(lanes):
        builder.store(rows[r], pointer(target, r), align=size)


def pack(scalar: type[np.floating[Any]]) -> Any:
    """Make the block that copies a flat vector of parameters into panels."""
    lanes = lanes_of(scalar)
    size = np.dtype(scalar).itemsize

    def pack_all(address: Any, flat: Any, packed: Any) -> None:
        net = row(address, 1, NET)[0]
        layers = row(net.layers, net.n_layers, LAYER)
        for i in range(net.n_layers):
            layer = layers[i]
            width, n_in = layer.n_out, layer.n_in
            for p in range(layer.n_panels):
                n = min(lanes, width - p * lanes)
                panel = packed + layer.packed_offset * size + p * layer.weight_panel
                for k in range(n_in + 1):
                    start = layer.offset + k * width if k < n_in else layer.bias_offset
                    source = row(flat + (start + p * lanes) * size, n, scalar)
                    target = row(panel + k * lanes * size, n, scalar)
                    for j in range(n):
                        target[j] = source[j]

    return pack_all


def unpack(scalar: type[np.floating[Any]]) -> Any:
    """Make the block that copies panels of parameters into a flat vector."""
    lanes = lanes_of(scalar)
    size = np.dtype(scalar).itemsize

    def unpack_all(address: Any, flat: Any, packed: Any) -> None:
        net = row(address, 1, NET)[0]
        layers = row(net.layers, net.n_layers, LAYER)
        for i in range(net.n_layers):
            layer = layers[i]
            width, n_in = layer.n_out, layer.n_in
            for p in range(layer.n_panels):
                n = min(lanes, width - p * lanes)
                panel = packed + layer.packed_offset * size + p * layer.weight_panel
                for k in range(n_in + 1):
                    start = layer.offset + k * width if k < n_in else layer.bias_offset
                    target = row(flat + (start + p * lanes) * size, n, scalar)
                    source = row(panel + k * lanes * size, n, scalar)
                    for j in range(n):
                        target[j] = source[j]

    return unpack_all


def transposes(scalar: type[np.floating[Any]]) -> Any:
    """Make the block that brings every transpose in step with the packed parameters."""
    lanes = lanes_of(scalar)
    size = np.dtype(scalar).itemsize
    transpose = transposer(scalar)
    square = lanes * lanes * size

    def transpose_all(address: Any) -> None:
        net = row(address, 1, NET)[0]
        layers = row(net.layers, net.n_layers, LAYER)
        for i in range(1, net.n_layers):
            layer = layers[i]
            for p in range(layer.n_panels):
                for q in range(layer.n_in_panels):
                    source = layer.weights + p * layer.weight_panel + q * square
                    target = layer.transposed + q * layer.transposed_panel + p * square
                    transpose(source, target, layer.n_in - q * lanes)

    return transpose_all


@leaf
def gather(net: Any, first: Any, n: Any, at: Any, lanes: Any, like: Any) -> None:
    """Copy n rows of X to row `at` of the panels of inputs; without an index, those from `first`."""
    size, n_in = like.itemsize, net.n_in
    index = row(net.index + first * 8, n, np.int64)
    whole = n_in // lanes
    rest = n_in - whole * lanes
    for r in range(n):
        source = net.x + (index[r] if net.index else first + r) * n_in * size
        target = net.inputs + (at + r) * lanes * size
        for p in range(whole):
            panel = row(target + p * net.panel, lanes, like.dtype)
            numbers = row(source + p * lanes * size, lanes, like.dtype)
            for j in range(lanes):
                panel[j] = numbers[j]
        last = row(target + whole * net.panel, rest, like.dtype)
        numbers = row(source + whole * lanes * size, rest, like.dtype)
        for j in range(rest):
            last[j] = numbers[j]


@leaf
def from_panels(panels: Any, panel: Any, rows: Any, n: Any, width: Any, lanes: Any, like: Any):
    """Copy n rows of panels to contiguous rows of `width` numbers."""
    size = like.itemsize
    for r in range(n):
        for p in range(0, width, lanes):
            m = min(lanes, width - p)
            source = row(panels + p // lanes * panel + r * lanes * size, m, like.dtype)
            target = row(rows + (r * width + p) * size, m, like.dtype)
            for j in range(m):
                target[j] = source[j]
