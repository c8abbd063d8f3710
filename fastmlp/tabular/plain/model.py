"""TableModel: a net and the columns that it was trained on: it predicts from raw columns."""

import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastmlp.data.columns import require_target
from fastmlp.model import MLP
from fastmlp.network.spec import ComputeDTypes
from fastmlp.tabular.schema import Schema, dates
from fastmlp.tabular.schema.arrow_columns import decoded, moments, numbers, places, texts
from fastmlp.tabular.schema.batches import ChosenBatches, TableBatch, whole
from fastmlp.tabular.schema.dates import Parts
from fastmlp.tabular.schema.rule import Task

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


LARGEST = float(np.finfo(np.float32).max)


class TableModel:
    """A net and the columns that it was trained on: predicts from tables of raw columns.

    `fastmlp.load` returns it, of a file that the command ``fastmlp train`` wrote.

    Attributes
    ----------
    columns : tuple of Column
        The columns of the table that are inputs; of dates there is one for each part.
    target : Target
    net : MLP
        Takes scaled numbers and categories as columns of 0 and 1: see `inputs`.
    training : dict
        The report of the training, such as the number of rows and the scores.

    Examples
    --------
    >>> import numpy as np
    >>> import pyarrow
    >>> from fastmlp import MLP
    >>> from fastmlp.tabular.plain.model import Column, Target
    >>> net = MLP((3, 1), loss="binary_cross_entropy", initializer="zeros")
    >>> net.weights[0][:] = [[1], [9], [-9]]
    >>> columns = (Column("age", None, 40.0, 10.0), Column("town", ("Bern", "Chur")))
    >>> model = TableModel(columns, Target("buys", ("no", "yes")), net)
    >>> table = pyarrow.table({"town": ["Chur", "Bern", "Rome"], "age": [35, 50, 60]})
    >>> model.inputs(table)
    array([[-0.5,  0. ,  1. ],
           [ 1. ,  1. ,  0. ],
           [ 2. ,  0. ,  0. ]], dtype=float32)
    >>> model.predict(table)
    array(['no', 'yes', 'yes'], dtype='<U3')
    """

    columns: tuple[Column, ...]
    target: Target
    net: MLP
    training: dict[str, Any]

    def __init__(
        self,
        columns: tuple[Column, ...],
        target: Target,
        net: MLP,
        training: dict[str, Any] | None = None,
    ) -> None:
        self.columns, self.target, self.net = columns, target, net
        self.training = {} if training is None else training

    @property
    def task(self) -> Task:
        """The kind of predictions: classes, or numbers."""
        return "regression" if self.target.classes is None else "classification"

    @property
    def classes_(self) -> Array | None:
        """The labels, sorted; None for a regression."""
        return None if self.target.classes is None else np.array(self.target.classes)

    @property
    def feature_names(self) -> tuple[str, ...]:
        """The names of the columns that are inputs."""
        return names_of(self.columns)

    @property
    def text_names(self) -> list[str]:
        """The names of the columns that were texts."""
        return text_names(self.columns)

    def predict(self, X: Any) -> Array:
        """Return labels, or numbers, shape (n_rows,).

        Parameters
        ----------
        X : frame of pandas or polars, table of Arrow, path or paths of files
            Columns are found by name, in any order, among others.

        Raises
        ------
        TypeError, ValueError
            If a column is missing, or holds text where there were numbers.
        """
        return self.answers(self._outputs(X, "TableModel.predict"))

    @property
    def predict_proba(self) -> Callable[[Any], Array]:
        """A function of X, as `predict`: the classes' probabilities, shape (n_rows, n_classes).

        Raises
        ------
        AttributeError
            If the model is one of numbers, which has no such function.
        """
        if self.target.classes is None:
            raise AttributeError(f"the target {self.target.name!r} is a number: no predict_proba")
        return lambda X: self.probabilities(self._outputs(X, "TableModel.predict_proba"))

    def inputs(self, X: Any) -> Array:
        """Return the net's inputs, shape (n_rows, n_inputs), float32; `X` as for `predict`."""
        none = np.empty((0, self.net.layer_sizes[0]), np.float32)
        return np.concatenate([none, *map(self.encoded, self._rows(X, "TableModel.inputs"))])

    def encoded(self, batch: TableBatch) -> Array:
        """Return the net's inputs of a record batch."""
        return encoded(self.columns, batch)

    def outputs(self, batch: TableBatch, compute_dtype: ComputeDTypes | None = None) -> Array:
        """Return the net's outputs of a record batch, shape (n_rows, n_outputs)."""
        if not batch.rows.num_rows:
            return np.empty((0, self.net.layer_sizes[-1]), np.float32)
        outputs: Array = self.net.predict(self.encoded(batch), compute_dtype=compute_dtype)
        return outputs

    def answers_of(
        self, table: Any, where: str, compute_dtype: ComputeDTypes | None = None
    ) -> tuple[Array, Array | None]:
        """Return labels and the classes' probabilities, or numbers and None, of a table of Arrow.

        `where` is what errors call the rows; `compute_dtype` is as for `MLP.predict`.
        """
        outputs = self.outputs(TableBatch(0, whole(table), where), compute_dtype)
        probabilities = None if self.target.classes is None else self.probabilities(outputs)
        return self.answers(outputs), probabilities

    def _rows(self, X: Any, who: str) -> ChosenBatches:
        return ChosenBatches(X, self.feature_names, self.text_names, who)

    def _outputs(self, X: Any, who: str) -> Array:
        none = np.empty((0, self.net.layer_sizes[-1]), np.float32)
        return np.concatenate([none, *map(self.outputs, self._rows(X, who))])

    def answers(self, outputs: Array) -> Array:
        """Return labels, or numbers, of the net's outputs."""
        classes, target = self.classes_, self.target
        if classes is None:
            return outputs[:, 0].astype(np.float64) * target.scale + target.center
        one = outputs.shape[1] == 1
        codes = (outputs[:, 0] > 0.5).astype(np.intp) if one else outputs.argmax(axis=1)
        labels: Array = classes[codes]
        return labels

    def probabilities(self, outputs: Array) -> Array:
        """Return the classes' probabilities of the net's outputs."""
        return np.hstack([1 - outputs, outputs]) if outputs.shape[1] == 1 else outputs

    def __repr__(self) -> str:
        task = f"{self.task} of {self.target.name!r} by {len(self.feature_names)} columns"
        return f"<TableModel: {task}, {self.net!r}>"


