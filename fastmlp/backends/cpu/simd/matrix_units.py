"""Sweeps of a matrix product by matrix units:
AMX's tile registers, and Arm's bfmmla.
"""

from collections.abc import Callable, Sequence

from fastmlp.backends.cpu.simd.microkernel import Start, Sweep, Turn, prefetch_streams
from fastmlp.backends.cpu.simd.vector import (
    DEEP,
    LEFT_TILES,
    RIGHT_TILES,
    ROW_BYTES,
    TILE_ROWS,
    Condition,
    Vector,
    Vectors,
    Word,
)
from fastmlp.backends.cpu.tuning import STRIP_ROWS

# Lanes of two vectors: the first halves, and the second ones;
# and the lanes of either half in turns.
HALVES = ([0, 1, 4, 5], [2, 3, 6, 7])
WOVEN = ([0, 4, 1, 5], [2, 6, 3, 7])


class MatrixSweep(Sweep):
    """A sweep of an even number of rows, by vectors of four lanes.

    Within `accumulate` the sums of rows m and m + 1, m even, are matrices:
    the first two columns in place of row m, the last two in place of row m + 1.
    """

    def begin(self, r: Word, begins: Condition) -> None:
        super().begin(r, begins)
        self.exchange()

    def finish(self, r: Word, ends: Condition) -> None:
        self.exchange()
        super().finish(r, ends)

    def exchange(self) -> None:
        """Turn two rows into two matrices, or back, by the same shuffles."""
        for (m, j), total in self.sums.items():
            if m % 2 == 0:
                other = self.sums[m + 1, j]
                both = total.value, other.value
                total.value, other.value = (
                    self.v.shuffle(*both, half) for half in HALVES
                )

    def accumulate(
        self,
        a: Word,
        rows: Sequence[Word | int],
        step: int,
        b: Sequence[Word],
        n: Word | int,
    ) -> None:
        v = self.v
        if n == self.in_row:  # two pairs, and compiled, a number that is known
            self.add(a, rows, b, whole=True)
            return
        for k in v.range(n // 2):
            down = k * (2 * v.bytes)
            self.add(
                a + k * (2 * step), rows, [place + down for place in b], whole=True
            )
        last = n - 1
        down = last * v.bytes
        v.when(
            v.equal(n % 2, 1),
            lambda: self.add(
                a + last * step, rows, [place + down for place in b], whole=False
            ),
        )

    def add(
        self, a: Word, rows: Sequence[Word | int], b: Sequence[Word], *, whole: bool
    ) -> None:
        """Add the products of two pairs, or of one, to each sum."""
        left = (
            self.columns(a, rows, whole)
            if self.tile.by_column
            else self.rows(a, rows, whole)
        )
        for j, place in enumerate(b):
            for side, right in enumerate(self.woven(place, whole)):
                for i, operand in enumerate(left):
                    total = self.sums[2 * i + side, j]
                    total.value = self.v.add_matrices(operand, right, total.value)

    def rows(self, a: Word, rows: Sequence[Word | int], whole: bool) -> list[Vector]:
        """Left operands from rows of two pairs, or of one if the rows are not whole."""
        v = self.v
        loaded = [v.load(a + skip) for skip in rows[::2]]
        if whole:
            return loaded
        return [v.shuffle(both, v.zero, [0, 4, 2, 6]) for both in loaded]

    def columns(
        self, a: Word, columns: Sequence[Word | int], whole: bool
    ) -> list[Vector]:
        """Left operands from columns, four at a time, or two in the smallest tile."""
        if len(columns) > 2:
            woven = (self.woven(a + skip, whole) for skip in columns[:: self.v.lanes])
            return [operand for both in woven for operand in both]
        half = self.v.of_lanes(2)
        first = half.load(a + columns[0])
        second = half.load(a + columns[0] + self.v.bytes) if whole else half.zero
        return [half.shuffle(first, second, [0, 2, 1, 3])]

    def woven(self, place: Word, whole: bool) -> list[Vector]:
        """Two pairs of each of four columns, of two columns at a time."""
        v = self.v
        first = v.load(place)
        second = v.load(place + v.bytes) if whole else v.zero
        return [v.shuffle(first, second, lanes) for lanes in WOVEN]


# Pairs of a row of a panel of A; rows and columns of a square that is transposed.
SQUARE = 8
# Bytes of a tile of A, and of two pairs of tiles: two are read, the next two written.
TILE_BYTES = TILE_ROWS * ROW_BYTES
TURN_BYTES = len(LEFT_TILES) * TILE_BYTES


def configure(v: Vectors, n_rows: Word) -> None:
    """Prepare the thread's tile registers for sweeps over `n_rows` rows."""
    v.tile_registers().configure(v.choose(n_rows < TILE_ROWS, n_rows, TILE_ROWS))


def release(v: Vectors) -> None:
    v.tile_registers().release()


class TileSweep(Sweep):
    """A sweep whose sums are made in tile registers, configured for its rows.

    The sums are stored where a sweep keeps sums between two blocks, and the plain
    sweep finishes them from there.
    """

    def run(self, streams: Word) -> None:
        """Sums of two tiles of rows at a time, or of one, are made whole in tile
        registers; then the plain sweep reads them as sums that waited, and applies the
        epilogue.
        """
        v, of = self.v, self.factors
        self.registers = v.tile_registers()
        self.left = v.scratch(2 * TURN_BYTES // v.bytes)
        self.right = v.scratch(self.tile.vectors * DEEP)
        n_deep = of.depth // DEEP
        rest = of.depth % DEEP
        v.when(rest > 0, lambda: self.fill(n_deep, rest))
        n_tiles = (self.n_rows + (TILE_ROWS - 1)) // TILE_ROWS
        last = [self.row_of(n_tiles - 1)]
        if self.tile.rows == STRIP_ROWS:
            for t in v.range(n_tiles // 2):
                self.multiply(
                    [self.row_of(t * 2), self.row_of(t * 2 + 1)], n_deep, rest
                )
            v.when(v.equal(n_tiles % 2, 1), lambda: self.multiply(last, n_deep, rest))
        else:
            self.multiply(last, n_deep, rest)
        self.start = Start(
            self.waiting.address, rest * 0 + v.bytes, self.waiting.stride
        )
        super().run(streams)

    def last_block(self) -> Word:
        return self.factors.depth * 0

    def along_rows(
        self, r: Word, first: Word, n: Word, prefetch: Callable[[Word], None]
    ) -> None:
        """Add nothing: the sums that wait are whole."""

    def along_columns(
        self, r: Word, first: Word, n: Word, streams: Word, turn: Turn
    ) -> None:
        """Prefetch a share of the streams; the sums that wait are whole."""
        if self.tile.prefetches:
            prefetch_streams(self.v, streams, turn)

    def fill(self, k: Word, rest: Word) -> None:
        """Copy the last `rest` rows of pairs of B; add rows of zeros up to `DEEP`."""
        v, of = self.v, self.factors
        for j in range(self.tile.vectors):
            source = of.b + k * (DEEP * v.bytes) + of.b_stride * j
            for p in range(DEEP):
                row = v.load(source + v.choose(rest > p, p * v.bytes, 0))
                place = self.right + (j * DEEP + p) * v.bytes
                v.store(v.select(rest > p, row, v.zero), place)

    def row_of(self, t: Word) -> Word:
        """The first row of tile t; the last tile may repeat rows of the tile before."""
        v, n = self.v, self.n_rows
        last = v.choose(n < TILE_ROWS, 0, n - TILE_ROWS)
        return v.choose((t + 1) * TILE_ROWS <= n, t * TILE_ROWS, last)

    def multiply(self, rows: Sequence[Word], n_deep: Word, rest: Word) -> None:
        """Write start + A B of one or two tiles of rows to where sums wait."""
        v = self.v
        start = self.start
        waiting = self.waiting
        registers = self.registers
        sums = {(i, j): self.number(i, j) for i, j in self.tiles_of(rows)}
        for (i, j), number in sums.items():
            place = start.address + rows[i] * start.row_stride + start.stride * j
            registers.load(number, place, start.row_stride)
        v.when(n_deep > 0, lambda: self.lay_out(rows, n_deep * 0))
        for k in v.range(n_deep):
            self.lay_out(rows, v.choose(k + 1 < n_deep, k + 1, k))
            down = self.factors.b + k * (DEEP * v.bytes)
            self.add(rows, k, down, self.factors.b_stride)
        v.when(rest > 0, lambda: self.lay_out(rows, n_deep, rest))
        v.when(rest > 0, lambda: self.add(rows, n_deep, self.right, DEEP * v.bytes))
        for (i, j), number in sums.items():
            place = waiting.address + rows[i] * v.bytes + waiting.stride * j
            registers.store(number, place, v.bytes)

    def tiles_of(self, rows: Sequence[Word]) -> list[tuple[int, int]]:
        return [(i, j) for j in range(self.tile.vectors) for i in range(len(rows))]

    def number(self, i: int, j: int) -> int:
        """The register that holds the sums of the i-th rows and the j-th panel."""
        return i * self.tile.vectors + j

    def add(self, rows: Sequence[Word], k: Word, b: Word, b_stride: Word | int) -> None:
        """Add the products of the k-th tiles of A and the tiles of B from b on."""
        for i in range(len(rows)):
            self.registers.load(LEFT_TILES[i], self.place_of(i, k), ROW_BYTES)
        for i, j in self.tiles_of(rows):
            right = RIGHT_TILES[j % len(RIGHT_TILES)]
            if i == 0:
                self.registers.load(right, b + b_stride * j, self.v.bytes)
            self.registers.multiply(self.number(i, j), LEFT_TILES[i], right)

    def place_of(self, i: int, k: Word) -> Word:
        """The address of the k-th tile of A, of the first or the second rows."""
        return self.left + k % 2 * TURN_BYTES + i * TILE_BYTES

    def lay_out(self, rows: Sequence[Word], k: Word, rest: Word | None = None) -> None:
        """Write the k-th tile of A for each tile of rows, by halves.

        If only `rest` pairs are left, zeros follow them. In a single tile, a second
        half past the last row repeats the first half.
        """
        v, n = self.v, self.n_rows
        for i, r in enumerate(rows):
            after = r + SQUARE
            halves = (r, v.choose(after < n, after, r) if len(rows) == 1 else after)
            write = self.transpose if self.tile.by_column else self.copy
            write(halves, k, self.place_of(i, k), rest)

    def copy(
        self, halves: Sequence[Word], k: Word, to: Word, rest: Word | None
    ) -> None:
        v = self.v
        of = self.factors
        half = self.v.of_lanes(SQUARE)
        n = min(self.tile.rows, SQUARE)
        beside = (
            of.a_stride if rest is None else v.choose(rest > SQUARE, of.a_stride, 0)
        )
        for h, r in enumerate(halves if n == SQUARE else halves[:1]):
            source = of.a + r * half.bytes + k * 2 * of.a_stride
            for m in range(n):
                place = source + m * half.bytes
                both = half.shuffle(
                    half.load(place), half.load(place + beside), range(v.lanes)
                )
                if rest is not None:
                    both = v.select(v.first(rest), both, v.zero)
                v.store(both, to + (h * SQUARE + m) * ROW_BYTES)

    def transpose(
        self, halves: Sequence[Word], k: Word, to: Word, rest: Word | None
    ) -> None:
        """Transpose squares of the columns of A:
        two at once, halves of panels, twice.
        """
        v = self.v
        of = self.factors
        half = self.v.of_lanes(SQUARE)
        sources = [
            of.a
            + c // v.lanes * of.a_stride
            + c % v.lanes * v.size
            + k * (DEEP * v.bytes)
            for c in halves
        ]

        def pairs(p: int) -> Vector:
            down = p * v.bytes if rest is None else v.choose(rest > p, p * v.bytes, 0)
            first, second = (half.load(source + down) for source in sources)
            both = half.shuffle(first, second, range(v.lanes))
            return both if rest is None else v.select(rest > p, both, v.zero)

        for first in range(0, DEEP, SQUARE):
            columns = [pairs(p) for p in range(first, first + SQUARE)]
            for m, row in enumerate(v.transposed(columns)):
                row = v.opaque(row)  # else LLVM computes each half by itself
                for h in range(2):
                    part = v.shuffle(row, row, range(h * SQUARE, (h + 1) * SQUARE))
                    half.store(part, to + (h * SQUARE + m) * ROW_BYTES + first * v.size)
