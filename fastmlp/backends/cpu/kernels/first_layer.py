"""The first layer on sparse rows,
and on rows in which a number stands for several inputs.

Sparse rows are compressed by row (CSR): products and gradient take the nonzero values
alone. The gradient of a row of W needs one column of the chunk: `sparse_columns`
compresses it by column (CSC), by counting, before phase two.

In expanded rows a number x of a column of T pieces stands for the T inputs min(max(x -
t, 0), 1): ones up to its piece, a fraction, zeros. The product with the column's
weights is one of their running sums plus a fraction of the piece's weight. A weight's
gradient is the sum of the deltas of all rows above its piece, and of the rows within
it, times their fractions. A level stands for a single one among zeros: its product is a
row of the weights, or nothing without a level.

In products with expanded rows, a number of pieces takes two vectors of a panel: a
running sum of its column's weights, and its piece's weight. A level takes one, whatever
the number of inputs.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from fastmlp.backends.cpu.kernels import Scalar
from fastmlp.backends.cpu.plan import records
from fastmlp.backends.cpu.plan.plan import aligned
from fastmlp.backends.cpu.plan.records import (
    Expansion,
    Layer,
    Net,
    Tile,
    address,
    batch_of,
)
from fastmlp.backends.cpu.simd.gemm import Shape
from fastmlp.backends.cpu.simd.microkernel import STORE, Epilogue, Operands, Start
from fastmlp.backends.cpu.simd.pack import MatrixRows, SparseRow, moves
from fastmlp.backends.cpu.simd.vector import (
    Condition,
    Panels,
    Variable,
    Vector,
    Vectors,
    Word,
)
from fastmlp.backends.cpu.simd.vector_function import Loops
from fastmlp.backends.cpu.tuning import ROW_BLOCK, SPARSE_PANELS, STRIP_ROWS, SUMS_ROWS
from fastmlp.compiler import call, hinted, njit
from fastmlp.compiler.memory import record_at, records_at, row, stack
from fastmlp.compiler.target import lanes_of
from fastmlp.validation import Array
from fastmlp.validation.expanded import Expanded


class Places(NamedTuple):
    """The places of rows' numbers among the inputs.

    Attributes
    ----------
    offsets : address of int32, bytes from a panel's first row of weights to the number's row
    fractions : address of each number's fraction of its piece; of a level 1, or 0 without one
    width : numbers of a row
    columns : how many of them to take
    """

    offsets: Word
    fractions: Word
    width: Word
    columns: Word


class SortedNumbers(NamedTuple):
    """Numbers sorted by the input that they lie in, and by rows within it.

    Attributes
    ----------
    starts : address of int64, where the numbers of each input begin
    rows : address of int32, bytes from a panel's first row to each number's
    fractions : as in `Places`
    """

    starts: Word
    rows: Word
    fractions: Word


def expanded(scalar: Scalar, lanes: int) -> Loops:
    return Loops(globals(), scalar, lanes)


def running_sums(v: Vectors, rows: Word, target: Word, n: Word) -> None:
    """Store for each of n rows the sum of those before;
    four at a time, as each addition waits for the one before.
    """
    total = v.variable(v.zero)
    for i in v.range(n // 4):
        down = i * (4 * v.bytes)
        first, second, third, fourth = (
            v.load(rows + down + k * v.bytes) for k in range(4)
        )
        two = first + second
        sums = (v.zero, first, two, two + third)
        for k, value in enumerate(sums):
            v.store(total.value + value, target + down + k * v.bytes)
        total.value = total.value + (two + (third + fourth))
    rest = n // 4 * (4 * v.bytes)
    for i in v.range(n % 4):
        v.store(total.value, target + rest + i * v.bytes)
        total.value = total.value + v.load(rows + rest + i * v.bytes)


def add_pieces(
    v: Vectors, target: Word, sums: Word, rows: Word, places: Places, n: Word
) -> None:
    """Add to n rows of a panel the running sum at each number,
    and its fraction of the next row.
    """
    for down, totals in _strips(v, target, n):
        for c in v.range(places.columns):
            for r, total in enumerate(totals):
                offset, fraction = _place(v, places, down + r, c)
                below = total.value + v.load(sums + offset)
                total.value = v.fma(v.broadcast(fraction), v.load(rows + offset), below)


def add_levels(v: Vectors, target: Word, rows: Word, places: Places, n: Word) -> None:
    """Add to n rows of a panel the row of each level, if there is one."""
    for down, totals in _strips(v, target, n):
        for c in v.range(places.columns):
            for r, total in enumerate(totals):
                offset, there = _place(v, places, down + r, c)
                total.value = v.fma(
                    v.broadcast(there), v.load(rows + offset), total.value
                )


def _place(v: Vectors, places: Places, r: Word, c: Word) -> tuple[Word, Word]:
    """The offset of a row's number, and the address of its fraction."""
    number = r * places.width + c
    return v.int32(places.offsets + number * 4), places.fractions + number * v.size


