"""Training a pack of nets from files or a table that fit into memory."""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastmlp._process import memory
from fastmlp.tabular.batches import Batch
from fastmlp.tabular.columns import names_of
from fastmlp.tabular.fitted import FittedTable, labels_of
from fastmlp.tabular.learning import Learned, Say
from fastmlp.tabular.loading import Room
from fastmlp.tabular.scores import score
from fastmlp.tabular.training import Settings, Table, scaled, weights
from fastmlp.validation.packages import needs

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
    kinds = estimators()
    table = Table(data, settings, who)
    learned, valid = table.learn(say), settings.valid
    room = Room(memory.available())
    take = _taking(learned, settings, room)
    training = _joined(table.each(take, held_out=False))
    held_out: Iterable[Batch] | None = None
    validation: Part | None = None
    if not isinstance(valid, float | int):
        held_out = table.to_validate(learned, say)
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
    model.fit(training.X, training.y, training.weight, **more)
    model.training_ |= {"target": learned.target.name, "seed": settings.seed}
    model.training_ |= learned.told
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


def _taking(learned: Learned, settings: Settings, room: Room) -> Callable[[Batch], Part]:
    """Return a function that takes a record batch into memory: X is a record batch."""
    names = list(names_of(learned.columns))
    target, weight = learned.target, settings.weight

    def take(batch: Batch) -> Part:
        scaled(target, batch)
        y = labels_of(target, target.values(batch.column(target.name), batch.where))
        weighted = None if weight is None else weights(weight, batch)
        its = batch.rows.select(names)
        room.take(its.nbytes)
        return Part(its, y, weighted)

    return take


def _joined(parts: Iterable[Part]) -> Part:
    """Return the rows of all parts."""
    import pyarrow

    X, y, weight = zip(*parts, strict=True)
    weighted = None if weight[0] is None else np.concatenate(weight)
    return Part(pyarrow.Table.from_batches(X), np.concatenate(y), weighted)
