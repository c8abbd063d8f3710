"""The output layer of the grid's step: predictions, or losses and deltas, of a strip of rows."""

from typing import Any

import numpy as np

from fastmlp.backends.cuda.adapter import cuda, device_function, unsigned
from fastmlp.backends.cuda.kernels import rule_blocks
from fastmlp.backends.cuda.kernels.arguments import OutputRow
from fastmlp.backends.cuda.kernels.rule_blocks import Rules
from fastmlp.backends.cuda.launch_shape import GridShape
from fastmlp.backends.cuda.plan import (
    DELTA,
    DELTA_STRIDE,
    DERIVATIVE,
    FIRST_ROW,
    INPUT,
    INPUT_STRIDE,
    LAYER_WORDS,
    LAYERS,
    MODE,
    N_LAYERS,
    N_OUTPUTS,
    PREDICT,
    ROW_LOSSES,
    WEIGHTED,
    WEIGHTS,
)


def make_output_layer(rules: Rules, shape: GridShape) -> Any:
    """Make ``output_layer(y, net, batch, strip, t)``; predictions are written to `y`."""
    n_threads = shape.n_threads
    row_loss = rule_blocks.row_loss(rules, np.dtype(rules.dtype).type)
    link = rule_blocks.row_link(rules)

    def output_layer(y: Any, net: Any, batch: Any, strip: Any, t: Any) -> None:
        memory, sums, plan = net.memory, net.sums, net.plan
        a = LAYERS + (plan[N_LAYERS] - 1) * LAYER_WORDS
        after, width, index = a + LAYER_WORDS, plan[N_OUTPUTS], batch.order
        for r in range(strip.first + t, strip.first + strip.n_rows, n_threads):
            row = plan[unsigned(index + r)] if index >= 0 else plan[FIRST_ROW] + r
            offset = r * plan[after + INPUT_STRIDE]
            outputs, derivatives = plan[after + INPUT] + offset, plan[after + DERIVATIVE] + offset
            if plan[MODE] == PREDICT:
                link(memory, outputs, y, row, width)
            else:
                weight = 1.0
                if plan[WEIGHTED] != 0:
                    weight = float(memory[unsigned(plan[WEIGHTS] + row)])
                deltas = plan[a + DELTA] + r * plan[a + DELTA_STRIDE]
                at, place = OutputRow(outputs, derivatives, deltas, width), plan[ROW_LOSSES] + r
                row_loss(memory, at, sums, place, y, row, weight / batch.mass)
                sums[unsigned(place)] *= weight
        cuda.syncthreads()

    return device_function(output_layer)