def _strips(v: Vectors, target: Word, n: Word) -> Iterator[tuple[Word, list[Variable]]]:
    """Yield each strip's first row and values, which are stored afterwards; then each
    row that is left by itself.
    """
    whole = n // STRIP_ROWS
    for first, n_strips, rows in (
        (0, whole, STRIP_ROWS),
        (whole * STRIP_ROWS, n % STRIP_ROWS, 1),
    ):
        for i in v.range(n_strips):
            down = i * rows + first
            place = target + down * v.bytes
            totals = [v.variable(v.load(place + r * v.bytes)) for r in range(rows)]
            yield down, totals
            for r, total in enumerate(totals):
                v.store(total.value, place + r * v.bytes)


def sum_pieces(
    v: Vectors,
    target: Panels,
    deltas: Panels,
    numbers: SortedNumbers,
    n: Word,
    n_after: Word,
    pair: Word,
) -> None:
    """Store a sum of rows for each of n inputs of a column: its numbers' rows, times
    their fractions, and the rows of all numbers above, `n_after` further inputs
    included. With `pair` in the next panel too.
    """
    for panels, applies in _panels(v, pair):
        above = [v.variable(v.zero) for _ in panels]
        within = [v.variable(v.zero) for _ in panels]
        n_inputs = v.choose(applies, n, 0)
        rest = v.choose(applies, n_after, 0)
        for number in _numbers(v, numbers, n_inputs, rest):
            for p, total in zip(panels, above, strict=True):
                total.value = total.value + _row(v, deltas, numbers, number, p)
        for i in v.range(n_inputs):
            k = n_inputs - 1 - i
            for part, total in zip(within, above, strict=True):
                part.value = total.value
            for number in _numbers(v, numbers, k, 1):
                fraction = v.broadcast(numbers.fractions + number * v.size)
                for p, part, total in zip(panels, within, above, strict=True):
                    delta = _row(v, deltas, numbers, number, p)
                    part.value = v.fma(fraction, delta, part.value)
                    total.value = total.value + delta
            for p, part in zip(panels, within, strict=True):
                v.store(part.value, target.address + target.stride * p + k * v.bytes)


def sum_levels(
    v: Vectors,
    target: Panels,
    deltas: Panels,
    numbers: SortedNumbers,
    n: Word,
    pair: Word,
) -> None:
    """Store for each of n inputs the sum of the rows of its levels;
    with `pair` in the next panel too.
    """
    for panels, applies in _panels(v, pair):
        totals = [v.variable(v.zero) for _ in panels]
        for k in v.range(v.choose(applies, n, 0)):
            for total in totals:
                total.value = v.zero
            for number in _numbers(v, numbers, k, 1):
                there = v.broadcast(numbers.fractions + number * v.size)
                for p, total in zip(panels, totals, strict=True):
                    delta = _row(v, deltas, numbers, number, p)
                    total.value = v.fma(there, delta, total.value)
            for p, total in zip(panels, totals, strict=True):
                v.store(total.value, target.address + target.stride * p + k * v.bytes)


def _panels(v: Vectors, pair: Word) -> Iterator[tuple[range, Condition]]:
    """Yield the panels to take at once, one or two, and whether they are asked for."""
    for n_panels in (1, 2):
        yield range(n_panels), v.equal(pair, n_panels - 1)


def _numbers(
    v: Vectors, numbers: SortedNumbers, k: Word, n: Word | int
) -> Iterator[Word]:
    begin = numbers.starts + k * 8
    yield from v.range(v.word(begin), v.word(begin + n * 8))


