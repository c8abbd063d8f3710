"""A sweep by AMX's tile registers: whole tiles by them, what is left of each sum by vectors.

A tile of sums is 16 rows x one panel. Two tiles of rows by two panels are four chains: each waits
52 cycles for the one before, and the unit takes 16 for each. Operands lie as AVX512-BF16 reads
them: B in pairs across its rows is a tile as it is, 8 of its rows; so are 16 rows of a panel of A
in pairs along them. They are half as deep as the unit is, which then does half of what it could:
512 operations a cycle. Panels of A of twice the width would fill it. A by column is transposed, a
panel by 8 pairs at a time, ahead of the instructions that read it.

Sums are the same however the rows are cut: each takes 8 pairs at a time from the first on, then
one by one those that are left, of which there are fewer than 8.
"""

from collections.abc import Sequence

from fastmlp.backends.cpu.simd.microkernel import Factors, Start, Sweep
from fastmlp.backends.cpu.simd.tile_registers import DEEP, LEFT, RIGHT, TILE_ROWS
from fastmlp.backends.cpu.simd.vector import Vectors, Word
from fastmlp.backends.cpu.tuning import STRIP_ROWS

# Bytes of a transposed tile, and of two, as there are twice: one is read, the next one written.
ROW_BYTES = 4 * DEEP
TILE_BYTES = TILE_ROWS * ROW_BYTES
TURN_BYTES = len(LEFT) * TILE_BYTES


def configure(v: Vectors, n_rows: Word) -> None:
    """Prepare the thread's tile registers for sweeps over so many rows."""
    v.tile_registers().configure(v.choose(n_rows < TILE_ROWS, n_rows, TILE_ROWS))


def release(v: Vectors) -> None:
    """End the thread's use of tile registers."""
    v.tile_registers().release()


class TileSweep(Sweep):
    """A sweep whose sums begin in tile registers, which must be configured for its rows."""

    def run(self, streams: Word) -> None:
        v, of = self.v, self.factors
        self.registers = v.tile_registers()
        # Two tiles of A in pairs along their columns, transposed, twice.
        self.turned = v.scratch(2 * TURN_BYTES // v.bytes) if self.tile.by_column else None
        n_deep = of.depth // DEEP
        n_tiles = (self.n_rows + (TILE_ROWS - 1)) // TILE_ROWS
        if self.tile.rows == STRIP_ROWS:
            for t in v.range(n_tiles // 2):
                self.multiply([self.row_of(t * 2), self.row_of(t * 2 + 1)], n_deep)
            v.when(
                v.equal(n_tiles % 2, 1),
                lambda: self.multiply([self.row_of(n_tiles - 1)], n_deep),
            )
        else:
            self.multiply([self.row_of(n_tiles - 1)], n_deep)
        down = v.bytes * DEEP * n_deep
        right = down if self.tile.by_column else of.a_stride * n_deep
        rest = Factors(of.b + down, of.b_stride, of.a + right, of.a_stride, of.depth % DEEP)
        self.start = Start(self.waiting.address, down - down + v.bytes, self.waiting.stride)
        self.factors = rest
        super().run(streams)

    def last_block(self) -> Word:
        return self.factors.depth // DEEP  # 0: fewer pairs are left

    def row_of(self, t: Word) -> Word:
        """Return the first row of a tile; the last one may share rows with the one before."""
        v, n = self.v, self.n_rows
        last = v.choose(n < TILE_ROWS, 0, n - TILE_ROWS)
        return v.choose((t + 1) * TILE_ROWS <= n, t * TILE_ROWS, last)

    def multiply(self, rows: Sequence[Word], n_deep: Word) -> None:
        """Write start + A B of one or two tiles of rows, without the last pairs, to where sums
        wait."""
        v, start, waiting, registers = self.v, self.start, self.waiting, self.registers
        vectors = self.tile.vectors
        sums = {(i, j): i * vectors + j for i in range(len(rows)) for j in range(vectors)}
        for (i, j), number in sums.items():
            place = start.address + rows[i] * start.row_stride + start.stride * j
            registers.load(number, place, start.row_stride)
        if self.tile.by_column:
            v.when(n_deep > 0, lambda: self.turn(rows, n_deep * 0))
        for k in v.range(n_deep):
            if self.tile.by_column:
                self.turn(rows, v.choose(k + 1 < n_deep, k + 1, k))
            for i, r in enumerate(rows):
                registers.load(LEFT[i], self.left(i, r, k), ROW_BYTES)
            for j in range(vectors):
                right = RIGHT[j % len(RIGHT)]
                down = self.factors.b + k * (DEEP * v.bytes) + self.factors.b_stride * j
                registers.load(right, down, v.bytes)
                for i in range(len(rows)):
                    registers.multiply(sums[i, j], LEFT[i], right)
        for (i, j), number in sums.items():
            registers.store(
                number, waiting.address + rows[i] * v.bytes + waiting.stride * j, v.bytes
            )

    def left(self, i: int, r: Word, k: Word) -> Word:
        """Return where the k-th tile of A lies that begins in row r."""
        if self.turned is not None:
            return self.turned + k % 2 * TURN_BYTES + i * TILE_BYTES
        return self.factors.a + r * ROW_BYTES + k * self.factors.a_stride

    def turn(self, rows: Sequence[Word], k: Word) -> None:
        """Transpose 8 pairs of the columns of A that are rows of each tile: two squares at once.

        Each square is half of a panel; rows after the last strip find the first square again.
        """
        v, of = self.v, self.factors
        half, lanes = v.of_lanes(DEEP), v.lanes
        for i, r in enumerate(rows):
            to = self.left(i, r, k)
            after = v.choose(r + DEEP < self.n_rows, r + DEEP, r)
            halves = [
                of.a + c // lanes * of.a_stride + c % lanes * v.size + k * (DEEP * v.bytes)
                for c in (r, after)
            ]
            columns = []
            for p in range(DEEP):
                first, second = (half.load(place + p * v.bytes) for place in halves)
                columns.append(half.shuffle(first, second, range(lanes)))
            for m, row in enumerate(v.transposed(columns)):
                row = v.opaque(row)  # else LLVM computes each half by itself
                for h in range(2):
                    part = v.shuffle(row, row, range(h * DEEP, (h + 1) * DEEP))
                    half.store(part, to + (m + h * DEEP) * ROW_BYTES)
