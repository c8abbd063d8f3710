"""What a table's columns are to a net: inputs and targets, and how Arrow's columns become them."""

import re
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastmlp.data.places import require_target

Array = NDArray[Any]
# How Arrow writes numbers and booleans.
FROM_NUMBERS = re.compile(r"true|false|-?(0|[1-9]\d*)(\.\d*[1-9])?(e[-+]\d+)?")
Label = str | bool | int | float


class Column(NamedTuple):
    """A column of a table as inputs of a net.

    Numbers are scaled by ``(x - center) / scale``, and 0 where they are missing. A category is one
    input for each level, of which one is 1; all are 0 for a missing value or an unknown level.

    Attributes
    ----------
    levels : texts of the categories; None for numbers
    indicates : True if a further input is 1 where the number is missing
    """

    name: str
    levels: tuple[str, ...] | None = None
    center: float = 0.0
    scale: float = 1.0
    indicates: bool = False

    @property
    def n_inputs(self) -> int:
        """The number of inputs of the net."""
        return 1 + self.indicates if self.levels is None else len(self.levels)

    @property
    def is_text(self) -> bool:
        """True if a level is not what a number or a boolean becomes as text: "007" or "Bern"."""
        return not all(map(FROM_NUMBERS.fullmatch, self.levels or ()))

    def fill(self, X: Array, column: Any, where: str) -> None:
        """Write the inputs of an Arrow column to X, shape (n_rows, n_inputs), which is zeros.

        Raises
        ------
        TypeError, ValueError
            If the column's values are not what they were in training.
        """
        if self.levels is None:
            values = numbers(column, self.name, where)
            missing = np.isnan(values)
            X[:, 0] = np.where(missing, 0.0, (values - self.center) / self.scale)
            if self.indicates:
                X[:, 1] = missing
            return
        codes = places(texts(column), self.levels)
        known = np.flatnonzero(codes >= 0)
        X[known, codes[known]] = 1


def text_names(columns: Sequence[Column]) -> list[str]:
    """Return the columns that were texts in training: in CSV they may look like numbers."""
    return [column.name for column in columns if column.is_text]


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
        """Return what a net is trained on, shape (n_rows,); raises as `values` does."""
        values = self.values(column, where)
        return values if self.classes is not None else (values - self.center) / self.scale


def kind_of(kind: Any) -> str:
    """Return "number", "text" or "other", for a data type of Arrow."""
    import pyarrow.types as kinds

    is_text = (kinds.is_string, kinds.is_large_string, kinds.is_dictionary)
    if any(known(kind) for known in is_text) or str(kind) == "string_view":
        return "text"
    is_number = (kinds.is_floating, kinds.is_integer, kinds.is_boolean, kinds.is_decimal)
    return "number" if any(known(kind) for known in is_number) else "other"


def numbers(column: Any, name: str, where: str) -> Array:
    """Return an Arrow column as float64, shape (n_rows,), NaN where values are missing.

    Raises
    ------
    TypeError, ValueError
        If it holds no numbers, or infinite ones.
    """
    import pyarrow.types as kinds

    kind = column.type
    if kinds.is_null(kind):
        return np.full(len(column), np.nan)
    if kind_of(kind) != "number":
        raise TypeError(f"{where}: the column {name!r} must hold numbers, got {kind}")
    found: Array = column.cast("float64", safe=False).to_numpy(zero_copy_only=False)
    if np.isinf(found).any():
        row = int(np.argmax(np.isinf(found)))
        raise ValueError(f"{where}: the column {name!r} is infinite in row {row}")
    return found


def texts(column: Any) -> Any:
    """Return an Arrow column of anything as texts; whole numbers have no point."""
    import pyarrow
    import pyarrow.types as kinds

    column = decoded(column)
    if kinds.is_floating(column.type):
        with suppress(pyarrow.ArrowInvalid):
            column = column.cast("int64")
    return column.cast("string")


def labels(column: Any, classes: tuple[Label, ...]) -> Any:
    """Return an Arrow column as the type of the classes.

    Raises
    ------
    TypeError, ValueError
        If it cannot be.
    """
    import pyarrow

    return decoded(column).cast(pyarrow.array(classes).type)


def decoded(column: Any) -> Any:
    """Return the values of a column of a dictionary's places; others as they are."""
    return column.dictionary_decode() if hasattr(column, "dictionary_decode") else column


def places(column: Any, values: tuple[Any, ...]) -> Array:
    """Return the places of an Arrow column's values among others, shape (n_rows,); else -1."""
    import pyarrow
    import pyarrow.compute as compute

    found = compute.index_in(column, value_set=pyarrow.array(values, column.type), skip_nulls=True)
    codes: Array = found.fill_null(-1).to_numpy(zero_copy_only=False)
    return codes.astype(np.int64)
