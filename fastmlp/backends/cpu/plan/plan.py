"""The records of a session: a net with buffers,
rules and tiles, laid out for the kernels.

Every buffer that training and prediction need is allocated before the first step.
Matrices lie in panels: a panel is `lanes` columns, its rows one after the other, the
last panel filled up with zeros. A chunk's panels have `panel_rows` rows.
"""

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import DTypeLike, NDArray

from fastmlp._process import memory
from fastmlp.backends.cpu import tuning
from fastmlp.backends.cpu.plan import packing, records
from fastmlp.backends.cpu.plan.partition import ONE_CHUNK, Partition, rows_of_tiles
from fastmlp.backends.cpu.plan.stages import (
    Stages,
    numbers_of,
    point_to_gains,
    stages_of,
)
from fastmlp.backends.cpu.simd import gemm
from fastmlp.backends.cpu.simd.gemm import (
    packed_tile,
    packs,
    panels_at_once,
    rows_at_once,
)
from fastmlp.network.spec import Layout

Buffer = NDArray[Any]


class Workspace(NamedTuple):
    """Buffers for a chunk of rows, each one flat array.

    Attributes
    ----------
    chunk_rows, panel_rows : rows of a chunk, and of its panels: whole strips, room between panels
    lanes : columns of a panel
    train : True: with the buffers of training; False: of a forward pass
    sparse : True: the rows' features are sparse
        There are no `inputs` unless some are gathered,
        and the first layer is not transposed.
    packed : layout of each layer in `parameters`
    doubled_inputs : True: `inputs` are there twice: each half of a split second layer gathers rows
    inputs : panels of the rows' features
    outputs, deltas : panels of each layer's outputs, one layer after the other
        Values after the activation; slopes of the activation,
        which the backward pass replaces by deltas.
    output_bytes : from one thread's columns to the next thread's, in each of the next six buffers
    raw, value, slope, loss_slope : columns of n_out numbers a row
        The output layer: pre-activations, values, slopes of the activation, slopes of
        the loss. A block of rows has its columns one after the other, and room for a
        vector at their end.
    targets : columns of n_targets numbers a row
    row_losses : float64, a number a row
    parameters, backup : packed parameters, and a copy of them
    copies : the second form of each layer's weights, where `packing.has_copy`
        Panels of W transposed, or of W where a layer is held transposed;
        both in pairs, W first, where products take pairs.
    paired : for each layer True if its products take pairs; empty: no layer
    input_pairs, output_pairs, delta_pairs : pairs along the rows, then across them, where read
    zeros : one vector
    stages : buffers of norms and skips, see `stages.py`
    row_copy, row_copy_bytes : each thread's rows for `simd.gemm.packed_product`, their bytes or 0
    """

    chunk_rows: int
    panel_rows: int
    lanes: int
    train: bool
    sparse: bool
    packed: tuple[packing.Packed, ...]
    doubled_inputs: bool
    inputs: Buffer
    outputs: Buffer
    deltas: Buffer
    output_bytes: int
    raw: Buffer
    value: Buffer
    slope: Buffer
    loss_slope: Buffer
    targets: Buffer
    row_losses: Buffer
    parameters: Buffer
    backup: Buffer
    copies: Buffer
    zeros: Buffer
    row_copy: Buffer
    stages: Buffer
    row_copy_bytes: int
    paired: tuple[bool, ...]
    input_pairs: Buffer
    output_pairs: Buffer
    delta_pairs: Buffer


