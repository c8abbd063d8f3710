"""OneHotLevels: codes of levels as columns of 0 and 1, without those of rare levels."""

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from fastmlp.tabular.encoders.base import Array, CodeEncoder, places_of
from fastmlp.validation import scalars
from fastmlp.validation.calls import explained


class OneHotLevels(CodeEncoder):
    """Encode codes of levels, as of `Schema.read`, as one column for each level, 1 in its rows.

    Rare and unknown levels are zeros. A column with missing values in training, of code -1, has a
    column for those; what is unknown later has their code, and is taken as missing. A column of
    two levels that are not rare is one column of -1 and 1, as in RealMLP.

    Parameters
    ----------
    max_levels : int
        The most levels of a column that are kept: the most frequent ones.
    min_rows : int
        Levels in fewer rows are rare; so are missing values.

    Attributes
    ----------
    starts_ : (n_features + 1,) array of int64
        Where the places of each column begin in the following tables: that of -1, then of each
        code.
    columns_ : (n_places,) array of int64
        Which column is not 0; -1 for none.
    values_ : (n_places,) array of float32
        Its value, 1 or -1.

    Examples
    --------
    >>> import numpy as np
    >>> from fastmlp.tabular import OneHotLevels
    >>> codes = np.array([[0, 0], [1, 1], [2, 1], [2, 0]])
    >>> OneHotLevels(min_rows=1).fit(codes).transform([[0, 0], [2, 1], [7, -1]])
    array([[ 1.,  0.,  0., -1.],
           [ 0.,  0.,  1.,  1.],
           [ 0.,  0.,  0.,  0.]], dtype=float32)
    """

    ARRAYS: ClassVar = {
        "starts_": (np.int64, ("n_features + 1",)),
        "columns_": (np.int64, ("n_places",)),
        "values_": (np.float32, ("n_places",)),
    }
    columns_: Array
    values_: Array

    @explained
    def __init__(self, max_levels: int = 100, min_rows: int = 5) -> None:
        self.max_levels = max_levels
        self.min_rows = min_rows

    def learn(self, X: Array, y: Any = None) -> None:
        """Learn from checked codes."""
        who = type(self).__name__
        most = scalars.positive_integer(who, "max_levels", self.max_levels)
        fewest = scalars.positive_integer(who, "min_rows", self.min_rows)
        starts, columns, values, first = [0], [], [], 0
        for codes in X.T:
            its, ones = _learned(np.bincount(codes + 1, minlength=1), most, fewest)
            columns.append(np.where(its >= 0, its + first, -1))
            values.append(ones)
            first += int(its.max(initial=-1)) + 1
            starts.append(starts[-1] + len(its))
        self.starts_ = np.array(starts, np.int64)
        self.columns_ = np.concatenate([np.empty(0, np.int64), *columns])
        self.values_ = np.concatenate([np.empty(0, np.float32), *values])

    def write(self, X: Array, out: Array) -> None:
        """Write the columns of checked codes to `out`."""
        out[:] = 0
        places = places_of(X, self.starts_)
        columns = self.columns_[places]
        rows, features = np.nonzero(columns >= 0)
        out[rows, columns[rows, features]] = self.values_[places[rows, features]]

    def write_short(self, X: Array, out: Array) -> None:
        """Write which column of its feature's is 1, for each feature that has some; -1 for none.

        It has no sign: a feature of two levels that is a column of -1 and 1 is not for it.
        """
        from fastmlp.tabular.encoders import compiled

        table, sizes = self._own_columns, np.diff(self.starts_)
        some = np.diff(self._ends, prepend=0) > 0
        codes = X if some.all() else X[:, some]
        compiled.write_levels(codes, out, self.starts_[:-1][some], sizes[some], table[:, None])

    @property
    def n_outputs(self) -> int:
        """The number of encoded columns."""
        return int(self.columns_.max(initial=-1)) + 1

    @property
    def spans(self) -> tuple[int, ...]:
        """The columns of each feature that has some."""
        n = np.diff(self._ends, prepend=0)
        return tuple(n[n > 0].tolist())

    @property
    def _ends(self) -> Array:
        """Where the columns of each feature end."""
        return np.maximum.accumulate(np.maximum.reduceat(self.columns_, self.starts_[:-1])) + 1

    @property
    def _own_columns(self) -> Array:
        """Which of its feature's columns is not 0, for each place; -1 for none."""
        firsts = np.concatenate([[0], self._ends[:-1]])
        own = self.columns_ - np.repeat(firsts, np.diff(self.starts_))
        return np.where(self.columns_ < 0, -1, own)

    def _check_arrays(self) -> None:
        super()._check_arrays()
        if ((self.columns_ < -1) | (self.columns_ >= len(self.columns_))).any():
            raise ValueError("there are more columns than levels")
        if self._own_columns.min() < -1:
            raise ValueError("the columns of each level must be its feature's")

    def _names(self, names: list[str]) -> Sequence[str]:
        found = [""] * self.n_outputs
        for name, start, end in zip(names, self.starts_, self.starts_[1:], strict=False):
            for code, place in enumerate(range(start, end), -1):
                if self.columns_[place] >= 0:
                    found[self.columns_[place]] = f"{name}_{'missing' if code < 0 else code}"
        return found


def _learned(counts: Array, most: int, fewest: int) -> tuple[Array, Array]:
    """Return a column's places, of -1 and each code: which column, -1 for none, and its value."""
    levels = counts[1:]
    # Of equally frequent ones the first.
    order = np.argsort(-levels, kind="stable")[:most]
    kept = np.sort(order[levels[order] >= fewest])
    columns, values = np.full(len(counts), -1, np.int64), np.ones(len(counts), np.float32)
    if len(kept) == 2 and np.count_nonzero(levels) == 2:
        columns[1 + kept], values[1 + kept[0]] = 0, -1
    else:
        columns[1 + kept] = np.arange(len(kept))
    if counts[0] >= fewest:
        columns[0] = columns.max() + 1
    return columns, values
