"""Blocks: rows of arrays, memory maps, files and tables, read one block at a time."""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable, Sequence
from typing import Any, Self, final

import numpy as np

from fastmlp._process import memory, warn
from fastmlp.data import arrow
from fastmlp.data.columns import (
    ColumnNames,
    FileBlocks,
    ParquetGroups,
    TableBlocks,
    table_blocks,
)
from fastmlp.data.sources import Block
from fastmlp.validation import Array, frames, messages, scalars
from fastmlp.validation.calls import assignable, explained
from fastmlp.validation.messages import count

Part = Callable[[int, int], Any]


@final
@assignable("block_sizes", "seed", "feature_names")
class Blocks:
    """A source of rows for `MLP.fit`, in blocks that are read when the fit needs them.

    Any object with `block_sizes` and `read` is a source too. Each epoch reads the
    blocks in a new order into a buffer, and mixes its rows. Small blocks mix better
    (CorgiPile: Xu et al., 2022, arXiv 2206.05830).

    Attributes
    ----------
    block_sizes : tuple of int
        Number of rows of each block.
    seed : int
        Decides the order of blocks in each epoch.
    feature_names : tuple of str, or None
        Names of the columns of X, which a trained net keeps.

    Examples
    --------
    >>> import numpy as np
    >>> from fastmlp import MLP, Blocks
    >>> X = np.random.default_rng(0).uniform(-1, 1, (1000, 1))
    >>> source = Blocks.from_arrays(X, X**2, rows=100)
    >>> source.block_sizes[:3]
    (100, 100, 100)
    >>> len(MLP((1, 8, 1), seed=0).fit(source, epochs=3, batch_size=10, buffer_rows=300).loss)
    3
    """

    block_sizes: tuple[int, ...]
    seed: int
    feature_names: tuple[str, ...] | None = None

    def __init__(
        self, block_sizes: tuple[int, ...], read: Callable[[int], Block], seed: int = 0
    ):
        self.block_sizes = block_sizes
        self.seed = seed
        self._read = read

    def read(self, i: int) -> Block:
        """Return X, y and, if any, the weights of block i."""
        return self._read(i)

    def __repr__(self) -> str:
        n = count(sum(self.block_sizes), "row")
        return (
            f"Blocks({n} in {count(len(self.block_sizes), 'block')}, seed={self.seed})"
        )

    @classmethod
    @explained
    def from_arrays(
        cls,
        X: Any,
        y: Any,
        sample_weight: Any = None,
        *,
        rows: int = 65536,
        seed: int = 0,
    ) -> Self:
        """Return blocks of arrays,
        or of other objects with a length whose slices are arrays.

        Data sets of HDF5 and Zarr are such objects;
        chunks are read fastest if they divide `rows`.

        Parameters
        ----------
        X : (n_rows, n_features) array
        y : (n_rows,) or (n_rows, n_outputs) array
        sample_weight : (n_rows,) array, optional
        rows : int of 1 or more, default 65536
            Rows of a block; the last may have fewer.
        seed : int of 0 or more, default 0

        Raises
        ------
        TypeError, ValueError
            If an argument has a wrong type or value.

        Examples
        --------
        >>> from fastmlp import Blocks
        >>> Blocks.from_arrays([[1.0], [2.0], [3.0]], [1, 2, 3], rows=2)
        Blocks(3 rows in 2 blocks, seed=0)
        """
        return cls._of((X, y, sample_weight), rows, seed, "Blocks.from_arrays")

    @classmethod
    @explained
    def from_memmap(
        cls,
        X: Any,
        y: Any,
        sample_weight: Any = None,
        *,
        rows: int = 65536,
        seed: int = 0,
    ) -> Self:
        """Return blocks of memory maps, read from their files.

        The file itself is read: a map costs a page fault for each row outside memory.
        A truncated file is an OSError, where a map would end the process.

        Parameters
        ----------
        X, y, sample_weight, rows, seed
            As for `from_arrays`. Other arrays,
            and maps that are not C-contiguous, are sliced.

        Raises
        ------
        TypeError, ValueError
            If an argument has a wrong type or value.

        Examples
        --------
        >>> import os, tempfile
        >>> import numpy as np
        >>> from fastmlp import Blocks
        >>> path = os.path.join(tempfile.mkdtemp(), "X.npy")
        >>> np.save(path, np.zeros((1000, 4), np.float32))
        >>> Blocks.from_memmap(np.load(path, mmap_mode="r"), np.zeros(1000), rows=200)
        Blocks(1000 rows in 5 blocks, seed=0)
        """
        return cls._of(
            (X, y, sample_weight), rows, seed, "Blocks.from_memmap", of_files=True
        )

    @classmethod
    @explained
    def from_parquet(
        cls,
        paths: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
        *,
        target: str | Sequence[str],
        features: Sequence[str] | None = None,
        weight: str | None = None,
        rows: int | None = None,
        seed: int = 0,
    ) -> Self:
        """Return the row groups of Parquet files as blocks.
        The extra `arrow` is needed.

        Parameters
        ----------
        paths : path or sequence of paths
            Files, patterns such as "part*.parquet", or folders.
        target : str or sequence of str
            The column or columns of y.
        features : sequence of str, optional
            The columns of X, in this order. None: all other columns.
        weight : str, optional
            The column of sample weights.
        rows : int of 1 or more, optional
            Cut row groups into blocks of this size, which mix better. A read decodes
            the row group up to the block's end: files with small row groups are faster.
        seed : int of 0 or more, default 0

        Raises
        ------
        TypeError, ValueError
            If an argument has a wrong type or value, or a column is missing;
            on reading, if a column is not numeric or has nulls.
        ImportError
            If pyarrow is missing.
        OSError
            If a file cannot be read.

        Examples
        --------
        >>> import os, tempfile
        >>> import pyarrow, pyarrow.parquet
        >>> from fastmlp import Blocks
        >>> path = os.path.join(tempfile.mkdtemp(), "rows.parquet")
        >>> table = pyarrow.table({"a": [1.0, 2.0, 3.0], "b": [4, 5, 6], "y": [0.5, 1.5, 2.5]})
        >>> pyarrow.parquet.write_table(table, path, row_group_size=2)
        >>> Blocks.from_parquet(path, target="y")
        Blocks(3 rows in 2 blocks, seed=0)
        """
        who = "Blocks.from_parquet"
        files = arrow.paths_of(paths)
        if files is None:
            raise TypeError(
                f"{who}: paths must be a path, or a sequence of them, got {paths!r}"
            )
        if rows is not None:
            scalars.positive_integer(who, "rows", rows)
        messages.imported("pyarrow", who)
        paths = arrow.expanded(files, who)
        column_names = ColumnNames(target, features, weight)
        blocks = FileBlocks(ParquetGroups(), paths, column_names, rows, who)
        return cls._of_columns(blocks, scalars.non_negative_integer(who, "seed", seed))

    @classmethod
    @explained
    def from_arrow(
        cls,
        table: Any,
        *,
        target: str | Sequence[str],
        features: Sequence[str] | None = None,
        weight: str | None = None,
        rows: int = 65536,
        seed: int = 0,
    ) -> Self:
        """Return blocks of a table in memory. The extra `arrow` is needed.

        Parameters
        ----------
        table : pyarrow.Table, pandas.DataFrame, polars.DataFrame, or alike
            Any object with ``__arrow_c_stream__``, read once. Arrow data is not copied.
        target, features, weight, seed
            As for `from_parquet`.
        rows : int of 1 or more, default 65536
            Maximum number of rows of a block.

        Raises
        ------
        TypeError, ValueError, ImportError
            As from `from_parquet`.

        Examples
        --------
        >>> import pyarrow
        >>> from fastmlp import Blocks
        >>> table = pyarrow.table({"a": [1.0, 2.0, 3.0], "y": [0.5, 1.5, 2.5]})
        >>> Blocks.from_arrow(table, target="y", rows=2)
        Blocks(3 rows in 2 blocks, seed=0)
        """
        who = "Blocks.from_arrow"
        if not frames.is_table(table):
            raise TypeError(
                f"{who}: table must be a table or a frame, got {type(table).__name__}"
            )
        scalars.positive_integer(who, "rows", rows)
        blocks = table_blocks(table, ColumnNames(target, features, weight), rows, who)
        return cls._of_columns(blocks, scalars.non_negative_integer(who, "seed", seed))

    @classmethod
    def _of_columns(cls, blocks: FileBlocks | TableBlocks, seed: int) -> Self:
        made = cls(blocks.block_sizes, blocks.read, seed)
        made.feature_names = blocks.feature_names
        return made

    @classmethod
    def _of(
        cls,
        arrays: tuple[Any, Any, Any],
        rows: Any,
        seed: Any,
        who: str,
        *,
        of_files: bool = False,
    ) -> Self:
        """Blocks of `rows` rows each, the last one shorter, of equally long arrays."""
        rows = scalars.positive_integer(who, "rows", rows)
        X = arrays[0]
        seed = scalars.non_negative_integer(who, "seed", seed)
        named = zip(("X", "y", "sample_weight"), arrays, strict=True)
        columns = {name: array for name, array in named if array is not None}
        for name, array in columns.items():
            if not hasattr(array, "__len__") or not hasattr(array, "__getitem__"):
                raise TypeError(
                    f"{who}: {name} must be an array, got {type(array).__name__}"
                )
            if len(array) != len(X):
                raise ValueError(
                    f"{who}: X has {count(len(X), 'row')}, but {name} has {len(array)}"
                )
        parts = [_part(array, of_files=of_files) for array in columns.values()]
        sizes = tuple(min(rows, len(X) - first) for first in range(0, len(X), rows))

        def read(i: int) -> Any:
            first = i * rows
            return tuple(part(first, first + sizes[i]) for part in parts)

        return cls(sizes, read, seed)


