"""Models of tables as the commands take them: what predicts, scores and is shown."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastmlp.tabular.batches import Batch
from fastmlp.tabular.columns import Column, Target, text_names
from fastmlp.tabular.rule import Task

Array = NDArray[Any]


class FittedTable:
    """A fitted `TabularMLPClassifier` or `TabularMLPRegressor`, asked as a `TableModel` is.

    Attributes
    ----------
    model : the estimator
    task : "classification" or "regression"
    columns : the columns that it reads, of texts with their levels
    """

    def __init__(self, model: Any, path: str) -> None:
        self.model, self._path, schema = model, path, model.schema_
        levels = {name: each for name, each in schema.levels.items() if isinstance(each[0], str)}
        self._names = schema.read_names
        parts = {name: each.names for name, each in schema.dates.items()}
        self.columns: Sequence[Column] = [
            Column(name, levels.get(name), part=part)
            for name in self._names
            for part in parts.get(name, (None,))
        ]
        self.task: Task = "classification" if hasattr(model, "classes_") else "regression"

    @property
    def classes_(self) -> Array | None:
        """The labels, sorted; None for a regression."""
        return getattr(self.model, "classes_", None)

    @property
    def training(self) -> dict[str, Any]:
        """What the fit said of itself."""
        told: dict[str, Any] = self.model.training_
        return told

    @property
    def target(self) -> Target:
        """The column of the targets.

        Raises
        ------
        ValueError
            If the model was fitted to targets without a name.
        """
        if "target" not in self.training:
            raise ValueError(f"{self._path}: the model was fitted to a y without a name")
        classes = None if self.classes_ is None else tuple(self.classes_.tolist())
        return Target(self.training["target"], classes)

    @property
    def feature_names(self) -> tuple[str, ...] | None:
        """The names of the columns that it reads; None: it knows places only."""
        return self._names if self.model.schema_.named else None

    @property
    def text_names(self) -> list[str]:
        """The names of the columns that were texts."""
        return text_names(self.columns)

    def predict(self, X: Any) -> Array:
        """Return labels, or numbers, shape (n_rows,)."""
        found: Array = self.model.predict(X)
        return found

    def outputs(self, batch: Batch) -> Array:
        """Return probabilities, shape (n_rows, n_classes), or numbers, shape (n_rows,)."""
        found: Array = self.model._predicted(self.model.schema_.read(batch.rows, batch.where))
        return found

    def answers(self, outputs: Array) -> Array:
        """Return labels of probabilities, or numbers as they are."""
        if self.classes_ is None:
            return outputs
        labels: Array = self.classes_[outputs.argmax(axis=1)]
        return labels

    def probabilities(self, outputs: Array) -> Array:
        """Return probabilities as they are."""
        return outputs

    def answers_of(self, table: Any, where: str) -> tuple[Array, Array | None]:
        """Return labels and the classes' probabilities, or numbers and None, of a table of Arrow.

        `where` is what errors call the rows.
        """
        outputs = self.outputs(Batch(0, table, where))
        return self.answers(outputs), None if self.classes_ is None else outputs


def labels_of(target: Target, codes: Array) -> Array:
    """Return the labels of places of classes; numbers as they are."""
    return codes if target.classes is None else np.array(target.classes)[codes]