def _row(
    v: Vectors, panels: Panels, numbers: SortedNumbers, number: Word, p: int
) -> Vector:
    return v.load(
        panels.address + panels.stride * p + v.int32(numbers.rows + number * 4)
    )


START_DTYPE = np.dtype(np.int64)
COLUMN_DTYPE = np.dtype(np.int32)


class SparseRows:
    """Rows of a sparse matrix in CSR;
    row r has the numbers ``starts[r]`` to ``starts[r + 1]``.

    Parameters
    ----------
    values : shape (n_numbers,)
    columns : int32, shape (n_numbers,), in any order within a row
    starts : int64, shape (n_rows + 1,)
    """

    values: Array
    columns: Array
    starts: Array
    shape: tuple[int, int]
    dtype: np.dtype[Any]

    def __init__(
        self, values: Array, columns: Array, starts: Array, n_features: int
    ) -> None:
        self.values = np.ascontiguousarray(values)
        self.dtype = values.dtype
        self.columns = np.ascontiguousarray(columns, COLUMN_DTYPE)
        self.starts = np.ascontiguousarray(starts, START_DTYPE)
        self.shape = (len(starts) - 1, n_features)

    def __len__(self) -> int:
        return self.shape[0]

    def most_numbers(self, n_rows: int) -> int:
        """The most numbers that any `n_rows` rows have together."""
        counts = np.diff(self.starts)
        n = min(n_rows, len(counts))
        return int(np.partition(counts, len(counts) - n)[len(counts) - n :].sum())


class ColumnBuffers:
    """CSC buffers of a chunk: column pointers, row indices, values."""

    starts: Array
    rows: Array
    values: Array

    def __init__(self, n_features: int, n_numbers: int, dtype: np.dtype[Any]) -> None:
        self.starts = np.zeros(n_features + 2, np.int64)
        self.rows = np.zeros(n_numbers, np.int32)
        self.values = aligned(n_numbers, dtype)


@njit
def _row_of(net: Net, r: int) -> tuple[int, int]:
    batch = batch_of(net)
    place = row(batch.index + r * 8, 1, np.int64)[0] if batch.index else r
    bounds = row(batch.x + place * 8, 2, np.int64)
    return bounds[0], bounds[1]


def activating(scalar: Scalar) -> Any:
    lanes = lanes_of(scalar)
    copy = moves(scalar, lanes).copy
    rectify = moves(scalar, lanes).rectify

    @njit
    def activate(layer: Layer, panel: int, slopes: int, n: int, z: int) -> None:
        """`z` has room for a block of rows: a loop that reads and writes one place does
        not vectorise. silu in place took 4.7 ns a number, from a copy 0.8.
        """
        if layer.stages:
            return
        if layer.form == records.BLOCK:
            copy(panel, z, n * lanes)
            call(layer.activation, (z, panel, slopes, n * lanes))
        elif layer.form == records.RELU or layer.form == records.RELU_DROPPED:
            rectify(panel, n)

    return activate


def sparse_forward(scalar: Scalar) -> Any:
    """The first layer of rows first to last, at buffer row `at` on.

    Predictions read the flat W: packing a W of 50,000 rows took 0.5 s. Several panels
    are multiplied at once: one by one, 20,000 rows of 50 numbers and 100 units took
    0.17 s.
    """
    lanes = lanes_of(scalar)
    add_rows = moves(scalar, lanes).add_rows
    add_wide_rows = moves(scalar, lanes).add_wide_rows
    size = np.dtype(scalar).itemsize
    vector = lanes * size
    z_bytes = ROW_BLOCK * vector
    activate = activating(scalar)

    def forward(address: int, first: int, last: int, at: int) -> None:
        """Groups of `SPARSE_PANELS` panels read flat weights, a row of W in one piece;
        the panels left over, and training, take a panel at a time.
        """
        z = stack(z_bytes)
        net = record_at(address, Net)
        layer = record_at(net.layers, Layer)
        weights = layer.weights
        panel = layer.weight_panel
        stride = vector
        n_wide = 0
        if net.unpacked:
            n_wide = layer.n_out // (SPARSE_PANELS * lanes) * SPARSE_PANELS
            weights = net.unpacked + layer.offset * size
            panel = vector
            stride = layer.n_out * size
        for r in range(first, last):
            outputs = layer.sums + (at + r - first) * vector
            begin, end = _row_of(net, r)
            columns = net.x_columns + begin * 4
            values = net.x_values + begin * size
            numbers = SparseRow(columns, values, end - begin)
            for p in range(0, n_wide, SPARSE_PANELS):
                add_wide_rows(
                    Panels(outputs + p * net.panel, net.panel),
                    Panels(layer.biases + p * layer.packed_panel, layer.packed_panel),
                    MatrixRows(weights + p * panel, stride),
                    numbers,
                )
            for p in range(n_wide, layer.n_panels):
                add_rows(
                    outputs + p * net.panel,
                    layer.biases + p * layer.packed_panel,
                    MatrixRows(weights + p * panel, stride),
                    layer.n_out - p * lanes,
                    numbers,
                )
        for p in range(layer.n_panels):
            skip = p * net.panel + at * vector
            activate(layer, layer.sums + skip, layer.deltas + skip, last - first, z)

    return forward


