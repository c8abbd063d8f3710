"""A batch of one row: its errors on their way back.

They go through W as it lies, of which there is no other form to keep in step: that was 0.15 of the
0.95 us of a step of 32-64-32-1.
"""

from typing import Any

import numpy as np

from fastmlp.backends.cpu.kernels.elementwise import Loop
from fastmlp.backends.cpu.kernels.forward_backward import slopes_of
from fastmlp.backends.cpu.plan.records import LAYER, NET
from fastmlp.backends.cpu.simd.skinny import outputs
from fastmlp.backends.cpu.simd.target import lanes_of
from fastmlp.compiler import row


def row_back(scalar: type[np.floating[Any]]) -> Loop:
    """Make the block that sends one row's errors from layer i down, to some panels of its inputs.

    A block by itself: few nets need it, and it is a fifth of what phase one would take to compile.
    """
    lanes = lanes_of(scalar)
    back_dots = outputs(scalar, lanes).back_dots
    vector = lanes * np.dtype(scalar).itemsize

    def go_back(address: Any, i: Any, panel: Any, most: Any) -> None:
        net = row(address, 1, NET)[0]
        layers = row(net.layers, net.n_layers, LAYER)
        layer, below = layers[i], layers[i - 1]
        first, count = panel * lanes, min(most, below.n_panels - panel) * lanes
        weights = (layer.master + first * vector, layer.master_panel)
        (epilogue, operand), down = slopes_of(below), panel * net.panel
        places = (layer.deltas, below.deltas + down, operand + down, net.panel)
        shape = (epilogue, layer.n_out, min(count, layer.n_in - first))
        back_dots(*weights, *places, *shape)

    return go_back
