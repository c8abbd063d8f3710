"""AMX's tile registers: eight of up to 16 rows of 64 bytes, and the product of two of them.

One instruction adds a product of pairs of bfloat16 to 16 x 16 sums, up to 16 pairs deep. The
products of all pairs' first numbers, and of the second ones, are summed from 0 by fused
multiply-adds; both sums are added, then added to the register's number. Rounding is to nearest
even, and subnormal numbers count as zeros, whatever the thread's settings.

The unit needs a cycle for each row of the left operand.
"""

import threading
from abc import ABC, abstractmethod
from typing import Any, NamedTuple

import numpy as np

# Most rows of a tile, and pairs of a sum of one instruction.
TILE_ROWS, DEEP = 16, 16
ROW_BYTES = 64
# Registers of sums, of left operands, and of right ones.
SUMS, LEFT, RIGHT = range(4), range(4, 6), range(6, 8)


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
        n = DEEP if register in RIGHT else self.state.rows
        assert n, "not configured"
        return [address + r * stride for r in range(n)]

    def configure(self, rows: Any) -> None:
        assert 0 < rows <= TILE_ROWS
        self.state.rows, self.state.tiles = rows, {}

    def release(self) -> None:
        self.state.rows = 0

    def load(self, register: int, address: Any, stride: Any) -> None:
        places = self._rows(register, address, stride)
        self.state.tiles[register] = np.stack([self.row.load(place) for place in places])

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
