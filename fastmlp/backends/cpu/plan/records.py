"""What the kernels read: a net, its buffers and its rows, as small tables of sizes and addresses.

Kernels call each other by address and take integers only, the address of a `NET` record first.
Each is then compiled once per dtype, by itself: nested in one another they took 11 s, by address
they take a third of that, and serial and parallel launches run the same machine code.
"""

from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastmlp.backends.cpu.plan.packing import Packed, few_outputs, middle_of, round_up
from fastmlp.backends.cpu.plan.workspace import STRIP_ROWS, Workspace, aligned
from fastmlp.backends.cpu.simd.gemm import LARGEST, groups_of_panels, panels_at_once
from fastmlp.network.parameter_layout import Layout

BUFFERS = (
    "inputs", "raw", "value", "slope", "loss_slope", "targets", "row_losses",
    "parameters", "backup", "zeros", "identity",
)  # fmt: skip
# A tile of phase two: up to so many rows of a layer's weights, in the panels of one tile of sums.
TILE_ROWS = 64
CACHE_BYTES = 512 * 1024
# So many bytes of parameters, state and transposes do not stay in a third-level cache, of 32 MB
# often and shared: then transposes are written past the caches, which otherwise would fetch their
# lines first, and what an update reads is asked for. At 32 rows 128-1024-1024-10, of 18 MB, takes
# one thread 1.37 and so 1.14 ms, two 0.74 and 0.67; 784-512-512-10, of 9 MB, 0.55 and 0.57, and
# 0.41 and 0.38.
PAST_BYTES = 12 << 20
# Whose transposes go past the caches: nobody's, those that another of a team reads, all.
NONE, OTHERS, ALL = range(3)
# What a layer does to its products: nothing, an activation's block, or the epilogue of relu.
LINEAR, BLOCK, RELU = range(3)


def record_of(*names: str, floats: tuple[str, ...] = ()) -> np.dtype[Any]:
    fields = [(name, np.int64) for name in names] + [(name, np.float64) for name in floats]
    return np.dtype((np.record, fields))


# Sizes; the packed parameters (`master`: its rows, panels, bytes of a panel; the row from which on
# they lie `gap` bytes further; the biases) and the other form of the weights (`twin`), one of which
# serves the way forward (`weights`) and one the way back (`transposed`); the layer's values;
# offsets into the flat vector; whether it is turned; and what to do with its products: `form`, and
# the address of the activation's block.
LAYER = record_of(
    "n_in", "n_out", "n_panels",
    "master", "master_rows", "master_panels", "master_panel", "middle", "gap", "biases",
    "twin", "twin_panel",
    "weights", "weight_panel", "transposed", "transposed_panel", "outputs", "deltas",
    "offset", "bias_offset", "turned", "form", "activation",
)  # fmt: skip
# A piece of phase two's work: rows first to last of some panels of a layer's packed parameters,
# which begin `down` bytes after the first. `slot` is its number in the order of the parameters,
# whoever works on it; and who does reads the transposes of rows `kept` to `kept_last` again.
TILE = record_of("layer", "first", "last", "panel", "n_panels", "down", "slot", "kept", "kept_last")
# What there is one of. First what changes from batch to batch and from stage to stage, all on one
# line, which helpers fetch: the rows of the chunk at hand, what to do with them, whether a team
# shares phase one a layer at a time (`by_layers`: then `stage` and `layer` say what is to be done),
# and of which layer a team has done halves, counted from 1. Then the net and its buffers; `panel`
# is the bytes of a panel of a chunk's rows, and `error_panel` those of the errors of few outputs,
# transposed; then the data, and what is to be done in phase two; then the addresses of the blocks.
# Then what sparse rows need, where `x` is where each row starts: 0 for dense ones. Then the block
# of lots, the rows of one (0: there are none), and the addresses of each thread's record and of the
# lots' gradients. Then from one part's `desk`, for the output layer, to the next's; the block of
# halves, the number of the layer that they are of (0: none), the input at which the second begins,
# from the first's gathered rows to the second's (0: they are the same), and where those are now;
# and whose transposes go past the caches; whether memory is asked for the rows of X that come next,
# and where their order ends. Of single rows whether a step is `due`, where its row lies, and which
# outputs are its own.
# Last `scale`, one over the rows of the batch, or over the sum of their weights.
NET = record_of(
    "index", "n_rows", "mode", "stage", "layer", "coefficients", "by_layers", "divided",
    "n_layers", "n_in", "n_out", "n_targets", "max_width", "n_packed", "n_tiles", "panel",
    "error_panel", "layers", "tiles", *BUFFERS, "m", "v", "n_moments", "gradient", "unpacked",
    "scratch", "strip_losses", "tile_penalties", "x", "y", "weight", "out",
    "more", "penalise", "update",
    "loss", "link", "optimizer", "row_back", "penalised",
    "n_penalties", "penalties", "strengths", "scales",
    "product", "gradient_product", "transposes", "pack", "unpack", "rows", "tile",
    "x_columns", "x_values", "column_starts", "column_rows", "column_values",
    "sparse_forward", "sparse_columns", "sparse_gradient",
    "lots", "lot_rows", "parts", "partials",
    "desk", "halves", "halved", "middle", "inputs_apart", "second_inputs", "past",
    "asks_rows", "order_stop", "due", "previous", "turn", "itself",
    floats=("scale",),
)  # fmt: skip


