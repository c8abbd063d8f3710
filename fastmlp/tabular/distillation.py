"""One small net in the place of an ensemble, trained on the ensemble's predictions."""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from sklearn.base import clone
from sklearn.utils import check_random_state

from fastmlp.extend import fit_together, scalars, warn
from fastmlp.tabular import conformal, fit_arguments, pool, reports
from fastmlp.tabular.encoding import Encoding
from fastmlp.tabular.fitting import columns_in_order
from fastmlp.tabular.outputs import Scorer, scores_of
from fastmlp.tabular.pack import NONE, Member, Pack
from fastmlp.tabular.reports import KeptRows, kept_of
from fastmlp.tabular.schema import Values
from fastmlp.tabular.settings import LARGE, PackSettings, Recipe, encodings_for
from fastmlp.typing import Array

# Drawn rows: number for each row, least and most in all.
FOR_EACH, LEAST, MOST = 4, 20_000, 200_000
# A drawn row takes columns of the nearest of this many other rows.
N_OTHERS = 16
CHUNK = 4096
# Rows that all epochs see, about; three times as many for wider layers. The fewest epochs.
ROWS_SEEN, FEWEST_EPOCHS = 1_000_000, 5
# Layers that are tried in turn, until the loss is at most this share above the ensemble's.
LAYERS, ABOVE = ((64, 64), (128, 128)), 0.03


