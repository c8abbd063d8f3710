"""TableModel: a net and the columns that it was trained on: it predicts from raw columns."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastmlp.model import MLP
from fastmlp.network.spec import ComputeDTypes
from fastmlp.tabular.plain.columns import Column, Target, names_of, text_names
from fastmlp.tabular.schema.arrow_columns import numbers
from fastmlp.tabular.schema.batches import ChosenBatches, TableBatch, whole
from fastmlp.tabular.schema.rule import Task

Array = NDArray[Any]
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
    >>> from fastmlp.tabular.plain.columns import Column, Target
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
