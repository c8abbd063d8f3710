"""A session's records: a net, its buffers and its rules laid out for the kernels."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastmlp.backends.cpu.plan.packing import few_outputs, middle_of, round_up
from fastmlp.backends.cpu.plan.partition import WHOLE, Partition
from fastmlp.backends.cpu.plan.records import (
    ALL,
    BUFFERS,
    NONE,
    OTHERS,
    RELU,
    Batch,
    Blocks,
    Layer,
    Net,
    Tile,
    address,
)
from fastmlp.backends.cpu.plan.tiles import tiles_of
from fastmlp.backends.cpu.plan.workspace import Workspace, aligned
from fastmlp.backends.cpu.tuning import NON_TEMPORAL_BYTES, PREFETCHED_STATE_BYTES, STRIP_ROWS
from fastmlp.network.parameter_layout import Layout


class Addresses(NamedTuple):
    """Addresses of the compiled blocks of a net's rules; 0 where a call does not need one.

    `forms` has each layer's form: LINEAR, BLOCK, RELU or RELU_DROPPED; `n_moments` is how many
    numbers of state a parameter the optimizer's rule uses; `coefficients` are the bytes to those of
    each layer's weights and biases in a step's row, or FROZEN, and `lowest` is the first layer that
    is trained; `dropped` has the number, from 1, of each layer that is dropped, and 0 for others.
    """

    activations: Sequence[int]
    forms: Sequence[int]
    loss: int = 0
    link: int = 0
    optimizer: int = 0
    penalised: int = 0
    n_moments: int = 0
    penalties: Sequence[int] = ()
    coefficients: Sequence[tuple[int, int]] = ()
    lowest: int = 0
    drop: int = 0
    disturb: int = 0
    dropped: Sequence[int] = ()


class Plan(NamedTuple):
    """A `Net` record and what it points to.

    Attributes
    ----------
    net, batch, blocks : record arrays of `Net`, `Batch`, `Blocks`, shape (1,) each
    layers : record array of `Layer`, shape (n_layers,)
    tiles : record array of `Tile`, shape (n_tiles,)
    strip_losses : float64, shape (n_strips,), the weighted loss of each strip of rows
    tile_penalties : float64, shape (n_tiles,)
    penalties, strengths, scales : int64, float64, float64, shape (n_penalties,)
        Addresses of the penalties, their strengths, and this batch's strength / m.
    """

    net: Any
    batch: Any
    blocks: Any
    layers: Any
    tiles: Any
    strip_losses: NDArray[np.float64]
    tile_penalties: NDArray[np.float64]
    penalties: NDArray[np.int64]
    strengths: NDArray[np.float64]
    scales: NDArray[np.float64]


def make_plan(
    layout: Layout,
    workspace: Workspace,
    blocks: Addresses,
    strengths: Sequence[float] = (),
    n_targets: int = 0,
    partition: Partition = WHOLE,
) -> Plan:
    """Lay a net, its buffers and its rules out for the kernels."""
    lanes, size = workspace.lanes, workspace.parameters.itemsize
    layers = _layers(layout, workspace, blocks)
    split_layer, several = partition.split_layer, partition.n_threads > 1
    middle = middle_of(layout.sizes[split_layer - 1], lanes) if split_layer else 0
    tiles = np.zeros(0, Tile.dtype)
    if workspace.train:
        tiles = tiles_of(workspace, partition, middle)
    tiles = tiles.view(np.recarray)
    n_penalties = len(strengths)
    tables: dict[str, Any] = {
        "batch": aligned(1, Batch.dtype).view(np.recarray),
        "blocks": aligned(1, Blocks.dtype).view(np.recarray),
        "layers": layers,
        "tiles": tiles,
        "strip_losses": aligned(workspace.panel_rows // STRIP_ROWS, np.float64),
        "tile_penalties": aligned(len(tiles), np.float64),
        "penalties": np.array(blocks.penalties, np.int64),
        "strengths": np.array(strengths, np.float64),
        "scales": aligned(n_penalties, np.float64),
    }
    fields = {
        "n_layers": layout.n_layers,
        "lowest": blocks.lowest,
        "n_in": layout.sizes[0],
        "n_out": layout.sizes[-1],
        "n_targets": n_targets,
        "max_width": max(layout.sizes),
        "n_packed": len(workspace.parameters),
        "n_tiles": len(tiles),
        "n_penalties": n_penalties,
        "split_layer": split_layer,
        "middle": middle,
        "panel": workspace.panel_rows * lanes * size,
        "output_bytes": workspace.output_bytes,
        "inputs_apart": workspace.inputs.nbytes // 2 if workspace.doubled_inputs else 0,
        "delta_panel": few_outputs(lanes) * lanes * size,
        "non_temporal": _non_temporal(workspace, partition.by_panels and several),
        "prefetches_state": 3 * workspace.parameters.nbytes >= PREFETCHED_STATE_BYTES,
        "by_panels": partition.by_panels,
        "n_moments": blocks.n_moments,
        "disturbs": blocks.disturb != 0,
        **{name: address(table) for name, table in tables.items()},
        **{name: address(getattr(workspace, name)) for name in BUFFERS},
    }
    for name in ("loss", "link", "optimizer", "penalised", "drop", "disturb"):
        tables["blocks"][name] = getattr(blocks, name)
    # All fields at once: setting them one by one took 0.1 ms of each predict.
    net = aligned(1, Net.dtype)
    fields["address"] = address(net)
    net[0] = tuple(fields.get(name, 0) for name in Net.dtype.names or ())
    return Plan(net=net.view(np.recarray), **tables)


def _layers(layout: Layout, workspace: Workspace, blocks: Addresses) -> Any:
    """Return the table of layers; fields in the order of `Layer`."""
    size = workspace.parameters.itemsize
    lanes, vector = workspace.lanes, workspace.lanes * size
    master, copies = address(workspace.parameters), address(workspace.copies)
    values = [address(workspace.outputs), address(workspace.deltas)]
    pairs = _pairs(layout, workspace)
    coefficients, layers = blocks.coefficients or [(0, 0)] * layout.n_layers, []
    for i, (layer, (n_in, n_out)) in enumerate(
        zip(workspace.packed, pairwise(layout.sizes), strict=True)
    ):
        paired, n_panels = copies, round_up(n_out, lanes) // lanes
        copies += layer.pairs_size * vector
        copy = copies if layer.copy_size else 0
        panel, copy_panel = layer.panel * vector, layer.copy_panel * vector
        biases, passes = master + layer.biases * vector, (master, panel, copy, copy_panel)
        if layer.is_transposed:
            passes = (copy, copy_panel, master, panel)
        elif layer.pairs_size:
            passes, copy = (paired, layer.pairs_panel * vector, copy, copy_panel), 0
        shape = (layer.rows, layer.panels, panel, layer.middle, layer.gap * vector)
        packs = (master, *shape, biases, copy, copy_panel, *passes)
        offsets = (layout.weights[i], layout.biases[i])
        of_weights, of_biases = coefficients[i]
        together = of_weights == of_biases and not layer.is_transposed
        rules = (layer.is_transposed, blocks.forms[i], blocks.activations[i])
        form = (*rules, of_weights, of_biases, together)
        dropped = blocks.dropped[i] if blocks.dropped else 0
        outputs, deltas = values
        if blocks.forms[i] == RELU and any(workspace.paired[i + 1 : i + 2]):
            # Only their signs are read once they are rounded: deltas take their place, line by
            # line. 18.4 -> 18.2 ms (128-1024-1024-10@512, 1 thread), 11.3 -> 11.1 (2 threads).
            deltas = outputs
        its = (n_in, n_out, n_panels, *packs, outputs, deltas, *offsets, *form, dropped)
        layers.append((*its, *pairs[i]))
        master, copies = master + layer.size * vector, copies + layer.copy_size * vector
        values = [place + workspace.panel_rows * n_panels * vector for place in values]
    return np.array(layers, Layer.dtype).view(np.recarray)


def _pairs(layout: Layout, workspace: Workspace) -> list[tuple[int, ...]]:
    """Return, for each layer, whether its products take pairs, and the addresses of pairs along and
    across the rows, or 0: of its inputs, its outputs and its deltas."""
    paired = workspace.paired or (False,) * layout.n_layers
    row_bytes = workspace.panel_rows * workspace.parameters.itemsize
    sizes = [round_up(n, workspace.lanes) * row_bytes for n in layout.sizes]
    inputs, deltas = [(0, 0)] * (layout.n_layers + 1), [(0, 0)] * layout.n_layers
    output, delta = address(workspace.output_pairs), address(workspace.delta_pairs)
    for i in np.flatnonzero(paired):
        place = output if i > 0 else address(workspace.input_pairs)
        inputs[i] = (place, place + sizes[i] // 2)
        deltas[i] = (delta, delta + sizes[i + 1] // 2)
        output, delta = output + (sizes[i] if i > 0 else 0), delta + sizes[i + 1]
    return [(its, *inputs[i], *inputs[i + 1], *deltas[i]) for i, its in enumerate(paired)]


def _non_temporal(workspace: Workspace, by_panels: bool) -> int:
    """Return which transposed weights use non-temporal stores."""
    # Parameters, two numbers of state each, and the transposes.
    n_bytes = 3 * workspace.parameters.nbytes + workspace.copies.nbytes
    if n_bytes >= NON_TEMPORAL_BYTES:
        return ALL
    return OTHERS if by_panels else NONE
