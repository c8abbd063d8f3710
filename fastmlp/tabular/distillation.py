"""One small net in the place of an ensemble, trained on the ensemble's predictions."""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.base import clone
from sklearn.utils import check_random_state

from fastmlp.estimators.to_core import n_threads_of
from fastmlp.many.fit_many import Call, fit_together
from fastmlp.tabular import conformal, fit_arguments, reports
from fastmlp.tabular.encoding import Encoding
from fastmlp.tabular.fitting import columns_in_order
from fastmlp.tabular.outputs import Scorer, scores_of
from fastmlp.tabular.pack import Member, Pack
from fastmlp.tabular.pool import Limits, NetSettings, TableRows, batch_size_of, joined, new_net
from fastmlp.tabular.reports import KeptRows, kept_of
from fastmlp.tabular.schema import Task, Values
from fastmlp.tabular.settings import PackSettings, Recipe, encodings_for
from fastmlp.validation import scalars

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


def taught(
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


def distilled(model: Any, X: Any, y: Any, hidden_layer_sizes: Any) -> Any:
    """The fitted model of one net; see `TabularMLP.distilled`."""
    name = type(model).__name__
    who, start = f"{name}.distilled", time.perf_counter()
    values = model._values(X, "distilled")
    n = len(values.codes)
    if n < 2:
        raise ValueError(f"{who}: X must have 2 rows or more, got {n}")
    hidden = _layers(hidden_layer_sizes, who)
    compared = _rows_to_compare(model, values, y, who)
    seed = int(check_random_state(model.random_state).randint(2**31 - 1))
    classes = getattr(model, "classes_", None)
    signs = columns_in_order(model.monotonic_cst, model.schema_, classes, name)
    pack, columns = model.pack_, TableColumns(*model.schema_.places)
    settings, n_threads = model._settings()._replace(signs=signs), n_threads_of(model.n_jobs)
    member, encoding, held_out, n_drawn = taught(
        pack, values, columns, model._predicted, settings, hidden, seed, n_threads
    )
    if y is not None:
        compared = compared._replace(part=compared.part.take(held_out))
    part = compared.part
    scorer = Scorer(pack.task, part.y, part.weight, model._own_score())
    result = clone(model)
    result._take(model.schema_, _alone(pack, encoding, member, -1.0), [], classes)
    of_net, of_all = result._predicted(part.values), model._predicted(part.values)
    loss, loss_of_all = -scorer.score_of(of_net), -scorer.score_of(of_all)
    alone = _alone(pack, encoding, member._replace(score=-loss), -loss)
    scores, sizes = _scores(pack, compared, of_net, of_all)
    alone.take_scores(scores / sizes, part.weight)
    result._take(model.schema_, alone, [], classes)
    result.leaderboard_ = reports.leaderboard(alone)
    rows = values.part(held_out)
    away = result._predicted(rows) - model._predicted(rows)
    result.training_ = {**model.training_, "rows": n - len(held_out)}
    result.training_["distilled"] = {
        "drawn_rows": n_drawn,
        "loss": loss,
        "ensemble_loss": loss_of_all,
        "difference": float(np.sqrt(np.mean(away**2))),
    }
    result._kept = kept_of(part, scores, sizes, np.random.default_rng([seed, 2]))
    model._say(f"{who}: {result.summary()}", start)
    return result


def _layers(sizes: Any, who: str) -> tuple[int, ...]:
    """The sizes of the hidden layers, checked."""
    if not isinstance(sizes, Sequence | np.ndarray) or isinstance(sizes, str):
        sizes = [sizes]
    return tuple(
        scalars.positive_integer(who, f"hidden_layer_sizes[{i}]", size)
        for i, size in enumerate(sizes)
    )


def _rows_to_compare(model: Any, values: Values, y: Any, who: str) -> KeptRows:
    """The rows of the targets y or, without them, those that the model keeps."""
    n, classes = len(values.codes), getattr(model, "classes_", None)
    if y is not None and classes is None:
        return KeptRows(TableRows(values, fit_arguments.numbers(y, n, who)))
    if y is not None and classes is not None:
        places = fit_arguments.places_of(y, classes, n, who, "y")
        return KeptRows(TableRows(values, places))
    kept: KeptRows | None = getattr(model, "_kept", None)
    if kept is None:
        lacks = "a model from a file holds no rows to compare losses on"
        raise ValueError(f"{who}: {lacks}: give y, the targets of X")
    return kept


def _scores(pack: Pack, rows: KeptRows, of_net: Any, of_all: Any) -> tuple[Any, Any]:
    """Conformal scores of a net's predictions, and the sizes that they are divided by, (n_rows,).

    Of folds the ensemble has seen the rows that it keeps, and the net has learned what it predicts:
    their scores are those of nets that had not seen them, moved by what the net differs by.
    """
    part = rows.part
    scores = scores_of(pack.task, part.y, of_net)
    if rows.scores is None or rows.sizes is None:
        return scores, conformal.sizes_of(pack, part.values)
    return scores + (rows.scores - scores_of(pack.task, part.y, of_all)), rows.sizes


def _alone(pack: Pack, encoding: Any, member: Any, score: float) -> Pack:
    """A pack of one net."""
    return Pack(
        pack.outputs,
        (encoding,),
        (member,),
        extra_weights=np.empty(0),
        validation_score=score,
        residuals=np.empty(0),
        n_trained=1,
        sizes=pack.sizes,
    )
