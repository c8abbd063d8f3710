"""Training a `TableModel` from files or a table, which need not fit into memory."""

import math
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from fastmlp.model import MLP
from fastmlp.network.resolve import loss as loss_of
from fastmlp.rules.losses import LossName
from fastmlp.rules.optimizers import Adam
from fastmlp.tabular.plain.learning import ColumnSettings, LearnedColumns, Say, learn
from fastmlp.tabular.plain.model import (
    LARGEST,
    TableModel,
    Target,
    encoded,
    names_of,
    require_float32,
    text_names,
)
from fastmlp.tabular.plain.scores import score
from fastmlp.tabular.schema.arrow_columns import numbers
from fastmlp.tabular.schema.batches import (
    ChosenBatches,
    MemoryBudget,
    Places,
    TableBatch,
    TrainingBatches,
    drawn,
    everything,
    held,
    made,
    require,
)
from fastmlp.tabular.schema.rule import Task
from fastmlp.training.history import History, Report, Status
from fastmlp.validation.suggestions import count, listed

T = TypeVar("T")
Array = NDArray[Any]
# A batch is a hundredth of the rows, within bounds.
SMALLEST_BATCH, LARGEST_BATCH = 16, 256
EPOCHS = 100
# The seconds of a fit that begins after its end: of an epoch.
SHORTEST = 1e-3
# Targets that losses of amounts and counts take.
TAKEN = {"count": "0 or more for this loss", "positive": "above 0 for this loss"}
# Settings that only a pack of nets has, and those that it does not have.
OF_PACKS = ("preset",)
OF_PLAIN: tuple[str, ...] = ("hidden", "activation", "loss", "batch_size", "learning_rate")
OF_PLAIN += ("l2", "patience", "buffer_rows", "checkpoint")


class TrainSettings(NamedTuple):
    """How to train; the names are those of the command's options.

    Attributes
    ----------
    valid : the fraction of the rows to hold out, 0 for none, or what `source_of` takes
    preset : of a pack of nets: how large it is
    epochs : None: 100, or those of a pack
    batch_size : None: a hundredth of the rows, from 16 to 256
    patience : epochs without a lower validation loss
    ends : when training is to end, by `time.monotonic`; None: when it is done
    """

    target: str
    task: Task | None = None
    preset: str = "balanced"
    valid: Any = 0.2
    weight: str | None = None
    features: tuple[str, ...] | None = None
    ignore: tuple[str, ...] = ()
    categorical: tuple[str, ...] = ()
    hidden: tuple[int, ...] = (128, 128)
    activation: Any = "relu"
    loss: Any = None
    epochs: int | None = None
    batch_size: int | None = None
    learning_rate: float = 0.001
    l2: float = 0.0
    patience: int = 10
    buffer_rows: int | None = None
    seed: int = 0
    threads: int | None = None
    checkpoint: str | None = None
    ends: float | None = None

    def seconds(self, say: Say) -> float | None:
        """Return the seconds until `ends`, which are above 0."""
        if self.ends is None:
            return None
        left = self.ends - time.monotonic()
        if left <= 0:
            say("note: --time-limit was over before the training began, which is its shortest now")
        return max(left, SHORTEST)


def train(
    data: Any, settings: TrainSettings, say: Say, callback: Callable[[Report], Any], who: str
) -> TableModel:
    """Return a model trained on files or a table.

    A pass learns the columns: numbers are scaled, texts become inputs for each level. The others
    train the net.

    Parameters
    ----------
    data : what `source_of` takes
    say : called with notes, such as the columns that are left out
    callback : called after each epoch

    Raises
    ------
    TypeError, ValueError
        If data or settings are not what they must be, or the fit diverges.
    KeyboardInterrupt
        On Ctrl-C.
    """
    table, valid = TrainingTable(data, settings, who), settings.valid
    learned = _aimed(table.learn(say), settings, who)
    net = _net(learned, settings)
    training = table.part(learned)
    held_out, scored = None, None
    if not isinstance(valid, float | int):
        rows, encode = table.to_validate(learned, say), encoder(learned, settings)
        held_out, scored = (lambda: map(encode, rows)), rows
    elif valid:
        held_out = table.held_out(learned)
    batch = settings.batch_size or _batch_size(sum(learned.sizes.values()))
    history = net.fit(
        training,
        epochs=settings.epochs or EPOCHS,
        batch_size=batch,
        buffer_rows=settings.buffer_rows,
        validation_data=held_out,
        early_stopping=None if held_out is None else settings.patience,
        time_limit=settings.seconds(say),
        callbacks=callback,
        checkpoint=settings.checkpoint,
        resume=settings.checkpoint is not None,
    )
    if history.status is Status.INTERRUPTED:
        raise KeyboardInterrupt
    if history.status is Status.DIVERGED:
        raise ValueError(f"{who}: {history.status.value}: try --learning-rate 0.0001")
    model = TableModel(learned.columns, learned.target, net)
    model.training.update(_report(learned, settings, batch, history))
    if held_out is not None:
        each = table.batches(held_out=True) if scored is None else scored
        model.training["scores"] = score(model, each, who)
    return model


