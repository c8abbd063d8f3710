"""What predictions straight from the flat parameters read: sizes and addresses."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastmlp.backends.cpu.kernels import rule_blocks
from fastmlp.backends.cpu.plan.packing import round_up
from fastmlp.backends.cpu.plan.records import RELU, address, record_of
from fastmlp.backends.cpu.plan.workspace import ALIGNMENT, aligned
from fastmlp.backends.cpu.simd.gemm import LARGEST
from fastmlp.backends.cpu.simd.target import lanes_of
from fastmlp.network.spec import Network

# A block of rows is so many vectors of them: a tile of sums is as wide.
VECTORS = LARGEST[1]
# How many blocks of values there is room for: a layer's inputs and outputs, and what an
# activation's block writes besides.
ROOMS = 3
# A layer's weights and biases, in bytes from the first parameter on; whether its outputs are the
# positive parts of its sums, or the address of its activation's block.
FLAT_LAYER = record_of("n_in", "n_out", "weights", "biases", "positive", "activation")
# The net; its rows; the room of each member of a team for three blocks of values, and its checks of
# numbers read and written, a vector each; the address of the block that predicts. `link` may be 0.
FLAT = record_of(
    "n_layers", "n_in", "n_out", "layers", "parameters", "link", "x", "out", "n_rows",
    "members", "room", "room_bytes", "value_bytes", "checks", "check_bytes",
    "rows", "few", "whole",
)  # fmt: skip


class Flat(NamedTuple):
    """A `FLAT` record and what it points to.

    Attributes
    ----------
    net : record array of `FLAT`, shape (1,)
    layers : array of `FLAT_LAYER`, shape (n_layers,)
    room : bytes, those of each member on lines of its own
    checks : shape (members, numbers of some lines): 0 unless a number was not finite
    """

    net: Any
    layers: NDArray[Any]
    room: NDArray[np.uint8]
    checks: NDArray[Any]


def make_flat(
    network: Network, parameters: NDArray[Any], *, members: int = 1, blocks: bool = True
) -> Flat:
    """Lay a net and its rules out for rows one by one, and for `blocks` of them at a time by each
    member of a team."""
    layout, dtype = network.layout, network.dtype
    lanes, size = lanes_of(dtype.type), dtype.itemsize
    layers = np.array(_layers(network), FLAT_LAYER)
    height = VECTORS * lanes if blocks else 1
    value_bytes = round_up(max(layout.sizes), lanes) * height * size
    room_bytes = round_up(ROOMS * value_bytes, ALIGNMENT)
    check_bytes = round_up(2 * lanes * size, ALIGNMENT)
    room = aligned(members * room_bytes, np.uint8)
    checks = aligned(members * check_bytes // size, dtype)
    fields = {
        "n_layers": layout.n_layers,
        "n_in": layout.sizes[0],
        "n_out": layout.sizes[-1],
        "layers": address(layers),
        "parameters": address(parameters),
        "link": rule_blocks.link(network, needed=False),
        "members": members,
        "room": address(room),
        "room_bytes": room_bytes,
        "value_bytes": value_bytes,
        "checks": address(checks),
        "check_bytes": check_bytes,
    }
    net = aligned(1, FLAT)
    net[0] = tuple(fields.get(name, 0) for name in FLAT.names or ())
    return Flat(net.view(np.recarray), layers, room, checks)


def _layers(network: Network) -> list[tuple[int, ...]]:
    """Return the table of layers; fields in the order of `FLAT_LAYER`."""
    layout, size = network.layout, network.dtype.itemsize
    activations, forms = rule_blocks.activations(network)
    return [
        (
            *layout.sizes[i : i + 2],
            layout.weights[i] * size,
            layout.biases[i] * size,
            forms[i] == RELU,
            activations[i],
        )
        for i in range(layout.n_layers)
    ]
