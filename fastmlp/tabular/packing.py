"""Training a pack of nets from files or a table that fit into memory."""

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastmlp._process import memory
from fastmlp.tabular.batches import Batch, Rows
from fastmlp.tabular.columns import Target, numbers
from fastmlp.tabular.fitted import FittedTable, labels_of
from fastmlp.tabular.learning import Learned, Say
from fastmlp.tabular.loading import Room, without_blanks
from fastmlp.tabular.scores import score
from fastmlp.tabular.training import Settings, Table, beside

Array = NDArray[Any]
# Without rows to validate on: folds.
N_FOLDS = 5


def train_pack_of(data: Any, settings: Settings, say: Say, who: str) -> Any:
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
    kinds = _kinds()
    table = Table(data, settings, who)
    learned, valid = table.learn(say), settings.valid
    room = Room(memory.available())
    training = _part(table.batches(held_out=False), learned, settings, room)
    held_out: Iterable[Batch] | None = None
    if not isinstance(valid, float | int):
        held_out = Rows(valid, learned.columns, f"{who}: --valid", beside(settings))
    elif valid:
        held_out = list(table.batches(held_out=True))
    validation = None if held_out is None else _part(held_out, learned, settings, room)
    model = kinds[learned.target.classes is not None](
        max_iter=settings.epochs,
        time_limit=settings.time_limit,
        categorical_features=[one for one in settings.categorical if one in training.names],
        cv=N_FOLDS if validation is None else None,
        random_state=settings.seed,
        n_jobs=settings.threads,
    )
    more: dict[str, Any] = {}
    if validation is not None:
        more = {"X_val": validation.X, "y_val": validation.y}
        more["sample_weight_val"] = validation.weight
    model.fit(training.X, training.y, training.weight, **more)
    model.training_ |= {"target": learned.target.name, "seed": settings.seed}
    if held_out is not None:
        model.training_["scores"] = score(FittedTable(model, who), held_out, who)
    return model


class Part(NamedTuple):
    """Rows in memory: a table of Arrow, and targets and weights of shape (n_rows,)."""

    X: Any
    y: Array
    weight: Array | None

    @property
    def names(self) -> list[str]:
        """The names of the columns."""
        found: list[str] = self.X.column_names
        return found


def _kinds() -> dict[bool, Any]:
    """Return the estimators, by whether there are classes."""
    try:
        from fastmlp.tabular import estimators
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] not in ("sklearn", "joblib", "scipy"):
            raise
        needed = "--preset tabular needs scikit-learn: pip install 'fastmlp[sklearn]'"
        raise ImportError(f"{needed}, or use --preset plain") from error
    return {True: estimators.TabularMLPClassifier, False: estimators.TabularMLPRegressor}


def _part(batches: Iterable[Batch], learned: Learned, settings: Settings, room: Room) -> Part:
    """Return rows in memory, of the columns that were learned from."""
    import pyarrow

    names, target = [column.name for column in learned.columns], learned.target
    rows, y, weights = [], list[Array](), list[Array]()
    for batch in batches:
        its = batch.rows.select(names)
        room.take(its.nbytes)
        rows.append(without_blanks(its))
        y.append(_targets(target, batch))
        if settings.weight is not None:
            weights.append(numbers(batch.column(settings.weight), settings.weight, batch.where))
    weight = np.concatenate(weights) if weights else None
    return Part(pyarrow.Table.from_batches(rows), np.concatenate(y), weight)


def _targets(target: Target, batch: Batch) -> Array:
    return labels_of(target, target.values(batch.column(target.name), batch.where))
