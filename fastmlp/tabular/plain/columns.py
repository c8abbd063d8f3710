"""A net's inputs and targets as columns of a table, and their values from Arrow's columns."""

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastmlp.data.columns import require_target
from fastmlp.tabular.schema import Schema, dates
from fastmlp.tabular.schema.arrow_columns import decoded, moments, numbers, places, texts
from fastmlp.tabular.schema.dates import Parts

Array = NDArray[Any]
# How Arrow writes numbers and booleans.
FROM_NUMBERS = re.compile(r"true|false|-?(0|[1-9]\d*)(\.\d*[1-9])?(e[-+]\d+)?")
Label = str | bool | int | float


class Column(NamedTuple):
    """A column of a table as inputs of a net.

    Numbers are scaled by ``(x - center) / scale``, and 0 where they are missing. A category is one
    input for each level, of which one is 1; all are 0 for a missing value or an unknown level. Of a
    column of dates there is one for each part, as numbers.

    Attributes
    ----------
    levels : texts of the categories; None for numbers
    indicates : True if a further input is 1 where the number is missing
    part : the part of dates, times or durations, as of `Parts`; None for other columns
    origin : ISO date from which the part "days" counts
    """

    name: str
    levels: tuple[str, ...] | None = None
    center: float = 0.0
    scale: float = 1.0
    indicates: bool = False
    part: str | None = None
    origin: str | None = None

    @property
    def n_inputs(self) -> int:
        """The number of inputs of the net."""
        return 1 + self.indicates if self.levels is None else len(self.levels)

    @property
    def is_text(self) -> bool:
        """True if in CSV it is read as text: a level is no number's or boolean's text, or dates."""
        if self.part is not None:
            return self.part != "duration"
        return not all(map(FROM_NUMBERS.fullmatch, self.levels or ()))

    def read(self, column: Any, where: str) -> Any:
        """Return an Arrow column as `fill` takes it: dates are read once for all their parts."""
        if self.part is None:
            return column
        return moments(column, dates.OF_PART[self.part], self.name, where)

    def fill(self, X: Array, column: Any, where: str) -> None:
        """Write the inputs of a column that is read to X, shape (n_rows, n_inputs), zeros.

        Raises
        ------
        TypeError, ValueError
            If the column's values are not what they were in training.
        """
        if self.levels is None:
            values = self._numbers(column, where)
            missing = np.isnan(values)
            X[:, 0] = np.where(missing, 0.0, (values - self.center) / self.scale)
            if self.indicates:
                X[:, 1] = missing
            return
        codes = places(texts(column, as_dates=dates.are_levels(self.levels)), self.levels)
        known = np.flatnonzero(codes >= 0)
        X[known, codes[known]] = 1

    def _numbers(self, column: Any, where: str) -> Array:
        if self.part is None:
            return numbers(column, self.name, where)
        return Parts((self.part,), self.origin).numbers(column)[:, 0]


def text_names(columns: Sequence[Column]) -> list[str]:
    """Return the columns that were texts in training: in CSV they may look like numbers."""
    return list(dict.fromkeys(column.name for column in columns if column.is_text))


def names_of(columns: Sequence[Column]) -> tuple[str, ...]:
    """Return the names of the table's columns, each once."""
    return tuple(dict.fromkeys(column.name for column in columns))


def columns_of(schema: Schema) -> tuple[Column, ...]:
    """The columns that a schema reads, with their levels if these are texts, and parts of dates."""
    levels: dict[str, Any] = {
        name: each for name, each in schema.levels.items() if isinstance(each[0], str)
    }
    parts = {name: each.names for name, each in schema.dates.items()}
    return tuple(
        Column(name, levels.get(name), part=part)
        for name in schema.read_names
        for part in parts.get(name, (None,))
    )


class Target(NamedTuple):
    """The column of the targets.

    Attributes
    ----------
    classes : the labels, sorted; None for numbers, scaled by ``(y - center) / scale``
    """

    name: str
    classes: tuple[Label, ...] | None = None
    center: float = 0.0
    scale: float = 1.0

    @property
    def n_outputs(self) -> int:
        """The number of outputs of the net: one for two classes."""
        return len(self.classes) if self.classes is not None and len(self.classes) > 2 else 1

    def values(self, column: Any, where: str) -> Array:
        """Return numbers, or the places of classes, of an Arrow column, shape (n_rows,).

        Raises
        ------
        TypeError, ValueError
            If values are missing, are no numbers, or are unknown classes.
        """
        require_target(column, self.name, where)
        if self.classes is None:
            return numbers(column, self.name, where)
        codes = places(labels(column, self.classes), self.classes)
        if (codes < 0).any():
            unknown = column[int(np.argmax(codes < 0))].as_py()
            raise ValueError(
                f"{where}: the target {self.name!r} has the class {unknown!r}, which was not in "
                f"training; known: {', '.join(map(repr, self.classes[:20]))}"
            )
        return codes

    def scaled(self, column: Any, where: str) -> Array:
        """The targets that a net is trained on, shape (n_rows,); raises as `values` does."""
        values = self.values(column, where)
        return values if self.classes is not None else (values - self.center) / self.scale


def labels(column: Any, classes: tuple[Label, ...]) -> Any:
    """Return an Arrow column as the type of the classes.

    Raises
    ------
    TypeError, ValueError
        If it cannot be.
    """
    import pyarrow

    return decoded(column).cast(pyarrow.array(classes).type)
