"""The backward pass of a batch of one row, which needs no transposed copy of W.

0.95 -> 0.80 us (32-64-32-1@1).
"""

from typing import Any

import numpy as np

from fastmlp.backends.cpu.kernels.elementwise import Loop
from fastmlp.backends.cpu.kernels.forward_backward import slope_epilogue
from fastmlp.backends.cpu.kernels.parts import layers_of
from fastmlp.backends.cpu.plan.records import Net
from fastmlp.backends.cpu.simd.epilogue import Epilogue
from fastmlp.backends.cpu.simd.skinny import skinny
from fastmlp.backends.cpu.simd.vector import Panels
from fastmlp.compiler import record_at
from fastmlp.compiler.target import lanes_of


def row_backward(scalar: type[np.floating[Any]]) -> Loop:
    """Make the block that computes one row's deltas of layer i - 1, for some panels.

    It is a block of its own: few nets need it, and it takes a fifth of phase one's compile time.
    """
    lanes = lanes_of(scalar)
    backward_dots = skinny(scalar, lanes).backward_dots
    vector = lanes * np.dtype(scalar).itemsize

    def backward(address: int, i: int, panel: int, most: int) -> None:
        net = record_at(address, Net)
        layers = layers_of(net)
        layer, below = layers[i], layers[i - 1]
        first, count = panel * lanes, min(most, below.n_panels - panel) * lanes
        weights = Panels(layer.packed + first * vector, layer.packed_panel)
        (number, operand), down = slope_epilogue(below), panel * net.panel
        deltas, epilogue = Panels(layer.deltas, net.panel), Epilogue(number, operand + down)
        shape = (layer.n_out, min(count, layer.n_in - first))
        backward_dots(weights, deltas, below.deltas + down, epilogue, *shape)

    return backward
