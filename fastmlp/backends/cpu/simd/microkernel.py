"""The innermost loops: tiles of a matrix product in vector registers, and dot products.

A tile keeps rows x vectors accumulators in registers. It takes `DEPTH_BLOCK` steps of
the sums at a time: a block of B stays in the first-level cache while all rows of A pass
by. Every element is one chain of fused multiply-adds in the order of k, so tiles and
blocks do not change bits. All matrices lie in `Panels`.

A last layer of few outputs takes dot products: vectors along the inputs, and along the
rows. In a product of panels, one output is a panel of 16 with 15 columns of padding:
0.27 -> 0.05 us of 3.7 (8-32-32-1@32, one thread). The dot products come in columns, as
the loss reads them. The deltas are panels of D transposed: a vector of `lanes` rows for
each output.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import cache, partial
from typing import NamedTuple

import numpy as np

from fastmlp.backends.cpu.simd.vector import (
    Condition,
    Panels,
    Scalar,
    Variable,
    Vector,
    Vectors,
    Word,
)
from fastmlp.backends.cpu.simd.vector_function import (
    Loops,
    VectorFunction,
    vector_function,
)
from fastmlp.backends.cpu.tuning import (
    DEPTH_BLOCK,
    MOST_STREAMS,
    PREFETCH_STEPS,
    ROW_BLOCK,
    SMALL_TILE_ROWS,
    STRIP_ROWS,
)
from fastmlp.compiler.target import LINE_BYTES, PairProducts

# Memory that is read after a product: `n_streams` pieces of `n_lines` lines each;
# the pieces' addresses follow the record.
STREAMS = np.dtype((np.record, [("n_streams", np.int64), ("n_lines", np.int64)]))
STREAMS_BYTES = STREAMS.itemsize + 8 * MOST_STREAMS


class Turn(NamedTuple):
    """One of `n_turns` turns that share the prefetches of some lines."""

    number: Word | int
    n_turns: Word | int


def prefetch_share(
    v: Vectors, places: Sequence[Word], n_lines: Word, turn: Turn
) -> None:
    at_once = (n_lines + (turn.n_turns - 1)) // turn.n_turns
    begin = turn.number * at_once
    end = begin + at_once
    for line in v.range(begin, v.choose(end < n_lines, end, n_lines)):
        skip = line * LINE_BYTES
        for place in places:
            v.prefetch(place + skip)


def prefetch_streams(v: Vectors, streams: Word, turn: Turn) -> None:
    """A turn's share of the pieces of a `STREAMS` record; address 0: no record."""

    def prefetch() -> None:
        n_streams = v.word(streams)
        n_lines = v.word(streams + 8)
        for i in v.range(n_streams):
            prefetch_share(
                v, [v.word(streams + STREAMS.itemsize + i * 8)], n_lines, turn
            )

    v.when(streams > 0, prefetch)


STORE, RELU, TIMES, WHERE_POSITIVE, PLUS, RELU_PLUS = range(6)
# Products by column have fewer: each epilogue is code in every shape of tile.
BY_COLUMN = (STORE, TIMES, WHERE_POSITIVE)


class Epilogue(NamedTuple):
    """One of the numbers above, and the address of its operand,
    which lies like the result.
    """

    number: Word
    operand: Word


def apply_epilogue(
    v: Vectors, number: int, value: Vector, operand: Callable[[], Vector]
) -> Vector:
    """An epilogue's result for a vector of sums; loads the operand if it needs it."""
    if number == TIMES:
        return value * operand()
    if number == WHERE_POSITIVE:
        return v.select(operand() > v.zero, value, v.zero)
    if number in (PLUS, RELU_PLUS):
        value = value + operand()
    return v.positive_part(value) if number in (RELU, RELU_PLUS) else value


def finish_delta(v: Vectors, number: Word, delta: Vector, operand: Vector) -> Vector:
    """An epilogue's result for deltas; `number` is STORE, TIMES or WHERE_POSITIVE."""
    kept = apply_epilogue(v, WHERE_POSITIVE, delta, lambda: operand)
    value = v.select(v.equal(number, WHERE_POSITIVE), kept, delta)
    product = apply_epilogue(v, TIMES, delta, lambda: operand)
    return v.select(v.equal(number, TIMES), product, value)


class TileForm(NamedTuple):
    """The form that a microkernel is compiled for.

    Attributes
    ----------
    lanes : numbers of a vector
    rows, vectors : of the tile
    by_column : how the left matrix A is read
        By rows, `depth` numbers of each go into a sum; by columns,
        A lies transposed, and `depth` rows go into a sum.
    narrow : True: the last vector is the first half of a panel, and the other half of C is zeros
        AVX-512 on units of 256 bits takes half the time for it.
    prefetches : the next block of B; by column, the caller's streams
    pairs : not None: a number of A or B is a pair of bfloat16 in a float32's place
        Two that follow each other along the sums;
        a row of a panel of A has half as many numbers.
    packed : by column: A lies in panels of `SMALL_TILE_ROWS` columns
    """

    scalar: Scalar
    lanes: int
    rows: int
    vectors: int
    by_column: bool
    narrow: bool = False
    prefetches: bool = False
    pairs: PairProducts | None = None
    packed: bool = False