def _part(array: Any, *, of_files: bool) -> Part:
    mapped = isinstance(array, np.memmap) and array.flags.c_contiguous
    if of_files and mapped and isinstance(array._mmap, mmap.mmap):
        return _FilePart(array)
    # pandas slices rows by position in `iloc`.
    places = getattr(array, "iloc", array)
    return lambda first, last: places[first:last]


class _FilePart:
    def __init__(self, array: np.memmap[Any, Any]) -> None:
        self._path = str(array.filename)
        self._dtype = array.dtype
        self._shape = array.shape[1:]
        # The attribute `offset` of a slice is the offset of the whole map.
        whole: Any = array._mmap  # type: ignore[attr-defined]
        start = array.offset - array.offset % mmap.ALLOCATIONGRANULARITY
        self._offset = (
            start + array.ctypes.data - np.frombuffer(whole, np.uint8).ctypes.data
        )
        self._row_bytes = int(array[:1].nbytes)

    def __call__(self, first: int, last: int) -> Array:
        n = (last - first) * int(np.prod(self._shape))
        start = self._offset + first * self._row_bytes
        numbers = np.fromfile(self._path, self._dtype, n, offset=start)
        if len(numbers) < n:
            raise OSError(f"{self._path} ends before row {last - 1}: has it been cut?")
        return numbers.reshape(last - first, *self._shape)


def in_blocks(X: Any, y: Any, sample_weight: Any, who: str) -> tuple[Any, Any, Any]:
    """Blocks in place of a memory map that needs more than half of the available
    memory.

    Rows in random order would cost a page fault each, unless the file is in memory.
    """
    if not isinstance(X, np.memmap) or y is None or X.ndim != 2:
        return X, y, sample_weight
    if X.nbytes <= memory.UNCHECKED_BYTES:
        return X, y, sample_weight
    available = memory.available()
    if available is None or X.nbytes <= available // 2:
        return X, y, sample_weight
    warn(
        f"{who}: X is a memory map of {memory.readable(X.nbytes)}, and "
        f"{memory.readable(available)} of memory are available: it is read in blocks, "
        "whose rows are mixed in buffers; pass Blocks.from_memmap(X, y) to choose them",
        UserWarning,
    )
    return Blocks.from_memmap(X, y, sample_weight), None, None
