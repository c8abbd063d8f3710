"""Sources: blocks of rows that can be read in any order, or a stream of them.

A source is recognised by what it can do. No base class is needed.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from copy import copy
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


class SourceSlice:
    """The rows of a `BlockSource` from the first to the one before the last, as a source."""

    def __init__(self, source: Any, first: int, last: int) -> None:
        self._source, self.seed = source, getattr(source, "seed", 0)
        self.feature_names = getattr(source, "feature_names", None)
        self._places: list[tuple[int, slice]] = []
        start, self._sizes = 0, list(source.block_sizes)
        for i, size in enumerate(self._sizes):
            rows = range(max(first - start, 0), min(last - start, size))
            if rows:
                self._places.append((i, slice(rows.start, rows.stop)))
            start += size
        self.block_sizes = tuple(rows.stop - rows.start for _, rows in self._places)

    def read(self, i: int) -> Any:
        """Return the rows of block i."""
        (place, rows), content = self._places[i], self._source.read(self._places[i][0])
        if self.block_sizes[i] == self._sizes[place]:
            return content
        return tuple(None if part is None else part[rows] for part in content)

    def _of_targets(self) -> "SourceSlice":
        part = copy(self)
        part._source = y_alone(self._source)
        return part


class StreamBlocks:
    """The blocks of a function or an object that begins a stream anew, or of one iterator."""

    n_rows = None

    def __init__(self, source: Stream) -> None:
        self._begin = source if callable(source) else lambda: source

    def blocks(self, number: int, *, mixed: bool) -> Iterator[Piece]:
        """Yield the blocks in the order of the stream."""
        for i, content in enumerate(self._begin()):
            yield Piece(f"block {i}", None, content)


def is_source(X: object) -> bool:
    """Return True if the object is a source of rows, and no array, table or collection."""
    if has_blocks(X):
        return True
    if isinstance(X, type) or any(hasattr(X, name) for name in OF_ARRAYS):
        return False
    collections = (str, bytes, Sequence, Mapping, Set)
    return callable(X) or (hasattr(X, "__iter__") and not isinstance(X, collections))


def has_blocks(X: object) -> bool:
    """Return True if the object is a `BlockSource`."""
    return hasattr(X, "block_sizes") and hasattr(X, "read")


def opened(source: Any, who: str) -> Opened:
    """Return a source's rows, pass by pass."""
    return RandomAccess(source, who) if has_blocks(source) else StreamBlocks(source)


def y_alone(source: Any) -> Any:
    """Return the same blocks, of which the source reads y alone, if it can; X is then anything."""
    made = getattr(source, "_of_targets", None)
    return source if made is None else made()


def targets_of(source: Any, who: str) -> Iterator[Any]:
    """Yield y of each block that has rows: a pass over a source.

    Raises
    ------
    ValueError
        If the source can be read once.
    """
    if hasattr(source, "__next__"):
        instead = getattr(source, "instead", "pass the function that makes it").rstrip(",")
        raise ValueError(
            f"{who}: {kind_of(source)} can be read once, and to look at the labels takes a pass: "
            f"{instead}"
        )
    for piece in opened(y_alone(source), who).blocks(0, mixed=False):
        y = parts_of(piece.content, f"{who}: {piece.name}")[1]
        if len(y):
            yield y


def kind_of(source: Any) -> str:
    """The name, in errors, of a source that can be read once."""
    return f"a {getattr(source, 'kind', type(source).__name__)}"


def parts_of(content: Any, who: str) -> tuple[Any, Any, Any]:
    """Return X, y and the weights, or None, of a block.

    Raises
    ------
    TypeError
        If it has not two or three parts.
    """
    if not isinstance(content, tuple | list) or len(content) not in (2, 3):
        n = f" of {len(content)}" if isinstance(content, tuple | list) else ""
        raise TypeError(
            f"{who} must be (X, y) or (X, y, sample_weight), got {type(content).__name__}{n}"
        )
    return (*content, None)[:3]


def _sizes(block_sizes: Any, who: str) -> list[int]:
    sizes = list(block_sizes)
    for size in sizes:
        whole = isinstance(size, int | np.integer) and not isinstance(size, bool)
        if not whole or size < 0:
            raise ValueError(f"{who}: block_sizes must be integers of 0 or more, got {size!r}")
    return [int(size) for size in sizes]


def seed_of(seed: Any, who: str) -> int:
    """Check a source's seed."""
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or seed < 0:
        raise ValueError(f"{who}: seed must be an integer of 0 or more, got {seed!r}")
    return int(seed)
