"""Sources of rows: their blocks as arrays of a net's dtype, and buffers of them.

Sources are recognised by their methods, without a base class.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, Self

import numpy as np
from numpy.typing import ArrayLike

from fastmlp._process import memory
from fastmlp.network.spec import Network
from fastmlp.validation import Array, arrays, gaps, scalars
from fastmlp.validation.heads import weighted_targets
from fastmlp.validation.messages import count

Block = tuple[ArrayLike, ArrayLike] | tuple[ArrayLike, ArrayLike, ArrayLike | None]
# Attributes of arrays, frames, tables and tensors, which have __iter__ too.
OF_ARRAYS = (
    *("__array__", "__array_interface__", "__cuda_array_interface__", "__dlpack__"),
    *("__arrow_c_stream__", "__dataframe__", "toarray"),
)
# Fewest batches of a buffer.
LEAST_BATCHES = 16
# Bytes of a buffer if the available memory is unknown.
DEFAULT_BYTES = 1 << 30


class BlockSource(Protocol):
    """Rows in blocks that can be read in any order, such as `Blocks`.

    The integer `seed`, 0 by default, decides the order of blocks.
    """

    @property
    def block_sizes(self) -> Sequence[int]:
        """Number of rows of each block."""
        ...

    def read(self, i: int, /) -> Block:
        """Return X, y and, optionally, the weights of block i."""
        ...


class ArrowStream(Protocol):
    """A table, a frame or a relation that Arrow reads as a stream of record batches."""

    def __arrow_c_stream__(self, requested_schema: object = None, /) -> object: ...


Path = str | os.PathLike[str]
# Streams are iterables, or functions that begin one.
Stream = Callable[[], Iterable[Any]] | Iterable[Any]
Source = BlockSource | Stream | Path | Sequence[Path] | ArrowStream


class Piece(NamedTuple):
    """A block as it was read.

    Attributes
    ----------
    name : of the block in errors
    n_rows : required number of rows, or None
    content : (X, y) or (X, y, sample_weight)
    """

    name: str
    n_rows: int | None
    content: Any


class RandomAccess:
    def __init__(self, source: BlockSource, who: str) -> None:
        self._source = source
        check = scalars.non_negative_integer
        self._sizes = [
            check(who, "a size of block_sizes", n) for n in source.block_sizes
        ]
        self._seed = check(who, "seed", getattr(source, "seed", 0))
        self.n_rows: int | None = sum(self._sizes)

    def blocks(self, number: int, *, mixed: bool) -> Iterator[Piece]:
        """Yield the blocks of a pass,
        if `mixed` in an order that depends on its number.
        """
        n = len(self._sizes)
        order = (
            np.random.default_rng([self._seed, number]).permutation(n)
            if mixed
            else range(n)
        )
        for i in map(int, order):
            if self._sizes[i]:
                yield Piece(f"block {i}", self._sizes[i], self._source.read(i))


class SourceSlice:
    """Rows from the first to the one before the last of a `BlockSource`, as a
    source.
    """

    def __init__(self, source: Any, first: int, last: int) -> None:
        self._source = source
        self.seed: Any = getattr(source, "seed", 0)
        self.feature_names: Any = getattr(source, "feature_names", None)
        self._places: list[tuple[int, slice]] = []
        start = 0
        self._sizes = list(source.block_sizes)
        for i, size in enumerate(self._sizes):
            rows = range(max(first - start, 0), min(last - start, size))
            if rows:
                self._places.append((i, slice(rows.start, rows.stop)))
            start += size
        self.block_sizes: tuple[int, ...] = tuple(
            rows.stop - rows.start for _, rows in self._places
        )

    def read(self, i: int) -> Any:
        (place, rows), content = self._places[i], self._source.read(self._places[i][0])
        if self.block_sizes[i] == self._sizes[place]:
            return content
        return tuple(None if part is None else part[rows] for part in content)


class StreamBlocks:
    """The blocks of an iterator,
    or of a function or object that begins a stream anew.
    """

    n_rows = None

    def __init__(self, source: Stream) -> None:
        self._begin = source if callable(source) else lambda: source

    def blocks(self, number: int, *, mixed: bool) -> Iterator[Piece]:
        for i, content in enumerate(self._begin()):
            yield Piece(f"block {i}", None, content)


# A source's blocks, pass by pass.
Opened = RandomAccess | StreamBlocks


def is_source(X: object) -> bool:
    """True for a source of rows, False for an array, table or collection."""
    if has_blocks(X):
        return True
    if isinstance(X, type) or any(hasattr(X, name) for name in OF_ARRAYS):
        return False
    collections = (str, bytes, Sequence, Mapping, Set)
    return callable(X) or (hasattr(X, "__iter__") and not isinstance(X, collections))


def has_blocks(X: object) -> bool:
    return hasattr(X, "block_sizes") and hasattr(X, "read")


def opened(source: Any, who: str) -> Opened:
    if has_blocks(source):
        return RandomAccess(source, who)
    return StreamBlocks(source)


def targets_of(source: Any, who: str, *, ignores_gaps: bool = False) -> Iterator[Any]:
    """Yield y of each block that has rows, in a pass over a source."""
    if hasattr(source, "__next__"):
        instead = getattr(source, "instead", "pass the function that makes it").rstrip(
            ","
        )
        raise ValueError(
            f"{who}: {source_word(source)} can be read once, and to look at the labels "
            f"takes a pass: {instead}"
        )
    for piece in opened(source, who).blocks(0, mixed=False):
        where = f"{who}: {piece.name}"
        y = parts_of(piece.content, where, ignores_gaps=ignores_gaps)[1]
        if len(y):
            yield y


def source_word(source: Any) -> str:
    return f"a {getattr(source, 'kind', type(source).__name__)}"


class BlockWithGaps(tuple[Any, ...]):
    """A block some of whose targets are missing, with the error where that matters."""

    error: ValueError

    def __new__(cls, parts: Iterable[Any], error: ValueError) -> Self:
        block = super().__new__(cls, parts)
        block.error = error
        return block


def parts_of(
    content: Any, who: str, *, ignores_gaps: bool = False
) -> tuple[Any, Any, Any]:
    """X, y and the weights, or None, of a block."""
    if isinstance(content, BlockWithGaps) and not ignores_gaps:
        raise content.error
    if not isinstance(content, tuple | list) or len(content) not in (2, 3):
        if isinstance(content, tuple | list):
            n = f" of {len(content)}"
        else:
            n = ""
        raise TypeError(
            f"{who} must be (X, y) or (X, y, sample_weight), got "
            f"{type(content).__name__}{n}"
        )
    return (*content, None)[:3]


@dataclass(frozen=True)
class Reading:
    """Settings of a fit that decide how the source is read.

    Attributes
    ----------
    buffer_rows : rows to hold in memory and to mix; None: an eighth of the memory
    shuffle : bool, mix blocks and rows
    steps_per_epoch : steps of an epoch; None: an epoch ends with the source
    class_weight : mapping of classes to numbers, or None
    validation_split : must be None
    ignores_gaps : targets may be unknown
    """

    epochs: int
    batch_size: int
    shuffle: bool
    buffer_rows: int | None = None
    steps_per_epoch: int | None = None
    class_weight: Any = None
    validation_split: Any = None
    ignores_gaps: bool = False

    @property
    def rows_per_epoch(self) -> int | None:
        """Rows of an epoch; None: an epoch ends with the source."""
        steps = self.steps_per_epoch
        return None if steps is None else int(steps) * self.batch_size

    def rows_of_a_buffer(self, n_rows: int | None, row_bytes: int, who: str) -> int:
        """Rows of a buffer: all of an epoch, or a multiple of the batch size.

        `n_rows`, the rows of an epoch, is None if unknown.
        """
        buffer_rows = self.buffer_rows
        batch = self.batch_size
        least = LEAST_BATCHES * batch
        if buffer_rows is not None:
            most = scalars.positive_integer(who, "buffer_rows", buffer_rows)
        else:
            available = memory.available()
            n_bytes = DEFAULT_BYTES if available is None else available // 8
            most = max(least, n_bytes // row_bytes)
        if n_rows is not None and n_rows <= most:
            return n_rows
        if most < least:
            raise ValueError(
                f"{who}: buffer_rows must be {LEAST_BATCHES} times the batch size or "
                f"more, {least}, got {buffer_rows}"
            )
        return most // batch * batch


class Rows(NamedTuple):
    """Rows in the memory of the host, C-contiguous, with the dtype of the net.

    Attributes
    ----------
    x : shape (n_rows, n_features)
    y : shape (n_rows, n_targets)
    weight : shape (n_rows,), or (0,) if all rows have the weight 1
    """

    x: Array
    y: Array
    weight: Array

    @property
    def n_bytes(self) -> int:
        return sum(int(array.nbytes) for array in self)

    def row_bytes(self) -> int:
        return sum(int(array[:1].nbytes) for array in self)


class _NamedArray:
    """An array for NumPy, with the names of the columns for errors."""

    def __init__(self, array: Any, names: Sequence[str]) -> None:
        self._array = array
        self.column_names = names

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        return np.asarray(self._array, dtype)


# None stands for a block without rows.
Convert = Callable[[Piece], Rows | None]


class Conversion:
    """Makes rows of a net's dtype from blocks,
    with optional class weights and column names.
    """

    def __init__(
        self,
        network: Network,
        who: str,
        class_weight: Any = None,
        names: Sequence[str] | None = None,
        *,
        ignores_gaps: bool = False,
    ) -> None:
        self._network = network
        self._who = who
        self._class_weight = class_weight
        self._names = names
        # Factors are beside the targets of each block, or of no block.
        self._ignores = ignores_gaps
        self._like: Rows | None = None

    @property
    def row_bytes(self) -> int:
        sizes = self._network.layout.sizes
        return (sizes[0] + sizes[-1] + 1) * self._network.dtype.itemsize

    def __call__(self, piece: Piece) -> Rows | None:
        """The rows of a block, None for an empty block."""
        who = f"{self._who}: {piece.name}"
        ignored = {"ignores_gaps": self._ignores}
        X, y, sample_weight = parts_of(piece.content, who, **ignored)
        n_rows = len(X) if hasattr(X, "__len__") else None
        if piece.n_rows is not None and n_rows is not None and n_rows != piece.n_rows:
            raise ValueError(
                f"{who} has {n_rows} rows, but block_sizes has {piece.n_rows}"
            )
        if n_rows == 0:
            return None
        rows = self._rows(X, y, sample_weight, who)
        like = self._like = self._like or rows
        if rows.y.shape[1] != like.y.shape[1]:
            raise ValueError(
                f"{who}: y has {count(rows.y.shape[1], 'column')}, but "
                f"{like.y.shape[1]} in the first block"
            )
        if bool(rows.weight.size) != bool(like.weight.size):
            raise ValueError(
                f"{who}: all blocks must have a sample_weight, or none of them"
            )
        return rows

    def _rows(self, X: Any, y: Any, sample_weight: Any, who: str) -> Rows:
        network = self._network
        dtype = self._network.dtype
        named = X if self._names is None else _NamedArray(X, self._names)
        x = arrays.features(named, network.layout.sizes[0], dtype, who)
        form = network.targets
        if self._class_weight is not None and isinstance(form, gaps.Form):
            sample_weight = gaps.class_weights(
                self._class_weight, y, sample_weight, form, who, ignore=self._ignores
            )
        # A block of rows with weight 0 is valid, as such a batch is.
        options = {"ignore": self._ignores, "beside": self._ignores, "all_zero": True}
        return Rows(
            x,
            *weighted_targets(y, sample_weight, len(x), form, dtype, who, **options),
        )


class Buffer:
    """Room for `n_rows` rows, filled block by block,
    with the shapes and dtype of `like`.
    """

    def __init__(self, n_rows: int, like: Rows) -> None:
        self._most = n_rows
        self._n = 0
        shapes = [(n_rows if len(array) else 0, *array.shape[1:]) for array in like]
        self._room = Rows(*(np.empty(shape, like.x.dtype) for shape in shapes))

    @property
    def is_full(self) -> bool:
        return self._n == self._most

    @property
    def rows(self) -> Rows:
        """The rows so far, as views."""
        return Rows(*(array[: self._n] for array in self._room))

    def clear(self) -> None:
        self._n = 0

    def add(self, rows: Rows, first: int, last: int) -> int:
        """Copy rows from `first` to `last`, exclusive,
        while there is room; return the next row.
        """
        n = min(last - first, self._most - self._n)
        for room, array in zip(self._room, rows, strict=True):
            if array.size:
                room[self._n : self._n + n] = array[first : first + n]
        self._n += n
        return first + n


def all_rows(source: Opened, convert: Convert, who: str) -> Rows:
    """All rows of a source in memory, which briefly holds them twice."""
    what = "to hold all rows of the source"
    blocks = list[Rows]()
    n_bytes = 0
    for piece in source.blocks(0, mixed=False):
        rows = convert(piece)
        if rows is None:
            continue
        if not blocks and source.n_rows is not None:
            memory.require(2 * source.n_rows * rows.row_bytes(), who, what)
        blocks.append(rows)
        n_bytes += rows.n_bytes
        memory.require(n_bytes, who, what)
    if not blocks:
        raise ValueError(f"{who}: the source has no rows")
    x, y, weight = (np.concatenate(parts) for parts in zip(*blocks, strict=True))
    require_weight(weight, who)
    return Rows(x, y, weight)


def require_weight(weight: Array, who: str) -> None:
    """Raise if all rows have the weight 0.
    An empty array stands for rows without weights.
    """
    if weight.size and not weight.any():
        raise ValueError(
            f"{who}: sample_weight must be 0 or more, and not all 0, got 0 in each row"
        )