def sparse_columns(scalar: Scalar) -> Any:
    """Sorts the chunk's numbers by column, then by row."""

    def sort(address: int) -> None:
        net = record_at(address, Net)
        like = row(address, 0, scalar)
        # During placement, starts[c + 1] is the index of the next number of column c.
        starts = row(net.column_starts, net.n_in + 2, np.int64)
        starts[:] = 0
        n_numbers = 0
        for r in range(batch_of(net).n_rows):
            begin, end = _row_of(net, r)
            columns = row(net.x_columns + begin * 4, end - begin, np.int32)
            n_numbers += end - begin
            for e in range(end - begin):
                starts[np.int64(columns[e]) + 2] += 1
        for c in range(net.n_in):
            starts[c + 2] += starts[c + 1]
        rows = row(net.column_rows, n_numbers, np.int32)
        sorted_values = row(net.column_values, n_numbers, scalar)
        for r in range(batch_of(net).n_rows):
            begin, end = _row_of(net, r)
            columns = row(net.x_columns + begin * 4, end - begin, np.int32)
            values = row(net.x_values + begin * like.itemsize, end - begin, scalar)
            for e in range(end - begin):
                after = np.int64(columns[e]) + 1
                rows[starts[after]] = r
                sorted_values[starts[after]] = values[e]
                starts[after] += 1

    return sort


def sparse_gradient(scalar: Scalar) -> Any:
    """Writes the gradient of a tile of the first layer to `g`.

    With `more` the gradient goes on from the chunk before;
    `g_panel` is the bytes of a panel of `g`.
    """
    lanes = lanes_of(scalar)
    add_rows = moves(scalar, lanes).add_rows
    size = np.dtype(scalar).itemsize
    vector = lanes * size

    def differentiate(address: int, t: int, g: int, g_panel: int, more: int) -> None:
        net = record_at(address, Net)
        piece = records_at(net.tiles, net.n_tiles, Tile)[t]
        layer = record_at(net.layers, Layer)
        starts = row(net.column_starts, net.n_in + 1, np.int64)
        for p in range(piece.n_panels):
            deltas = layer.deltas + (piece.panel + p) * net.panel
            before = net.gradient - net.parameters + layer.packed
            before += (piece.panel + p) * layer.packed_panel
            for k in range(piece.first, piece.last):
                rows = net.column_rows + starts[k] * 4
                values = net.column_values + starts[k] * size
                add_rows(
                    g + p * g_panel + (k - piece.first) * vector,
                    before + k * vector if more else net.zeros,
                    MatrixRows(deltas, vector),
                    lanes,
                    SparseRow(rows, values, starts[k + 1] - starts[k]),
                )

    return differentiate


