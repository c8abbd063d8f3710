"""What the kernels read: a net and its buffers, as a few small tables of sizes and addresses."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastmlp.layout import Layout
from fastmlp.workspace import Workspace

TILE_NUMBERS = 4096
LAYER = np.dtype(
    (
        np.record,
        [
            (name, np.int64)
            for name in (
                "n_in", "n_out", "weights", "biases", "transposed", "outputs", "deltas",
                "offset", "bias_offset", "activation",
            )
        ],
    )
)  # fmt: skip
TILE = np.dtype((np.record, [("layer", np.int64), ("first", np.int64), ("last", np.int64)]))
NET = np.dtype(
    (
        np.record,
        [
            (name, np.int64)
            for name in (
                "n_layers", "n_in", "n_out", "n_targets", "max_width", "parameters", "m", "v",
                "gradient", "backup", "n_parameters", "raw", "targets", "row_losses", "loss",
                "link", "update",
            )
        ],
    )
)  # fmt: skip


class Plan(NamedTuple):
    """A net as kernels see it.

    Attributes
    ----------
    layers : record array of `LAYER`, shape (n_layers,)
        Sizes, addresses, offsets into the flat vectors, and the address of the activation.
    net : record array of `NET`, shape (1,)
        What there is one of: buffers, loss, link, optimizer.
    tiles : record array of `TILE`, shape (n_tiles,)
        The pieces that phase two works on: rows first to last of a layer's weights; the row n_in
        stands for its biases.
    penalties, penalty_scales, strengths : shape (n_penalties,)
        Addresses of the penalties; this step's strength / m; their strengths.
    tile_penalties : float64, shape (n_tiles,)
    block_losses : float64, shape (n_row_blocks,)
    identity : int64, 0, 1, 2, ...
    """

    layers: Any
    net: Any
    tiles: Any
    penalties: NDArray[np.int64]
    penalty_scales: NDArray[Any]
    strengths: NDArray[np.float64]
    tile_penalties: NDArray[np.float64]
    block_losses: NDArray[np.float64]
    identity: NDArray[np.int64]


class Addresses(NamedTuple):
    """Addresses of the compiled blocks of a net's rules; 0 where a call does not need one."""

    activations: Sequence[int]
    loss: int = 0
    link: int = 0
    update: int = 0
    penalties: Sequence[int] = ()


def make_plan(
    layout: Layout,
    workspace: Workspace,
    blocks: Addresses,
    parameters: NDArray[Any],
    moments: NDArray[Any] | None = None,
    strengths: Sequence[float] = (),
    n_targets: int = 0,
    row_block: int = 32,
) -> Plan:
    """Lay a net, its buffers and its rules out for the kernels.

    `parameters` is flat; `moments` has shape (2, n_parameters), the optimizer's state.
    """
    tiles = _tiles(layout)
    return Plan(
        layers=_layers(layout, workspace, blocks, parameters),
        net=_net(layout, workspace, blocks, parameters, moments, n_targets),
        tiles=tiles,
        penalties=np.array(blocks.penalties, np.int64),
        penalty_scales=np.zeros(len(blocks.penalties), parameters.dtype),
        strengths=np.array(strengths, np.float64),
        tile_penalties=np.zeros(len(tiles), np.float64),
        block_losses=np.zeros(-(-workspace.chunk_rows // row_block), np.float64),
        identity=workspace.identity,
    )


def _address(array: NDArray[Any], offset: int = 0) -> int:
    return int(array.ctypes.data) + offset * array.itemsize


def _layers(layout: Layout, workspace: Workspace, blocks: Addresses, flat: NDArray[Any]) -> Any:
    layers = np.zeros(layout.n_layers, LAYER).view(np.recarray)
    done = 0
    for i, layer in enumerate(layers):
        layer.n_in, layer.n_out = layout.sizes[i : i + 2]
        layer.offset, layer.bias_offset = layout.weights[i], layout.biases[i]
        layer.weights = _address(flat, layout.weights[i])
        layer.biases = _address(flat, layout.biases[i])
        layer.transposed = _address(workspace.transposed, layout.weights[i])
        layer.outputs = _address(workspace.outputs, done)
        layer.deltas = _address(workspace.deltas, done)
        layer.activation = blocks.activations[i]
        done += workspace.chunk_rows * layer.n_out
    return layers


def _net(
    layout: Layout,
    workspace: Workspace,
    blocks: Addresses,
    parameters: NDArray[Any],
    moments: NDArray[Any] | None,
    n_targets: int,
) -> Any:
    table = np.zeros(1, NET).view(np.recarray)
    net = table[0]
    net.n_layers, net.n_parameters = layout.n_layers, layout.n_parameters
    net.n_in, net.n_out = layout.sizes[0], layout.sizes[-1]
    net.n_targets, net.max_width = n_targets, max(layout.sizes)
    net.parameters = _address(parameters)
    if moments is not None:
        net.m, net.v = _address(moments[0]), _address(moments[1])
    for name in ("gradient", "backup", "raw", "targets", "row_losses"):
        setattr(net, name, _address(getattr(workspace, name)))
    net.loss, net.link, net.update = blocks.loss, blocks.link, blocks.update
    return table


def _tiles(layout: Layout) -> Any:
    """Cut every weight matrix into tiles of about `TILE_NUMBERS`, in rows by fours."""
    tiles = []
    for layer in range(layout.n_layers):
        n_in, n_out = layout.sizes[layer : layer + 2]
        rows = max(4, TILE_NUMBERS // n_out // 4 * 4)
        tiles += [(layer, first, min(first + rows, n_in)) for first in range(0, n_in, rows)]
        tiles.append((layer, n_in, n_in + 1))
    return np.array(tiles, TILE).view(np.recarray)