def make_workspace(
    layout: Layout,
    rows: int,
    n_targets: int,
    dtype: DTypeLike,
    lanes: int,
    *,
    n_heads: int = 0,
    train: bool,
    sparse: bool = False,
    gathered: int | None = None,
    spacing: packing.Spacing = packing.CLOSE,
    parts: int = 1,
    paired: tuple[bool, ...] = (),
    to_inputs: bool = False,
) -> Workspace:
    """Allocate for chunks of `rows` rows; without `train`,
    only the buffers of a forward pass.

    Up to `parts` threads may compute output layers at a time. `gathered` features go to
    panels; None: all, or 0 if they are sparse. A MemoryError comes before any
    allocation.
    """
    sizes = layout.sizes
    panel_rows = _panel_rows(rows + spacing.rows)
    units = sum(packing.round_up(n, lanes) for n in sizes[1:])
    form: dict[str, Any] = {
        "train": train,
        "sparse": sparse,
        "spacing": spacing,
        "paired": paired,
        "to_inputs": to_inputs,
    }
    layers = packing.packed_layers(layout, lanes, rows, **form)
    packed = packing.numbers_packed(layers, lanes)
    doubled_inputs = spacing.split_layer > 1
    if gathered is None:
        gathered = 0 if sparse else sizes[0]
    size = np.dtype(dtype).itemsize
    # The losses of rows, and of each head, are float64.
    width = max(sizes[-1], n_targets, n_heads and (1 + n_heads) * 8 // size)
    output_bytes = _output_bytes(rows, width, size, lanes, parts)
    columns = parts * output_bytes // size
    row_copy_bytes = row_copy_bytes_of(layout, rows, size, lanes)
    numbers = {
        "inputs": (1 + doubled_inputs) * panel_rows * packing.round_up(gathered, lanes),
        # A square of the output layer may be read past the last strip.
        "outputs": panel_rows * units + lanes * lanes,
        # A square of its deltas, transposed, may be written past the last strip.
        "deltas": panel_rows * units + lanes * lanes,
        "raw": columns,
        "value": columns,
        "slope": columns,
        "loss_slope": columns,
        "targets": columns,
        "parameters": packed,
        "backup": packed if train else 0,
        "copies": sum(layer.copy_size + layer.pairs_size for layer in layers) * lanes,
        "zeros": lanes,
        "row_copy": parts * row_copy_bytes // size,
        "stages": 0 if layout.is_plain else numbers_of(layout, panel_rows, lanes),
        **_numbers_in_pairs(layout, panel_rows, lanes, paired),
    }
    # The session's order of rows, int64, is part of it.
    n_bytes = size * sum(numbers.values()) + parts * output_bytes + 8 * panel_rows
    memory.require(
        n_bytes, "MLP", f"a workspace of {packed:,} parameters and {rows:,} rows"
    )
    return Workspace(
        chunk_rows=rows,
        panel_rows=panel_rows,
        lanes=lanes,
        train=train,
        sparse=sparse,
        packed=layers,
        doubled_inputs=doubled_inputs,
        output_bytes=output_bytes,
        row_copy_bytes=row_copy_bytes,
        row_losses=aligned(parts * output_bytes // 8, np.float64),
        paired=paired,
        **_aligned_together(numbers, dtype),
    )


def row_copy_bytes_of(layout: Layout, rows: int, size: int, lanes: int) -> int:
    """Bytes of a thread's packed rows;
    0 if no layer's products, forward or back, take them.
    """
    pairs = layout.shapes
    both = [*pairs, *((n_out, n_in) for n_in, n_out in pairs[1:])]
    depths = [depth for depth, n_columns in both if packs(n_columns, rows, depth)]
    copies = (
        rows_at_once(n, size) // tuning.SMALL_TILE_ROWS * packed_tile(n, size, lanes)
        for n in depths
    )
    return packing.round_up(
        max(copies, default=-tuning.APART_BYTES) + tuning.APART_BYTES, tuning.ALIGNMENT
    )


def _numbers_in_pairs(
    layout: Layout, panel_rows: int, lanes: int, paired: tuple[bool, ...]
) -> dict[str, int]:
    """The two forms take as much as the numbers do."""
    sizes = [panel_rows * packing.round_up(n, lanes) for n in layout.sizes]
    read = [n if pairs else 0 for n, pairs in zip(sizes, paired, strict=False)]
    own = [n if pairs else 0 for n, pairs in zip(sizes[1:], paired, strict=False)]
    return {
        "input_pairs": sum(read[:1]),
        "output_pairs": sum(read[1:]),
        "delta_pairs": sum(own),
    }


def _panel_rows(rows: int) -> int:
    """Whole strips, and not a multiple of 4 KiB:
    panels would share the same few sets of a cache.
    """
    whole = packing.round_up(rows, tuning.STRIP_ROWS)
    if whole % tuning.PAGE_ROWS:
        return whole
    return whole + tuning.STRIP_ROWS


def _output_bytes(rows: int, width: int, size: int, lanes: int, parts: int) -> int:
    """Bytes from one thread's columns of `width` numbers a row to the next thread's: a
    block of rows and a vector, or a block of losses in float64, and room between the
    two.
    """
    block = min(packing.round_up(rows, tuning.STRIP_ROWS), tuning.ROW_BLOCK)
    n_bytes = max((block * width + lanes) * size, block * 8)
    return packing.round_up(n_bytes, tuning.ALIGNMENT) + (
        tuning.APART_BYTES if parts > 1 else 0
    )


def _aligned_together(numbers: dict[str, int], dtype: DTypeLike) -> dict[str, Buffer]:
    """Zeros as of `aligned`, by name, in one piece of memory: saves 4 us a buffer."""
    kind = np.dtype(dtype)
    place = 0
    buffers = {}
    sizes = {
        name: packing.round_up(n * kind.itemsize, tuning.ALIGNMENT)
        for name, n in numbers.items()
    }
    memory = aligned(sum(sizes.values()), np.uint8)
    for name, n in numbers.items():
        buffers[name] = memory[place : place + n * kind.itemsize].view(kind)
        place += sizes[name]
    return buffers


def aligned(n: int, dtype: DTypeLike) -> Buffer:
    """Return n zeros on separate cache lines, with room after them.

    A vector that straddles two lines costs double. A line that two fits in two threads
    write to travels to and fro between their cores.
    """
    kind = np.dtype(dtype)
    size = n * kind.itemsize
    memory = np.zeros(
        tuning.ALIGNMENT
        + packing.round_up(size, tuning.ALIGNMENT)
        + tuning.APART_BYTES,
        np.uint8,
    )
    skip = -records.address(memory) % tuning.ALIGNMENT
    return memory[skip : skip + size].view(kind)


def groups_of(n_panels: int) -> list[tuple[int, int]]:
    """Cut a layer's panels into groups that a tile of sums takes at once:
    first panel, number.
    """
    groups = []
    panel = 0
    while panel < n_panels:
        groups.append((panel, panels_at_once(n_panels - panel)))
        panel += groups[-1][1]
    return groups


class Tiling(NamedTuple):
    """All that tiles depend on, as a key: nets with equal keys share a table of tiles.

    Attributes
    ----------
    lanes, size : numbers of a vector, and bytes of a number
    block : rows whose inputs stay in the second-level cache
    sparse : True if the first layer's rows are sparse
    split_layer, middle : the layer, from 1, of split-K, and its second half's first input
    cuts : first inputs where tiles are cut, if they can be
    """

    packed: tuple[packing.Packed, ...]
    lanes: int
    size: int
    block: int
    sparse: bool
    n_threads: int
    split_layer: int
    middle: int
    by_panels: bool
    cuts: tuple[int, ...]


def tiles_of(workspace: Workspace, partition: Partition, middle: int) -> NDArray[Any]:
    """Cut all packed parameters into tiles: groups of panels, cut into groups of rows.

    A group has as many rows as keep their inputs in the second-level cache while all
    deltas pass. Each thread has separate panels of every layer, and an equal number of
    tiles.
    """
    size = workspace.parameters.itemsize
    return _make_tiles(
        Tiling(
            packed=workspace.packed,
            lanes=workspace.lanes,
            size=size,
            block=rows_of_tiles(workspace.chunk_rows, size),
            sparse=workspace.sparse,
            n_threads=partition.n_threads,
            split_layer=partition.split_layer,
            middle=middle,
            by_panels=partition.by_panels,
            cuts=partition.cuts,
        )
    )


@lru_cache(maxsize=256)
def _make_tiles(tiling: Tiling) -> NDArray[Any]:
    """Tiles, read-only, grouped by thread."""
    packed = tiling.packed
    n_threads = tiling.n_threads
    middle = tiling.middle
    lanes = tiling.lanes
    split_layer = tiling.split_layer
    tiles: list[tuple[int, ...]] = []
    owners: list[int] = []
    begin_of_layer = 0
    for i, layer in enumerate(packed):
        n_rows = layer.rows
        at_once = n_rows if tiling.sparse and i == 0 else tiling.block
        if i + 1 == split_layer:
            parts = [(0, middle), (middle, n_rows)]
        else:
            parts = [(0, n_rows)]
        groups = groups_of(layer.panels)
        shares = len(parts) * len(groups)
        for part, (low, high) in enumerate(parts):
            for begin in range(low, high, at_once):
                end = min(begin + at_once, high)
                for g, panels in enumerate(groups):
                    for first, last in _rows_of_tiles(
                        begin, end, tiling.cuts if i == 0 else ()
                    ):
                        down = begin_of_layer + layer.place(panels[0], first)
                        place = (down * lanes * tiling.size, len(tiles))
                        tiles.append((i, first, last, *panels, *place, 0, n_rows))
                        owners.append((part * len(groups) + g) * n_threads // shares)
        begin_of_layer += layer.size
    table = _balance(np.array(tiles, records.Tile.dtype), np.array(owners), n_threads)
    if tiling.by_panels:
        _mark_cached(table.reshape(n_threads, -1), packed, lanes, max(split_layer, 1))
    table.flags.writeable = False
    return table


def _rows_of_tiles(
    first: int, end: int, cuts: tuple[int, ...]
) -> Iterator[tuple[int, int]]:
    """Yield each tile's rows, first and end: `TILE_ROWS`,
    or up to the last cut in their second half.
    """
    while first < end:
        most = min(first + tuning.TILE_ROWS, end)
        half = first + tuning.TILE_ROWS // 2
        last = max((cut for cut in cuts if half <= cut < most), default=most)
        last = most if most == end or most in cuts else last
        yield first, last
        first = last


def _mark_cached(
    shares: NDArray[Any],
    packed: tuple[packing.Packed, ...],
    lanes: int,
    first_layer: int,
) -> None:
    """Mark, per tile, the weight rows that its thread reads again in the backward pass:
    their stores go through the cache.
    """
    for i, layer in enumerate(packed):
        if i < first_layer or layer.is_transposed:
            continue
        n_groups = gemm.groups_of_panels(packing.round_up(layer.rows, lanes) // lanes)
        for thread, share in enumerate(shares):
            ends = (part * n_groups // len(shares) for part in (thread, thread + 1))
            of_layer = share["layer"] == i
            for name, end in zip(("cached_first", "cached_last"), ends, strict=True):
                share[name][of_layer] = end * tuning.LARGEST_TILE[1] * lanes


def _balance(tiles: NDArray[Any], owners: NDArray[Any], n_threads: int) -> NDArray[Any]:
    """Group tiles by thread, balance the groups by work (greedy),
    and pad them to equal length with empty tiles.

    By number alone, one of two threads had 58 % of 784-100-100-10:
    7 panels are two pairs, a pair and one.
    """
    work = (tiles["last"] - tiles["first"]) * tiles["n_panels"]
    loads = np.bincount(owners, work, n_threads)
    for tile in np.argsort(-work, kind="stable"):
        low, high = loads.argmin(), owners[tile]
        if loads[low] + work[tile] < loads[high]:
            owners[tile] = low
            loads[[low, high]] += work[tile], -work[tile]
    most = np.bincount(owners, minlength=n_threads).max()
    table = np.zeros((n_threads, most), records.Tile.dtype)
    table["n_panels"] = 1
    for thread, share in enumerate(table):
        own = tiles[owners == thread]
        share[: len(own)] = own
    flat = table.ravel()
    # An empty tile has a slot of the sum of penalties, which stays 0.
    flat["slot"][flat["first"] == flat["last"]] = np.arange(len(tiles), len(flat))
    return flat


class Addresses(NamedTuple):
    """Addresses of the compiled blocks of a net's rules;
    0 where a call does not need one.

    `loss` has its block and its constants, and `link` its block and the slices of
    heads; `forms` has each layer's form: LINEAR, BLOCK, RELU or RELU_DROPPED.
    `n_moments`: numbers of state that the optimizer's rule uses. `coefficients`: bytes
    to the coefficients of each layer's weights and biases in a step's row, or FROZEN.
    `lowest`: the first layer that is trained. `dropped`: for each dropped layer its
    number, from 1, else 0.
    """

    activations: Sequence[int]
    forms: Sequence[int]
    loss: tuple[int, int] = (0, 0)
    link: tuple[int, int] = (0, 0)
    optimizer: int = 0
    penalised: int = 0
    n_moments: int = 0
    penalties: Sequence[int] = ()
    coefficients: Sequence[tuple[int, int]] = ()
    lowest: int = 0
    drop: int = 0
    disturb: int = 0
    dropped: Sequence[int] = ()
    drop_alone: int = 0
    n_heads: int = 0


class Plan(NamedTuple):
    """A `Net` record and the arrays that it points to.

    Attributes
    ----------
    net, batch, blocks : records, shape (1,) each
    layers, tiles : records, shape (n_layers,) and (n_tiles,)
    strip_losses : float64, shape ((1 + n_heads) * n_strips,), the weighted loss of each strip of
        rows, then each head's
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
    stages: Stages | None = None


def make_plan(
    layout: Layout,
    workspace: Workspace,
    blocks: Addresses,
    strengths: Sequence[float] = (),
    n_targets: int = 0,
    partition: Partition = ONE_CHUNK,
) -> Plan:
    lanes = workspace.lanes
    size = workspace.parameters.itemsize
    layers = _layers(layout, workspace, blocks)
    stages = None
    if not layout.is_plain:
        stages = stages_of(layout, workspace, blocks.forms)
        _point_to_stages(layout, layers, stages, lanes * size)
    split_layer = partition.split_layer
    several = partition.n_threads > 1
    if split_layer:
        middle = packing.middle_of(layout.sizes[split_layer - 1], lanes)
    else:
        middle = 0
    tiles = np.zeros(0, records.Tile.dtype)
    if workspace.train:
        tiles = tiles_of(workspace, partition, middle)
    tiles = tiles.view(np.recarray)
    n_penalties = len(strengths)
    n_strips = workspace.panel_rows // tuning.STRIP_ROWS
    tables: dict[str, Any] = {
        "batch": aligned(1, records.Batch.dtype).view(np.recarray),
        "blocks": aligned(1, records.BlockAddresses.dtype).view(np.recarray),
        "layers": layers,
        "tiles": tiles,
        "strip_losses": aligned((1 + blocks.n_heads) * n_strips, np.float64),
        "tile_penalties": aligned(len(tiles), np.float64),
        "penalties": np.array(blocks.penalties, np.int64),
        "strengths": np.array(strengths, np.float64),
        "scales": aligned(n_penalties, np.float64),
    }
    fields = {
        "n_layers": layout.n_layers,
        "lowest": blocks.lowest,
        "n_tiles": len(tiles),
        "n_in": layout.sizes[0],
        "n_out": layout.sizes[-1],
        "max_width": max(layout.sizes),
        "n_targets": n_targets,
        "n_packed": len(workspace.parameters),
        "n_penalties": n_penalties,
        "split_layer": split_layer,
        "middle": middle,
        "by_panels": partition.by_panels,
        "n_moments": blocks.n_moments,
        "disturbs": blocks.disturb != 0,
        "n_heads": blocks.n_heads,
        "head_strips": n_strips * 8 if blocks.n_heads else 0,
        "panel": workspace.panel_rows * lanes * size,
        "output_bytes": workspace.output_bytes,
        "row_copy_bytes": workspace.row_copy_bytes,
        "inputs_apart": workspace.inputs.nbytes // 2 if workspace.doubled_inputs else 0,
        "delta_panel": packing.few_outputs(lanes) * lanes * size,
        "non_temporal": _non_temporal(workspace, partition.by_panels and several),
        "strip_panel": workspace.panel_rows // tuning.STRIP_ROWS * lanes * size,
        "prefetches_state": 3 * workspace.parameters.nbytes
        >= tuning.PREFETCHED_STATE_BYTES,
        **{name: records.address(table) for name, table in tables.items()},
        **{
            name: records.address(getattr(workspace, name))
            for name in records.BUFFER_NAMES
        },
    }
    tables["blocks"]["loss"], tables["blocks"]["loss_settings"] = blocks.loss
    tables["blocks"]["link"], tables["blocks"]["link_settings"] = blocks.link
    for name in ("optimizer", "penalised", "drop", "disturb", "drop_alone"):
        tables["blocks"][name] = getattr(blocks, name)
    # All fields at once: one by one took 0.1 ms of each predict.
    net = aligned(1, records.Net.dtype)
    fields["address"] = records.address(net)
    net[0] = tuple(fields.get(name, 0) for name in records.Net.dtype.names or ())
    return Plan(net=net.view(np.recarray), **tables, stages=stages)


def _layers(layout: Layout, workspace: Workspace, blocks: Addresses) -> Any:
    """Fields in the order of `Layer`."""
    size = workspace.parameters.itemsize
    names = records.Layer.dtype.names or ()
    lanes = workspace.lanes
    vector = workspace.lanes * size
    master = records.address(workspace.parameters)
    copies = records.address(workspace.copies)
    values = [records.address(workspace.outputs), records.address(workspace.deltas)]
    pairs = _pairs(layout, workspace)
    coefficients = blocks.coefficients or [(0, 0)] * layout.n_layers
    layers = []
    # Fields of norms and skips.
    nothing = (0,) * (len(names) - names.index("inner_form") - 1)
    for i, (layer, (n_in, n_out)) in enumerate(
        zip(workspace.packed, layout.shapes, strict=True)
    ):
        paired = copies
        n_panels = packing.round_up(n_out, lanes) // lanes
        copies += layer.pairs_size * vector
        copy = copies if layer.copy_size else 0
        panel = layer.panel * vector
        copy_panel = layer.copy_panel * vector
        biases = master + layer.biases * vector
        passes = (master, panel, copy, copy_panel)
        if layer.is_transposed:
            passes = (copy, copy_panel, master, panel)
        elif layer.pairs_size:
            passes = (paired, layer.pairs_panel * vector, copy, copy_panel)
            copy = 0
        shape = (layer.rows, layer.panels, panel, layer.middle, layer.gap * vector)
        packs = (master, *shape, biases, copy, copy_panel, *passes)
        offsets = (layout.weights[i], layout.biases[i])
        of_weights, of_biases = coefficients[i]
        together = of_weights == of_biases and not layer.is_transposed
        rules = (layer.is_transposed, blocks.forms[i], blocks.activations[i])
        form = (*rules, of_weights, of_biases, together)
        dropped = blocks.dropped[i] if blocks.dropped else 0
        outputs, deltas = values
        if blocks.forms[i] == records.RELU and any(workspace.paired[i + 1 : i + 2]):
            # Once rounded, only their signs are read: deltas take their place, line by
            # line. 18.4 -> 18.2 ms (128-1024-1024-10@512, 1 thread), 11.3 -> 11.1 (2
            # threads).
            deltas = outputs
        fields = (
            n_in,
            n_out,
            n_panels,
            *packs,
            outputs,
            deltas,
            *offsets,
            *form,
            dropped,
        )
        plain = (0, outputs, outputs, deltas, blocks.forms[i])
        layers.append((*fields, *pairs[i], *plain, *nothing))
        master = master + layer.size * vector
        copies = copies + layer.copy_size * vector
        values = [place + workspace.panel_rows * n_panels * vector for place in values]
    return np.array(layers, records.Layer.dtype).view(np.recarray)


def _point_to_stages(layout: Layout, layers: Any, stages: Stages, vector: int) -> None:
    """Set the fields of staged layers; those that are 0 stay as of a plain layer."""
    for layer, fields in zip(layers, stages.fields, strict=True):
        for name, value in fields.items():
            if value or name in ("form", "inner_form"):
                layer[name] = value
    for i, source in enumerate(layout.skips):
        if source >= 0:
            layers[i]["added"] = layers[source]["values"]
            layers[source]["skip_deltas"] = layers[i]["deltas"]
    point_to_gains(layout, layers, stages, vector)


def _pairs(layout: Layout, workspace: Workspace) -> list[tuple[int, ...]]:
    """For each layer, whether its products take pairs, and the addresses of pairs along
    and across the rows, or 0: of its inputs, its outputs and its deltas.
    """
    paired = workspace.paired or (False,) * layout.n_layers
    row_bytes = workspace.panel_rows * workspace.parameters.itemsize
    sizes = [packing.round_up(n, workspace.lanes) * row_bytes for n in layout.sizes]
    inputs = [(0, 0)] * (layout.n_layers + 1)
    deltas = [(0, 0)] * layout.n_layers
    output = records.address(workspace.output_pairs)
    delta = records.address(workspace.delta_pairs)
    for i in np.flatnonzero(paired):
        place = output if i > 0 else records.address(workspace.input_pairs)
        inputs[i] = (place, place + sizes[i] // 2)
        deltas[i] = (delta, delta + sizes[i + 1] // 2)
        output = output + (sizes[i] if i > 0 else 0)
        delta = delta + sizes[i + 1]
    return [
        (is_paired, *inputs[i], *inputs[i + 1], *deltas[i])
        for i, is_paired in enumerate(paired)
    ]


def _non_temporal(workspace: Workspace, by_panels: bool) -> int:
    """The transposed weights that use non-temporal stores."""
    # Parameters, two numbers of state each, and the transposes.
    n_bytes = 3 * workspace.parameters.nbytes + workspace.copies.nbytes
    if n_bytes >= tuning.NON_TEMPORAL_BYTES:
        return records.STORE_ALL_PAST
    return records.STORE_OTHERS_PAST if by_panels else records.STORE_NO_COPY_PAST