class ExpansionBuffers:
    """The record of an expansion, and the arrays that it points to.

    Parameters
    ----------
    rows : rows that the buffers hold
    """

    record: Array

    def __init__(self, x: Expanded, rows: int) -> None:
        counts = (*x.pieces, *x.levels)
        starts = np.array(x.starts, np.int64)
        n = len(counts)
        self._arrays: dict[str, Array] = {
            "columns": np.repeat(np.arange(n), counts).astype(np.int64),
            "starts": starts,
            "firsts": starts[:-1].astype(np.int32),
            "lasts": np.array(counts, x.dtype) - 1,
            "wholes": np.repeat([0, 1], [len(x.pieces), len(x.levels)]).astype(x.dtype),
            "groups": np.array(_groups(x.pieces), np.int64),
            "offsets": aligned(rows * n, np.int32),
            "fractions": aligned(rows * n, x.dtype),
        }
        fields = {name: address(array) for name, array in self._arrays.items()}
        fields |= {"n_plain": x.plain, "n_pieces": len(x.pieces), "n_columns": n}
        fields["n_groups"] = len(self._arrays["groups"]) - 1
        self.record = aligned(1, Expansion.dtype)
        self.record[0] = tuple(fields[name] for name in Expansion.dtype.names or ())


def _groups(pieces: Sequence[int]) -> list[int]:
    """Starts of groups of columns whose running sums stay in the first-level cache."""
    groups = [0]
    rows = 0
    for c, n in enumerate(pieces):
        if rows + n > SUMS_ROWS:
            groups.append(c)
            rows = 0
        rows += n
    return [*groups, len(pieces)]


def _locating(scalar: Scalar) -> Any:
    """Make the function that gathers rows: plain inputs go to panels, and each other
    number becomes a place, an offset and a fraction, in the expansion's buffers.
    """
    lanes = lanes_of(scalar)
    size = np.dtype(scalar).itemsize
    vector = lanes * size
    pack_row = moves(scalar, lanes).pack_row

    @njit
    def locate(
        numbers: Array,
        firsts: Array,
        lasts: Array,
        wholes: Array,
        offsets: Array,
        fractions: Array,
        n: int,
    ) -> None:
        """Find the pieces of n numbers, cut to the column's range; NaN is 0."""
        zero, one = scalar(0), scalar(1)
        for c in range(n):
            x = numbers[c] if numbers[c] > zero else zero
            piece = np.int32(x if x < lasts[c] else lasts[c])
            rest = numbers[c] - scalar(piece) + wholes[c]
            rest = rest if rest > zero else zero
            offsets[c] = (firsts[c] + piece) * vector
            fractions[c] = rest if rest < one else one

    @njit
    def locate_rows(
        net: Net, expansion: Expansion, first: int, last: int, at: int
    ) -> None:
        """Gather the plain inputs of rows to panels,
        and find the pieces of the other numbers.
        """
        batch = batch_of(net)
        n = expansion.n_columns
        firsts = row(expansion.firsts, n, np.int32)
        lasts = row(expansion.lasts, n, scalar)
        wholes = row(expansion.wholes, n, scalar)
        for r in range(first, last):
            place = row(batch.index + r * 8, 1, np.int64)[0] if batch.index else r
            source = batch.x + place * (expansion.n_plain + n) * size
            to = at + r - first
            pack_row(source, net.inputs + to * vector, net.panel, expansion.n_plain)
            numbers = row(source + expansion.n_plain * size, n, scalar)
            offsets = row(expansion.offsets + to * n * 4, n, np.int32)
            fractions = row(expansion.fractions + to * n * size, n, scalar)
            locate(numbers, firsts, lasts, wholes, offsets, fractions, n)

    return locate_rows


def _placing(scalar: Scalar) -> Any:
    size = np.dtype(scalar).itemsize

    @njit
    def places_of(expansion: Expansion, at: int, first: int, last: int) -> Places:
        number = at * expansion.n_columns + first
        offsets = expansion.offsets + number * 4
        fractions = expansion.fractions + number * size
        return Places(offsets, fractions, expansion.n_columns, last - first)

    return places_of


