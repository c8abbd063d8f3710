"""A sweep by bfmmla of Arm: 2 x 2 sums plus 2 rows of 4 numbers times 4 rows of 2.

Vectors have four lanes. A panel of A in pairs along its rows has rows of two pairs, so that two
rows lie as the left operand; of B, and of A by column, two rows of pairs are woven by single lanes.
Sums lie as 2 x 2 matrices while they are added to, and as rows before and after. Each takes two
pairs at a time from the first on, the products of a pair summed first, and an odd pair at the end
with zeros beside it: the same however the rows are cut.
"""

from collections.abc import Sequence

from fastmlp.backends.cpu.simd.microkernel import Sweep
from fastmlp.backends.cpu.simd.vector import Condition, Vector, Word

# Lanes of two vectors: the first halves, and the second ones; and those of either half in turns.
HALVES = ([0, 1, 4, 5], [2, 3, 6, 7])
WOVEN = ([0, 4, 1, 5], [2, 6, 3, 7])


class MatrixSweep(Sweep):
    """A sweep of an even number of rows, by vectors of four lanes.

    Within `accumulate` the sums of rows m and m + 1, m even, are matrices: that of the first two
    columns in place of row m, that of the last two in place of row m + 1.
    """

    def begin(self, r: Word, begins: Condition) -> None:
        super().begin(r, begins)
        self.exchange()

    def finish(self, r: Word, ends: Condition) -> None:
        self.exchange()
        super().finish(r, ends)

    def exchange(self) -> None:
        """Turn two rows into two matrices, or back: the same shuffles do both."""
        for (m, j), total in self.sums.items():
            if m % 2 == 0:
                other = self.sums[m + 1, j]
                both = total.value, other.value
                total.value, other.value = (self.v.shuffle(*both, half) for half in HALVES)

    def accumulate(
        self, a: Word, rows: Sequence[Word | int], step: int, b: Sequence[Word], n: Word | int
    ) -> None:
        v = self.v
        if n == self.in_row:  # two pairs, and compiled, a number that is known
            self.add(a, rows, b, whole=True)
            return
        for k in v.range(n // 2):
            down = k * (2 * v.bytes)
            self.add(a + k * (2 * step), rows, [place + down for place in b], whole=True)
        last = n - 1
        down = last * v.bytes
        v.when(
            v.equal(n % 2, 1),
            lambda: self.add(a + last * step, rows, [place + down for place in b], whole=False),
        )

    def add(self, a: Word, rows: Sequence[Word | int], b: Sequence[Word], *, whole: bool) -> None:
        """Add the products of two pairs, or of one, to each sum."""
        left = self.columns(a, rows, whole) if self.tile.by_column else self.rows(a, rows, whole)
        for j, place in enumerate(b):
            for side, right in enumerate(self.woven(place, whole)):
                for i, operand in enumerate(left):
                    total = self.sums[2 * i + side, j]
                    total.value = self.v.add_matrices(operand, right, total.value)

    def rows(self, a: Word, rows: Sequence[Word | int], whole: bool) -> list[Vector]:
        """Return the left operands from rows of two pairs, the second perhaps not one."""
        v = self.v
        found = [v.load(a + skip) for skip in rows[::2]]
        if whole:
            return found
        return [v.shuffle(both, v.zero, [0, 4, 2, 6]) for both in found]

    def columns(self, a: Word, columns: Sequence[Word | int], whole: bool) -> list[Vector]:
        """Return the left operands from columns, four at a time, or the two that there are."""
        if len(columns) > 2:
            its = (self.woven(a + skip, whole) for skip in columns[:: self.v.lanes])
            return [operand for both in its for operand in both]
        half = self.v.of_lanes(2)
        first = half.load(a + columns[0])
        second = half.load(a + columns[0] + self.v.bytes) if whole else half.zero
        return [half.shuffle(first, second, [0, 2, 1, 3])]

    def woven(self, place: Word, whole: bool) -> list[Vector]:
        """Return two pairs of each of four columns, of two columns at a time."""
        v = self.v
        first = v.load(place)
        second = v.load(place + v.bytes) if whole else v.zero
        return [v.shuffle(first, second, lanes) for lanes in WOVEN]