def taught(
    pack: Pack,
    values: Values,
    columns: tuple[Array, Array],
    predict: Callable[[Values], Array],
    settings: PackSettings,
    hidden: tuple[int, ...],
    seed: int,
    n_threads: int | None,
) -> tuple[Member, Encoding, Array, int]:
    """Train a net on predictions of rows, and of drawn rows; a fifth of the rows ends the training.

    The encoding has the greatest weight in the ensemble. Returned are the net without a score, its
    encoding, the indices of the fifth, and the number of drawn rows.
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
        targets = y[: len(own)] if y.ndim == 1 else y[: len(own)].argmax(axis=1)
        encoding.fit(values.part(own), targets, pack.outputs.kind, generator)
    expanded = (encoding.expanded(rows.part(part)) for part in (slice(n_rows), slice(n_rows, None)))
    X = pool.joined(*expanded)
    net_seed = int(generator.integers(1 << 31))
    activation: Any = "relu" if settings.signs else "silu"
    recipe = Recipe(0, name, hidden, activation, 3e-3, 0.0, 0.0, 0.0, net_seed)
    of_nets = pool.net_settings(pack.outputs, settings)
    if settings.loss.power is None:
        # A quantile is learned as the ensemble's mean prediction, which the pinball loss would
        # miss.
        of_nets = of_nets._replace(loss=pack.outputs.loss)
    # Epochs are few: batches have the size for smaller tables.
    n = min(n_rows, LARGE - 1)
    net = pool.new_net(recipe, encoding, of_nets, n)
    places = np.arange(len(y))
    y = y[:, 1] if pack.task == "binary" else y
    call = pool.TableCall(
        [net], X, y, pool.batch_size_of(n), places[:n_rows], places[n_rows:], None
    )
    seen = ROWS_SEEN * (3 if hidden == LAYERS[-1] else 1)
    limits = pool.Limits(max(seen // n_rows, FEWEST_EPOCHS), settings.patience)
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
    return member, encoding, held_out, n_drawn


def drawn(
    values: Values, columns: tuple[Array, Array], n: int, generator: np.random.Generator
) -> Iterator[Values]:
    """Yield n rows, some at once; each column comes from a row or the nearest of a few others.

    Parts of a date stay together. Near rows have close ranks of numbers, and the same levels.

    References
    ----------
    Bucila, Caruana & Niculescu-Mizil (2006), "Model compression".
    """
    of_numbers, of_codes = columns
    n_rows, n_columns = len(values.codes), int(max([-1, *of_numbers, *of_codes])) + 1
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
        swapped = generator.random((size, n_columns)) < 0.5
        first, second = values.part(rows), values.part(near)
        yield Values(
            np.where(swapped[:, of_numbers], second.numbers, first.numbers),
            np.where(swapped[:, of_codes], second.codes, first.codes),
        )


def distilled(model: Any, X: Any, y: Any, hidden_layer_sizes: Any) -> Any:
    name = type(model).__name__
    who, start = f"{name}.distilled", time.perf_counter()
    values = model._values(X, "distilled")
    n = len(values.codes)
    if n < 2:
        raise ValueError(f"{who}: X must have 2 rows or more, got {n}")
    given = None if hidden_layer_sizes is None else _layers(hidden_layer_sizes, who)
    compared = _rows_to_compare(model, values, y, who)
    seed = int(check_random_state(model.random_state).randint(2**31 - 1))
    classes = getattr(model, "classes_", None)
    signs = columns_in_order(model.monotonic_cst, model.schema_, classes, name)
    pack, columns = model.pack_, model.schema_.places
    settings, n_threads = model._settings()._replace(signs=signs), model._n_threads()
    result, loss = clone(model), math.inf
    for hidden in LAYERS if given is None else (given,):
        member, encoding, held_out, n_drawn = taught(
            pack, values, columns, model._predicted, settings, hidden, seed, n_threads
        )
        part = compared.part if y is None else compared.part.take(held_out)
        scorer = Scorer(pack.task, part.y, part.weight, model._own_score())
        of_all = model._predicted(part.values)
        loss_of_all, tried = -scorer.score_of(of_all), clone(model)
        alone = replace(pack, encodings=(encoding,), members=(member,), n_trained=1)
        alone.extra_weights = NONE
        tried._take(model.schema_, alone, [], classes)
        of_tried = tried._predicted(part.values)
        if not (of_this := -scorer.score_of(of_tried)) >= loss:
            result, loss, of_net = tried, of_this, of_tried
        if (above := (loss - loss_of_all) / max(abs(loss_of_all), 1e-300)) <= ABOVE:
            break
    else:
        message = f"the net's loss is {above:.1%} above the ensemble's on {len(part.y)} rows"
        advice = "predict with the ensemble, or try wider hidden_layer_sizes"
        warn(f"{who}: {message}: {advice}", UserWarning)
    compared, alone = compared._replace(part=part), result.pack_
    alone.members = (alone.members[0]._replace(score=-loss),)
    alone.validation_score = -loss
    scores, sizes = _scores(pack, compared, of_net, of_all)
    alone.take_scores(scores / sizes, part.weight)
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
    if not isinstance(sizes, Sequence | np.ndarray) or isinstance(sizes, str):
        sizes = [sizes]
    return tuple(
        scalars.positive_integer(who, f"hidden_layer_sizes[{i}]", size)
        for i, size in enumerate(sizes)
    )


def _rows_to_compare(model: Any, values: Values, y: Any, who: str) -> KeptRows:
    """The rows of the targets y or, without y, those that the model keeps."""
    n, classes = len(values.codes), getattr(model, "classes_", None)
    if y is not None and classes is None:
        return KeptRows(pool.TableRows(values, fit_arguments.numbers(y, n, who)))
    if y is not None and classes is not None:
        places = fit_arguments.places_of(y, classes, n, who, "y")
        return KeptRows(pool.TableRows(values, places))
    kept: KeptRows | None = getattr(model, "_kept", None)
    if kept is None:
        lacks = "a model from a file holds no rows to compare losses on"
        raise ValueError(f"{who}: {lacks}: give y, the targets of X")
    return kept


def _scores(pack: Pack, rows: KeptRows, of_net: Any, of_all: Any) -> tuple[Any, Any]:
    """Conformal scores of a net's predictions, and the sizes that divide them, (n_rows,).

    With folds, the ensemble was trained on the rows it keeps. Each row is scored by members that
    did not see it, shifted by the difference between net and ensemble.
    """
    part = rows.part
    scores = scores_of(pack.task, part.y, of_net)
    if rows.scores is None or rows.sizes is None:
        return scores, conformal.sizes_of(pack, part.values)
    return scores + (rows.scores - scores_of(pack.task, part.y, of_all)), rows.sizes
