"""The innermost loops: tiles of a matrix product in vector registers, written as LLVM IR.

All matrices lie in panels: a panel is `lanes` columns, one vector register wide, its rows one
after the other. Element (r, j) is number ``r * lanes + j % lanes`` of panel ``j // lanes``. So no
stride is a multiple of a page, every load is of a whole vector, and the hardware prefetches.

A tile keeps rows x vectors accumulators in registers and goes along the sums, `DEPTH_BLOCK` steps
at a time: a block of B stays in the first-level cache while all rows of A pass by. Every element
is one chain of fused multiply-adds in the order of k, so its bits depend on no tile and no block.
Vectors are plain LLVM types: a host without such registers gets several narrower ones.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from fastmlp.backends.cpu.plan.workspace import ROW_BLOCK
from fastmlp.backends.cpu.simd.prefetch import NextBlock, ask_for_wanted
from fastmlp.backends.cpu.simd.target import LINE_BYTES, vector_bytes
from fastmlp.compiler import INTERPRETED, row
from fastmlp.compiler.memory import entry_alloca

WORD, LANE = ir.IntType(64), ir.IntType(32)
STORE, RELU, TIMES, WHERE_POSITIVE, PLUS, RELU_PLUS = range(6)
# What products by column are for knows fewer: each is code for every shape of tile.
BY_COLUMN = (STORE, TIMES, WHERE_POSITIVE)


class Tile(NamedTuple):
    """What a microkernel is compiled for.

    Attributes
    ----------
    scalar : np.float32 or np.float64
    lanes : int, numbers of a vector
    rows, vectors : int, the shape of the tile
    by_column : bool
        How the left matrix A is read: its rows, of which `depth` numbers go into a sum; or its
        columns, as A transposed, of which `depth` rows go into a sum.
    narrow : bool
        Whether the last vector is the first half of a panel alone; the other half of C is zeros.
        AVX-512 on units of 256 bits takes half the time for it.
    ahead : bool
        Whether it asks memory for the block of B that comes next; by column, for what is wanted.
    """

    scalar: type[np.floating[Any]]
    lanes: int
    rows: int
    vectors: int
    by_column: bool
    narrow: bool = False
    ahead: bool = False

    @property
    def size(self) -> int:
        """Bytes of a number."""
        return np.dtype(self.scalar).itemsize


# With 32 registers, so that a block of B, 16 KiB, leaves room in the first-level cache: 64 x 32 x
# 2048 ran at 131 GFLOP/s without blocks, and at 189. With 16, a tile's beginning and end cost more
# than a block of 36 KiB in the second: 90 GFLOP/s of 110 with 128 steps, 93 with 384.
DEPTH_BLOCK = 128 if vector_bytes() == 64 else 384


def sweep(tile: Tile) -> Callable[..., None]:
    """Return the product of up to `ROW_BLOCK` rows, by one shape of tile, with a group of panels.

    ``product(c, c_panel, start, start_row, start_panel, b, b_panel, a, a_panel, depth, epilogue,
    operand, n_rows, wanted)`` takes addresses, and strides in bytes. C = start + A B, or in the
    epilogue its positive part (RELU), its product with the operand (TIMES), C where the operand is
    positive and 0 elsewhere (WHERE_POSITIVE), its sum with the operand (PLUS), or the positive part
    of that (RELU_PLUS); by column those of `BY_COLUMN` alone. The operand lies like C, or is C;
    `start` may lie like C, be one row for all (a bias: `start_row` 0) or one vector. C must have
    room for whole tiles.
    """
    return _interpreted(tile) if INTERPRETED else _compiled(tile)


class _Emitter:
    """Emits one sweep into a function that is being built."""

    def __init__(self, builder: Any, tile: Tile, arguments: Any) -> None:
        self.builder, self.tile = builder, tile
        (
            self.c, self.c_panel, self.start, self.start_row, self.start_panel,
            self.b, self.b_panel, self.a, self.a_panel, self.depth, self.epilogue, self.operand,
            self.n_rows, self.wanted,
        ) = arguments  # fmt: skip
        self.kind = ir.FloatType() if tile.size == 4 else ir.DoubleType()
        self.vector = ir.VectorType(self.kind, tile.lanes)
        self.vector_bytes = tile.lanes * tile.size
        self.vectors = [self.vector] * tile.vectors
        if tile.narrow:
            self.vectors[-1] = ir.VectorType(self.kind, tile.lanes // 2)
        self.fmas = [self.fma_of(vector) for vector in self.vectors]
        self.cells = [(m, v) for m in range(tile.rows) for v in range(tile.vectors)]
        # One alloca each: they become registers.
        self.sums = {(m, v): entry_alloca(builder, self.vectors[v]) for m, v in self.cells}
        waiting = ir.ArrayType(self.vector, ROW_BLOCK * tile.vectors)
        self.waiting = builder.ptrtoint(entry_alloca(builder, waiting), WORD)

    def fma_of(self, vector: Any) -> Any:
        name = f"llvm.fma.v{vector.count}f{8 * self.tile.size}"
        signature = ir.FunctionType(vector, [vector] * 3)
        return cgutils.get_or_insert_function(self.builder.module, signature, name)

    def emit(self) -> None:
        """For each block of the sums, for each tile of rows."""
        builder, block = self.builder, self.constant(DEPTH_BLOCK)
        last = builder.udiv(builder.sub(self.depth, self.constant(1)), block)
        n_blocks = builder.add(last, self.constant(1))
        n_tiles = self.rounded_up(self.n_rows, self.tile.rows)
        with cgutils.for_range(builder, n_blocks) as blocks:
            begins = builder.icmp_unsigned("==", blocks.index, self.constant(0))
            ends = builder.icmp_unsigned("==", blocks.index, last)
            first = builder.mul(blocks.index, block)
            n = builder.select(ends, builder.sub(self.depth, first), block)
            with cgutils.for_range(builder, n_tiles) as tiles:
                r = builder.mul(tiles.index, self.constant(self.tile.rows))
                self.start_sums(r, begins)
                if self.tile.ahead and self.tile.by_column:
                    turn = self.add(builder.mul(blocks.index, n_tiles), tiles.index)
                    n_turns = builder.mul(n_blocks, n_tiles)
                    ask_for_wanted(builder, self.wanted, turn, n_turns)
                elif self.tile.ahead:
                    self.next = self.look_ahead(first, ends, tiles.index, n_tiles)
                self.go_along(r, first, n)
                self.finish(r, ends)

    def rounded_up(self, n: Any, unit: int) -> Any:
        return self.builder.udiv(self.add(n, self.constant(unit - 1)), self.constant(unit))

    def start_sums(self, r: Any, begins: Any) -> None:
        """From the matrix `start`, or from where the block before stopped."""
        builder, vector = self.builder, self.constant(self.vector_bytes)
        waiting_panel = self.constant(ROW_BLOCK * self.vector_bytes)
        base = builder.select(begins, self.start, self.waiting)
        row_stride = builder.select(begins, self.start_row, vector)
        panel_stride = builder.select(begins, self.start_panel, waiting_panel)
        base = self.add(base, builder.mul(r, row_stride))
        for (m, v), total in self.sums.items():
            place = self.add(base, self.times(row_stride, m))
            place = self.add(place, self.times(panel_stride, v))
            builder.store(self.load(place, 0, self.vectors[v]), total)

    def look_ahead(self, first: Any, ends: Any, tile: Any, n_tiles: Any) -> NextBlock:
        """The next block of B, further down or of the next panels, where sums take several."""
        builder, block = self.builder, self.constant(DEPTH_BLOCK)
        down = builder.mul(self.add(first, block), self.constant(self.vector_bytes))
        next_panels = self.times(self.b_panel, self.tile.vectors)
        begin = self.add(self.b, builder.select(ends, next_panels, down))
        places = [self.add(begin, self.times(self.b_panel, v)) for v in range(self.tile.vectors)]
        deep = builder.icmp_unsigned(">", self.depth, block)
        n_lines = self.constant(DEPTH_BLOCK * self.vector_bytes // LINE_BYTES)
        n_lines = builder.select(deep, n_lines, self.constant(0))
        return NextBlock(builder, places, n_lines, tile, n_tiles, DEPTH_BLOCK // self.tile.lanes)

    def go_along(self, r: Any, first: Any, n: Any) -> None:
        builder, tile, lanes = self.builder, self.tile, self.constant(self.tile.lanes)
        down = builder.mul(first, self.constant(self.vector_bytes))
        panels = [self.add(self.add(self.b, down), self.times(self.b_panel, v))
                  for v in range(tile.vectors)]  # fmt: skip
        if tile.by_column:
            panel = builder.mul(builder.udiv(r, lanes), self.a_panel)
            lane = builder.mul(builder.urem(r, lanes), self.constant(tile.size))
            self.across_panels(r)
            self.along(self.add(self.add(self.add(self.a, panel), lane), down), panels, n)
        else:
            a = self.add(self.a, builder.mul(r, self.constant(self.vector_bytes)))
            a = self.add(a, builder.mul(builder.udiv(first, lanes), self.a_panel))
            self.along_rows(a, panels, n)

    def across_panels(self, r: Any) -> None:
        """Where a tile of more rows than lanes finds the columns of A from the next panels; rows
        past the last read the first panel again, as there may be no other."""
        builder, tile = self.builder, self.tile
        self.panels_of_a = [self.constant(0)]
        for lane in range(tile.lanes, tile.rows, tile.lanes):
            there = builder.icmp_unsigned("<", self.add(r, self.constant(lane)), self.n_rows)
            panel = self.times(self.a_panel, lane // tile.lanes)
            self.panels_of_a.append(builder.select(there, panel, self.constant(0)))

    def along_rows(self, a: Any, panels: list[Any], n: Any) -> None:
        """A row is cut into panels of `lanes` numbers; the last one may be shorter."""
        builder, lanes = self.builder, self.constant(self.tile.lanes)
        whole = builder.udiv(n, lanes)
        skip = self.constant(self.tile.lanes * self.vector_bytes)
        with cgutils.for_range(builder, whole) as loop:
            if self.tile.ahead:
                self.next.ask(loop.index)
            down = builder.mul(loop.index, skip)
            right = self.add(a, builder.mul(loop.index, self.a_panel))
            self.along(right, [self.add(b, down) for b in panels], lanes)
        down = builder.mul(whole, skip)
        right = self.add(a, builder.mul(whole, self.a_panel))
        self.along(right, [self.add(b, down) for b in panels], builder.urem(n, lanes))

    def along(self, a: Any, panels: list[Any], n: Any) -> None:
        """Add n steps' products: a column of the tile of A and a row of the tile of B each.

        Unrolled fourfold it ran no faster, and compiled twice as long.
        """
        builder, tile, size = self.builder, self.tile, self.tile.size
        vector = self.vector_bytes
        step = vector if tile.by_column else size
        with cgutils.for_range(builder, n) as loop:
            row_of_b = builder.mul(loop.index, self.constant(vector))
            vectors = [
                self.load(self.add(b, row_of_b), 0, kind)
                for b, kind in zip(panels, self.vectors, strict=True)
            ]
            column = self.add(a, builder.mul(loop.index, self.constant(step)))
            for m in range(tile.rows):
                place, across = column, m * vector
                if tile.by_column:
                    place = self.add(column, self.panels_of_a[m // tile.lanes])
                    across = m % tile.lanes * size
                number = self.spread(self.load(place, across, self.kind))
                if tile.narrow and tile.vectors > 1:
                    number = self.hidden(number)
                for v, of_b in enumerate(vectors):
                    total, factor = self.sums[m, v], self.cut(number, self.vectors[v])
                    value = builder.call(self.fmas[v], [factor, of_b, builder.load(total)])
                    builder.store(value, total)

    def finish(self, r: Any, ends: Any) -> None:
        """Store the tile, by way of the epilogue that the call asks for; or to wait."""
        builder = self.builder
        self.row_of_c = builder.mul(r, self.constant(self.vector_bytes))
        with builder.if_else(ends, likely=True) as (then, otherwise):
            with then:
                self.choose_epilogue()
            with otherwise:
                panel = self.constant(ROW_BLOCK * self.vector_bytes)
                self.store(self.waiting, panel, lambda value, cell: value)

    def choose_epilogue(self) -> None:
        builder = self.builder
        changes = {
            RELU: self.positive_part,
            TIMES: lambda value, cell: builder.fmul(value, self.operand_at(cell)),
            WHERE_POSITIVE: self.where_positive,
            PLUS: self.sum,
            RELU_PLUS: lambda value, cell: self.positive_part(self.sum(value, cell), cell),
        }
        if self.tile.by_column:
            changes = {number: changes[number] for number in BY_COLUMN if number != STORE}
        after = builder.append_basic_block("stored")
        plain = builder.append_basic_block("plain")
        choice = builder.switch(self.epilogue, plain)
        for number, change in {STORE: lambda value, cell: value, **changes}.items():
            block = plain if number == STORE else builder.append_basic_block("epilogue")
            if number != STORE:
                choice.add_case(self.constant(number), block)
            builder.position_at_end(block)
            self.store(self.c, self.c_panel, change)
            builder.branch(after)
        builder.position_at_end(after)

    def positive_part(self, value: Any, cell: Any) -> Any:
        """0 where the value is below it; NaN stays NaN."""
        zero = ir.Constant(value.type, None)
        below = self.builder.fcmp_ordered("<", value, zero)
        return self.builder.select(below, zero, value)

    def sum(self, value: Any, cell: Any) -> Any:
        return self.builder.fadd(value, self.operand_at(cell))

    def where_positive(self, value: Any, cell: Any) -> Any:
        zero = ir.Constant(value.type, None)
        positive = self.builder.fcmp_ordered(">", self.operand_at(cell), zero)
        return self.builder.select(positive, value, zero)

    def store(self, base: Any, panel: Any, change: Callable[[Any, Any], Any]) -> None:
        for cell in self.cells:
            value = self.filled(change(self.builder.load(self.sums[cell]), cell))
            place = self.pointer(self.place(base, panel, cell), 0, self.vector)
            self.builder.store(value, place, align=self.tile.size)

    def operand_at(self, cell: tuple[int, int]) -> Any:
        return self.load(self.place(self.operand, self.c_panel, cell), 0, self.vectors[cell[1]])

    def place(self, base: Any, panel: Any, cell: tuple[int, int]) -> Any:
        row_of_tile = self.add(self.row_of_c, self.constant(cell[0] * self.vector_bytes))
        return self.add(self.add(base, self.times(panel, cell[1])), row_of_tile)

    def load(self, address: Any, offset: int = 0, kind: Any = None) -> Any:
        pointer = self.pointer(address, offset, kind or self.vector)
        return self.builder.load(pointer, align=self.tile.size)

    def pointer(self, address: Any, offset: int, kind: Any) -> Any:
        if offset:
            address = self.add(address, self.constant(offset))
        return self.builder.inttoptr(address, kind.as_pointer())

    def spread(self, number: Any) -> Any:
        """The same number in every lane."""
        undefined, lane = ir.Constant(self.vector, ir.Undefined), ir.Constant(LANE, 0)
        one = self.builder.insert_element(undefined, number, lane)
        lanes = ir.Constant(ir.VectorType(LANE, self.tile.lanes), [0] * self.tile.lanes)
        return self.builder.shuffle_vector(one, undefined, lanes)

    def hidden(self, vector: Any) -> Any:
        """The same, of which LLVM does not see that its numbers are alike: it would load the one
        for the narrow vector again, and 8 x 2 tiles ran no faster for it."""
        kind = ir.FunctionType(vector.type, [vector.type])
        return self.builder.asm(kind, "", "=v,0", [vector], side_effect=False)

    def cut(self, vector: Any, kind: Any) -> Any:
        """As many of its first numbers."""
        return self.shuffled(vector, range(kind.count)) if kind != self.vector else vector

    def filled(self, vector: Any) -> Any:
        """A whole vector, with zeros after what there is."""
        return (
            vector if vector.type == self.vector else self.shuffled(vector, range(self.tile.lanes))
        )

    def shuffled(self, vector: Any, places: Any) -> Any:
        """The vector's numbers at these places; from its end on, zeros."""
        chosen = ir.Constant(ir.VectorType(LANE, len(places)), [*places])
        return self.builder.shuffle_vector(vector, ir.Constant(vector.type, None), chosen)

    def constant(self, number: int) -> Any:
        return ir.Constant(WORD, number)

    def add(self, a: Any, b: Any) -> Any:
        return self.builder.add(a, b)

    def times(self, stride: Any, n: int) -> Any:
        return self.builder.mul(stride, self.constant(n))


