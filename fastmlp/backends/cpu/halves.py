"""One layer of a step, the first or the second, by halves of its inputs.

A team that shares it by rows sends each other half of its weights, which have just been written;
by panels, half of its inputs. Here each half of the inputs belongs to one side: who gathers them,
or computes them from the layer below, also multiplies them with their rows of the weights, and
later has those weights' gradient. What travels is a half of the sums, and they are two chains
that are added up after. So is it on one thread, for the same bits: there the second chain is added
to the first as it is stored, in phase one, which a team's halves come before (`divided`).
"""

from typing import Any

import numpy as np

from fastmlp._compile import call, leaf, row, stack
from fastmlp.backends.cpu.epilogue import STORE
from fastmlp.backends.cpu.panels import down_to
from fastmlp.backends.cpu.plan import LAYER, NET
from fastmlp.backends.cpu.product import LARGEST
from fastmlp.backends.cpu.registers import lanes_of
from fastmlp.backends.cpu.rows import forward_layer, gathering
from fastmlp.backends.cpu.scores import n_strips_of
from fastmlp.workspace import ROW_BLOCK, STRIP_ROWS


@leaf
def _products(
    net: Any,
    layer: Any,
    inputs: Any,
    half: Any,
    low: Any,
    high: Any,
    lanes: Any,
    at: Any,
    n: Any,
    vector: Any,
) -> None:
    """Sums over inputs low to high of n rows: the first half's to the layer's outputs, with its
    biases, the second's to where its errors will be."""
    down = at * vector
    to, start, start_panel = layer.outputs, layer.biases, layer.master_panel
    if half:
        to, start, start_panel = layer.deltas, net.zeros, 0
    left = (inputs + low // lanes * net.panel + down, net.panel, high - low, STORE, 0)
    weights = (layer.weights + down_to(layer, low, vector), layer.weight_panel)
    c = (to + down, net.panel)
    call(net.product, (*c, start, 0, start_panel, *weights, *left, layer.n_out, n, 0))


def halves(scalar: type[np.floating[Any]]) -> Any:
    """Make the block that does parts first to last: the strips of one half, then the other's."""
    lanes = lanes_of(scalar)
    vector = lanes * np.dtype(scalar).itemsize
    gather = gathering(scalar)
    waiting = LARGEST[1] * ROW_BLOCK * vector

    def work_on_halves(address: Any, first: Any, last: Any, part: Any) -> None:
        z = stack(waiting)
        net = row(address, 1, NET)[0]
        layers = row(net.layers, net.n_layers, LAYER)
        layer, n_strips = layers[net.halved - 1], n_strips_of(net.n_rows)
        # Who does both halves gathers once.
        apart = 0 if last - first == 2 * n_strips else net.inputs_apart
        if first == 0:
            net.second_inputs = net.inputs + apart
        for half in range(2):
            low = half * net.middle
            high = layer.n_in if half else net.middle
            begin = max(first - half * n_strips, 0) * STRIP_ROWS
            end = min(min(last - half * n_strips, n_strips) * STRIP_ROWS, net.n_rows)
            for at in range(begin, end, ROW_BLOCK):
                n = min(ROW_BLOCK, end - at)
                inputs = net.inputs + half * apart
                if net.halved == 1:
                    gather(net, inputs, at, n, at, low, high)
                else:
                    if half == 0 or apart > 0:
                        gather(net, inputs, at, n, at, 0, net.n_in)
                    panel, most = low // lanes, (high - low + lanes - 1) // lanes
                    below = layers[net.halved - 2]
                    forward_layer(net, below, inputs, 0, panel, most, at, n, z, lanes, vector)
                    inputs = below.outputs
                _products(net, layer, inputs, half, low, high, lanes, at, n, vector)

    return work_on_halves