class Addresses(NamedTuple):
    """Addresses of the compiled blocks of a net's rules; 0 where a call does not need one.

    `forms` says of each layer whether it is linear, takes its activation's block, or is a relu;
    `n_moments` how many numbers of state the optimizer's rule uses.
    """

    activations: Sequence[int]
    forms: Sequence[int]
    loss: int = 0
    link: int = 0
    optimizer: int = 0
    penalised: int = 0
    n_moments: int = 0
    penalties: Sequence[int] = ()


class Plan(NamedTuple):
    """A `NET` record and the tables that it points to.

    Attributes
    ----------
    net : record array of `NET`, shape (1,)
    layers : record array of `LAYER`, shape (n_layers,)
    tiles : record array of `TILE`, shape (n_tiles,)
    strip_losses : float64, shape (n_strips,), the weighted loss of each strip of rows
    tile_penalties : float64, shape (n_tiles,)
    penalties, strengths, scales : int64, float64, float64, shape (n_penalties,)
        Addresses of the penalties, their strengths, and this batch's strength / m.
    """

    net: Any
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
    members: int = 1,
    halved: int = 0,
    by_layers: bool = False,
) -> Plan:
    """Lay a net, its buffers and its rules out for the kernels.

    With several `members` of a team, the tiles are in such an order that each has its own panels of
    every layer, and as much work, by way of some that are empty. Layer number `halved`, counted
    from 1, is done by halves of its inputs; those above it, if `by_layers`, by panels.
    """
    lanes, size = workspace.lanes, workspace.parameters.itemsize
    layers = _layers(layout, workspace, blocks)
    middle = middle_of(layout.sizes[halved - 1], workspace.lanes) if halved else 0
    tiles = np.zeros(0, TILE)
    if workspace.train:
        tiles = _tiles(workspace, members, halved, middle, by_layers=by_layers)
    tiles = tiles.view(np.recarray)
    n_penalties = len(strengths)
    tables: dict[str, Any] = {
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
        "n_in": layout.sizes[0],
        "n_out": layout.sizes[-1],
        "n_targets": n_targets,
        "max_width": max(layout.sizes),
        "n_packed": len(workspace.parameters),
        "n_tiles": len(tiles),
        "n_penalties": n_penalties,
        "halved": halved,
        "middle": middle,
        "panel": workspace.panel_rows * lanes * size,
        "desk": workspace.desk_bytes,
        "inputs_apart": workspace.inputs.nbytes // 2 if workspace.twofold else 0,
        "error_panel": few_outputs(lanes) * lanes * size,
        "past": _past(workspace, by_layers and members > 1),
        "by_layers": by_layers,
        "loss": blocks.loss,
        "link": blocks.link,
        "optimizer": blocks.optimizer,
        "penalised": blocks.penalised,
        "n_moments": blocks.n_moments,
        **{name: address(table) for name, table in tables.items()},
        **{name: address(getattr(workspace, name)) for name in BUFFERS},
    }
    # All fields at once: setting them one by one took 0.1 ms of each predict.
    net = aligned(1, NET)
    fields["itself"] = address(net)
    net[0] = tuple(fields.get(name, 0) for name in NET.names or ())
    return Plan(net=net.view(np.recarray), **tables)


def address(array: NDArray[Any], offset: int = 0) -> int:
    """Return where element `offset` of a C-contiguous array lies."""
    return int(array.ctypes.data) + offset * array.itemsize


def fields_of(record: NDArray[Any]) -> Any:
    """Return a view of a record of shape (1,) whose fields go by their names, as in ``it["x"]``.

    It takes 0.4 us to set one so, 1.3 as an attribute of a record array, of which a call sets 20.
    """
    kinds: Any = record.dtype.fields
    return record.view([(name, kinds[name][0]) for name in kinds])[0]


def _layers(layout: Layout, workspace: Workspace, blocks: Addresses) -> Any:
    """Return the table of layers; fields in the order of `LAYER`."""
    size = workspace.parameters.itemsize
    lanes, vector = workspace.lanes, workspace.lanes * size
    master, copies = address(workspace.parameters), address(workspace.copies)
    values = [address(workspace.outputs), address(workspace.deltas)]
    layers = []
    for i, (held, (n_in, n_out)) in enumerate(
        zip(workspace.packed, pairwise(layout.sizes), strict=True)
    ):
        twin, n_panels = copies if held.copy_size else 0, round_up(n_out, lanes) // lanes
        panel, twin_panel = held.panel * vector, held.copy_panel * vector
        biases, ways = master + held.biases * vector, (master, panel, twin, twin_panel)
        if held.turned:
            ways = (twin, twin_panel, master, panel)
        shape = (held.rows, held.panels, panel, held.middle, held.gap * vector)
        packs = (master, *shape, biases, twin, twin_panel, *ways)
        offsets = (layout.weights[i], layout.biases[i])
        form = (held.turned, blocks.forms[i], blocks.activations[i])
        layers.append((n_in, n_out, n_panels, *packs, *values, *offsets, *form))
        master, copies = master + held.size * vector, copies + held.copy_size * vector
        values = [place + workspace.panel_rows * n_panels * vector for place in values]
    return np.array(layers, LAYER).view(np.recarray)