class Start(NamedTuple):
    """The matrix that sums start from: its address,
    bytes between its rows and between its panels.

    The matrix may lie like C, be one row for all (a bias:
    `row_stride` 0) or one vector.
    """

    address: Word
    row_stride: Word
    stride: Word


class Operands(NamedTuple):
    """Panels of B and of A, and the number of products of a sum."""

    b: Word
    b_stride: Word
    a: Word
    a_stride: Word
    depth: Word


@cache
def sweep(tile: TileForm, kind: "Callable[..., Sweep] | None" = None) -> VectorFunction:
    """The product of up to `ROW_BLOCK` rows,
    by one shape of tile, with a group of panels.

    ``product(c, start, factors, epilogue, n_rows, streams)`` stores C = start + A B by
    way of an epilogue; by column one of `BY_COLUMN`. `c` are Panels with room for whole
    tiles. `streams` is the address of a record of what to prefetch, or 0.
    """

    def product(
        v: Vectors,
        c: Panels,
        start: Start,
        factors: Operands,
        epilogue: Epilogue,
        n_rows: Word,
        streams: Word,
    ) -> None:
        (kind or Sweep)(v, tile, c, start, factors, epilogue, n_rows).run(streams)

    return vector_function(product, tile.scalar, tile.lanes)


class Sweep:
    """For each block of the sums, for each tile of rows."""

    def __init__(
        self,
        v: Vectors,
        tile: TileForm,
        c: Panels,
        start: Start,
        factors: Operands,
        epilogue: Epilogue,
        n_rows: Word,
    ) -> None:
        self.v = v
        self.tile = tile
        self.n_rows = n_rows
        self.c = c
        self.start = start
        self.factors = factors
        self.epilogue = epilogue
        # Numbers of a row of a panel of A.
        self.in_row = tile.lanes // 2 if tile.pairs else tile.lanes
        self.vectors = [v] * tile.vectors
        if tile.narrow:
            self.vectors[-1] = v.of_lanes(tile.lanes // 2)
        # Accumulators, by row and panel.
        self.sums: dict[tuple[int, int], Variable] = {
            (m, j): of.variable(of.zero)
            for m in range(tile.rows)
            for j, of in enumerate(self.vectors)
        }
        # The sums between two blocks.
        self.waiting = Panels(v.scratch(ROW_BLOCK * tile.vectors), ROW_BLOCK * v.bytes)

    def run(self, streams: Word) -> None:
        """Blocks of the sums outside, tiles of rows inside: a block of B stays in the
        first-level cache for all rows.
        """
        v = self.v
        tile = self.tile
        depth = self.factors.depth
        last = self.last_block()
        n_blocks = last + 1
        n_tiles = (self.n_rows + (tile.rows - 1)) // tile.rows
        for block in v.range(n_blocks):
            begins, ends = v.equal(block, 0), v.equal(block, last)
            first = block * DEPTH_BLOCK
            n = v.choose(ends, depth - first, DEPTH_BLOCK)
            for t in v.range(n_tiles):
                r = t * tile.rows
                self.begin(r, begins)
                if tile.by_column:
                    turn = Turn(block * n_tiles + t, n_blocks * n_tiles)
                    self.along_columns(r, first, n, streams, turn)
                else:
                    self.along_rows(
                        r, first, n, self.prefetch_of(first, ends, t, n_tiles)
                    )
                self.finish(r, ends)

    def last_block(self) -> Word:
        return (self.factors.depth - 1) // DEPTH_BLOCK

    def begin(self, r: Word, begins: Condition) -> None:
        """Load the sums, from the matrix `start` or from the block before."""
        v = self.v
        start = self.start
        waiting = self.waiting
        base = v.choose(begins, start.address, waiting.address)
        row_stride = v.choose(begins, start.row_stride, v.bytes)
        stride = v.choose(begins, start.stride, waiting.stride)
        base = base + r * row_stride
        for (m, j), total in self.sums.items():
            total.value = self.vectors[j].load(base + row_stride * m + stride * j)

    def prefetch_of(
        self, first: Word, ends: Condition, t: Word, n_tiles: Word
    ) -> Callable[[Word], None]:
        """A function that prefetches, along a tile's panels of A, a share of the next
        block of B, further down or of the next panels. Nothing is prefetched if all of
        k is one block.

        232 -> 254 GFLOP/s of 280 (128 x 2048 x 2048).
        """
        v = self.v
        b = self.factors.b
        stride = self.factors.b_stride
        if not self.tile.prefetches:
            return lambda panel: None
        down = (first + DEPTH_BLOCK) * v.bytes
        begin = b + v.choose(ends, stride * self.tile.vectors, down)
        places = [begin + stride * j for j in range(self.tile.vectors)]
        in_block = DEPTH_BLOCK * v.bytes // LINE_BYTES
        n_lines = v.choose(self.factors.depth > DEPTH_BLOCK, in_block, 0)
        n_panels = DEPTH_BLOCK // self.in_row
        before, n_turns = t * n_panels, n_tiles * n_panels
        return lambda panel: prefetch_share(
            v, places, n_lines, Turn(before + panel, n_turns)
        )

    def rows_of_b(self, first: Word) -> list[Word]:
        down = self.factors.b + first * self.v.bytes
        return [down + self.factors.b_stride * j for j in range(self.tile.vectors)]

    def along_columns(
        self, r: Word, first: Word, n: Word, streams: Word, turn: Turn
    ) -> None:
        """A tile that prefetches does its share of the streams in separate turns."""
        v = self.v
        of = self.factors
        lanes = self.tile.lanes
        size = self.v.size
        lanes = SMALL_TILE_ROWS if self.tile.packed else lanes
        step_of_a = lanes * size
        a = of.a + r // lanes * of.a_stride + r % lanes * size + first * step_of_a
        # A tile of more rows than lanes finds the columns of A from the next panels;
        # rows past the last read the first panel again, as there may be no other.
        panels: list[Word | int] = [0]
        for lane in range(lanes, self.tile.rows, lanes):
            skip = of.a_stride * (lane // lanes)
            panels.append(v.choose(r + lane < self.n_rows, skip, 0))
        columns = [panels[m // lanes] + m % lanes * size for m in range(self.tile.rows)]
        panels_of_b = self.rows_of_b(first)

        def along(k: Word | int, n: Word) -> None:
            right = a + k * step_of_a
            down = k * v.bytes
            self.accumulate(
                right, columns, step_of_a, [b + down for b in panels_of_b], n
            )

        if not self.tile.prefetches:
            along(0, n)
            return
        step = v.choose(streams > 0, PREFETCH_STEPS, n)
        n_turns = v.choose(streams > 0, (n + (PREFETCH_STEPS - 1)) // PREFETCH_STEPS, 1)
        for i in v.range(n_turns):
            of_turn = Turn(turn.number * n_turns + i, turn.n_turns * n_turns)
            prefetch_streams(v, streams, of_turn)
            k = i * step
            along(k, v.choose(n - k < step, n - k, step))

    def along_rows(
        self, r: Word, first: Word, n: Word, prefetch: Callable[[Word], None]
    ) -> None:
        """A row is cut into panels of `in_row` numbers; the last one may be shorter."""
        v = self.v
        of = self.factors
        in_row = self.in_row
        row_bytes = in_row * v.size
        a = of.a + r * row_bytes + first // in_row * of.a_stride
        panels_of_b = self.rows_of_b(first)
        rows = [m * row_bytes for m in range(self.tile.rows)]

        def along(panel: Word, n: Word | int) -> None:
            right = a + panel * of.a_stride
            down = panel * (in_row * v.bytes)
            if self.tile.prefetches and self.tile.pairs:
                # The next tile's numbers of A, which another core may have written.
                # 11.3 -> 11.0 ms (128-1024-1024-10@512, 2 threads); in float32 nothing.
                tile_bytes = self.tile.rows * row_bytes
                for skip in range(0, tile_bytes, LINE_BYTES):
                    v.prefetch(right + (tile_bytes + skip))
            self.accumulate(right, rows, v.size, [b + down for b in panels_of_b], n)

        whole = n // in_row
        for panel in v.range(whole):
            prefetch(panel)
            along(panel, in_row)
        along(whole, n % in_row)

    def accumulate(
        self,
        a: Word,
        rows: Sequence[Word | int],
        step: int,
        b: Sequence[Word],
        n: Word | int,
    ) -> None:
        """Add n products to each sum: for each k, a column of the tile of A times a row
        of the tile of B. Row m of A begins at ``a + rows[m]``, its numbers `step` bytes
        apart.

        Unrolled fourfold, the loop takes the same time and compiles twice as long.
        """
        v = self.v
        tile = self.tile
        n_narrow = self.tile.lanes // 2
        for k in v.range(n):
            row = [
                of.load(place + k * v.bytes)
                for of, place in zip(self.vectors, b, strict=True)
            ]
            column = a + k * step
            for m, skip in enumerate(rows):
                number = v.broadcast(column + skip)
                if tile.narrow and tile.vectors > 1:
                    # LLVM would load the number again for the narrow vector,
                    # and 8 x 2 tiles gain nothing by being narrow.
                    number = v.opaque(number)
                for j, of in enumerate(self.vectors):
                    total = self.sums[m, j]
                    factor = (
                        number
                        if of is v
                        else v.shuffle(number, number, range(n_narrow))
                    )
                    add = of.add_pairs if tile.pairs else of.fma
                    total.value = add(factor, row[j], total.value)

    def finish(self, r: Word, ends: Condition) -> None:
        """Store the tile by way of the epilogue;
        before the last block, store its sums.
        """
        v = self.v
        c = self.c
        waiting = self.waiting
        target = Panels(
            v.choose(ends, c.address, waiting.address),
            v.choose(ends, c.stride, waiting.stride),
        )
        few = self.tile.by_column and not self.tile.packed
        known = BY_COLUMN if few else range(RELU_PLUS + 1)
        cases = {number: partial(self.store, target, r, number) for number in known}
        v.switch(v.choose(ends, self.epilogue.number, STORE), cases)

    def store(self, target: Panels, r: Word, epilogue: int) -> None:
        v = self.v
        for (m, j), total in self.sums.items():
            of = self.vectors[j]
            down = r * v.bytes + m * v.bytes
            operand = self.epilogue.operand + target.stride * j + down
            value = apply_epilogue(of, epilogue, total.value, partial(of.load, operand))
            v.store(self.filled(value, of), target.address + target.stride * j + down)

    def filled(self, value: Vector, of: Vectors) -> Vector:
        """A half vector is filled up with zeros."""
        return (
            value
            if of is self.v
            else self.v.shuffle(value, of.zero, range(self.tile.lanes))
        )


def skinny(scalar: Scalar, lanes: int) -> Loops:
    return Loops(globals(), scalar, lanes)


def delta_unit(lanes: int) -> int:
    """Rows of one strip with contiguous deltas."""
    return min(lanes, STRIP_ROWS)


def dots(
    v: Vectors,
    inputs: Panels,
    weights: Word,
    biases: Word,
    target: Word,
    n_in: Word,
    n_out: Word,
    n: Word,
) -> None:
    """Store X W + b of n rows of panels in columns:
    the n numbers of one output, then the next's.

    The weights are panels of W transposed. Each element is the sums of every `lanes`-th
    product, added up by halves. Reads whole squares of rows; writes up to a vector past
    each column, which the next column overwrites.
    """
    for j in v.range(n_out):
        w = Panels(weights + j * v.bytes, n_out * v.bytes)
        bias = v.broadcast(biases + j * v.size)
        column = target + j * n * v.size
        for i, sums in _dot_products(v, inputs, w, n_in, n):
            v.store(sums + bias, column + i * v.bytes)


def backward_dots(
    v: Vectors,
    weights: Panels,
    deltas: Panels,
    target: Word,
    epilogue: Epilogue,
    n_out: Word,
    n: Word,
) -> None:
    """Store W d of one row's deltas d, for n rows of panels of W, through an epilogue,
    for a layer without a transposed copy of W. Target, operand and deltas are rows of
    panels with one stride. Reads whole squares of W.
    """
    for i, sums in _dot_products(v, weights, deltas, n_out, n):
        across = i * deltas.stride
        # Padding of deltas stays zero.
        sums = v.select(v.first(n - i * v.lanes), sums, v.zero)
        operand = v.load(epilogue.operand + across)
        v.store(finish_delta(v, epilogue.number, sums, operand), target + across)


def _dot_products(
    v: Vectors, matrix: Panels, vector: Panels, depth: Word, n: Word
) -> Iterator[tuple[Word, Vector]]:
    """Yield the products of n rows of panels and a row of panels:
    `lanes` at a time, numbered.
    """
    sums = [v.variable(v.zero) for _ in range(v.lanes)]
    for i in v.range(v.n_vectors(n)):
        for total in sums:
            total.value = v.zero
        rows = matrix.address + i * (v.lanes * v.bytes)
        for p, part in v.parts(depth):
            w = part.load(vector.address + p * vector.stride)
            across = rows + p * matrix.stride
            for r, total in enumerate(sums):
                total.value = v.fma(part.load(across + r * v.bytes), w, total.value)
        yield i, v.sums([total.value for total in sums])


def add_row(
    v: Vectors, numbers: Word, stride: Word, start: Word, target: Word, n: Word
) -> None:
    """Store `start`, one number,
    plus the sum of n numbers of a row of panels, by vectors.
    """
    total = v.variable(v.zero)
    for p, part in v.parts(n):
        total.value = total.value + part.load(numbers + p * stride)
    v.store_lane(v.sum(total.value) + v.broadcast(start), target)
