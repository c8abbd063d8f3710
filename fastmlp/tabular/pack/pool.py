"""The nets of a pack: trained side by side, each kept as it was in its best epoch."""

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastmlp.many.fit_many import fit_many
from fastmlp.model import MLP
from fastmlp.rules.averages import EMA
from fastmlp.rules.optimizers.adam import AdamW
from fastmlp.tabular.encoders.encoding import Encoding
from fastmlp.tabular.model import Task as EncodedTask
from fastmlp.tabular.pack.inputs import Inputs, joined
from fastmlp.tabular.pack.outputs import Outputs
from fastmlp.tabular.pack.prior import Recipe
from fastmlp.tabular.schema import Values
from fastmlp.training.history import Report, Status

Array = NDArray[Any]
# Batches: a part of the rows, to the nearest power of two between these.
STEPS_PER_EPOCH, SMALLEST_BATCH, LARGEST_BATCH = 40, 32, 256
# The average of the parameters covers so many epochs, and at least so many steps. An average over a
# quarter of an epoch took 0.86 of the time; 41 tables had the same loss (-0.1 %), but the ten that
# were kept aside 2.5 % more (geometric means of ratios).
AVERAGED_EPOCHS, AVERAGED_STEPS = 1.0, 20

# In 350 fits, nets that ended after 4 epochs and 0.3 of the best epoch's number took 0.72 of the
# time of a patience of 12, for validation losses 0.1 % higher in the mean.
PATIENCE_SHARE = 0.3


class Part(NamedTuple):
    """Rows of a table: values of a schema, targets and weights, shape (n_rows,), or None."""

    values: Values
    y: Array
    weight: Array | None = None

    def take(self, rows: Array) -> "Part":
        """Return some of the rows."""
        weight = None if self.weight is None else self.weight[rows]
        return Part(self.values.part(rows), self.y[rows], weight)


class Limits(NamedTuple):
    """How long nets train.

    Attributes
    ----------
    epochs : int, the most of each net
    patience : int
        How many epochs a net goes on without getting better, beside a part of those until its best.
    deadline : float, of `time.perf_counter`; None: no limit
    n_threads : int, optional
    alone : bool
        False: the nets are of one fold, and of no use without those of the others.
    """

    epochs: int
    patience: int
    deadline: float | None = None
    n_threads: int | None = None
    alone: bool = True

    def look(self, report: Report) -> None:
        """Stop a net that gets no better."""
        best = report.history.best_epoch or 0
        if report.epoch - best >= self.patience + PATIENCE_SHARE * best:
            report.stop()

    def shared(self, n_parts: int) -> "Limits":
        """Return the limits of the next of so many parts, which share the time that is left."""
        if self.left is None:
            return self
        return self._replace(deadline=time.perf_counter() + self.left / n_parts)

    @property
    def left(self) -> float | None:
        """Seconds until the deadline, at least a millisecond."""
        return None if self.deadline is None else max(self.deadline - time.perf_counter(), 1e-3)


class Trained(NamedTuple):
    """A net after its training.

    Attributes
    ----------
    predictions : of the validation rows, shape (n_rows,) or (n_rows, n_classes)
    best_epoch, n_epochs : int, counted from 1
    """

    recipe: Recipe
    net: MLP
    predictions: NDArray[np.float64]
    best_epoch: int
    n_epochs: int


