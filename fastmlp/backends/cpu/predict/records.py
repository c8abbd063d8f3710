"""What predictions straight from the flat parameters read: sizes and addresses."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastmlp.backends.cpu.kernels import rule_blocks
from fastmlp.backends.cpu.plan.packing import round_up
from fastmlp.backends.cpu.plan.records import RELU, address
from fastmlp.backends.cpu.plan.workspace import aligned
from fastmlp.backends.cpu.tuning import ALIGNMENT, LARGEST_TILE
from fastmlp.compiler import Record
from fastmlp.compiler.target import lanes_of
from fastmlp.network.spec import Network

# The vectors of rows in a block: as many as the largest tile of sums is wide.
VECTORS = LARGEST_TILE[1]
# Blocks of values per thread: a layer's inputs, its outputs, and the derivatives that an
# activation's block writes.
BLOCKS = 3


class FlatLayer(Record):
    """A layer of a net whose parameters lie in one flat vector."""

    n_in: int
    n_out: int
    weights: int  # bytes from the first parameter to the weights, shape (n_in, n_out)
    biases: int  # bytes from the first parameter to the biases, shape (n_out,)
    relu: int  # 1: the positive parts of the sums are stored; 0: the sums
    activation: int  # address of the activation's block; 0: none


class FlatNet(Record):
    """A net whose parameters lie in one flat vector, its rows, and each thread's buffers."""

    n_layers: int
    n_in: int
    n_out: int
    layers: int  # address of n_layers FlatLayer records
    parameters: int  # address of the flat vector
    link: int  # address of the output link's block; 0: none
    x: int  # address of the rows, shape (n_rows, n_in)
    out: int  # address of the predictions, shape (n_rows, n_out)
    n_rows: int
    n_threads: int  # how many threads have buffers
    buffers: int  # address of the first thread's blocks of values
    buffer_bytes: int  # from one thread's blocks to the next thread's
    block_bytes: int  # from one block of a thread to its next
    checks: int  # address of the first thread's two vectors of checks: numbers read, written
    check_bytes: int  # from one thread's checks to the next thread's
    rows_in_lanes: int  # address of the block of `row_blocks.rows_in_lanes`; 0: none
    row_by_row: int  # address of the block of `small_batch.row_by_row`
    small_batch: int  # address of the block of `small_batch.small_batch`


class Flat(NamedTuple):
    """A `FlatNet` record and what it points to.

    Attributes
    ----------
    net : record array of `FlatNet`, shape (1,)
    layers : array of `FlatLayer`, shape (n_layers,)
    buffers : bytes, each thread's on cache lines of their own
    checks : numbers, each thread's on cache lines of their own: 0, or NaN after a number that was
        not finite
    """

    net: Any
    layers: NDArray[Any]
    buffers: NDArray[np.uint8]
    checks: NDArray[Any]


def make_flat(
    network: Network, parameters: NDArray[Any], *, n_threads: int = 1, blocks: bool = True
) -> Flat:
    """Lay out a net and its rules for rows one by one and, with `blocks`, for blocks of rows.

    Parameters
    ----------
    parameters : (n_parameters,) array of the network's dtype, kept alive by the caller
    """
    layout, dtype = network.layout, network.dtype
    lanes, size = lanes_of(dtype.type), dtype.itemsize
    layers = np.array(_layers(network), FlatLayer.dtype)
    height = VECTORS * lanes if blocks else 1
    block_bytes = round_up(max(layout.sizes), lanes) * height * size
    buffer_bytes = round_up(BLOCKS * block_bytes, ALIGNMENT)
    check_bytes = round_up(2 * lanes * size, ALIGNMENT)
    buffers = aligned(n_threads * buffer_bytes, np.uint8)
    checks = aligned(n_threads * check_bytes // size, dtype)
    fields = {
        "n_layers": layout.n_layers,
        "n_in": layout.sizes[0],
        "n_out": layout.sizes[-1],
        "layers": address(layers),
        "parameters": address(parameters),
        "link": rule_blocks.link(network, needed=False),
        "n_threads": n_threads,
        "buffers": address(buffers),
        "buffer_bytes": buffer_bytes,
        "block_bytes": block_bytes,
        "checks": address(checks),
        "check_bytes": check_bytes,
    }
    net = aligned(1, FlatNet.dtype)
    net[0] = tuple(fields.get(name, 0) for name in FlatNet.dtype.names or ())
    return Flat(net.view(np.recarray), layers, buffers, checks)


def _layers(network: Network) -> list[tuple[int, ...]]:
    """Return the table of layers; fields in the order of `FlatLayer`."""
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