def _past(workspace: Workspace, by_layers: bool) -> int:
    """Return whose transposes go past the caches."""
    # Parameters, two numbers of state each, and the transposes.
    n_bytes = 3 * workspace.parameters.nbytes + workspace.copies.nbytes
    if n_bytes >= PAST_BYTES:
        return ALL
    return OTHERS if by_layers else NONE


def groups_of(n_panels: int) -> list[tuple[int, int]]:
    """Cut a layer's panels into groups that a tile of sums takes at once: first panel, number."""
    groups, panel = [], 0
    while panel < n_panels:
        groups.append((panel, panels_at_once(n_panels - panel)))
        panel += groups[-1][1]
    return groups


def _tiles(workspace: Workspace, members: int, halved: int, middle: int, *, by_layers: bool) -> Any:
    """Cut all packed parameters into tiles: groups of panels, and in them groups of rows.

    Rows come by so many that their inputs stay in the second-level cache while all errors pass.
    """
    size, packed, lanes = workspace.parameters.itemsize, workspace.packed, workspace.lanes
    block = max(1, CACHE_BYTES // (workspace.chunk_rows * size * TILE_ROWS)) * TILE_ROWS
    how = (packed, lanes, size, block, workspace.sparse, members, halved, middle, by_layers)
    return _cut(*how)


@lru_cache(maxsize=256)
def _cut(
    packed: tuple[Packed, ...],
    lanes: int,
    size: int,
    block: int,
    sparse: bool,
    members: int,
    halved: int,
    middle: int,
    by_layers: bool,
) -> NDArray[Any]:
    """Return the tiles of layers that are held so: the same for every net of a kind."""
    tiles: list[tuple[int, ...]] = []
    owners: list[int] = []
    begin_of_layer = 0
    for i, held in enumerate(packed):
        n_rows = held.rows
        at_once = n_rows if sparse and i == 0 else block
        parts = [(0, middle), (middle, n_rows)] if i + 1 == halved else [(0, n_rows)]
        groups = groups_of(held.panels)
        shares = len(parts) * len(groups)
        for part, (low, high) in enumerate(parts):
            for begin in range(low, high, at_once):
                end = min(begin + at_once, high)
                for g, panels in enumerate(groups):
                    for first in range(begin, end, TILE_ROWS):
                        last = min(first + TILE_ROWS, end)
                        down = begin_of_layer + held.place(panels[0], first)
                        place = (down * lanes * size, len(tiles))
                        tiles.append((i, first, last, *panels, *place, 0, n_rows))
                        owners.append((part * len(groups) + g) * members // shares)
        begin_of_layer += held.size
    table = _shared_out(np.array(tiles, TILE), np.array(owners), members)
    if by_layers:
        _keep_own(table.reshape(members, -1), packed, lanes, max(halved, 1))
    table.flags.writeable = False
    return table


def _keep_own(
    shares: NDArray[Any], packed: tuple[Packed, ...], lanes: int, first_layer: int
) -> None:
    """Write to each member's tiles of the layers that go back by panels which rows it reads then:
    those of its own groups of panels of the layer below."""
    for i, held in enumerate(packed):
        if i < first_layer or held.turned:
            continue
        n_groups = groups_of_panels(round_up(held.rows, lanes) // lanes)
        for member, share in enumerate(shares):
            ends = (part * n_groups // len(shares) for part in (member, member + 1))
            its = share["layer"] == i
            for name, end in zip(("kept", "kept_last"), ends, strict=True):
                share[name][its] = end * LARGEST[1] * lanes


def _shared_out(tiles: NDArray[Any], owners: NDArray[Any], members: int) -> NDArray[Any]:
    """Return each owner's tiles after the other's, evened out by their work, and by empty tiles to
    the same number, by which a team cuts them.

    By number alone, one of two threads had 58 % of 784-100-100-10: 7 panels are two pairs, a pair
    and one.
    """
    work = (tiles["last"] - tiles["first"]) * tiles["n_panels"]
    loads = np.bincount(owners, work, members)
    for tile in np.argsort(-work, kind="stable"):
        low, high = loads.argmin(), owners[tile]
        if loads[low] + work[tile] < loads[high]:
            owners[tile] = low
            loads[[low, high]] += work[tile], -work[tile]
    most = np.bincount(owners, minlength=members).max()
    table = np.zeros((members, most), TILE)
    table["n_panels"] = 1
    for member, share in enumerate(table):
        own = tiles[owners == member]
        share[: len(own)] = own
    flat = table.ravel()
    # What an empty one adds to a sum, in a place of its own, is 0.
    flat["slot"][flat["first"] == flat["last"]] = np.arange(len(tiles), len(flat))
    return flat
