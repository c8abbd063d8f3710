"""The operations on vector registers that every vector loop is written in;
tile registers of AMX.

A loop is a function ``loop(v, ...)`` of a `Vectors` and of words: addresses, strides in
bytes, counts. `LLVMVectors` emits its instructions, `NumPyVectors` computes with
arrays. Numbers known when compiling, such as the number of lanes, are Python integers,
and a Python loop over them is unrolled.

AMX has eight tile registers of up to 16 rows of 64 bytes. One instruction adds a
product of pairs of bfloat16 to 16 x 16 sums, up to 16 pairs deep. The products of all
pairs' first numbers, and of the second ones, are summed from 0 by fused multiply-adds;
both sums are added, then added to the register's number. Rounding is to nearest even,
and subnormal numbers count as zeros, whatever the thread's settings. The unit needs a
cycle for each row of the left operand.
"""

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, Self

import numpy as np

# Most rows of a tile, and pairs of a sum of one instruction.
TILE_ROWS, DEEP = 16, 16
ROW_BYTES = 64
# Registers of sums, of left operands, and of right ones.
SUM_TILES = range(4)
LEFT_TILES = range(4, 6)
RIGHT_TILES = range(6, 8)


class TileRegisters(ABC):
    """Operations on tile registers, by number."""

    @abstractmethod
    def configure(self, rows: Any) -> None:
        """Set the rows of sums and left operands, and all registers to zero."""

    @abstractmethod
    def release(self) -> None:
        """The system need no longer keep them."""

    @abstractmethod
    def load(self, register: int, address: Any, stride: Any) -> None:
        """Rows are `stride` bytes apart."""

    @abstractmethod
    def store(self, register: int, address: Any, stride: Any) -> None: ...

    @abstractmethod
    def multiply(self, sums: int, left: int, right: int) -> None:
        """Add the product of two registers to a third."""


class _State(threading.local):
    """A thread's registers: their rows, and the numbers that they hold."""

    rows = 0
    tiles: dict[int, Any]


