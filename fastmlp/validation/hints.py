"""Hints at the ends of messages about data that are not accepted; computed on failure only."""

from collections.abc import Iterable, Iterator
from datetime import date, time, timedelta
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastmlp.validation.suggestions import count

Array = NDArray[Any]
AS_CLASSES = "classes, y = np.unique(y, return_inverse=True)"
RENAME = "rename them, or leave all but one out"
# The end of a hint about columns that are not numbers.
A_TABLE = "; or take TabularMLPClassifier or TabularMLPRegressor, which read "
A_TABLE += "texts, dates and missing values"
MISSING = "fill missing values in, or leave their rows out"


def of_shape(X: object, array: Array, n_features: int) -> str:
    """Advice on how an array becomes rows of features, shape (n_rows, n_features)."""
    reshape = "X.reshape" if hasattr(X, "reshape") else "np.asarray(X).reshape"
    if array.ndim == 0:
        return "; use [[X]]" if n_features == 1 else ""
    if array.ndim == 1 and n_features == 1:
        return f"; for one feature use {reshape}(-1, 1)"
    if array.ndim == 1:
        return f"; for one row use {reshape}(1, -1)" if len(array) == n_features else ""
    return f"; {reshape}(len(X), -1) has {count(array[0].size, 'feature')}" if len(array) else ""


def of_kind(argument: object, array: Array, name: str) -> str:
    """Advice on how an array of another dtype becomes real numbers."""
    if array.dtype.kind in "mM":
        spans = name if array.dtype.kind == "m" else f"({name} - {name}.min())"
        return f"; {spans} / np.timedelta64(1, 'D') are days"
    if array.dtype.kind == "V":
        fields = "np.lib.recfunctions.structured_to_unstructured"
        return f"; try {fields}({name})" if array.dtype.names else f"; try {name}.astype('float32')"
    if array.dtype.kind not in "OUS":
        return ""
    table = array.reshape(len(array), -1) if array.size else array.reshape(0, 0)
    for j, column in enumerate(table.T):
        label = column_name(argument, j) if array.ndim > 1 else ""
        try:
            numbers = column.astype(float)
        except (TypeError, ValueError):
            return of_example(next(no_numbers(column.tolist()), column[0]), argument, name, label)
        if np.isnan(numbers).any():
            return of_example(None, argument, name, label)
    return f"; try np.asarray({name}, float)"


def column_name(table: object, j: int) -> str:
    """A column's name in a data frame, as it is written in Python, or its number."""
    # Of Arrow tables `columns` are the columns themselves.
    columns: Any = getattr(table, "column_names", None) or getattr(table, "columns", ())
    names = list(columns)
    return repr(names[j]) if len(names) > j else str(j)


def of_example(value: Any, argument: object, name: str, column: str) -> str:
    """A hint about a value that is not a number: its kind, its place, a remedy.

    `column` is the column's name as it is written in Python, or its number, or nothing.
    """
    where = f" in column {column}" if column else ""
    selection = f"{name}[{column}]" if column else name
    if isinstance(value, str | bytes):
        if name == "y":
            return f": text, such as {value!r}{where}; for class labels use {AS_CLASSES}"
        return f": text, such as {value!r}{where}; {_as_numbers(value, argument, name, column)}"
    if value is None or type(value).__name__ in ("NAType", "NaTType"):
        return f": a missing value{where}; {MISSING}"
    if isinstance(value, np.timedelta64 | timedelta):
        return f": time spans{where}; {_days(selection, argument)}"
    if isinstance(value, np.datetime64 | date):
        return f": dates{where}; {_days(f'({selection} - {selection}.min())', argument)}"
    if isinstance(value, time):
        return f": times of day{where}; make numbers of them"
    return f": {a_kind(value)}{where}; make numbers of it"


def a_kind(value: object) -> str:
    """The name of a value's class, with its article."""
    name = type(value).__name__
    return f"an {name}" if name[0] in "aeioAEIO" or name == "ndarray" else f"a {name}"


