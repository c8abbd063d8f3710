"""A batch of one row: its errors on their way back.

They go through W as it lies, of which there is no other form to keep in step: that was 0.15 of the
0.95 us of a step of 32-64-32-1.
"""

from typing import Any

import numpy as np

from fastmlp._compile import row
from fastmlp.backends.cpu.epilogue import Epilogue
from fastmlp.backends.cpu.loops import Loop
from fastmlp.backends.cpu.outputs import skinny
from fastmlp.backends.cpu.plan import LAYER, NET
from fastmlp.backends.cpu.registers import lanes_of
from fastmlp.backends.cpu.rows import slopes_of
from fastmlp.backends.cpu.vector_toolkit import Panels


def row_back(scalar: type[np.floating[Any]]) -> Loop:
    """Make the block that sends one row's errors from layer i down, to some panels of its inputs.

    A block by itself: few nets need it, and it is a fifth of what phase one would take to compile.
    """
    lanes = lanes_of(scalar)
    backward_dots = skinny(scalar, lanes).backward_dots
    vector = lanes * np.dtype(scalar).itemsize

    def go_back(address: Any, i: Any, panel: Any, most: Any) -> None:
        net = row(address, 1, NET)[0]
        layers = row(net.layers, net.n_layers, LAYER)
        layer, below = layers[i], layers[i - 1]
        first, count = panel * lanes, min(most, below.n_panels - panel) * lanes
        weights = Panels(layer.master + first * vector, layer.master_panel)
        (number, operand), down = slopes_of(below), panel * net.panel
        deltas, shape = (
            Panels(layer.deltas, net.panel),
            (layer.n_out, min(count, layer.n_in - first)),
        )
        epilogue = Epilogue(number, operand + down)
        backward_dots(weights, deltas, below.deltas + down, epilogue, *shape)

    return go_back
