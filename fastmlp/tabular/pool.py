"""The nets of a pack: trained side by side, each kept at its best epoch; their rows."""

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import timedelta
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from fastmlp import EMA, MLP, AdamW, EarlyStopping, Expanded, History, Report, Status
from fastmlp.extend import fit_together, n_threads_of, run_all
from fastmlp.tabular.encoding import Encoding
from fastmlp.tabular.outputs import NetOutputs, Score
from fastmlp.tabular.schema import Values
from fastmlp.tabular.settings import (
    BATCH_BY_ROOT,
    FULL_STEPS,
    LARGE,
    PackSettings,
    Recipe,
)
from fastmlp.typing import Array, Callback, ComputeDType, LossLike

# Indices of training rows, and of validation rows.
Fold = tuple[Array, Array]


def folds_of(
    y: Array, n_folds: int, generator: np.random.Generator
) -> NDArray[np.int64]:
    """The number of each row's fold, shape (n_rows,).

    Rows are dealt out in the order of targets, equal ones at random. Folds have each
    class equally often, but for one row, and numbers from the whole range.

    Examples
    --------
    >>> import numpy as np
    >>> y = np.array([0, 0, 0, 0, 1, 1])
    >>> folds = folds_of(y, 2, np.random.default_rng(0))
    >>> [np.bincount(y[folds == k]).tolist() for k in range(2)]
    [[2, 1], [2, 1]]
    """
    shuffled = generator.permutation(len(y))
    order = shuffled[np.argsort(y[shuffled], kind="stable")]
    folds = np.empty(len(y), np.int64)
    folds[order] = np.arange(len(y)) % n_folds
    return folds


def drawn(y: Array, n_folds: int, seed: int) -> list[Fold]:
    """Folds of a table, at most one for each row."""
    n = min(n_folds, len(y))
    folds = folds_of(y, n, np.random.default_rng([seed, n]))
    return [(np.flatnonzero(folds != k), np.flatnonzero(folds == k)) for k in range(n)]


def validated(folds: Sequence[Fold]) -> Array:
    """Indices of the rows that some fold validates on, in order."""
    return np.sort(np.concatenate([second for _, second in folds]))


Result = TypeVar("Result")
# Maximum rows of a strip. A net's call takes 0.1 ms besides arithmetic: 8192 -> 32768,
# 0.89 to 0.92 of the time (100,000 rows of 8 or 20 numbers, 6 nets, 1 thread).
CHUNK = 32768
# Maximum numbers of a table in a strip longer than `ROWS_OF_ONE_THREAD`:
# encoded they are twice as many.
MOST_STRIP_NUMBERS = 1 << 20
# Maximum rows that one thread predicts alone;
# strips for several have half as many at least.
ROWS_OF_ONE_THREAD = 8192


