"""Columns of an Arrow table as rows of numbers, and where the rows are, as errors call them."""

from copy import copy
from typing import Any, NamedTuple, Self

from numpy.typing import NDArray

from fastmlp.validation import frames, hints
from fastmlp.validation.suggestions import count, suggestion

Array = NDArray[Any]


class Place(str):
    """The name, in errors, of some rows of a file or a table, such as "batch 1 of a.csv".

    Attributes
    ----------
    first : the number of the first row, from 0; in CSV its line, from 1
    unit : "row" or "line"
    of : " of a.csv", or "" for rows in memory
    """

    first: int
    unit: str
    of: str

    def __new__(cls, text: str, first: int = 0, of: str = "") -> Self:
        made = super().__new__(cls, text)
        made.first, made.unit, made.of = first, "row", of
        return made

    @classmethod
    def in_csv(cls, text: str, first: int, of: str) -> Self:
        """Return the place of rows of CSV, whose line 1 is the header."""
        made = cls(text, first + 2, of)
        made.unit = "line"
        return made

    def by(self, who: str) -> Self:
        """The same place, after the name of the caller."""
        made = type(self)(f"{who}: {self}", self.first, self.of)
        made.unit = self.unit
        return made

    def row(self, i: int) -> str:
        """The name, in errors, of row i."""
        return f"{self.unit} {self.first + i}"


def missing_in(column: Any) -> tuple[int, int]:
    """The number of missing values of an Arrow column, NaN too, and the row of the first."""
    import pyarrow.compute as compute

    missing = compute.is_null(column, nan_is_null=True)
    return int(compute.sum(missing).as_py() or 0), int(compute.index(missing, True).as_py())


def lacking(name: str, n: int, first: str) -> str:
    """The message of `n` missing targets; `first` is the place of the first."""
    lack = f"{count(n, 'missing value')}, the first in {first}"
    return f"the target {name!r} has {lack}; fill them in, or leave their rows out"


def require_target(column: Any, name: str, where: str) -> None:
    """Check that no target in an Arrow column is missing.

    Raises
    ------
    ValueError
        If one is; the message has how many, and the row, or the line, of the first.
    """
    n, first = missing_in(column)
    if n:
        place = where if isinstance(where, Place) else Place(where)
        raise ValueError(f"{where}: {lacking(name, n, place.row(first))}")


class NamedColumns(NamedTuple):
    """The columns that rows are made of, by their names.

    Attributes
    ----------
    target : one name, for y of shape (n_rows,), or several, for a column each
    weight : a name, or None
    """

    features: tuple[str, ...]
    target: str | tuple[str, ...]
    weight: str | None

    @property
    def of_targets(self) -> "NamedColumns":
        """The columns of y alone."""
        return self._replace(features=(), weight=None)

    @property
    def names(self) -> list[str]:
        """The names of all columns, each once."""
        weights = [] if self.weight is None else [self.weight]
        return list(dict.fromkeys([*self.features, *self.targets, *weights]))

    @property
    def targets(self) -> list[str]:
        """The names of the columns of y."""
        return [self.target] if isinstance(self.target, str) else list(self.target)

    @property
    def wanted(self) -> "ColumnNames":
        """The same columns, to be found in another table."""
        return ColumnNames(self.target, self.features, self.weight)

    def block(self, batch: Any, where: Place) -> Any:
        """Return the rows of a record batch; `where` is what errors call it.

        Raises
        ------
        TypeError, ValueError
            If a column is no column of numbers, or has nulls; labels of y may be texts.
        """
        for name in self.targets:
            require_target(batch.column(name), name, where)
        try:
            X = frames.numbers(batch.select(list(self.features)), None, where, "X")
        except (TypeError, ValueError) as error:
            raise type(error)(f"{error}{hints.A_TABLE}") from None
        y = _labels(batch.column(self.target)) if isinstance(self.target, str) else None
        if y is None:
            y = frames.numbers(batch.select(self.targets), None, where, "y")
            y = y[:, 0] if isinstance(self.target, str) else y
        if self.weight is None:
            return X, y
        return X, y, frames.numbers(batch.select([self.weight]), None, where, "sample_weight")[:, 0]


class NamedBlocks:
    """Blocks of columns that are known by their names."""

    _columns: NamedColumns | None

    @property
    def feature_names(self) -> tuple[str, ...] | None:
        """The names of the columns of X."""
        return None if self._columns is None else self._columns.features

    def _of_targets(self) -> Self:
        """Return the same blocks, whose X has no columns."""
        made = copy(self)
        made._columns = None if self._columns is None else self._columns.of_targets
        return made


class ColumnNames(NamedTuple):
    """Names of columns as they are given; without `features` all but the others are features."""

    target: Any
    features: Any = None
    weight: Any = None


def columns_of(schema: Any, column_names: ColumnNames, who: str) -> NamedColumns:
    """Return the columns of a table by their names.

    Raises
    ------
    TypeError, ValueError
        If they are no names, or there are no such columns, or several of a name.
    """
    (target, features, weight), known = column_names, list(schema.names)
    several = not isinstance(target, str)
    targets = names_in(target, "target", known, who)
    weights = [] if weight is None else names_in(weight, "weight", known, who)
    others = [name for name in known if name not in (*targets, *weights)]
    chosen = others if features is None else names_in(features, "features", known, who)
    if not chosen:
        raise ValueError(f"{who}: there are no columns beside target={target!r}")
    within = next((name for name in chosen if name in targets), None)
    if within is not None:
        raise ValueError(f"{who}: the column {within!r} is the target, and among the features")
    wanted_names = {*chosen, *targets, *weights}
    if twice := frames.repeated(name for name in known if name in wanted_names):
        raise ValueError(f"{who}: there are several columns of the name {twice}; {hints.RENAME}")
    return NamedColumns(tuple(chosen), tuple(targets) if several else target, weight)


def names_in(value: Any, what: str, known: list[str], who: str) -> list[str]:
    names = [value] if isinstance(value, str) else value
    if not isinstance(names, list | tuple) or not all(isinstance(one, str) for one in names):
        short = names is None or isinstance(names, str | int | float | list | tuple)
        shown = repr(value) if short else hints.a_kind(value)
        raise TypeError(f"{who}: {what} must be a column's name, or several, got {shown}")
    for name in names:
        if name not in known:
            shown = ", ".join(map(repr, known[:20])) + (", ..." if len(known) > 20 else "")
            raise ValueError(
                f"{who}: there is no column {name!r}{suggestion(name, known)} known: {shown}"
            )
    return list(names)


def _labels(column: Any) -> Array | None:
    """Return a column of texts as an array of them; None for another."""
    import pyarrow.types as kinds

    values = column.dictionary_decode() if kinds.is_dictionary(column.type) else column
    is_text = kinds.is_string(values.type) or kinds.is_large_string(values.type)
    if not (is_text or str(values.type) == "string_view"):
        return None
    texts: Array = values.to_numpy(zero_copy_only=False)
    return texts