def _adding(scalar: Scalar) -> tuple[Any, Any]:
    """Two functions: one begins panels with biases and plain inputs,
    the other adds the columns' pieces and levels to a panel.
    """
    lanes = lanes_of(scalar)
    size = np.dtype(scalar).itemsize
    vector = lanes * size
    loops = expanded(scalar, lanes)
    pack_row = moves(scalar, lanes).pack_row
    places_of = _placing(scalar)
    running_sums = loops.running_sums
    add_pieces = loops.add_pieces
    add_levels = loops.add_levels

    @njit
    def begin(net: Net, layer: Layer, expansion: Expansion, at: int, n: int) -> None:
        outputs = layer.sums + at * vector
        down = at * vector
        if expansion.n_plain > 0:
            plain = net.inputs + down
            depth = expansion.n_plain
            weights = layer.weights
            factors = Operands(weights, layer.weight_panel, plain, net.panel, depth)
            c = Panels(outputs, net.panel)
            start = Start(layer.biases, 0, layer.packed_panel)
            shape = Shape(layer.n_out, n)
            product = records.blocks_of(net).product
            call(product, (c, start, factors, Epilogue(STORE, 0), shape, 0))
            return
        for p in range(layer.n_panels):
            biases = layer.biases + p * layer.packed_panel
            panel = outputs + p * net.panel
            for r in range(n):
                pack_row(biases, panel + r * vector, 0, lanes)

    @njit
    def add_columns(
        expansion: Expansion, weights: int, target: int, at: int, n: int, sums: int
    ) -> None:
        groups = row(expansion.groups, expansion.n_groups + 1, np.int64)
        starts = row(expansion.starts, expansion.n_columns + 1, np.int64)
        for g in range(expansion.n_groups):
            low, high = groups[g], groups[g + 1]
            begin = sums - starts[low] * vector
            for c in range(low, high):
                down = starts[c] * vector
                running_sums(weights + down, begin + down, starts[c + 1] - starts[c])
            add_pieces(target, begin, weights, places_of(expansion, at, low, high), n)
        if expansion.n_columns > expansion.n_pieces:
            levels = places_of(expansion, at, expansion.n_pieces, expansion.n_columns)
            add_levels(target, weights, levels, n)

    return begin, add_columns


def expanded_forward(scalar: Scalar) -> Any:
    """The first layer of rows first to last, at buffer row `at` on.

    Each block of rows computes the running sums anew:
    with 128 rows a tenth of the time.
    """
    lanes = lanes_of(scalar)
    size = np.dtype(scalar).itemsize
    vector = lanes * size
    locate_rows = _locating(scalar)
    (begin, add_columns) = _adding(scalar)
    activate = activating(scalar)
    sums_bytes = max(SUMS_ROWS, ROW_BLOCK) * vector

    def forward(address: int, first: int, last: int, at: int) -> None:
        sums = stack(sums_bytes)
        net = record_at(address, Net)
        layer = record_at(net.layers, Layer)
        expansion = record_at(net.expansion, Expansion)
        n = last - first
        locate_rows(net, expansion, first, last, at)
        begin(net, layer, expansion, at, n)
        for p in range(layer.n_panels):
            skip = p * net.panel + at * vector
            outputs = layer.sums + skip
            weights = layer.weights + p * layer.weight_panel
            add_columns(expansion, weights, outputs, at, n, sums)
            activate(layer, outputs, layer.deltas + skip, n, sums)

    return forward


def _plain_gradient(scalar: Scalar) -> Any:
    """Make the function that writes a tile's gradient by the plain inputs, the first
    rows of W, as a product of panels.
    """
    lanes = lanes_of(scalar)
    size = np.dtype(scalar).itemsize

    @njit
    def plain_gradient(
        net: Net, layer: Layer, tile: Tile, last: int, g: int, g_panel: int
    ) -> None:
        """Write a tile's gradient, of inputs from `tile.first` to `last`, to panels at
        `g`: the deltas times the inputs, summed over the batch's rows.
        """
        n_rows = batch_of(net).n_rows
        panel = net.panel
        columns = net.inputs + tile.first // lanes * panel + tile.first % lanes * size
        deltas = layer.deltas + tile.panel * panel
        factors = Operands(deltas, panel, columns, panel, n_rows)
        n_columns = min(tile.n_panels * lanes, layer.n_out - tile.panel * lanes)
        shape = Shape(n_columns, last - tile.first)
        start = Start(net.zeros, 0, 0)
        product = records.blocks_of(net).gradient_product
        c = Panels(g, g_panel)
        call(product, (c, start, factors, Epilogue(STORE, 0), shape, 0))

    return plain_gradient