class TrainingTable:
    """The rows to train on, and those held out, of one table."""

    def __init__(self, data: Any, settings: TrainSettings, who: str) -> None:
        target, chosen = settings.target, settings.features
        others = beside(settings)
        known = TrainingBatches(data, who).names
        require([*others, *settings.ignore, *settings.categorical], known, who)
        within = next((name for name in others if name in (chosen or ())), None)
        if within is not None:
            raise ValueError(f"{who}: {within!r} is among the features: leave it out")
        out = {*others, *settings.ignore}
        names = tuple(name for name in known if name not in out) if chosen is None else chosen
        choice = (names, chosen is not None, settings.categorical)
        self._wanted = ColumnSettings(target, settings.task, *choice)
        self._batches, self._who = TrainingBatches(data, who, names, others), who
        # Batches of a pass: of the files, or held in memory.
        self._rows: Iterable[TableBatch] = self._batches
        self._settings = settings
        valid = settings.valid
        self._fraction = float(valid) if isinstance(valid, float | int) else 0.0
        self._kept: Places = {}

    def hold(self, room: MemoryBudget) -> None:
        """Read all rows into memory, for all passes.

        Raises
        ------
        TooLarge
            If they do not fit there.
        """
        self._rows = held(self._batches, room)

    def _mask(self, *, held_out: bool) -> Any:
        if not self._fraction:
            return everything
        return drawn(self._fraction, self._settings.seed, self._kept, held_out=held_out)

    def learn(self, say: Say, *, as_schema: bool = False) -> LearnedColumns:
        """The columns and the target, learned by a first pass; as a schema of rows in memory."""
        mask = self._mask(held_out=False)
        learned = learn(self._rows, self._wanted, mask, say, self._who, as_schema=as_schema)
        n, valid = sum(learned.sizes.values()), self._settings.valid
        if not n or (self._fraction and n == learned.n_rows):
            raise ValueError(
                f"{self._who}: {learned.n_rows} rows leave {n} to train on and "
                f"{learned.n_rows - n} to validate on; --valid takes a file, or 0 for none"
            )
        if self._fraction and learned.single:
            names = listed([*map(repr, learned.single)])
            say(f"note: classes of one row are trained on, and not validated on: {names}")
        beside = f", {learned.n_rows - n} held out" * isinstance(valid, float | int)
        say(f"{n} rows to train on{beside}")
        self._kept |= learned.kept
        return learned

    def to_validate(self, learned: LearnedColumns, say: Say) -> "CountedBatches":
        """Return the rows of the file to validate on."""
        settings = self._settings
        who = f"{self._who}: --valid"
        names, texts = names_of(learned.columns), text_names(learned.columns)
        return CountedBatches(
            ChosenBatches(settings.valid, names, texts, who, beside(settings)), say
        )

    def part(self, learned: LearnedColumns) -> Any:
        """Return the source of the rows to train on."""
        encode = encoder(learned, self._settings)
        mask, seed = self._mask(held_out=False), self._settings.seed
        return self._batches.part(encode, mask, learned.sizes, seed)

    def held_out(self, learned: LearnedColumns) -> Any:
        """Return the source of the rows to validate on."""
        encode = encoder(learned, self._settings)
        return lambda: self.each(encode, held_out=True)

    def each(self, make: Callable[[TableBatch], T], *, held_out: bool) -> Iterator[T]:
        """Yield the result for each batch of the rows to train on, or of those to validate on."""
        mask = self._mask(held_out=held_out)
        return (made(make, batch, mask(batch)) for batch in self._rows)

    def batches(self, *, held_out: bool) -> Iterator[TableBatch]:
        """Yield the record batches of the rows to train on, or of those to validate on."""
        return self.each(lambda batch: batch, held_out=held_out)