def train(
    recipes: Sequence[Recipe],
    encodings: Mapping[str, Encoding],
    training: Part,
    validation: Part,
    outputs: Outputs,
    limits: Limits,
    generator: np.random.Generator,
) -> list[Trained]:
    """Fit encodings to the rows of training, and train a net by each recipe.

    Without a deadline all nets are trained; with one those that are begun in time, in their order,
    and at least one. Nets that diverge in their first epoch are left out.

    Raises
    ------
    KeyboardInterrupt
        On Ctrl-C, if there are no nets that can be used; else those that there are, are returned.
    """
    keys = dict(zip(encodings, generator.spawn(len(encodings)), strict=True))
    inputs: dict[str, Inputs] = {}
    rows = _Rows(training, validation, outputs)
    found: list[Trained] = []
    for group in _groups(recipes, limits):
        if limits.deadline is not None and found and time.perf_counter() >= limits.deadline:
            break
        name = group[0].encoding
        if name not in inputs:
            encoding, its = encodings[name], keys[name]
            kind: EncodedTask = "classification"
            if outputs.task == "regression":
                kind = "regression"
            first = encoding.fit_expanded(training.values, training.y, kind, its)
            inputs[name] = joined(first, encoding.expanded(validation.values))
        found += rows.train(group, inputs[name], limits)
        if rows.interrupted:
            if not (found and limits.alone):
                raise KeyboardInterrupt
            break
    return found


def _groups(recipes: Sequence[Recipe], limits: Limits) -> Iterator[list[Recipe]]:
    """Yield the recipes of each call: those of one encoding, of all or, with a deadline, of one net
    for each thread."""
    n = len(recipes) if limits.deadline is None else limits.n_threads or 2
    for first in range(0, len(recipes), n):
        some = recipes[first : first + n]
        for name in dict.fromkeys(recipe.encoding for recipe in some):
            yield [recipe for recipe in some if recipe.encoding == name]


class _Rows:
    """The rows of a call: first those of training, then those of validation."""

    def __init__(self, training: Part, validation: Part, outputs: Outputs) -> None:
        self._outputs, self._n = outputs, len(training.y)
        self.interrupted = False
        self._y = outputs.targets(np.concatenate([training.y, validation.y]))
        self._weight = None
        if training.weight is not None or validation.weight is not None:
            self._weight = np.concatenate([_weights(part) for part in (training, validation)])

    def train(self, recipes: Sequence[Recipe], X: Inputs, limits: Limits) -> list[Trained]:
        """Train nets on inputs."""
        places, n = np.arange(len(X)), self._n
        batch = _batch_size(n)
        steps = math.ceil(n / batch)
        nets = [_net(recipe, X.shape[1], self._outputs, steps) for recipe in recipes]
        histories = fit_many(
            nets,
            X,
            self._y,
            epochs=limits.epochs,
            batch_size=batch,
            rows=places[:n],
            validation_rows=places[n:],
            sample_weight=self._weight,
            keep_best=True,
            callbacks=limits.look,
            time_limit=limits.left,
            n_threads=limits.n_threads,
        )
        self.interrupted = any(history.status is Status.INTERRUPTED for history in histories)
        trained = []
        for recipe, net, history in zip(recipes, nets, histories, strict=True):
            if history.best_epoch is not None:
                predictions = self._outputs.predictions(net.predict(X[n:]))
                best, n_epochs = history.best_epoch + 1, len(history.loss)
                trained.append(Trained(recipe, net, predictions, best, n_epochs))
        return trained


def _weights(part: Part) -> Array:
    return np.ones(len(part.y)) if part.weight is None else part.weight


def _batch_size(n_rows: int) -> int:
    power = round(math.log2(max(n_rows / STEPS_PER_EPOCH, 1)))
    return min(max(2**power, SMALLEST_BATCH), LARGEST_BATCH)


def _net(recipe: Recipe, n_inputs: int, outputs: Outputs, steps_per_epoch: int) -> MLP:
    """Return a net to be trained."""
    momentum = 1 - 1 / max(AVERAGED_EPOCHS * steps_per_epoch, AVERAGED_STEPS)
    optimizer = AdamW(
        recipe.learning_rate,
        beta_2=0.99,
        weight_decay=recipe.weight_decay,
        decay_biases=False,
        average=EMA(momentum),
    )
    net = MLP(
        (n_inputs, *recipe.hidden, outputs.n_outputs),
        activation=recipe.activation,
        loss=outputs.loss,
        optimizer=optimizer,
        initializer="he_uniform",
        dropout=recipe.dropout if recipe.hidden else 0.0,
        l1=recipe.l1,
        seed=recipe.seed,
    )
    net.biases[-1][:] = outputs.bias
    return net