class NumPyTileRegisters(TileRegisters):
    """The results of the instructions, to the bit but for subnormal numbers.

    A product of two bfloat16 is a float32, so that a fused step rounds once here, too.
    """

    state = _State()

    def __init__(self, vectors: Any) -> None:
        self.row = vectors.of_lanes(ROW_BYTES // 4)

    def _rows(self, register: int, address: Any, stride: Any) -> list[Any]:
        n = DEEP if register in RIGHT_TILES else self.state.rows
        assert n, "not configured"
        return [address + r * stride for r in range(n)]

    def configure(self, rows: Any) -> None:
        assert 0 < rows <= TILE_ROWS
        self.state.rows = rows
        self.state.tiles = {}

    def release(self) -> None:
        self.state.rows = 0

    def load(self, register: int, address: Any, stride: Any) -> None:
        places = self._rows(register, address, stride)
        self.state.tiles[register] = np.stack(
            [self.row.load(place) for place in places]
        )

    def store(self, register: int, address: Any, stride: Any) -> None:
        places = self._rows(register, address, stride)
        for row, place in zip(self.state.tiles[register], places, strict=True):
            self.row.store(row, place)

    def multiply(self, sums: int, left: int, right: int) -> None:
        tiles = self.state.tiles
        (a, its_a), (b, its_b) = (pair_of(tiles[side]) for side in (left, right))
        first, second = (np.zeros_like(tiles[sums]) for _ in range(2))
        for k in range(DEEP):
            first = a[:, k, None] * b[k] + first
            second = its_a[:, k, None] * its_b[k] + second
        tiles[sums] = tiles[sums] + (first + second)


class PairOf(NamedTuple):
    """The first number of each pair of bfloat16, and the second, as float32."""

    first: Any
    second: Any


def pair_of(pairs: Any) -> PairOf:
    bits = pairs.view(np.uint32)
    return PairOf((bits << 16).view(np.float32), (bits & 0xFFFF0000).view(np.float32))


Scalar = type[np.floating[Any]]


class Condition(Protocol):
    """The result of a comparison: of two words, or of each lane of two vectors."""


class Word(Protocol):
    """A 64-bit integer: an address, a stride, a count.
    Counts are not negative where they are divided.
    """

    def __add__(self, other: Any, /) -> "Word": ...
    def __radd__(self, other: Any, /) -> "Word": ...
    def __sub__(self, other: Any, /) -> "Word": ...
    def __rsub__(self, other: Any, /) -> "Word": ...
    def __mul__(self, other: Any, /) -> "Word": ...
    def __rmul__(self, other: Any, /) -> "Word": ...
    def __floordiv__(self, other: Any, /) -> "Word": ...
    def __mod__(self, other: Any, /) -> "Word": ...
    def __lt__(self, other: Any, /) -> Condition: ...
    def __le__(self, other: Any, /) -> Condition: ...
    def __gt__(self, other: Any, /) -> Condition: ...
    def __ge__(self, other: Any, /) -> Condition: ...


class Vector(Protocol):
    """The numbers of a vector register; a comparison with NaN is false."""

    def __add__(self, other: Any, /) -> "Vector": ...
    def __sub__(self, other: Any, /) -> "Vector": ...
    def __mul__(self, other: Any, /) -> "Vector": ...
    def __lt__(self, other: Any, /) -> Condition: ...
    def __gt__(self, other: Any, /) -> Condition: ...


class Panels(NamedTuple):
    """A matrix, or the rows of one, in panels:
    where it begins, and bytes between panels.

    A panel is `lanes` columns, one vector register wide, its rows one after the other.
    Element (r, j) is number ``r * lanes + j % lanes`` of panel ``j // lanes``. Every
    load is of a whole vector, strides are not multiples of a page, and the hardware
    prefetches.
    """

    address: Word
    stride: Word


class Variable(Protocol):
    """A vector that is given other values in the course of a loop."""

    value: Vector


class VectorAccess(NamedTuple):
    """Access to a whole vector of a row,
    or to the lanes that a row has in its last one.
    """

    load: Callable[[Word], Vector]
    store: Callable[[Vector, Word], None]


class Vectors(ABC):
    """Operations on vectors of `lanes` numbers;
    addresses are multiples of a number's `size`.

    Parameters
    ----------
    lanes : a power of two

    Attributes
    ----------
    size, bytes : of a number, and of a vector
    """

    scalar: Scalar
    lanes: int
    size: int
    bytes: int
    zero: Vector

    def __init__(self, scalar: Scalar, lanes: int) -> None:
        self.scalar = scalar
        self.lanes = lanes
        self.size = np.dtype(scalar).itemsize
        self.bytes = lanes * self.size

    @abstractmethod
    def of_lanes(self, lanes: int) -> Self:
        """The same operations on vectors of this many lanes."""

    @abstractmethod
    def tile_registers(self) -> TileRegisters:
        """AMX's operations."""

    # Memory.

    @abstractmethod
    def load(self, address: Word) -> Vector: ...

    @abstractmethod
    def store(self, value: Vector, address: Word) -> None: ...

    @abstractmethod
    def store_non_temporal(self, value: Vector, address: Word) -> None:
        """Store past the caches, to a multiple of a vector's bytes;
        a `fence` orders it.
        """

    @abstractmethod
    def load_masked(self, address: Word, mask: Condition) -> Vector:
        """Load the lanes of the mask, and zeros;
        memory of other lanes is not touched.
        """

    @abstractmethod
    def store_masked(self, value: Vector, address: Word, mask: Condition) -> None: ...

    @abstractmethod
    def store_lane(self, value: Vector, address: Word) -> None:
        """Store the number in the first lane."""

    @abstractmethod
    def broadcast(self, address: Word) -> Vector:
        """Load one number to all lanes."""

    @abstractmethod
    def word(self, address: Word) -> Word:
        """Load an int64."""

    @abstractmethod
    def int32(self, address: Word) -> Word:
        """Load an int32."""

    @abstractmethod
    def scratch(self, n: int) -> Word:
        """Address of n vectors that live as long as the loop's caller."""

    @abstractmethod
    def prefetch(self, address: Word) -> None:
        """Request a line of memory into the second-level cache."""

    # Arithmetic.

    @abstractmethod
    def fma(self, a: Vector, b: Vector, c: Vector) -> Vector:
        """a b + c, rounded once (uncompiled: twice)."""

    @abstractmethod
    def add_pairs(self, a: Vector, b: Vector, c: Vector) -> Vector:
        """c plus the two products of each lane's pairs of bfloat16,
        for any rounding between the two sums.
        """

    @abstractmethod
    def add_matrices(self, a: Vector, b: Vector, c: Vector) -> Vector:
        """c plus a times b transposed, of four lanes: c is 2 x 2, row by row, a and b
        are 2 x 4 of bfloat16. The products of each pair are summed, then added to c.
        """

    @abstractmethod
    def rounded(self, a: Vector, b: Vector) -> Vector:
        """The numbers of a, then of b, as bfloat16, two in a lane:
        to nearest even; NaN stays NaN, and subnormal numbers become zeros.
        """

    @abstractmethod
    def mixed(self, pairs: Vector, places: Sequence[int]) -> Vector:
        """The bfloat16 numbers at these places of a vector of pairs."""

    @abstractmethod
    def first(self, n: Word) -> Condition:
        """The mask of the first n lanes."""

    @abstractmethod
    def equal(self, a: Word, b: Word | int) -> Condition: ...

    @abstractmethod
    def select(self, condition: Condition, a: Vector, b: Vector) -> Vector:
        """a where the condition holds, of two words or of each lane, else b."""

    @abstractmethod
    def choose(self, condition: Condition, a: Word | int, b: Word | int) -> Word:
        """a if the condition holds, else b."""

    @abstractmethod
    def shuffle(self, a: Vector, b: Vector, places: Sequence[int]) -> Vector:
        """The numbers at these places of a and b, one after the other."""

    @abstractmethod
    def opaque(self, value: Vector) -> Vector:
        """The value itself, with its origin hidden from LLVM."""

    # Control flow.

    @abstractmethod
    def range(
        self, first: Word | int, last: Word | int | None = None
    ) -> Iterator[Word]:
        """Iterate as Python's range; the body is emitted once."""

    @abstractmethod
    def parts(self, n: Word) -> Iterator[tuple[Word, VectorAccess]]:
        """Iterate over a row's whole vectors,
        and its last numbers if any are left; yields each vector's index.
        """

    @abstractmethod
    def when(
        self, condition: Condition, then: Callable[[], None], likely: bool = False
    ) -> None:
        """Do `then` if the condition holds."""

    @abstractmethod
    def either(
        self,
        condition: Condition,
        then: Callable[[], None],
        otherwise: Callable[[], None],
    ) -> None:
        """Do `then` if the condition holds, which is likely, else `otherwise`."""

    @abstractmethod
    def switch(self, word: Word, cases: Mapping[int, Callable[[], None]]) -> None:
        """Do the case of this number; the first case for a number without a case."""

    @abstractmethod
    def variable(self, value: Vector) -> Variable: ...

    # Operations made of those above.

    def n_vectors(self, n: Word) -> Word:
        """Vectors that hold n numbers."""
        return (n + (self.lanes - 1)) // self.lanes

    def positive_part(self, value: Vector) -> Vector:
        """0 where the value is below it; NaN stays NaN."""
        return self.select(value < self.zero, self.zero, value)

    def sum(self, value: Vector) -> Vector:
        """The sum of a vector's numbers, in every lane: halves, quarters, ... added."""
        half = self.lanes // 2
        while half:
            rotated = [(j + half) % self.lanes for j in range(self.lanes)]
            value = value + self.shuffle(value, value, rotated)
            half //= 2
        return value

    def transposed(self, rows: Sequence[Vector]) -> list[Vector]:
        """Transpose squares of as many lanes as there are rows, a power of two:
        swap halves, quarters, ... of pairs of rows by shuffles.
        """
        rows, half = list(rows), len(rows) // 2
        while half:
            low, high = self.halves(half)
            for r in range(len(rows)):
                if not r & half:
                    a = rows[r]
                    b = rows[r + half]
                    rows[r], rows[r + half] = (
                        self.shuffle(a, b, low),
                        self.shuffle(a, b, high),
                    )
            half //= 2
        return rows

    def sums(self, rows: Sequence[Vector]) -> Vector:
        """The sum of each of `lanes` vectors: halves, quarters, ... of pairs added."""
        half = self.lanes // 2
        while half:
            low, high = self.halves(half)
            pairs = zip(rows[:half], rows[half:], strict=True)
            rows = [
                self.shuffle(a, b, low) + self.shuffle(a, b, high) for a, b in pairs
            ]
            half //= 2
        return rows[0]

    def halves(self, half: int) -> tuple[list[int], list[int]]:
        """Indices that shuffle two vectors to the lower,
        and to the upper, halves of each group of 2 * half lanes.
        """
        low = [j if not j & half else self.lanes + j - half for j in range(self.lanes)]
        high = [j + half if not j & half else self.lanes + j for j in range(self.lanes)]
        return low, high
