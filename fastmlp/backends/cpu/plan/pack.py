"""Pack, unpack and copy the parameters, and transpose the copies of weights."""

from typing import Any

import numpy as np

from fastmlp.backends.cpu.plan.records import Layer, Net
from fastmlp.backends.cpu.simd.pack import moves
from fastmlp.compiler import njit, record_at, records_at, row, stack
from fastmlp.compiler.target import lanes_of


@njit
def row_offset(layer: Layer, r: int, vector: int) -> int:
    """Return the bytes from a panel of packed weights to its row r."""
    return r * vector + (layer.gap if r >= layer.middle else 0)


def copying(scalar: type[np.floating[Any]]) -> Any:
    """Make the function that copies n numbers."""

    @njit
    def copy(source: int, target: int, n: int) -> None:
        a, b = row(source, n, scalar), row(target, n, scalar)
        for i in range(n):
            b[i] = a[i]

    return copy


def pack(scalar: type[np.floating[Any]]) -> Any:
    """Make the block that copies a flat vector of parameters into panels."""
    lanes = lanes_of(scalar)
    pack_row, transpose = moves(scalar, lanes).pack_row, moves(scalar, lanes).transpose
    size = np.dtype(scalar).itemsize
    vector, square = lanes * size, lanes * lanes * size

    def pack_all(address: int, flat: int, packed: int) -> None:
        block, transposed = stack(square), stack(square)
        net = record_at(address, Net)
        layers = records_at(net.layers, net.n_layers, Layer)
        for i in range(net.n_layers):
            layer = layers[i]
            width, there = layer.n_out, packed - net.parameters
            biases = flat + layer.bias_offset * size
            # Of sparse rows, and of pairs, predictions hold no packed weights.
            n_in = layer.n_in if layer.packed_rows > 0 else 0
            for k in range(n_in):
                source = flat + (layer.offset + k * width) * size
                if not layer.is_transposed:
                    target = layer.packed + there + row_offset(layer, k, vector)
                    pack_row(source, target, layer.packed_panel, width)
                    continue
                pack_row(source, block + k % lanes * vector, 0, width)
                if k % lanes == lanes - 1 or k == layer.n_in - 1:
                    transpose(block, transposed, k % lanes + 1)
                    target = layer.packed + there + k // lanes * layer.packed_panel
                    for j in range(width):
                        pack_row(transposed + j * vector, target + j * vector, 0, lanes)
            pack_row(biases, layer.biases + there, layer.packed_panel, width)

    return pack_all


def unpack(scalar: type[np.floating[Any]]) -> Any:
    """Make the block that copies panels of parameters into a flat vector."""
    lanes = lanes_of(scalar)
    unpack_row, transpose = moves(scalar, lanes).unpack_row, moves(scalar, lanes).transpose
    size = np.dtype(scalar).itemsize
    vector, square = lanes * size, lanes * lanes * size

    def unpack_all(address: int, flat: int, packed: int) -> None:
        block = stack(square)
        net = record_at(address, Net)
        layers = records_at(net.layers, net.n_layers, Layer)
        for i in range(net.n_layers):
            layer = layers[i]
            width, there = layer.n_out, packed - net.parameters
            biases = flat + layer.bias_offset * size
            for k in range(layer.n_in):
                target = flat + (layer.offset + k * width) * size
                if not layer.is_transposed:
                    source = layer.packed + there + row_offset(layer, k, vector)
                    unpack_row(source, layer.packed_panel, target, width)
                    continue
                if k % lanes == 0:
                    panel = layer.packed + there + k // lanes * layer.packed_panel
                    transpose(panel, block, width)
                unpack_row(block + k % lanes * vector, 0, target, width)
            unpack_row(layer.biases + there, layer.packed_panel, biases, width)

    return unpack_all


def transposes(scalar: type[np.floating[Any]]) -> Any:
    """Make the block that writes every transposed copy of the packed weights."""
    lanes = lanes_of(scalar)
    transpose = moves(scalar, lanes).transpose
    vector = lanes * np.dtype(scalar).itemsize
    square = lanes * vector

    def transpose_all(address: int) -> None:
        net = record_at(address, Net)
        layers = records_at(net.layers, net.n_layers, Layer)
        for i in range(net.n_layers):
            layer = layers[i]
            if layer.transposed_copy == 0:
                continue
            for p in range(layer.packed_panels):
                for r in range(0, layer.packed_rows, lanes):
                    source = layer.packed + p * layer.packed_panel + row_offset(layer, r, vector)
                    target = layer.transposed_copy + r // lanes * layer.copy_panel + p * square
                    transpose(source, target, layer.packed_rows - r)

    return transpose_all