def expanded_columns(scalar: Scalar) -> Any:
    """Sorts the chunk's numbers by their inputs, by counting."""
    vector = lanes_of(scalar) * np.dtype(scalar).itemsize

    def sort(address: int) -> None:
        net = record_at(address, Net)
        expansion = record_at(net.expansion, Expansion)
        n_rows = batch_of(net).n_rows
        width = expansion.n_columns
        n_numbers = n_rows * width
        starts = row(net.column_starts, net.n_in + 2, np.int64)
        offsets = row(expansion.offsets, n_numbers, np.int32)
        fractions = row(expansion.fractions, n_numbers, scalar)
        rows = row(net.column_rows, n_numbers, np.int32)
        sorted_fractions = row(net.column_values, n_numbers, scalar)
        # During placement, starts[k + 1] is the index of the next number of input k.
        starts[:] = 0
        for e in range(n_numbers):
            starts[np.int64(offsets[e]) // vector + 2] += 1
        for k in range(net.n_in):
            starts[k + 2] += starts[k + 1]
        for r in range(n_rows):
            for e in range(r * width, r * width + width):
                after = np.int64(offsets[e]) // vector + 1
                rows[starts[after]] = r * vector
                sorted_fractions[starts[after]] = fractions[e]
                starts[after] += 1

    return sort


def _column_gradients(scalar: Scalar) -> Any:
    """Make the function that writes a tile's gradient by expanded columns. The numbers
    of all inputs are sorted, so each column is one run; a tile may end within a column
    of pieces, whose further inputs count as above.
    """
    vector = lanes_of(scalar) * np.dtype(scalar).itemsize
    loops = expanded(scalar, lanes_of(scalar))
    sum_pieces = loops.sum_pieces
    sum_levels = loops.sum_levels

    @njit
    def column_gradients(
        net: Net, expansion: Expansion, tile: Tile, g: Panels, deltas: Panels, pair: int
    ) -> None:
        columns = row(expansion.columns, tile.last - expansion.n_plain, np.int64)
        starts = row(expansion.starts, expansion.n_columns + 1, np.int64)
        rows = net.column_rows
        fractions = net.column_values
        k = max(tile.first, expansion.n_plain)
        while k < tile.last:
            c = columns[k - expansion.n_plain]
            to = Panels(g.address + (k - tile.first) * vector, g.stride)
            numbers = SortedNumbers(net.column_starts + k * 8, rows, fractions)
            if c < expansion.n_pieces:
                stop = min(starts[c + 1], tile.last)
                sum_pieces(to, deltas, numbers, stop - k, starts[c + 1] - stop, pair)
                k = stop
            else:
                sum_levels(to, deltas, numbers, tile.last - k, pair)
                k = tile.last

    return column_gradients


def expanded_gradient(scalar: Scalar) -> Any:
    """Writes the gradient of a tile of the first layer to `g`.

    With `more` the gradient goes on from the chunk before; `g_panel` is the bytes of a
    panel of `g`. Two panels at once read each number's place once.
    """
    lanes = lanes_of(scalar)
    size = np.dtype(scalar).itemsize
    vector = lanes * size
    add = moves(scalar, lanes).add
    plain_gradient = _plain_gradient(scalar)
    column_gradients = _column_gradients(scalar)

    @hinted(control=True)
    def differentiate(address: int, t: int, g: int, g_panel: int, more: int) -> None:
        net = record_at(address, Net)
        tile = records_at(net.tiles, net.n_tiles, Tile)[t]
        layer = record_at(net.layers, Layer)
        expansion = record_at(net.expansion, Expansion)
        if tile.first < expansion.n_plain:
            plain_gradient(
                net, layer, tile, min(tile.last, expansion.n_plain), g, g_panel
            )
        for p in range(0, tile.n_panels, 2):
            pair = 1 if p + 1 < tile.n_panels else 0
            panel = Panels(g + p * g_panel, g_panel)
            deltas = Panels(layer.deltas + (tile.panel + p) * net.panel, net.panel)
            column_gradients(net, expansion, tile, panel, deltas, pair)
        for p in range(tile.n_panels if more else 0):
            # The gradient of the chunks before.
            down = (tile.panel + p) * layer.packed_panel + tile.first * vector
            before = net.gradient - net.parameters + layer.packed + down
            add(before, g + p * g_panel, (tile.last - tile.first) * lanes)

    return differentiate
