"""A feature of some rows, and rows along it with the other features held."""

from collections.abc import Sequence
from numbers import Integral
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

MOST_NAMES = 20


class Feature(NamedTuple):
    """A column of a table.

    Attributes
    ----------
    table : (n_samples, n_features) array of float, or pandas data frame
    column : int, from 0
    name : str
    values : (n_samples,) array of float
    """

    table: Any
    column: int
    name: str
    values: NDArray[np.float64]

    @property
    def has_others(self) -> bool:
        """True if the table has other columns."""
        return bool(self.table.shape[1] > 1)

    def rows(self, along: NDArray[np.float64]) -> Any:
        """Return rows of these values, the other columns at their means; of the table's kind."""
        if isinstance(self.table, np.ndarray):
            rows = np.repeat(self.table.mean(axis=0)[None], len(along), axis=0)
            rows[:, self.column] = along
            return rows
        frame = self.table.iloc[np.zeros(len(along), int)].reset_index(drop=True)
        for i in range(frame.shape[1]):
            frame.isetitem(i, along if i == self.column else _middle(self.table.iloc[:, i]))
        return frame


def feature_of(ensemble: Any, X: Any, feature: int | str) -> Feature:
    """Return a column of X, by number or name.

    A pipeline may need the names and kinds of a data frame's columns: its table is the frame.

    Raises
    ------
    TypeError
        If `feature` is neither a number nor a name.
    ValueError
        If X is not a table, or has no such column or one without numbers.
    """
    is_frame = hasattr(ensemble, "steps") and hasattr(X, "iloc")
    table: Any = X if is_frame else np.asarray(X, float)
    if table.ndim != 2:
        raise ValueError(
            f"plot_ensemble: X must have shape (n_samples, n_features), got {table.shape}"
        )
    names = _names(ensemble, X)
    column = _column(feature, names, table.shape[1])
    name = f"feature {column}" if names is None else str(names[column])
    try:
        values = np.asarray(table.iloc[:, column] if is_frame else table[:, column], float)
    except (TypeError, ValueError) as error:
        raise ValueError(f"plot_ensemble: the column {name!r} has no numbers") from error
    return Feature(table, column, name, values)


def _names(ensemble: Any, X: Any) -> Sequence[Any] | None:
    names = getattr(ensemble, "feature_names_in_", None)
    return getattr(X, "columns", None) if names is None else names


def _column(feature: Any, names: Sequence[Any] | None, n_features: int) -> int:
    if isinstance(feature, str):
        known = [] if names is None else [str(name) for name in names]
        if feature in known:
            return known.index(feature)
        some = ", ".join(known[:MOST_NAMES]) + (", ..." if len(known) > MOST_NAMES else "")
        hint = f"they are {some}" if known else "X has no names: give the column's number"
        raise ValueError(f"plot_ensemble: no feature has the name {feature!r}; {hint}")
    if isinstance(feature, bool) or not isinstance(feature, Integral):
        hint = "; the targets are y=..." if hasattr(feature, "__len__") else ""
        raise TypeError(
            "plot_ensemble: feature must be the number or the name of a column of X, "
            f"got {type(feature).__name__}{hint}"
        )
    if not -n_features <= int(feature) < n_features:
        raise ValueError(
            f"plot_ensemble: feature must be from 0 to {n_features - 1}, got {feature}"
        )
    return int(feature) % n_features


def _middle(column: Any) -> Any:
    """Return the mean of a column of numbers, else its most frequent value."""
    return column.mean() if column.dtype.kind in "iuf" else column.mode().iloc[0]