def encoded(columns: tuple[Column, ...], batch: TableBatch) -> Array:
    """Return a net's inputs of a record batch, shape (n_rows, n_inputs), float32."""
    widths = [column.n_inputs for column in columns]
    X, first = np.zeros((batch.rows.num_rows, sum(widths)), np.float32), 0
    name, values = None, None
    with np.errstate(over="ignore"):
        for column, width in zip(columns, widths, strict=True):
            if column.name != name:
                name, values = column.name, column.read(batch.column(column.name), batch.where)
            column.fill(X[:, first : first + width], values, batch.where)
            if column.levels is None and column.part is None:
                require_float32(X[:, first], batch, column)
            first += width
    return X


def require_float32(values: Array, batch: TableBatch, column: Column | Target) -> None:
    """Check that a scaled column of a record batch, shape (n_rows,), is within float32.

    Raises
    ------
    ValueError
        If it is not; the message has the largest value of the batch, and its row.
    """
    if (np.abs(values) <= LARGEST).all():
        return
    raw = numbers(batch.column(column.name), column.name, batch.where)
    row = int(np.nanargmax(np.abs(raw)))
    raise ValueError(
        f"{batch.where}: the column {column.name!r} has {raw[row]:g} in row {row}: less "
        f"{column.center:.3g} and divided by {column.scale:.3g}, as in training, it is beyond "
        f"float32, {LARGEST:.2g}"
    )