def _compiled(tile: Tile) -> Callable[..., None]:
    @intrinsic
    def product(
        typing_context: Any, c: Any, c_panel: Any, start: Any, start_row: Any, start_panel: Any,
        b: Any, b_panel: Any, a: Any, a_panel: Any, depth: Any, epilogue: Any, operand: Any,
        n_rows: Any, wanted: Any,
    ) -> Any:  # fmt: skip
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            _Emitter(builder, tile, arguments).emit()
            return context.get_dummy_value()

        return types.void(*[types.intp] * 14), generate

    return product


def _interpreted(tile: Tile) -> Callable[..., None]:
    lanes, size = tile.lanes, tile.size

    def vector_at(address: int) -> Any:
        return row(address, lanes, tile.scalar)

    padding = lanes // 2 if tile.narrow else lanes

    def number_of_a(a: int, a_panel: int, r: int, k: int) -> Any:
        across, along = (r, k) if tile.by_column else (k, r)
        place = a + across // lanes * a_panel + (along * lanes + across % lanes) * size
        return row(place, 1, tile.scalar)[0]

    def product(
        c: int, c_panel: int, start: int, start_row: int, start_panel: int,
        b: int, b_panel: int, a: int, a_panel: int, depth: int, epilogue: int, operand: int,
        n_rows: int, wanted: int,
    ) -> None:  # fmt: skip
        for r in range(-(-n_rows // tile.rows) * tile.rows):
            # Past the last row there may be no panel to read columns from.
            of_a = 0 if tile.by_column and r // lanes * lanes >= n_rows else r
            for v in range(tile.vectors):
                value = vector_at(start + r * start_row + v * start_panel).copy()
                for k in range(depth):
                    of_b = vector_at(b + v * b_panel + k * lanes * size)
                    value += number_of_a(a, a_panel, of_a, k) * of_b
                at = v * c_panel + r * lanes * size
                if epilogue in (PLUS, RELU_PLUS):
                    value = value + vector_at(operand + at)
                if epilogue in (RELU, RELU_PLUS):
                    value = np.where(value < 0, 0, value)
                elif epilogue == TIMES:
                    value = value * vector_at(operand + at)
                elif epilogue == WHERE_POSITIVE:
                    value = np.where(vector_at(operand + at) > 0, value, 0)
                if v == tile.vectors - 1:
                    value[padding:] = 0
                vector_at(c + at)[:] = value

    return product
