"""What the kernels read: a net, its buffers and its rows, as small tables of sizes and addresses.

Kernels call each other by address and take integers only, the address of a `NET` record first.
Each is then compiled once per dtype, by itself: nested in one another they took 11 s, by address
they take a third of that, and serial and parallel launches run the same machine code.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastmlp.layout import Layout
from fastmlp.workspace import Workspace

ROW_BLOCK = 32
BUFFERS = ("gradient", "backup", "raw", "targets", "row_losses", "identity")
TILE_NUMBERS = 4096


def _record(*names: str, floats: tuple[str, ...] = ()) -> np.dtype[Any]:
    fields = [(name, np.int64) for name in names] + [(name, np.float64) for name in floats]
    return np.dtype((np.record, fields))


# Sizes, addresses, offsets into the flat vectors, and the address of the activation's block.
LAYER = _record(
    "n_in", "n_out", "weights", "biases", "transposed", "outputs", "deltas",
    "offset", "bias_offset", "activation",
)  # fmt: skip
# A piece of phase two's work: rows first to last of a layer's weights; row n_in is its biases.
TILE = _record("layer", "first", "last")
# What there is one of. First the net and its buffers, then the rows of the chunk at hand, then
# what to do with them, then the addresses of the blocks. `scale` is one over the rows
# of the batch, or over the sum of their weights.
NET = _record(
    "n_layers", "n_in", "n_out", "n_targets", "max_width", "n_parameters", "n_tiles",
    "layers", "tiles", "parameters", "m", "v", "gradient", "backup", "raw", "targets",
    "row_losses", "block_losses", "tile_penalties", "identity",
    "x", "y", "weight", "index", "n_rows",
    "mode", "differentiate", "more", "penalise", "update", "coefficients",
    "loss", "link", "optimizer", "n_penalties", "penalties", "strengths", "scales",
    "product", "transposes", "rows", "tile",
    floats=("scale",),
)  # fmt: skip


class Addresses(NamedTuple):
    """Addresses of the compiled blocks of a net's rules; 0 where a call does not need one."""

    activations: Sequence[int]
    loss: int = 0
    link: int = 0
    optimizer: int = 0
    penalties: Sequence[int] = ()


class Plan(NamedTuple):
    """A `NET` record and the tables that it points to.

    Attributes
    ----------
    net : record array of `NET`, shape (1,)
    layers : record array of `LAYER`, shape (n_layers,)
    tiles : record array of `TILE`, shape (n_tiles,)
    block_losses : float64, shape (n_row_blocks,), the weighted loss of each block of rows
    tile_penalties : float64, shape (n_tiles,)
    penalties, strengths, scales : int64, float64, float64, shape (n_penalties,)
        Addresses of the penalties, their strengths, and this batch's strength / m.
    """

    net: Any
    layers: Any
    tiles: Any
    block_losses: NDArray[np.float64]
    tile_penalties: NDArray[np.float64]
    penalties: NDArray[np.int64]
    strengths: NDArray[np.float64]
    scales: NDArray[np.float64]


def make_plan(
    layout: Layout,
    workspace: Workspace,
    blocks: Addresses,
    parameters: NDArray[Any],
    moments: NDArray[Any] | None = None,
    strengths: Sequence[float] = (),
    n_targets: int = 0,
) -> Plan:
    """Lay a net, its buffers and its rules out for the kernels.

    `parameters` is flat; `moments` has shape (2, n_parameters), the optimizer's state.
    """
    tiles, n_penalties = _tiles(layout), len(strengths)
    tables: dict[str, Any] = {
        "layers": _layers(layout, workspace, blocks, parameters),
        "tiles": tiles,
        "block_losses": np.zeros(-(-workspace.chunk_rows // ROW_BLOCK), np.float64),
        "tile_penalties": np.zeros(len(tiles), np.float64),
        "penalties": np.array(blocks.penalties, np.int64),
        "strengths": np.array(strengths, np.float64),
        "scales": np.zeros(n_penalties, np.float64),
    }
    fields = {
        "n_layers": layout.n_layers,
        "n_in": layout.sizes[0],
        "n_out": layout.sizes[-1],
        "n_targets": n_targets,
        "max_width": max(layout.sizes),
        "n_parameters": layout.n_parameters,
        "n_tiles": len(tiles),
        "n_penalties": n_penalties,
        "parameters": address(parameters),
        "loss": blocks.loss,
        "link": blocks.link,
        "optimizer": blocks.optimizer,
        **{name: address(table) for name, table in tables.items()},
        **{name: address(getattr(workspace, name)) for name in BUFFERS},
    }
    if moments is not None:
        fields["m"], fields["v"] = address(moments), address(moments, layout.n_parameters)
    # All fields at once: setting them one by one took 0.1 ms of each predict.
    net = np.array([tuple(fields.get(name, 0) for name in NET.names or ())], NET)
    return Plan(net=net.view(np.recarray), **tables)


def address(array: NDArray[Any], offset: int = 0) -> int:
    """Return where element `offset` of a C-contiguous array lies."""
    return int(array.ctypes.data) + offset * array.itemsize


def _layers(layout: Layout, workspace: Workspace, blocks: Addresses, flat: NDArray[Any]) -> Any:
    """Return the table of layers; fields in the order of `LAYER`."""
    start, transposed = address(flat), address(workspace.transposed)
    outputs, deltas, size = address(workspace.outputs), address(workspace.deltas), flat.itemsize
    layers, done = [], 0
    for i, (n_in, n_out) in enumerate(pairwise(layout.sizes)):
        offset, bias_offset = layout.weights[i], layout.biases[i]
        layer = (
            n_in,
            n_out,
            start + offset * size,
            start + bias_offset * size,
            transposed + offset * size,
            outputs + done * size,
            deltas + done * size,
            offset,
            bias_offset,
            blocks.activations[i],
        )
        layers.append(layer)
        done += workspace.chunk_rows * n_out
    return np.array(layers, LAYER).view(np.recarray)


def _tiles(layout: Layout) -> Any:
    """Cut every weight matrix into tiles of about `TILE_NUMBERS`, in rows by fours."""
    tiles = []
    for layer in range(layout.n_layers):
        n_in, n_out = layout.sizes[layer : layer + 2]
        rows = max(4, TILE_NUMBERS // n_out // 4 * 4)
        tiles += [(layer, first, min(first + rows, n_in)) for first in range(0, n_in, rows)]
        tiles.append((layer, n_in, n_in + 1))
    return np.array(tiles, TILE).view(np.recarray)
