"""What a source is: blocks of rows that can be read in any order, or a stream of them.

A source is recognised by what it can do. No base class is needed.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import ArrayLike

Block = tuple[ArrayLike, ArrayLike] | tuple[ArrayLike, ArrayLike, ArrayLike | None]
# What arrays, frames, tables and tensors have beside __iter__.
OF_ARRAYS = (
    *("__array__", "__array_interface__", "__cuda_array_interface__", "__dlpack__"),
    *("__arrow_c_stream__", "__dataframe__", "toarray"),
)


class BlockSource(Protocol):
    """Rows in blocks that can be read in any order, as `Blocks` has them.

    Its `seed`, an integer, decides the order of blocks; without one it is 0.
    """

    @property
    def block_sizes(self) -> Sequence[int]:
        """The number of rows of each block."""
        ...

    def read(self, i: int, /) -> Block:
        """Return X, y and, optionally, the weights of block i."""
        ...


class ArrowStream(Protocol):
    """A table, a frame or a relation that Arrow reads as a stream of record batches."""

    def __arrow_c_stream__(self, requested_schema: object = None, /) -> object:
        """Return the stream."""
        ...


Path = str | os.PathLike[str]
# Streams: a function that begins one, or an object that does so in `iter`.
Stream = Callable[[], Iterable[Any]] | Iterable[Any]
Source = BlockSource | Stream | Path | Sequence[Path] | ArrowStream


class Piece(NamedTuple):
    """A block as it was read.

    Attributes
    ----------
    name : what errors call it
    n_rows : how many rows it must have, or None
    content : (X, y) or (X, y, sample_weight)
    """

    name: str
    n_rows: int | None
    content: Any


class Opened(Protocol):
    """A source's blocks, pass by pass."""

    @property
    def n_rows(self) -> int | None:
        """The number of rows of a pass, or None if that is not known."""
        ...

    def blocks(self, number: int, *, mixed: bool) -> Iterator[Piece]:
        """Yield the blocks of a pass; `mixed`: in an order that depends on its number."""
        ...


class RandomAccess:
    """The blocks of a `BlockSource`.

    Attributes
    ----------
    n_rows : int, of all blocks
    """

    def __init__(self, source: BlockSource, who: str) -> None:
        self._source = source
        self._sizes = _sizes(source.block_sizes, who)
        self._seed = seed_of(getattr(source, "seed", 0), who)
        self.n_rows: int | None = sum(self._sizes)

    def blocks(self, number: int, *, mixed: bool) -> Iterator[Piece]:
        """Yield the blocks; `mixed`: in an order that the seed and the pass's number decide."""
        n = len(self._sizes)
        order = np.random.default_rng([self._seed, number]).permutation(n) if mixed else range(n)
        for i in map(int, order):
            if self._sizes[i]:
                yield Piece(f"block {i}", self._sizes[i], self._source.read(i))


class StreamBlocks:
    """The blocks of a function or an object that begins a stream anew, or of one iterator."""

    n_rows = None

    def __init__(self, source: Stream) -> None:
        self._begin = source if callable(source) else lambda: source

    def blocks(self, number: int, *, mixed: bool) -> Iterator[Piece]:
        """Yield the blocks in the order of the stream."""
        for i, content in enumerate(self._begin()):
            yield Piece(f"block {i}", None, content)


def is_source(given: object) -> bool:
    """Return True if the object is a source of rows, and no array, table or collection."""
    if has_blocks(given):
        return True
    if isinstance(given, type) or any(hasattr(given, name) for name in OF_ARRAYS):
        return False
    collections = (str, bytes, Sequence, Mapping, Set)
    return callable(given) or (hasattr(given, "__iter__") and not isinstance(given, collections))


def has_blocks(given: object) -> bool:
    """Return True if the object is a `BlockSource`."""
    return hasattr(given, "block_sizes") and hasattr(given, "read")


def opened(given: Any, who: str) -> Opened:
    """Return a source's rows, pass by pass."""
    return RandomAccess(given, who) if has_blocks(given) else StreamBlocks(given)


def _sizes(given: Any, who: str) -> list[int]:
    sizes = list(given)
    for size in sizes:
        whole = isinstance(size, int | np.integer) and not isinstance(size, bool)
        if not whole or size < 0:
            raise ValueError(f"{who}: block_sizes must be integers of 0 or more, got {size!r}")
    return [int(size) for size in sizes]


def seed_of(given: Any, who: str) -> int:
    """Check a source's seed."""
    if isinstance(given, bool) or not isinstance(given, int | np.integer) or given < 0:
        raise ValueError(f"{who}: seed must be an integer of 0 or more, got {given!r}")
    return int(given)