def _days(spans: str, argument: object) -> str:
    """Advice on how time spans become numbers, in a data frame's column or in Arrow's."""
    if hasattr(argument, "column_names") or not hasattr(argument, "shape"):
        return "make numbers of them"
    return f"{spans}.dt.total_seconds() / 86400 are days"


def _as_numbers(text: str | bytes, argument: object, name: str, column: str) -> str:
    """Advice on how text becomes numbers: read as such, or encoded as categories."""
    try:
        float(text)
    except ValueError:
        return f"encode it: {_encoder(argument, name, column)}"
    if hasattr(argument, "iloc"):
        return f"try pandas.to_numeric({name}[{column}])"
    return f"cast it to numbers, or encode it: {_encoder(argument, name, column)}"


def of_value(value: Any, kind: np.dtype[Any], name: str) -> str:
    """A hint about a number that is not finite as `kind`."""
    if np.isnan(value):
        return f"; {MISSING}"
    if not np.isfinite(value):
        return ""
    largest = f"{np.finfo(kind).max:.2g}"
    advice = f"scale {name}, or use dtype='float64'" if kind != np.float64 else f"scale {name}"
    return f", beyond the largest number, {largest}; {advice}"


def of_columns(array: Array, n_columns: int, n_outputs: int) -> str:
    """A hint about targets of a wrong number of columns: they may be class labels."""
    labels = n_columns == 1 and array.dtype.kind in "iub"
    if labels and array.min() >= 0 and array.max() <= n_outputs:
        return "; for class labels use loss='cross_entropy'"
    return of_broadcast(array.shape, n_outputs)


def of_broadcast(shape: tuple[int, ...], n_columns: int = 1) -> str:
    """A hint about n rows and n columns: differences of shapes (n, 1) and (n,)."""
    square = n_columns == 1 and len(shape) == 2 and shape[0] == shape[1] > 1
    return "; (n, 1) and (n,) together give (n, n): use predictions[:, 0], or y[:, None]" * square


def of_real_labels(y: object, array: Array) -> str:
    """A hint about class labels that are floating-point numbers."""
    if not (np.isfinite(array).all() and (array == np.floor(array)).all()):
        return "; for targets that are no classes use loss='mse'"
    return "; use y.astype(int)" if hasattr(y, "astype") else "; use np.asarray(y, int)"


def of_labels(array: Array, n_outputs: int) -> str:
    """A hint about class labels that are out of range."""
    labels = np.unique(array)
    if n_outputs == 1:
        return "; for two classes use loss='binary_cross_entropy'"
    if labels[0] == 1 and labels[-1] == n_outputs:
        return "; they begin at 1: subtract 1"
    if len(labels) <= n_outputs:
        return f"; number them from 0: {AS_CLASSES}"
    return f"; {len(labels)} classes need {len(labels)} outputs, the last of layer_sizes"


def of_unit_targets(table: Array) -> str:
    """A hint about targets of binary cross-entropy that are beyond [0, 1]."""
    values = np.unique(table)
    if len(values) == 2:
        return f"; number two classes 0 and 1: {AS_CLASSES}"
    if (values == np.floor(values)).all():
        return "; for more than two classes use loss='cross_entropy' and an output for each"
    return ""


def no_numbers(values: Iterable[Any]) -> Iterator[Any]:
    """Yield the values that `float` does not take."""
    for value in values:
        try:
            float(value)
        except (TypeError, ValueError):
            yield value


def _encoder(argument: object, name: str, column: str) -> str:
    if hasattr(argument, "to_dummies"):
        return f"{name}.to_dummies({column})"
    if hasattr(argument, "iloc"):
        return f"pandas.get_dummies({name}, dtype=float), or scikit-learn's OneHotEncoder"
    return "as scikit-learn's OneHotEncoder(sparse_output=False) does"