class CountedBatches:
    """Batches of rows to validate on; the first pass says how many rows there are."""

    def __init__(self, rows: ChosenBatches, say: Say) -> None:
        self._rows, self._say, self._is_said = rows, say, False

    def __iter__(self) -> Iterator[TableBatch]:
        n = 0
        for batch in self._rows:
            n += batch.rows.num_rows
            yield batch
        if not self._is_said:
            self._say(f"{count(n, 'row')} to validate on")
        self._is_said = True


def beside(settings: TrainSettings) -> list[str]:
    """Return the columns that are no inputs."""
    return [settings.target, *([] if settings.weight is None else [settings.weight])]


def encoder(learned: LearnedColumns, settings: TrainSettings) -> Callable[[TableBatch], Any]:
    """Return a function from a record batch to (X, y) or (X, y, sample_weight)."""
    columns, target, weight = learned.columns, learned.target, settings.weight
    taken = None if settings.loss is None else loss_of(settings.loss).targets

    def encode(batch: TableBatch) -> Any:
        X, y = encoded(columns, batch), scaled(target, batch)
        if taken in TAKEN:
            name = f"the target {target.name!r}"
            _check(y, y > 0 if taken == "positive" else y >= 0, name, TAKEN[taken], batch)
        return (X, y) if weight is None else (X, y, weights(weight, batch))

    return encode


def scaled(target: Target, batch: TableBatch) -> Array:
    """Return the targets of a record batch as a net is trained on them, shape (n_rows,).

    Raises
    ------
    TypeError, ValueError
        As `Target.values` does, or if one is beyond float32.
    """
    y = target.scaled(batch.column(target.name), batch.where)
    require_float32(y, batch, target)
    return y


def weights(name: str, batch: TableBatch) -> Array:
    """Return the weights of the rows of a record batch, shape (n_rows,).

    Raises
    ------
    TypeError, ValueError
        If they are no numbers of 0 or more.
    """
    row_weights = numbers(batch.column(name), name, batch.where)
    _check(
        row_weights,
        (row_weights >= 0) & (row_weights <= LARGEST),
        f"the weight {name!r}",
        "0 or more",
        batch,
    )
    return row_weights


def _check(values: Array, valid: Array, name: str, expected: str, batch: TableBatch) -> None:
    """Raise unless all rows are valid; the error has the first that is not."""
    if not valid.all():
        row = int(np.argmin(valid))
        got = f"got {values[row]:g} in row {row}"
        raise ValueError(f"{batch.where}: {name} must be {expected}, {got}")


def _net(learned: LearnedColumns, settings: TrainSettings) -> MLP:
    n_inputs = sum(column.n_inputs for column in learned.columns)
    return MLP(
        (n_inputs, *settings.hidden, learned.target.n_outputs),
        activation=settings.activation,
        loss=settings.loss or _loss(learned.target),
        optimizer=Adam(settings.learning_rate),
        l2=settings.l2,
        seed=settings.seed,
        n_threads=settings.threads,
    )


def _aimed(learned: LearnedColumns, settings: TrainSettings, who: str) -> LearnedColumns:
    """The learned columns, with the target in the units that the loss takes.

    Raises
    ------
    ValueError
        If the loss does not suit the task.
    """
    if settings.loss is None:
        return learned
    target, loss = learned.target, loss_of(settings.loss)
    links: tuple[Any, ...] = (None, "exp")
    if target.classes is not None:
        links = ("sigmoid",) if target.n_outputs == 1 else ("softmax",)
    if loss.link not in links or loss.per_target > 1:
        task = "a regression" if target.classes is None else f"{len(target.classes)} classes"
        raise ValueError(f"{who}: the loss {settings.loss!r} is not for {task}")
    if loss.link == "exp":
        target = target._replace(center=0.0, scale=1.0)
    return learned._replace(target=target)


def _loss(target: Target) -> LossName:
    if target.classes is None:
        return "mse"
    return "binary_cross_entropy" if target.n_outputs == 1 else "cross_entropy"


def _batch_size(n_rows: int) -> int:
    power = 1 << max(0, round(math.log2(max(1, n_rows / 100))))
    return min(max(SMALLEST_BATCH, power), LARGEST_BATCH)


def _report(
    learned: LearnedColumns, settings: TrainSettings, batch: int, history: History
) -> dict[str, Any]:
    best = history.best_epoch
    training = learned.report | {
        "rows": sum(learned.sizes.values()),
        "epochs": len(history.loss),
        "batch_size": batch,
        "seed": settings.seed,
        "status": history.status.name,
        "loss": history.loss[-1],
    }
    if best is not None:
        training |= {"best_epoch": best + 1, "validation_loss": history.validation_loss[best]}
    return training
