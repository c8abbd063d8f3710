"""Rows of a net's dtype: how a source is read, its blocks as rows, and buffers of them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastmlp import validation
from fastmlp._process import memory
from fastmlp.data.sources import Opened, Piece, parts_of
from fastmlp.network.spec import Network
from fastmlp.validation import scalars
from fastmlp.validation.suggestions import count

# A buffer has so many batches at least.
LEAST_BATCHES = 16
# Where the memory that is available is not known.
DEFAULT_BYTES = 1 << 30
Array = NDArray[Any]


@dataclass(frozen=True)
class Reading:
    """The settings of a fit that decide how its source is read.

    Attributes
    ----------
    buffer_rows : rows to hold in memory and to mix; None: those that an eighth of the memory holds
    shuffle : bool, mix blocks and rows
    steps_per_epoch : steps after which an epoch ends; None: at the end of the source
    class_weight : mapping of classes to numbers, or None
    validation_split : must be None
    """

    epochs: int
    batch_size: int
    shuffle: bool
    buffer_rows: int | None = None
    steps_per_epoch: int | None = None
    class_weight: Any = None
    validation_split: Any = None

    @property
    def rows_per_epoch(self) -> int | None:
        """The rows after which an epoch ends; None: at the end of the source."""
        steps = self.steps_per_epoch
        return None if steps is None else int(steps) * self.batch_size

    def rows_of_a_buffer(self, n_rows: int | None, row_bytes: int, who: str) -> int:
        """Return the rows of a buffer: all of an epoch, or a multiple of the batch size.

        Parameters
        ----------
        n_rows : int, of an epoch, or None if that is not known

        Raises
        ------
        TypeError, ValueError
            If a setting has a wrong type or value.
        """
        buffer_rows, batch = self.buffer_rows, self.batch_size
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
                f"{who}: buffer_rows must be {LEAST_BATCHES} times the batch size or more, "
                f"{least}, got {buffer_rows}"
            )
        return most // batch * batch


class Rows(NamedTuple):
    """Rows in the memory of the host, C-contiguous, of the net's dtype.

    Attributes
    ----------
    x : shape (n_rows, n_features)
    y : shape (n_rows, n_targets)
    weight : shape (n_rows,), or (0,) for rows that count alike
    """

    x: Array
    y: Array
    weight: Array

    @property
    def n_bytes(self) -> int:
        """The bytes of all rows."""
        return sum(int(array.nbytes) for array in self)

    def row_bytes(self) -> int:
        """Return the bytes of one row."""
        return sum(int(array[:1].nbytes) for array in self)


class _NamedArray:
    """An array as NumPy reads it, with the names of its columns, which errors tell."""

    def __init__(self, array: Any, names: Sequence[str]) -> None:
        self._array, self.column_names = array, names

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        return np.asarray(self._array, dtype)


# Returns None for a block without rows.
Convert = Callable[[Piece], Rows | None]


class Conversion:
    """Makes rows of a net's dtype from blocks.

    Parameters
    ----------
    network : Network
    class_weight : mapping of classes to numbers, optional
    names : of the columns of X, optional
    """

    def __init__(
        self,
        network: Network,
        who: str,
        class_weight: Any = None,
        names: Sequence[str] | None = None,
    ) -> None:
        self._network, self._who, self._class_weight = network, who, class_weight
        self._names = names
        self._like: Rows | None = None

    @property
    def row_bytes(self) -> int:
        """The bytes of a row, with as many targets as outputs and a weight."""
        sizes = self._network.layout.sizes
        return (sizes[0] + sizes[-1] + 1) * self._network.dtype.itemsize

    def __call__(self, piece: Piece) -> Rows | None:
        """Return the rows of a block; None if it has none.

        Raises
        ------
        TypeError, ValueError
            If they are not what they must be; the message names the block.
        """
        who = f"{self._who}: {piece.name}"
        X, y, sample_weight = parts_of(piece.content, who)
        n_rows = len(X) if hasattr(X, "__len__") else None
        if piece.n_rows is not None and n_rows is not None and n_rows != piece.n_rows:
            raise ValueError(f"{who} has {n_rows} rows, but block_sizes has {piece.n_rows}")
        if n_rows == 0:
            return None
        rows = self._rows(X, y, sample_weight, who)
        like = self._like = self._like or rows
        if rows.y.shape[1] != like.y.shape[1]:
            raise ValueError(
                f"{who}: y has {count(rows.y.shape[1], 'column')}, but {like.y.shape[1]} in the "
                "first block"
            )
        if bool(rows.weight.size) != bool(like.weight.size):
            raise ValueError(f"{who}: all blocks must have a sample_weight, or none of them")
        return rows

    def _rows(self, X: Any, y: Any, sample_weight: Any, who: str) -> Rows:
        network, dtype, loss = self._network, self._network.dtype, self._network.loss
        sizes = network.layout.sizes
        named = X if self._names is None else _NamedArray(X, self._names)
        x = validation.features(named, sizes[0], dtype, who)
        table = validation.targets(y, len(x), sizes[-1], loss.targets, dtype, who, loss.per_target)
        if self._class_weight is not None:
            sample_weight = validation.class_weights(
                self._class_weight, y, sample_weight, loss.targets, sizes[-1], who
            )
        # A block whose rows all have the weight 0 is valid, as a batch of such rows is.
        weight = validation.weights(sample_weight, len(x), dtype, who, all_zero=True)
        return Rows(x, table, weight)


class Buffer:
    """Room for rows, filled block by block.

    Parameters
    ----------
    n_rows : int, for how many rows
    like : Rows, of the shapes and the dtype that they will have
    """

    def __init__(self, n_rows: int, like: Rows) -> None:
        self._most, self._n = n_rows, 0
        shapes = [(n_rows if len(array) else 0, *array.shape[1:]) for array in like]
        self._room = Rows(*(np.empty(shape, like.x.dtype) for shape in shapes))

    @property
    def is_full(self) -> bool:
        """True if no row more goes in."""
        return self._n == self._most

    @property
    def rows(self) -> Rows:
        """The rows so far, without a copy."""
        return Rows(*(array[: self._n] for array in self._room))

    def clear(self) -> None:
        """Drop the rows."""
        self._n = 0

    def add(self, rows: Rows, first: int, last: int) -> int:
        """Copy rows from `first` to the one before `last`, as many as there is room for; return the
        next one."""
        n = min(last - first, self._most - self._n)
        for room, array in zip(self._room, rows, strict=True):
            if array.size:
                room[self._n : self._n + n] = array[first : first + n]
        self._n += n
        return first + n


def all_rows(source: Opened, convert: Convert, who: str) -> Rows:
    """Return all rows of a source, in memory at once.

    Raises
    ------
    MemoryError
        If there is not enough memory for them, twice: in blocks, and as one array.
    ValueError
        If there are none, or all have the weight 0.
    """
    what, blocks, n_bytes = "to hold all rows of the source", list[Rows](), 0
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
    if weight.size and not weight.any():
        raise ValueError(f"{who}: sample_weight must be 0 or more, and not all 0")
    return Rows(x, y, weight)
