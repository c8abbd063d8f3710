"""Columns of predictions: numbers, labels and probabilities, of a batch of rows."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastmlp.data.batches import ROWS, Batch, predicted
from fastmlp.network.spec import ComputeDTypes

Array = NDArray[Any]
Columns = dict[str, Array]


class Form(NamedTuple):
    """What predictions are to have.

    Attributes
    ----------
    keep : names of the columns to keep
    output : the name of the column of predictions
    rows : the most rows of a batch
    probabilities : bool, columns of the classes' probabilities, where there are such
    compute_dtype : as for `MLP.predict`
    """

    keep: list[str]
    output: str = "prediction"
    rows: int = ROWS
    probabilities: bool = True
    compute_dtype: ComputeDTypes | None = None


class Outputs:
    """Makes columns of predictions from batches.

    Parameters
    ----------
    model : MLP or estimator, or a model of tables
    named : bool, the model knows names of columns
    """

    def __init__(self, model: Any, form: Form, *, named: bool, who: str) -> None:
        self._model, self._form, self._named, self._who = model, form, named, who
        self._output = form.output
        self._link = getattr(model, "_link", None)
        self._several: bool | None = None
        given = form.compute_dtype
        self._how = {} if given is None else {"compute_dtype": given}

    def __call__(self, batch: Batch) -> Columns:
        """Return the columns by their names."""
        rows, n = batch.rows, None
        if hasattr(self._model, "answers_of"):
            return self._of_table(batch)
        if batch.kept is not None and not batch.rows.num_rows:
            # scikit-learn has no predictions of no rows: those of a row of zeros have the dtypes.
            rows, n = _zeros_like(batch.rows), 0
        how: Any = {"named": self._named, "who": self._who}
        columns = predicted(self._columns, batch._replace(rows=rows), **how)
        return {name: its[:n] for name, its in columns.items()}

    def _of_table(self, batch: Batch) -> Columns:
        where = f"{self._who}: {batch.where}"
        answers, probabilities = self._model.answers_of(batch.rows, where, **self._how)
        if probabilities is None:
            return {self._output: answers}
        return self._with_probabilities(answers, probabilities, self._model.classes_)

    def _columns(self, rows: Any) -> Columns:
        model = self._model
        if hasattr(model, "predict_proba"):
            return self._of_classifier(rows)
        values = model.predict(rows, **self._how)
        n_outputs = 1 if values.ndim == 1 else values.shape[1]
        if self._link == "softmax":
            return self._of_classes(values, np.arange(n_outputs))
        if self._link == "sigmoid" and n_outputs == 1:
            return self._of_classes(np.hstack([1 - values, values]), np.arange(2))
        if self._link == "sigmoid":
            return self._of_labels(values, np.arange(n_outputs))
        if n_outputs == 1:
            return {self._output: values.reshape(-1)}
        return _each(self._output, values, np.arange(n_outputs))

    def _of_classifier(self, rows: Any) -> Columns:
        model = self._model
        probabilities, classes = model.predict_proba(rows), model.classes_
        if self._several is None:
            self._several = np.ndim(model.predict(rows[:1])) == 2
        if self._several:
            return self._of_labels(probabilities, classes)
        if len(classes) == 1:
            # scikit-learn has two columns of probabilities there.
            return {self._output: model.predict(rows)}
        return self._of_classes(probabilities, classes)

    def _of_classes(self, probabilities: Array, classes: Array) -> Columns:
        labels = classes[probabilities.argmax(axis=1)]
        return self._with_probabilities(labels, probabilities, classes)

    def _with_probabilities(self, labels: Array, probabilities: Array, classes: Array) -> Columns:
        each = _each("probability", probabilities, classes) if self._form.probabilities else {}
        return {**each, self._output: labels}

    def _of_labels(self, probabilities: Array, labels: Array) -> Columns:
        above = (probabilities > 0.5).astype(np.int64)
        columns = _each("probability", probabilities, labels)
        return {**columns, **_each(self._output, above, labels)}


def _each(name: str, values: Array, classes: Array) -> Columns:
    return {
        f"{name}_{each}": np.ascontiguousarray(its)
        for each, its in zip(classes, values.T, strict=True)
    }


def _zeros_like(rows: Any) -> Any:
    import pyarrow

    return pyarrow.table({name: [0.0] for name in rows.schema.names})