def in_strips(
    n_rows: int, do: Callable[[slice], Result], n_columns: int = 1
) -> list[Result]:
    """Results of a function for each strip of a table's rows,
    in order; at least one strip.

    Strips run on threads side by side:
    a team of threads for each net would wait at its end.
    """
    if n_rows <= min(ROWS_OF_ONE_THREAD, CHUNK):
        return [do(slice(n_rows))]
    most = min(CHUNK, max(ROWS_OF_ONE_THREAD, MOST_STRIP_NUMBERS // max(n_columns, 1)))
    n_threads = n_threads_of(None)
    strips = _strips(n_rows, most, n_threads)
    if n_threads == 1:
        return [do(strip) for strip in strips]
    return run_all([partial(do, strip) for strip in strips], n_threads)


def in_parts(values: Values, do: Callable[[Values], Result]) -> list[Result]:
    """Results of the strips of a table's rows."""
    n_columns = values.numbers.shape[1] + values.codes.shape[1]
    return in_strips(len(values.codes), lambda rows: do(values.part(rows)), n_columns)


def _strips(n_rows: int, most: int, n_threads: int) -> Iterator[slice]:
    """Yield strips of about equal size, as many for each thread."""
    n = -(-n_rows // most)
    fewest = min(ROWS_OF_ONE_THREAD, CHUNK) // 2
    n = max(n, min(-(-n // n_threads) * n_threads, n_rows // fewest))
    return (slice(i * n_rows // n, (i + 1) * n_rows // n) for i in range(n))


Inputs = NDArray[Any] | Expanded
# Fewer rows are faster as arrays: 60 rows of 10 columns take 0.85 ms for 1.0, 200 rows
# 1.9 for 1.2 (six nets, 1 thread). Nets with layers of 64 train on short rows in 0.3 to
# 1.0 of the time; a linear net takes 1.5 times as long, a tenth of their time: not
# worth both.
FEWEST_ROWS = 128


def inputs_of(encoding: Encoding, values: Values) -> Inputs:
    if len(values.numbers) < FEWEST_ROWS:
        return encoding.transform(values)
    return shortest(encoding.expanded(values))


def joined(first: Expanded, second: Expanded) -> Inputs:
    values = np.concatenate([first.values, second.values])
    return shortest(Expanded.trusted(values, first.kind))


def shortest(rows: Expanded) -> Inputs:
    """Short rows, or an array where no column has pieces or levels."""
    return rows if rows.pieces or rows.levels else rows.values


# Batches are a part of the rows, to the nearest power of two between these.
STEPS_PER_EPOCH = 40
SMALLEST_BATCH = 32
LARGEST_BATCH = 256
# Averages of the parameters cover this many epochs, and at least this many steps. A
# quarter of an epoch took 0.86 of the time; 41 tables had the same loss (-0.1 %), but
# ten tables kept aside 2.5 % more (geometric means of ratios).
AVERAGED_EPOCHS, AVERAGED_STEPS = 1.0, 20


class TableRows(NamedTuple):
    """Rows of a table: values of a schema,
    targets and weights, shape (n_rows,), or None.
    """

    values: Values
    y: Array
    weight: Array | None = None

    def take(self, rows: Array) -> "TableRows":
        weight = None if self.weight is None else self.weight[rows]
        return TableRows(self.values.part(rows), self.y[rows], weight)


class TableCall(NamedTuple):
    """Arguments of `fit_many` for nets that are trained together."""

    nets: list[MLP]
    X: Any
    y: Any
    batch_size: int
    rows: Array
    validation_rows: Array
    sample_weight: Array | None


class Listeners:
    """A user's callbacks, each of which can end all fits; `stopped` then is True."""

    def __init__(self, callbacks: Sequence[Callback]) -> None:
        self._callbacks = callbacks
        self.stopped = False

    def __call__(self, report: Report) -> None:
        for callback in self._callbacks:
            callback(report)
        self.stopped = self.stopped or report.stopping


class Checkpoints(NamedTuple):
    """Checkpoints of a fit's nets, which go on from checkpoints in the folder."""

    folder: Path
    every: int | timedelta

    def within(self, name: str) -> "Checkpoints":
        """Checkpoints of some nets, in a folder below."""
        return self._replace(folder=self.folder / name)

    @property
    def words(self) -> dict[str, Any]:
        """The arguments of `fit_many`."""
        return {
            "checkpoint": self.folder,
            "checkpoint_every": self.every,
            "resume": True,
        }


class Limits(NamedTuple):
    """Ends of trainings, and callbacks.

    Attributes
    ----------
    epochs : int, the maximum of each net
    patience, patience_share : int, float, as in `PackSettings`
    early_stopping : EarlyStopping, the rule in place of that, or None
    deadline : float, of `time.perf_counter`; None: no limit
    alone : bool
        False: nets belong to one fold, and are useless without the other folds' nets.
    least : float
        Seconds of each call, even if the deadline is earlier.
    bar : of `bar_over`, optional
    """

    epochs: int
    patience: int
    patience_share: float = 0.3
    early_stopping: EarlyStopping | None = None
    deadline: float | None = None
    n_threads: int | None = None
    alone: bool = True
    least: float = 1e-3
    listeners: Listeners | None = None
    bar: Any = None
    checkpoints: Checkpoints | None = None

    def look(self, report: Report) -> None:
        """Call the callbacks; stop a net without progress,
        and all if a callback asks for it.
        """
        best = report.history.best_epoch or 0
        if self.listeners is not None:
            self.listeners(report)
        late = report.epoch - best >= self.patience + self.patience_share * best
        if self._stopped or (late and self.early_stopping is None):
            report.stop()

    @property
    def _stopped(self) -> bool:
        return self.listeners is not None and self.listeners.stopped

    @property
    def are_over(self) -> bool:
        late = self.deadline is not None and time.perf_counter() >= self.deadline
        return late or self._stopped

    def shared(self, n_parts: int) -> "Limits":
        """The limits of the next of n parts, which share the remaining time."""
        if self.left is None:
            return self
        return self._replace(deadline=time.perf_counter() + self.left / n_parts)

    @property
    def left(self) -> float | None:
        """Seconds until the deadline, or `least`; None without a deadline."""
        if self.deadline is None:
            return None
        return max(self.deadline - time.perf_counter(), self.least)


class Trained(NamedTuple):
    """A net after training.

    Attributes
    ----------
    predictions : of the validation rows, shape (n_rows,) or (n_rows, n_classes)
    best_epoch : int, counted from 1
    cut : bool, True if the deadline has ended the training
    curve : (n_epochs, 2 + n_metrics) array, loss, validation loss and metrics of each epoch
    seconds : float, of the training
    """

    recipe: Recipe
    net: MLP
    predictions: NDArray[np.float64]
    best_epoch: int
    cut: bool
    curve: NDArray[np.float64]
    seconds: float


class NetSettings(NamedTuple):
    """Settings that all nets of a pack share."""

    outputs: NetOutputs
    loss: LossLike
    compute_dtype: ComputeDType | None
    signs: tuple[int, ...]
    metrics: Mapping[str, Score]


def net_settings(outputs: NetOutputs, settings: PackSettings) -> NetSettings:
    if outputs.task == "regression":
        loss = settings.loss.of_nets
    else:
        loss = outputs.loss
    own = (settings.compute_dtype, settings.signs, settings.metrics)
    return NetSettings(outputs, loss, *own)


class Measure(NamedTuple):
    """A score of the table's numbers or classes as a metric of a net."""

    outputs: NetOutputs
    score: Score

    def __call__(
        self, targets: Array, predictions: Array, sample_weight: Any = None
    ) -> float:
        outputs = self.outputs
        n = len(targets)
        seen = outputs.predictions(predictions.reshape(n, -1))
        if outputs.task != "regression":
            # Sums of float32 are up to 1e-7 off 1, of which scikit-learn warns.
            seen /= seen.sum(axis=1, keepdims=True)
            return float(self.score(targets.astype(np.int64), seen, sample_weight))
        y = targets.astype(np.float64) * outputs.scale + outputs.center
        return float(self.score(y, seen, sample_weight))


class Split(NamedTuple):
    """Recipes of a pool of nets, and rows to train and to validate on.

    Encodings learn from the training rows; `generator` draws their seeds.
    """

    recipes: Sequence[Recipe]
    encodings: Mapping[str, Encoding]
    training: TableRows
    validation: TableRows
    nets: NetSettings
    generator: np.random.Generator


def train(split: Split, limits: Limits, cluster: Any = None) -> list[Trained]:
    """Fit encodings to the training rows, and train a net by each recipe.

    Without a deadline all nets are trained. With a deadline, nets begin in order while
    time is left, at least one, and an epoch may be cut. Nets that diverge in their
    first epoch are left out.
    """
    trained: list[Trained] = []
    prepared = _prepared(split, limits, cluster)
    while (
        not (trained and limits.are_over) and (fits := next(prepared, None)) is not None
    ):
        histories = _fit([fits], limits, cluster)
        trained += fits.trained(histories[0])
        if _interrupted(histories):
            if not (trained and limits.alone):
                raise KeyboardInterrupt
            break
    return trained


def train_together(
    splits: Sequence[Split], limits: Limits, cluster: Any
) -> list[list[Trained]]:
    """Train the nets of all splits in one call of a cluster,
    without a deadline; see `train`.
    """
    pools = [list(_prepared(split, limits, cluster)) for split in splits]
    histories = _fit([fits for pool in pools for fits in pool], limits, cluster)
    ended = iter(histories)
    trained = [
        [net for fits in pool for net in fits.trained(next(ended))] for pool in pools
    ]
    if _interrupted(histories) and not (trained[0] and limits.alone):
        raise KeyboardInterrupt
    return trained


def _prepared(split: Split, limits: Limits, cluster: Any) -> Iterator["_Fits"]:
    """Yield the nets of each call, with rows; a table is encoded when needed."""
    recipes, encodings, training, validation, nets, generator = split
    keys = dict(zip(encodings, generator.spawn(len(encodings)), strict=True))
    inputs: dict[str, Inputs] = {}
    n = len(training.y)
    y = nets.outputs.targets(np.concatenate([training.y, validation.y]))
    places = np.arange(len(y))
    weight = joined_weights(training, validation)
    for group in _groups(recipes, limits, cluster):
        name = group[0].encoding
        encoding = encodings[name]
        if name not in inputs:
            kind = nets.outputs.kind
            first = encoding.fit_expanded(training.values, training.y, kind, keys[name])
            inputs[name] = joined(first, encoding.expanded(validation.values))
        members = [new_net(recipe, encoding, nets, n) for recipe in group]
        X = inputs[name]
        call = TableCall(
            members, X, y, batch_size_of(n), places[:n], places[n:], weight
        )
        yield _Fits(group, encoding, call, nets)


def _groups(
    recipes: Sequence[Recipe], limits: Limits, cluster: Any
) -> Iterator[list[Recipe]]:
    """Yield the recipes of each call, of one encoding;
    with a deadline one net for each thread.
    """
    n = len(recipes)
    if limits.deadline is not None:
        n = limits.n_threads or 2 if cluster is None else cluster.n_at_once
    for first in range(0, len(recipes), n):
        chosen = recipes[first : first + n]
        for name in dict.fromkeys(recipe.encoding for recipe in chosen):
            yield [recipe for recipe in chosen if recipe.encoding == name]


class _Fits(NamedTuple):
    recipes: Sequence[Recipe]
    encoding: Encoding
    call: TableCall
    settings: NetSettings

    def trained(self, histories: Sequence[History]) -> list[Trained]:
        """Nets with a best epoch, or with a part of their first."""
        nets = []
        held_out = self.call.X[len(self.call.rows) :]
        for recipe, net, history in zip(
            self.recipes, self.call.nets, histories, strict=True
        ):
            cut = history.status is Status.OUT_OF_TIME
            if history.best_epoch is not None or cut:
                net = without_idle_units(
                    net, recipe, self.encoding, self.settings, self.call.X
                )
                predictions = self.settings.outputs.predictions(net.predict(held_out))
                metrics = [
                    history.metrics.get(name, []) for name in self.settings.metrics
                ]
                values = [
                    *zip(history.loss, history.validation_loss, *metrics, strict=False)
                ]
                curve = np.array(values, np.float64).reshape(-1, 2 + len(metrics))
                own = ((history.best_epoch or 0) + 1, cut, curve, history.seconds)
                nets.append(Trained(recipe, net, predictions, *own))
        return nets


def _fit(fits: Sequence[_Fits], limits: Limits, cluster: Any) -> list[list[History]]:
    """Train the nets of one call here, or of several calls together on a cluster."""
    outputs = fits[0].settings.outputs
    scores = fits[0].settings.metrics
    kept = limits.checkpoints and limits.checkpoints.within(
        str(fits[0].recipes[0].number)
    )
    # Bars are not pickled, but callbacks of a cluster are.
    return fit_together(
        cluster,
        [nets.call for nets in fits],
        epochs=limits.epochs,
        callbacks=limits._replace(bar=None).look,
        time_limit=limits.left,
        n_threads=limits.n_threads,
        bar=limits.bar,
        metrics={name: Measure(outputs, score) for name, score in scores.items()},
        early_stopping=limits.early_stopping,
        **(kept.words if kept else {}),
    )


def _interrupted(histories: Sequence[Sequence[History]]) -> bool:
    return any(
        history.status is Status.INTERRUPTED
        for of_call in histories
        for history in of_call
    )


def joined_weights(*parts: TableRows) -> Array | None:
    """Weights of the rows of all parts; None where no part has weights."""
    if all(part.weight is None for part in parts):
        return None
    each = (
        np.ones(len(part.y)) if part.weight is None else part.weight for part in parts
    )
    return np.concatenate([*each])


def batch_size_of(n_rows: int) -> int:
    if n_rows >= LARGE:
        return int(2 ** round(math.log2(BATCH_BY_ROOT * math.sqrt(n_rows))))
    power = round(math.log2(max(n_rows / STEPS_PER_EPOCH, 1)))
    return min(max(2**power, SMALLEST_BATCH), LARGEST_BATCH)


def new_net(
    recipe: Recipe, encoding: Encoding, settings: NetSettings, n_rows: int
) -> MLP:
    """A new net of a recipe, whose output biases follow from the targets.

    The average spans some epochs; of many rows, penalties weaken as steps become more.
    """
    outputs = settings.outputs
    steps_per_epoch = math.ceil(n_rows / batch_size_of(n_rows))
    momentum = 1 - 1 / max(AVERAGED_EPOCHS * steps_per_epoch, AVERAGED_STEPS)
    if n_rows >= LARGE:
        share = min(FULL_STEPS / steps_per_epoch, 1.0)
    else:
        share = 1.0
    optimizer = AdamW(
        recipe.learning_rate,
        beta_2=0.99,
        weight_decay=share * recipe.weight_decay,
        decay_biases=False,
        average=EMA(momentum),
    )
    net = MLP(
        (encoding.n_inputs, *recipe.hidden, outputs.n_outputs),
        activation=recipe.activation,
        loss=settings.loss,
        optimizer=optimizer,
        initializer="he_uniform",
        dropout=recipe.dropout if recipe.hidden else 0.0,
        l1=share * recipe.l1,
        compute_dtype=settings.compute_dtype,
        monotonic_cst=encoding.signs(settings.signs) if settings.signs else None,
        seed=recipe.seed,
    )
    net.biases[-1][:] = outputs.bias
    return net


# A third to two thirds of relu's units end at 0 for all rows, with and without an L1
# penalty: 64x64 -> 28x49. Trained on 600 to 8,000 rows, 0.03 to 10 % of new rows
# change, by at most 0.015.
IDLE_ROWS = 100_000


def without_idle_units(
    net: MLP, recipe: Recipe, encoding: Encoding, settings: NetSettings, X: Inputs
) -> MLP:
    """The net without units of relu that are 0 for all rows of X."""
    if recipe.activation != "relu":
        return net
    kept = [*_live_units(net, X[:IDLE_ROWS])]
    hidden = tuple(map(len, kept))
    if hidden == recipe.hidden or not all(hidden):
        return net
    small = new_net(recipe._replace(hidden=hidden), encoding, settings, len(X))
    units = [np.arange(net.layer_sizes[0]), *kept, np.arange(net.layer_sizes[-1])]
    for i, places in enumerate(pairwise(units)):
        small.weights[i][:] = net.weights[i][np.ix_(*places)]
        small.biases[i][:] = net.biases[i][places[1]]
    return small


def _live_units(net: MLP, X: Inputs) -> Iterator[Array]:
    """Yield the indices of each hidden layer's units above 0 for some row."""
    for depth in range(1, len(net.weights)):
        part = MLP(net.layer_sizes[: depth + 1])
        for i in range(depth):
            part.weights[i][:] = net.weights[i]
            part.biases[i][:] = net.biases[i]
        yield np.flatnonzero(part.predict(X).max(axis=0) > 0)
