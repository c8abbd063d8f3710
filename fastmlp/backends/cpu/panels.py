"""Into panels and out of them: the parameters and their transposes."""

from typing import Any

import numpy as np

from fastmlp._compile import leaf, row, stack
from fastmlp.backends.cpu.plan import LAYER, NET
from fastmlp.backends.cpu.registers import lanes_of
from fastmlp.backends.cpu.vectors import moves


@leaf
def down_to(layer: Any, r: Any, vector: Any) -> Any:
    """How far into a panel of a layer's packed parameters row r lies."""
    return r * vector + (layer.gap if r >= layer.middle else 0)


def pack(scalar: type[np.floating[Any]]) -> Any:
    """Make the block that copies a flat vector of parameters into panels."""
    lanes = lanes_of(scalar)
    pack_row, transpose = moves(scalar, lanes).pack_row, moves(scalar, lanes).transpose
    size = np.dtype(scalar).itemsize
    vector, square = lanes * size, lanes * lanes * size

    def pack_all(address: Any, flat: Any, packed: Any) -> None:
        block, turned = stack(square), stack(square)
        net = row(address, 1, NET)[0]
        layers = row(net.layers, net.n_layers, LAYER)
        for i in range(net.n_layers):
            layer = layers[i]
            width, there = layer.n_out, packed - net.parameters
            biases = flat + layer.bias_offset * size
            # Sparse rows that are not trained on read the first layer's weights where they are.
            n_in = 0 if i == 0 and net.unpacked else layer.n_in
            for k in range(n_in):
                source = flat + (layer.offset + k * width) * size
                if not layer.turned:
                    target = layer.master + there + down_to(layer, k, vector)
                    pack_row(source, target, layer.master_panel, width)
                    continue
                pack_row(source, block + k % lanes * vector, 0, width)
                if k % lanes == lanes - 1 or k == layer.n_in - 1:
                    transpose(block, turned, k % lanes + 1)
                    target = layer.master + there + k // lanes * layer.master_panel
                    for j in range(width):
                        pack_row(turned + j * vector, target + j * vector, 0, lanes)
            pack_row(biases, layer.biases + there, layer.master_panel, width)

    return pack_all


def unpack(scalar: type[np.floating[Any]]) -> Any:
    """Make the block that copies panels of parameters into a flat vector."""
    lanes = lanes_of(scalar)
    unpack_row, transpose = moves(scalar, lanes).unpack_row, moves(scalar, lanes).transpose
    size = np.dtype(scalar).itemsize
    vector, square = lanes * size, lanes * lanes * size

    def unpack_all(address: Any, flat: Any, packed: Any) -> None:
        block = stack(square)
        net = row(address, 1, NET)[0]
        layers = row(net.layers, net.n_layers, LAYER)
        for i in range(net.n_layers):
            layer = layers[i]
            width, there = layer.n_out, packed - net.parameters
            biases = flat + layer.bias_offset * size
            for k in range(layer.n_in):
                target = flat + (layer.offset + k * width) * size
                if not layer.turned:
                    source = layer.master + there + down_to(layer, k, vector)
                    unpack_row(source, layer.master_panel, target, width)
                    continue
                if k % lanes == 0:
                    panel = layer.master + there + k // lanes * layer.master_panel
                    transpose(panel, block, width)
                unpack_row(block + k % lanes * vector, 0, target, width)
            unpack_row(layer.biases + there, layer.master_panel, biases, width)

    return unpack_all


def transposes(scalar: type[np.floating[Any]]) -> Any:
    """Make the block that brings every copy of weights in step with the packed parameters."""
    lanes = lanes_of(scalar)
    transpose = moves(scalar, lanes).transpose
    vector = lanes * np.dtype(scalar).itemsize
    square = lanes * vector

    def transpose_all(address: Any) -> None:
        net = row(address, 1, NET)[0]
        layers = row(net.layers, net.n_layers, LAYER)
        for i in range(net.n_layers):
            layer = layers[i]
            if layer.twin == 0:
                continue
            for p in range(layer.master_panels):
                for r in range(0, layer.master_rows, lanes):
                    source = layer.master + p * layer.master_panel + down_to(layer, r, vector)
                    target = layer.twin + r // lanes * layer.twin_panel + p * square
                    transpose(source, target, layer.master_rows - r)

    return transpose_all
