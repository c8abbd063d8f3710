"""Packed parameters: their layout, and the kernels that pack, unpack and copy them."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from fastmlp.backends.cpu.plan.records import Layer, Net, layers_of
from fastmlp.backends.cpu.simd.pack import moves
from fastmlp.backends.cpu.tuning import FEW_OUTPUTS, FEW_OUTPUTS_EIGHTHS
from fastmlp.compiler import njit
from fastmlp.compiler.memory import record_at, row, stack
from fastmlp.compiler.target import lanes_of
from fastmlp.network.spec import Layout


class Spacing(NamedTuple):
    """Room between writes of different threads.

    Attributes
    ----------
    rows : empty rows after each panel
    split_layer : 0, or the layer, from 1, with as many before the second half of its inputs
    """

    rows: int = 0
    split_layer: int = 0


# For one thread, which writes everything.
CLOSE = Spacing()


class Packed(NamedTuple):
    """One layer's parameters, in rows of `lanes` numbers.

    Attributes
    ----------
    is_transposed : True for panels of W transposed
    rows, panels : of the held matrix
    panel : rows from one panel to the next
    biases : row of the biases; rows of gains and shifts follow
    middle, gap : rows of a panel from `middle` on lie `gap` further down
    size : rows in all
    copy_panel, copy_size : rows of a panel of the transposed copy, in whole squares, and of the
        copy; 0 without one
    pairs_panel, pairs_size : rows of a panel of the weights in pairs across their rows, and in all;
        0 without pairs. The transposed copy is then in pairs, too.
    """

    is_transposed: bool
    rows: int
    panels: int
    panel: int
    biases: int
    middle: int
    gap: int
    size: int
    copy_panel: int
    copy_size: int
    pairs_panel: int = 0
    pairs_size: int = 0

    def place(self, panel: int, row: int) -> int:
        return panel * self.panel + row + (self.gap if row >= self.middle else 0)


def round_up(n: int, unit: int) -> int:
    return -(-n // unit) * unit


def few_outputs(lanes: int) -> int:
    return min(lanes, max(FEW_OUTPUTS, FEW_OUTPUTS_EIGHTHS * lanes // 8))


def holds_transposed(n_in: int, n_out: int, lanes: int) -> bool:
    return n_out <= few_outputs(lanes) and n_in > n_out


def has_copy(
    i: int, n_layers: int, rows: int, *, is_transposed: bool, to_inputs: bool = False
) -> bool:
    """True if training on chunks of `rows` rows holds layer i's weights in both forms.

    First layers, unless derivatives go back `to_inputs`, transposed last layers and
    single rows need one form alone: copies take a quarter of a step (32-64-32-1@1).
    """
    if is_transposed:
        return i < n_layers - 1
    return (i > 0 or to_inputs) and rows > 1


def middle_of(n_in: int, lanes: int) -> int:
    """The first input of a layer's second half, a multiple of `lanes`."""
    return -(-n_in // lanes) // 2 * lanes


def packed_layers(
    layout: Layout,
    lanes: int,
    rows: int,
    *,
    train: bool,
    sparse: bool = False,
    spacing: Spacing = CLOSE,
    paired: Sequence[bool] = (),
    to_inputs: bool = False,
) -> tuple[Packed, ...]:
    """The layout of each layer's parameters, for chunks of `rows` rows.

    Products of `paired` layers take pairs of bfloat16. With `to_inputs` the first
    layer's weights are also read transposed. A first layer on `sparse` rows is not
    transposed. Predictions pack only the biases of it and of layers in pairs, and read
    the flat weights.
    """
    layers = []
    for i, (n_in, n_out) in enumerate(layout.shapes):
        first_sparse = sparse and i == 0
        is_transposed = (
            train and holds_transposed(n_in, n_out, lanes) and not first_sparse
        )
        form = {"is_transposed": is_transposed, "to_inputs": to_inputs}
        copied = train and has_copy(i, layout.n_layers, rows, **form)
        pairs = any(paired[i : i + 1])
        n_held = 0 if (first_sparse or pairs) and not train else n_in
        is_split = i + 1 == spacing.split_layer and not is_transposed
        gap = spacing.rows if is_split else 0
        shape = (n_held, n_out, lanes, spacing.rows, gap)
        n_norm = norm_rows(layout, i)
        layer = _packed(*shape, n_norm, is_transposed=is_transposed, copied=copied)
        layers.append(_in_pairs(layer, n_in, lanes, spacing.rows) if pairs else layer)
    return tuple(layers)


def _in_pairs(layer: Packed, n_in: int, lanes: int, apart: int) -> Packed:
    """The layer with its weights in pairs,
    in whole squares of which each takes half.
    """
    panel = round_up(n_in, lanes) // 2 + apart
    if layer.copy_panel:
        n_copies = layer.copy_size // layer.copy_panel
    else:
        n_copies = 0
    copy_panel = layer.panels * lanes // 2 + apart if n_copies else 0
    return layer._replace(
        pairs_panel=panel,
        pairs_size=layer.panels * panel,
        copy_panel=copy_panel,
        copy_size=n_copies * copy_panel,
    )


def _packed(
    n_in: int,
    n_out: int,
    lanes: int,
    apart: int,
    gap: int,
    n_norm: int,
    *,
    is_transposed: bool,
    copied: bool,
) -> Packed:
    in_panels = round_up(n_in, lanes) // lanes
    out_panels = round_up(n_out, lanes) // lanes
    if is_transposed:
        # Without spacing inside: all threads read its few weights.
        rows = n_out
        panels = in_panels
        panel = n_out
        other_panels = out_panels
        biases = panels * panel
        size = biases + 1 + n_norm + apart
    else:
        rows = n_in
        panels = out_panels
        other_panels = in_panels
        biases = n_in + gap
        panel = biases + 1 + n_norm + apart
        size = panels * panel
    if copied:
        copy_panel = panels * lanes + (0 if is_transposed else apart)
    else:
        copy_panel = 0
    middle = middle_of(n_in, lanes) if gap else 0

    copy = (copy_panel, other_panels * copy_panel)
    return Packed(is_transposed, rows, panels, panel, biases, middle, gap, size, *copy)


def norm_rows(layout: Layout, layer: int) -> int:
    """Rows of a layer's gains and shifts in a panel."""
    return sum(1 + (norm.shifts >= 0) for norm in layout.norms_of(layer))


def numbers_packed(layers: tuple[Packed, ...], lanes: int) -> int:
    """Numbers of packed parameters, with room for the last square's transposition."""
    return sum(layer.size for layer in layers) * lanes + lanes * lanes


@njit
def row_offset(layer: Layer, r: int, vector: int) -> int:
    return r * vector + (layer.gap if r >= layer.middle else 0)


def pack(scalar: type[np.floating[Any]]) -> Any:
    """The block that copies a flat vector of parameters into panels."""
    lanes = lanes_of(scalar)
    pack_row = moves(scalar, lanes).pack_row
    transpose = moves(scalar, lanes).transpose
    size = np.dtype(scalar).itemsize
    vector = lanes * size
    square = lanes * lanes * size

    def pack_all(address: int, flat: int, packed: int) -> None:
        block, transposed = stack(square), stack(square)
        net = record_at(address, Net)
        layers = layers_of(net)
        for i in range(net.n_layers):
            layer = layers[i]
            width = layer.n_out
            there = packed - net.parameters
            biases = flat + layer.bias_offset * size
            # Predictions hold no packed weights of sparse rows and of pairs.
            n_in = layer.n_in if layer.packed_rows > 0 else 0
            for k in range(n_in):
                source = flat + (layer.offset + k * width) * size
                if not layer.is_transposed:
                    target = layer.packed + there + row_offset(layer, k, vector)
                    pack_row(source, target, layer.packed_panel, width)
                    continue
                pack_row(source, block + k % lanes * vector, 0, width)
                if k % lanes == lanes - 1 or k == layer.n_in - 1:
                    transpose(block, transposed, k % lanes + 1)
                    target = layer.packed + there + k // lanes * layer.packed_panel
                    for j in range(width):
                        pack_row(transposed + j * vector, target + j * vector, 0, lanes)
            pack_row(biases, layer.biases + there, layer.packed_panel, width)
            offsets = row(layer.norm_offsets, layer.norm_rows, np.int64)
            for v in range(layer.norm_rows):
                source = flat + offsets[v] * size
                target = layer.biases + there + (v + 1) * vector
                pack_row(source, target, layer.packed_panel, width)

    return pack_all


def unpacking(scalar: type[np.floating[Any]]) -> Any:
    """Copies rows of a layer's weights,
    and after the last its biases, into a flat vector.
    """
    lanes = lanes_of(scalar)
    unpack_rows = moves(scalar, lanes).unpack_rows
    transpose = moves(scalar, lanes).transpose
    size = np.dtype(scalar).itemsize
    vector = lanes * size

    @njit
    def unpack_some(layer: Layer, flat: int, there: int, rows: Any, block: int) -> None:
        """`there`: bytes from the net's packed parameters;
        `first` is a multiple of `lanes`; `block` has room for a square.
        """
        (first, last), width, packed = rows, layer.n_out, layer.packed + there
        target = flat + (layer.offset + first * width) * size
        n_bytes = width * size
        if not layer.is_transposed:
            middle = min(max(first, layer.middle), last)
            source = packed + first * vector
            n = middle - first
            unpack_rows(source, layer.packed_panel, target, width, n)
            source = packed + middle * vector + layer.gap
            target = target + n * n_bytes
            unpack_rows(source, layer.packed_panel, target, width, last - middle)
        elif width == 1:
            source = packed + first // lanes * layer.packed_panel
            unpack_rows(source, layer.packed_panel, target, last - first, 1)
        else:
            for k in range(first, last, lanes):
                transpose(packed + k // lanes * layer.packed_panel, block, width)
                below = target + (k - first) * n_bytes
                unpack_rows(block, 0, below, width, min(lanes, last - k))
        if last == layer.n_in:
            biases = flat + layer.bias_offset * size
            unpack_rows(layer.biases + there, layer.packed_panel, biases, width, 1)
            offsets = row(layer.norm_offsets, layer.norm_rows, np.int64)
            for v in range(layer.norm_rows):
                source = layer.biases + there + (v + 1) * vector
                target = flat + offsets[v] * size
                unpack_rows(source, layer.packed_panel, target, width, 1)

    return unpack_some


def unpack(scalar: type[np.floating[Any]]) -> Any:
    """The block that copies panels of parameters into a flat vector."""
    unpack_some = unpacking(scalar)
    lanes = lanes_of(scalar)
    square = lanes * lanes * np.dtype(scalar).itemsize

    def unpack_all(address: int, flat: int, packed: int) -> None:
        block = stack(square)
        net = record_at(address, Net)
        layers = layers_of(net)
        for i in range(net.n_layers):
            rows = (0, layers[i].n_in)
            unpack_some(layers[i], flat, packed - net.parameters, rows, block)

    return unpack_all


def transposes(scalar: type[np.floating[Any]]) -> Any:
    """The block that writes every transposed copy of the packed weights."""
    lanes = lanes_of(scalar)
    transpose = moves(scalar, lanes).transpose
    vector = lanes * np.dtype(scalar).itemsize
    square = lanes * vector

    def transpose_all(address: int) -> None:
        net = record_at(address, Net)
        layers = layers_of(net)
        for i in range(net.n_layers):
            layer = layers[i]
            if layer.transposed_copy == 0:
                continue
            for p in range(layer.packed_panels):
                for r in range(0, layer.packed_rows, lanes):
                    source = (
                        layer.packed
                        + p * layer.packed_panel
                        + row_offset(layer, r, vector)
                    )
                    target = (
                        layer.transposed_copy
                        + r // lanes * layer.copy_panel
                        + p * square
                    )
                    transpose(source, target, layer.packed_rows - r)

    return transpose_all
