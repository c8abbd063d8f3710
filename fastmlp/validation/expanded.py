"""`Expanded` rows: a number stands for several inputs of a net.

The number is a position among the pieces of a column's range, or a level.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import accumulate
from typing import Any, final

import numpy as np
from numpy.typing import ArrayLike

from fastmlp._process import memory
from fastmlp.validation import Array, scalars
from fastmlp.validation.arrays import features, table
from fastmlp.validation.calls import assignable
from fastmlp.validation.messages import count

WHO = "Expanded"
# Number of plain columns, numbers of pieces, numbers of levels.
Kind = tuple[int, tuple[int, ...], tuple[int, ...]]
# Most pieces of a column: their running sums stay in a first-level cache.
MOST_PIECES = 128
# Rows that are written at a time.
BLOCK_ROWS = 1024


@final
@assignable("values", "plain", "pieces", "levels")
class Expanded:
    """Rows in which a number stands for several inputs of a net.

    A net trains and predicts on them as on the inputs `toarray()`. The first layer
    computes with the numbers themselves: two rows of weights each, for any number of
    pieces. A step of 340-128-128-1 takes 0.56 to 0.69 of the time.

    Parameters
    ----------
    values : (n_rows, plain + len(pieces) + len(levels)) array of real numbers
        Plain numbers, then numbers of pieces, then levels.
        Not copied if C-contiguous and of float32 or float64.
    plain : int
        Number of first columns that are inputs themselves.
    pieces : sequence of int, from 1 to 128
        Number of inputs of each next column. A number x of T pieces stands for the T
        inputs ``min(max(x - t, 0), 1)``, t = 0, ..., T - 1: the whole part is the
        piece, counted from 0, and the fraction the position in the piece. Numbers below
        0 count as 0, above T as T.
    levels : sequence of int of 1 or more
        Number of inputs of each last column. A level, from 0 to L - 1,
        stands for L inputs, one-hot; -1, no level, for L zeros.

    Attributes
    ----------
    values, plain, pieces, levels
        As given; values in float32 or float64.

    Notes
    -----
    The inputs of pieces are the piecewise linear encoding of Gorishniy, Rubachev and
    Babenko, "On Embeddings for Numerical Features in Tabular Deep Learning", 2022,
    arXiv:2203.05556, clipped to [0, 1]. Dense and expanded rows train the same net up
    to rounding, and expanded rows the same bits for any number of threads. A GPU takes
    only `toarray()`.

    Examples
    --------
    >>> from fastmlp import Expanded
    >>> rows = Expanded([[7.0, 1.25, 2], [8.0, 3.0, 0]], plain=1, pieces=[3], levels=[3])
    >>> rows.toarray()
    array([[7.  , 1.  , 0.25, 0.  , 0.  , 0.  , 1.  ],
           [8.  , 1.  , 1.  , 1.  , 1.  , 0.  , 0.  ]])
    """

    values: Array
    plain: int
    pieces: tuple[int, ...]
    levels: tuple[int, ...]

    def __init__(
        self,
        values: ArrayLike,
        *,
        plain: int = 0,
        pieces: Iterable[int] = (),
        levels: Iterable[int] = (),
    ) -> None:
        self.plain = scalars.non_negative_integer(WHO, "plain", plain)
        self.pieces = _counts(pieces, "pieces", MOST_PIECES)
        self.levels = _counts(levels, "levels", None)
        self.values = table(values, None, f"{WHO}: values")
        width = self.plain + len(self.pieces) + len(self.levels)
        if self.values.shape[1] != width:
            raise ValueError(
                f"{WHO}: values have {count(self.values.shape[1], 'column')}, not "
                f"{width}: {self.plain} plain, {len(self.pieces)} of pieces, "
                f"{len(self.levels)} of levels"
            )
        self._check_levels()

    @staticmethod
    def trusted(values: Array, kind: Kind) -> Expanded:
        """Return unchecked rows of float32 or float64, written by an encoder."""
        rows: Expanded = object.__new__(Expanded)
        rows.values = values
        (rows.plain, rows.pieces, rows.levels) = kind
        return rows

    def _check_levels(self) -> None:
        first = self.plain + len(self.pieces)
        for c, n in enumerate(self.levels, first):
            column = self.values[:, c]
            bad = (column < -1) | (column >= n) | (column != np.floor(column))
            if bad.any():
                r = int(np.argmax(bad))
                raise ValueError(
                    f"{WHO}: column {c} must hold levels from -1 to {n - 1}, "
                    f"got {column[r]} in row {r}"
                )

    def __len__(self) -> int:
        return len(self.values)

    @property
    def shape(self) -> tuple[int, int]:
        return len(self.values), self.plain + sum(self.pieces) + sum(self.levels)

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.values.dtype

    @property
    def kind(self) -> Kind:
        """Number of plain columns, numbers of pieces, numbers of levels."""
        return self.plain, self.pieces, self.levels

    @property
    def starts(self) -> tuple[int, ...]:
        """The first input of each column that is not plain,
        and the number of inputs.
        """
        return tuple(accumulate((*self.pieces, *self.levels), initial=self.plain))

    def astype(self, dtype: np.dtype[Any]) -> Expanded:
        """Return the rows in a dtype, the same object if they have it."""
        same = self.dtype == dtype
        if same:
            return self
        return Expanded.trusted(self.values.astype(dtype), self.kind)

    def __getitem__(self, rows: Any) -> Expanded:
        """Return some of the rows, by a slice, a mask or indices."""
        return Expanded.trusted(np.ascontiguousarray(self.values[rows]), self.kind)

    def toarray(self) -> Array:
        """Return the inputs as an array of shape `shape`."""
        memory.require(
            self.shape[0] * self.shape[1] * self.dtype.itemsize, WHO, "the inputs"
        )
        counts = (*self.pieces, *self.levels)
        out = np.empty(self.shape, self.dtype)
        columns = self.plain + np.repeat(np.arange(len(counts)), counts)
        number = np.concatenate([np.empty(0), *map(np.arange, counts)]).astype(
            self.dtype
        )
        n = sum(self.pieces)
        first = self.plain + sum(self.pieces)
        for begin in range(0, len(self), BLOCK_ROWS):
            rows = slice(begin, begin + BLOCK_ROWS)
            block = self.values[rows]
            into = out[rows]
            into[:, : self.plain] = block[:, : self.plain]
            distances = block[:, columns] - number
            np.clip(distances[:, :n], 0, 1, out=into[:, self.plain : first])
            into[:, first:] = distances[:, n:] == 0
        return out

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        """Return `toarray()`, for `np.asarray`."""
        if copy is False:
            raise ValueError(
                "Expanded: its inputs are made anew: copy=False cannot be had"
            )
        return self.toarray().astype(dtype or self.dtype, copy=False)

    def __repr__(self) -> str:
        columns = f"{self.plain} plain, {len(self.pieces)} of pieces, {len(self.levels)} of levels"
        return f"Expanded({len(self)} rows: {columns}; {self.shape[1]} inputs)"


def _counts(argument: Any, name: str, most: int | None) -> tuple[int, ...]:
    if isinstance(argument, str) or not isinstance(argument, Iterable):
        raise TypeError(f"{WHO}: {name} must be a sequence of int, got {argument!r}")
    counts = tuple(
        scalars.positive_integer(WHO, f"{name}[{i}]", n) for i, n in enumerate(argument)
    )
    if most is not None and max(counts, default=0) > most:
        raise ValueError(
            f"{WHO}: a column has at most {most} {name}, got {max(counts)}"
        )
    return counts


def rows(x: object, n_features: int, kind: np.dtype[Any], who: str) -> Array | Expanded:
    """X as from `features`, or expanded rows in the dtype `kind`."""
    if not isinstance(x, Expanded):
        return features(x, n_features, kind, who)
    if x.shape[1] != n_features:
        raise ValueError(
            f"{who}: X stands for {count(x.shape[1], 'input')}, but the net has "
            f"{count(n_features, 'input')}"
        )
    if len(x) == 0:
        raise ValueError(f"{who}: X has no rows")
    return x.astype(kind)
