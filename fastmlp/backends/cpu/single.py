"""A batch of one row: its errors on their way back, and an optimizer's step from them.

They go back through W as it lies, of which there is no other form to keep in step: 0.15 of the
0.95 us of a step of 32-64-32-1. The product of numbers and errors, written to memory and read
again, took 0.2 of them.
"""

from typing import Any

import numpy as np

from fastmlp._compile import coefficients_at, fma, leaf, row, stack
from fastmlp.backends.cpu.loops import Loop, Rule
from fastmlp.backends.cpu.outputs import outputs
from fastmlp.backends.cpu.plan import LAYER, NET
from fastmlp.backends.cpu.registers import lanes_of
from fastmlp.backends.cpu.rows import slopes_of


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


def row_update(scalar: type[np.floating[Any]], rule: Rule, n_coefficients: int) -> Loop:
    """Make the block that steps with n rows of some panels of weights, `w_panel` bytes apart, by a
    rule without state.

    The gradient of row r is the errors, a vector for each panel, times number r: `stride` bytes lie
    from one to the next, and `panel` from `lanes` of them to the next. The errors are kept on the
    stack, where they are known to be nobody else's, and so come into registers.

    LLVM, if it may, unrolls the loops along a vector, and then finds none: six times the time.
    """
    lanes = lanes_of(scalar)
    vector = lanes * np.dtype(scalar).itemsize

    @leaf
    def number(numbers: Any, panel: Any, stride: Any, r: Any) -> Any:
        return row(numbers + r // lanes * panel + r % lanes * stride, 1, scalar)[0]

    def step(
        w: Any, w_panel: Any, numbers: Any, panel: Any, stride: Any, errors: Any,
        coefficients: Any, n: Any, n_panels: Any,
    ) -> None:  # fmt: skip
        # Of two sizes: uncompiled, one is one piece of memory.
        d, e = row(stack(vector), lanes, scalar), row(stack(2 * vector), lanes, scalar)
        zero = scalar(0)
        constants = coefficients_at(coefficients, n_coefficients, scalar)
        # Two panels at once: 0.59 ns a vector, where one takes 0.85.
        for p in range(0, n_panels, 2):
            given, others = row(errors, lanes, scalar), row(errors + panel, lanes, scalar)
            for i in range(lanes):
                d[i] = given[i]
            if p + 1 < n_panels:
                for i in range(lanes):
                    e[i] = others[i]
                for r in range(n):
                    x, w_row = number(numbers, panel, stride, r), row(w + r * vector, lanes, scalar)
                    for i in range(lanes):
                        w_row[i] = rule(w_row[i], fma(x, d[i], zero), zero, zero, *constants)[0]
                    w_row = row(w + r * vector + w_panel, lanes, scalar)
                    for i in range(lanes):
                        w_row[i] = rule(w_row[i], fma(x, e[i], zero), zero, zero, *constants)[0]
            else:
                for r in range(n):
                    x, w_row = number(numbers, panel, stride, r), row(w + r * vector, lanes, scalar)
                    for i in range(lanes):
                        w_row[i] = rule(w_row[i], fma(x, d[i], zero), zero, zero, *constants)[0]
            w += 2 * w_panel
            errors += 2 * panel

    return step
