"""An ensemble of nets as the command trains it, of files that fit into memory, and asks it."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastmlp._process import memory
from fastmlp.tabular.plain.learning import LearnedColumns, Say
from fastmlp.tabular.plain.model import Column, Target, columns_of, names_of, text_names
from fastmlp.tabular.plain.scores import score
from fastmlp.tabular.plain.training import TrainingTable, TrainSettings, scaled, weights
from fastmlp.tabular.schema.batches import MemoryBudget, TableBatch, held
from fastmlp.tabular.schema.in_memory import table_of
from fastmlp.tabular.schema.rule import Task
from fastmlp.tabular.schema.schema import LearnedTable
from fastmlp.validation.packages import needs

Array = NDArray[Any]
# Without rows to validate on: folds.
N_FOLDS = 5


def train_pack_of(data: Any, settings: TrainSettings, say: Say, who: str) -> Any:
    """Return a fitted `TabularMLPClassifier` or `TabularMLPRegressor` of files or a table.

    The kind of task, what is left out and the rows that are held out are those of `train`.

    Parameters
    ----------
    data : what `source_of` takes
    say : called with notes, such as the columns that are left out

    Raises
    ------
    TooLarge
        If the columns take more than a 16th of the memory that is free.
    ImportError
        If scikit-learn is missing.
    TypeError, ValueError
        If data or settings are not what they must be.
    """
    kinds = estimators()
    table = TrainingTable(data, settings, who)
    room = MemoryBudget(memory.available())
    table.hold(room)
    learned, valid = table.learn(say, as_schema=True), settings.valid
    take = _taking(learned, settings)
    training = _joined(table.each(take, held_out=False))
    held_out: Iterable[TableBatch] | None = None
    validation: TableInMemory | None = None
    if not isinstance(valid, float | int):
        held_out = held(table.to_validate(learned, say), room)
        validation = _joined(map(take, held_out))
    elif valid:
        pairs = table.each(lambda batch: (batch, take(batch)), held_out=True)
        held_out, parts = zip(*pairs, strict=True)
        validation = _joined(parts)
    model = kinds[learned.target.classes is not None](
        preset=settings.preset,
        max_iter=settings.epochs,
        time_limit=settings.seconds(say),
        categorical_features=[one for one in settings.categorical if one in training.names],
        cv=N_FOLDS if validation is None else None,
        random_state=settings.seed,
        n_jobs=settings.threads,
    )
    more: dict[str, Any] = {}
    if validation is not None:
        more = {"X_val": validation.X, "y_val": validation.y}
        more["sample_weight_val"] = validation.weight
    X = LearnedTable(learned.schema.kept, table_of(training.X, who))
    model.fit(X, training.y, training.weight, **more)
    model.training_ |= {"target": learned.target.name, "seed": settings.seed}
    model.training_ |= learned.report
    if held_out is not None:
        model.training_["scores"] = score(FittedTable(model, who), held_out, who)
    return model


class TableInMemory(NamedTuple):
    """Rows in memory: a table of Arrow, and targets and weights of shape (n_rows,)."""

    X: Any
    y: Array
    weight: Array | None

    @property
    def names(self) -> list[str]:
        """The names of the columns."""
        names: list[str] = self.X.column_names
        return names


def estimators() -> dict[bool, Any]:
    """Return the estimators, by whether there are classes.

    Raises
    ------
    ImportError
        If scikit-learn is missing.
    """
    try:
        from fastmlp.tabular.estimators import TabularMLPClassifier, TabularMLPRegressor
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] not in ("sklearn", "joblib", "scipy"):
            raise
        needed = needs("--model tabular", "scikit-learn")
        raise ImportError(f"{needed}, or use --model plain") from error
    return {True: TabularMLPClassifier, False: TabularMLPRegressor}


def _taking(
    learned: LearnedColumns, settings: TrainSettings
) -> Callable[[TableBatch], TableInMemory]:
    """Return a function that takes a record batch into memory: X is a record batch."""
    names = list(learned.schema.kept.columns)
    target, weight = learned.target, settings.weight

    def take(batch: TableBatch) -> TableInMemory:
        scaled(target, batch)
        y = labels_of(target, target.values(batch.column(target.name), batch.where))
        weighted = None if weight is None else weights(weight, batch)
        return TableInMemory(batch.rows.select(names), y, weighted)

    return take


def _joined(parts: Iterable[TableInMemory]) -> TableInMemory:
    """Return the rows of all parts."""
    import pyarrow

    X, y, weight = zip(*parts, strict=True)
    weighted = None if weight[0] is None else np.concatenate(weight)
    return TableInMemory(pyarrow.Table.from_batches(X), np.concatenate(y), weighted)


class FittedTable:
    """A fitted `TabularMLPClassifier` or `TabularMLPRegressor`, asked as a `TableModel` is.

    Attributes
    ----------
    model : the estimator
    task : "classification" or "regression"
    columns : the columns that it reads, of texts with their levels
    """

    def __init__(self, model: Any, path: str) -> None:
        self.model, self._path = model, path
        self.columns: Sequence[Column] = columns_of(model.schema_)
        self.task: Task = "classification" if hasattr(model, "classes_") else "regression"

    @property
    def classes_(self) -> Array | None:
        """The labels, sorted; None for a regression."""
        return getattr(self.model, "classes_", None)

    @property
    def training(self) -> dict[str, Any]:
        """The report of the fit."""
        training: dict[str, Any] = self.model.training_
        return training

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
        return names_of(self.columns) if self.model.schema_.named else None

    @property
    def text_names(self) -> list[str]:
        """The names of the columns that were texts."""
        return text_names(self.columns)

    def predict(self, X: Any) -> Array:
        """Return labels, or numbers, shape (n_rows,)."""
        predictions: Array = self.model.predict(X)
        return predictions

    def outputs(self, batch: TableBatch) -> Array:
        """Return probabilities, shape (n_rows, n_classes), or numbers, shape (n_rows,)."""
        outputs: Array = self.model._predicted(self.model.schema_.read(batch.rows, batch.where))
        return outputs

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
        outputs = self.outputs(TableBatch(0, table, where))
        return self.answers(outputs), None if self.classes_ is None else outputs


def labels_of(target: Target, codes: Array) -> Array:
    """Return the labels of places of classes; numbers as they are."""
    return codes if target.classes is None else np.array(target.classes)[codes]
