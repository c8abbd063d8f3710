"""Every buffer that training and prediction need, allocated before the first step.

Matrices lie in panels: a panel is `lanes` columns, its rows one after the other, the last panel
filled up with zeros. A chunk's panels have `panel_rows` rows.
"""

from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import DTypeLike, NDArray

from fastmlp._process import memory
from fastmlp.backends.cpu.plan.packing import (
    CLOSE,
    Packed,
    Spacing,
    numbers_packed,
    packed_layers,
    round_up,
)
from fastmlp.backends.cpu.simd.gemm import packed_tile, packs, rows_at_once
from fastmlp.backends.cpu.tuning import (
    ALIGNMENT,
    APART_BYTES,
    PAGE_ROWS,
    ROW_BLOCK,
    SMALL_TILE_ROWS,
    STRIP_ROWS,
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
        There are no `inputs` unless some are gathered, and the first layer is not transposed.
    packed : layout of each layer in `parameters`
    doubled_inputs : True: `inputs` are there twice: each half of a split second layer gathers rows
    inputs : panels of the rows' features
    outputs, deltas : panels of each layer's outputs, one layer after the other
        Values after the activation; slopes of the activation, which the backward pass replaces by
        deltas.
    output_bytes : from one thread's columns to the next thread's, in each of the next six buffers
    raw, value, slope, loss_slope : columns of n_out numbers a row
        The output layer: pre-activations, values, slopes of the activation, slopes of the loss. A
        block of rows has its columns one after the other, and room for a vector at their end.
    targets : columns of n_targets numbers a row
    row_losses : float64, a number a row
    parameters, backup : packed parameters, and a copy of them
    copies : the second form of each layer's weights, where `packing.has_copy`
        Panels of W transposed, or of W where a layer is held transposed; both in pairs, W first,
        where products take pairs.
    paired : for each layer True if its products take pairs; empty: no layer
    input_pairs, output_pairs, delta_pairs : pairs along the rows, then across them, where read
    zeros : one vector
    row_copy, row_copy_bytes : each thread's rows for `simd.gemm.packed_product`, their bytes or 0
    """

    chunk_rows: int
    panel_rows: int
    lanes: int
    train: bool
    sparse: bool
    packed: tuple[Packed, ...]
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
    train: bool,
    sparse: bool = False,
    gathered: int | None = None,
    spacing: Spacing = CLOSE,
    parts: int = 1,
    paired: tuple[bool, ...] = (),
) -> Workspace:
    """Allocate for chunks of `rows` rows; without `train`, only the buffers of a forward pass.

    Up to `parts` threads may compute output layers at a time. `gathered` features go to panels;
    None: all, or 0 if they are sparse. A MemoryError comes before any allocation.
    """
    sizes, panel_rows = layout.sizes, _panel_rows(rows + spacing.rows)
    units = sum(round_up(n, lanes) for n in sizes[1:])
    form: dict[str, Any] = {"train": train, "sparse": sparse, "spacing": spacing, "paired": paired}
    layers = packed_layers(layout, lanes, rows, **form)
    packed = numbers_packed(layers, lanes)
    doubled_inputs = spacing.split_layer > 1
    if gathered is None:
        gathered = 0 if sparse else sizes[0]
    size = np.dtype(dtype).itemsize
    output_bytes = _output_bytes(rows, max(sizes[-1], n_targets), size, lanes, parts)
    columns = parts * output_bytes // size
    row_copy_bytes = row_copy_bytes_of(layout, rows, size, lanes)
    numbers = {
        "inputs": (1 + doubled_inputs) * panel_rows * round_up(gathered, lanes),
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
        **_numbers_in_pairs(layout, panel_rows, lanes, paired),
    }
    # The session's order of rows, int64, is part of it.
    n_bytes = size * sum(numbers.values()) + parts * output_bytes + 8 * panel_rows
    memory.require(n_bytes, "MLP", f"a workspace of {packed:,} parameters and {rows:,} rows")
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
    """Bytes of a thread's packed rows; 0 if no layer's products, forward or back, take them."""
    pairs = [*pairwise(layout.sizes)]
    both = [*pairs, *((n_out, n_in) for n_in, n_out in pairs[1:])]
    depths = [depth for depth, n_columns in both if packs(n_columns, rows, depth)]
    copies = (
        rows_at_once(n, size) // SMALL_TILE_ROWS * packed_tile(n, size, lanes) for n in depths
    )
    return round_up(max(copies, default=-APART_BYTES) + APART_BYTES, ALIGNMENT)


def _numbers_in_pairs(
    layout: Layout, panel_rows: int, lanes: int, paired: tuple[bool, ...]
) -> dict[str, int]:
    """The two forms take as much as the numbers do."""
    sizes = [panel_rows * round_up(n, lanes) for n in layout.sizes]
    read = [n if pairs else 0 for n, pairs in zip(sizes, paired, strict=False)]
    own = [n if pairs else 0 for n, pairs in zip(sizes[1:], paired, strict=False)]
    return {"input_pairs": sum(read[:1]), "output_pairs": sum(read[1:]), "delta_pairs": sum(own)}


def _panel_rows(rows: int) -> int:
    """Whole strips, and not a multiple of 4 KiB: panels would share the same few sets of a
    cache."""
    whole = round_up(rows, STRIP_ROWS)
    return whole if whole % PAGE_ROWS else whole + STRIP_ROWS


def _output_bytes(rows: int, width: int, size: int, lanes: int, parts: int) -> int:
    """Bytes from one thread's columns of `width` numbers a row to the next thread's: a block of
    rows and a vector, or a block of losses in float64, and room between the two."""
    block = min(round_up(rows, STRIP_ROWS), ROW_BLOCK)
    n_bytes = max((block * width + lanes) * size, block * 8)
    return round_up(n_bytes, ALIGNMENT) + (APART_BYTES if parts > 1 else 0)


def _aligned_together(numbers: dict[str, int], dtype: DTypeLike) -> dict[str, Buffer]:
    """Zeros as of `aligned`, by name, in one piece of memory: saves 4 us a buffer."""
    kind, place, buffers = np.dtype(dtype), 0, {}
    sizes = {name: round_up(n * kind.itemsize, ALIGNMENT) for name, n in numbers.items()}
    memory = aligned(sum(sizes.values()), np.uint8)
    for name, n in numbers.items():
        buffers[name] = memory[place : place + n * kind.itemsize].view(kind)
        place += sizes[name]
    return buffers


def aligned(n: int, dtype: DTypeLike) -> Buffer:
    """Return n zeros on separate cache lines, with room after them.

    A vector that straddles two lines costs double. A line that two fits in two threads write to
    travels to and fro between their cores.
    """
    kind = np.dtype(dtype)
    size = n * kind.itemsize
    memory = np.zeros(ALIGNMENT + round_up(size, ALIGNMENT) + APART_BYTES, np.uint8)
    skip = -memory.ctypes.data % ALIGNMENT
    return memory[skip : skip + size].view(kind)
