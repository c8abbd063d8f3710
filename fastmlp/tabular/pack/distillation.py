"""One small net in the place of an ensemble, trained on the ensemble's predictions."""

import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastmlp.many.fit_many import Call, fit_together
from fastmlp.tabular.encoders.encoding import Encoding
from fastmlp.tabular.pack.pack import Member, Pack
from fastmlp.tabular.pack.pool import Limits, NetSettings, batch_size_of, new_net
from fastmlp.tabular.pack.rows import joined
from fastmlp.tabular.pack.settings import PackSettings, Recipe, encodings_for
from fastmlp.tabular.schema import Values
from fastmlp.tabular.schema.rule import Task

Array = NDArray[Any]
# Drawn rows: so many for each row, and in all at least and at most.
FOR_EACH, LEAST, MOST = 4, 20_000, 200_000
# A drawn row takes columns of the nearest of so many other rows.
N_OTHERS = 16
CHUNK = 4096
# Epochs: as many as take about so many rows, and at least.
ROWS_SEEN, FEWEST_EPOCHS = 1_000_000, 5


class TableColumns(NamedTuple):
    """The column of the table, by its place, of each number and of each code of `Values`."""

    of_numbers: Array
    of_codes: Array

    @property
    def n(self) -> int:
        """One more than the last place."""
        return int(max([-1, *self.of_numbers, *self.of_codes])) + 1


class Distilled(NamedTuple):
    """A net in the place of an ensemble.

    Attributes
    ----------
    member : its score is not known yet
    encoding : of the ensemble, or of its own where the ensemble has trees alone
    held_out : places of the rows that have ended its training
    n_drawn : how many rows were drawn
    """

    member: Member
    encoding: Encoding
    held_out: Array
    n_drawn: int


def distilled(
    pack: Pack,
    values: Values,
    columns: TableColumns,
    predict: Callable[[Values], Array],
    settings: PackSettings,
    hidden: tuple[int, ...],
    seed: int,
    n_threads: int | None,
) -> Distilled:
    """Train a net on predictions of rows, and of drawn rows; a fifth of the rows ends the training.

    Its inputs are those of the encoding whose nets have the greatest weight in the ensemble.

    Raises
    ------
    ValueError
        If the net diverges.
    KeyboardInterrupt
        On Ctrl-C.
    """
    generator = np.random.default_rng([seed, 4])
    n = len(values.codes)
    order = generator.permutation(n)
    held_out, own = np.sort(order[: max(n // 5, 1)]), np.sort(order[max(n // 5, 1) :])
    n_drawn = min(max(FOR_EACH * len(own), LEAST), MOST)
    more = [*drawn(values.part(own), columns, n_drawn, generator)]
    parts = [values.part(own), *more, values.part(held_out)]
    rows = Values(*map(np.concatenate, zip(*parts, strict=True)))
    n_rows = len(own) + n_drawn
    y = predict(rows)
    y = pack.outputs.targets(y) if pack.task == "regression" else y
    if pack.members:
        shares = np.bincount([member.encoding for member in pack.members], pack.weights)
        place = int(shares.argmax())
        encoding = pack.encodings[place]
        name = next(member.recipe.encoding for member in pack.members if member.encoding == place)
    else:  # an ensemble of trees alone
        name, encoding = next(iter(encodings_for(values.numbers.shape[1]).items()))
        if settings.signs:
            encoding.scaling = "rising"
        kind: Task = "regression" if pack.task == "regression" else "classification"
        targets = y[: len(own)] if y.ndim == 1 else y[: len(own)].argmax(axis=1)
        encoding.fit(values.part(own), targets, kind, generator)
    expanded = (encoding.expanded(rows.part(part)) for part in (slice(n_rows), slice(n_rows, None)))
    X = joined(*expanded)
    signs = encoding.signs(settings.signs) if settings.signs else None
    net_seed = int(generator.integers(1 << 31))
    activation: Any = "relu" if signs else "silu"
    recipe = Recipe(0, name, hidden, activation, 3e-3, 0.0, 0.0, 0.0, net_seed)
    # A quantile is the mean of its predictions: the pinball loss would miss it.
    loss = None if settings.loss.power is None else settings.loss.of_nets
    batch = batch_size_of(n_rows)
    of_nets = NetSettings(pack.outputs, settings.compute_dtype, settings.signs, loss)
    net = new_net(recipe, X.shape[1], of_nets, math.ceil(n_rows / batch), signs)
    places = np.arange(len(y))
    y = y[:, 1] if pack.task == "binary" else y
    call = Call([net], X, y, batch, places[:n_rows], places[n_rows:], None)
    limits = Limits(max(ROWS_SEEN // n_rows, FEWEST_EPOCHS), settings.patience)
    (history,) = fit_together(
        None, [call], epochs=limits.epochs, callbacks=limits.look, time_limit=None,
        n_threads=n_threads,
    )[0]  # fmt: skip
    if history.status.name == "INTERRUPTED":
        raise KeyboardInterrupt
    if history.best_epoch is None:
        raise ValueError("distilled: the net has diverged")
    curve = np.array([history.loss, history.validation_loss]).T
    own_fields = (history.best_epoch + 1, curve, history.seconds)
    member = Member(recipe, 0, net, 1.0, math.nan, *own_fields)
    return Distilled(member, encoding, held_out, n_drawn)


def drawn(
    values: Values, columns: TableColumns, n: int, generator: np.random.Generator
) -> Iterator[Values]:
    """Yield n rows, some at once: of a row, and of the nearest of a few others, each column is that
    of either; the parts of a date go together.

    Near are rows whose ranks of numbers differ little, and whose levels are the same.

    References
    ----------
    Bucila, Caruana & Niculescu-Mizil (2006), "Model compression".
    """
    n_rows = len(values.codes)
    ranks = np.empty(values.numbers.shape, np.float32)
    for j, column in enumerate(values.numbers.T):
        ranks[:, j] = np.searchsorted(np.sort(column), column) / n_rows
    for start in range(0, n, CHUNK):
        size = min(CHUNK, n - start)
        rows = generator.integers(n_rows, size=size)
        others = generator.integers(n_rows, size=(N_OTHERS, size))
        distances = [
            np.abs(ranks[other] - ranks[rows]).sum(axis=1)
            + (values.codes[other] != values.codes[rows]).sum(axis=1)
            for other in others
        ]
        near = others[np.argmin(distances, axis=0), np.arange(size)]
        swapped = generator.random((size, columns.n)) < 0.5
        first, second = values.part(rows), values.part(near)
        yield Values(
            np.where(swapped[:, columns.of_numbers], second.numbers, first.numbers),
            np.where(swapped[:, columns.of_codes], second.codes, first.codes),
        )
