"""Into panels and out of them: the parameters and their transposes."""

from typing import Any

import numpy as np

from fastmlp._compile import row
from fastmlp.backends.cpu.microkernel import lanes_of
from fastmlp.backends.cpu.plan import LAYER, NET
from fastmlp.backends.cpu.vectors import moves


def pack(scalar: type[np.floating[Any]]) -> Any:
    """Make the block that copies a flat vector of parameters into panels."""
    lanes, spread = lanes_of(scalar), moves(scalar, lanes_of(scalar)).spread
    size = np.dtype(scalar).itemsize

    def pack_all(address: Any, flat: Any, packed: Any) -> None:
        net = row(address, 1, NET)[0]
        layers = row(net.layers, net.n_layers, LAYER)
        for i in range(net.n_layers):
            layer = layers[i]
            panels = packed + layer.packed_offset * size
            for k in range(layer.n_in + 1):
                start = layer.offset + k * layer.n_out if k < layer.n_in else layer.bias_offset
                target = panels + k * lanes * size
                spread(flat + start * size, target, layer.weight_panel, layer.n_out)

    return pack_all


def unpack(scalar: type[np.floating[Any]]) -> Any:
    """Make the block that copies panels of parameters into a flat vector."""
    lanes, collect = lanes_of(scalar), moves(scalar, lanes_of(scalar)).collect
    size = np.dtype(scalar).itemsize

    def unpack_all(address: Any, flat: Any, packed: Any) -> None:
        net = row(address, 1, NET)[0]
        layers = row(net.layers, net.n_layers, LAYER)
        for i in range(net.n_layers):
            layer = layers[i]
            panels = packed + layer.packed_offset * size
            for k in range(layer.n_in + 1):
                start = layer.offset + k * layer.n_out if k < layer.n_in else layer.bias_offset
                source = panels + k * lanes * size
                collect(source, layer.weight_panel, flat + start * size, layer.n_out)

    return unpack_all


def transposes(scalar: type[np.floating[Any]]) -> Any:
    """Make the block that brings every transpose in step with the packed parameters."""
    lanes = lanes_of(scalar)
    size = np.dtype(scalar).itemsize
    transpose = moves(scalar, lanes).transpose
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
