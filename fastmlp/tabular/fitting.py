"""Training of a model of tables: an ensemble is selected,
then trained again on all rows.

One small net may take the place of an ensemble:
it is trained on the ensemble's predictions.
"""

import hashlib
import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.base import clone
from sklearn.utils import check_random_state

from fastmlp import Status, fit_many
from fastmlp.extend import fit_together, messages, n_threads_of, scalars, warn
from fastmlp.tabular import conformal, extras, fit_arguments, pool, reports
from fastmlp.tabular.decisions import LabelScore, decision_weights
from fastmlp.tabular.encoding import Encoding
from fastmlp.tabular.extras import Extra
from fastmlp.tabular.fit_arguments import Divided
from fastmlp.tabular.outputs import Scorer, Task, outputs_of, scores_of
from fastmlp.tabular.pack import NO_NUMBERS, Caller, Member, Pack, train_pack
from fastmlp.tabular.reports import KeptRows, kept_of
from fastmlp.tabular.schema import Schema, Values
from fastmlp.tabular.settings import LARGE, PackSettings, Recipe, encodings_for
from fastmlp.typing import Array


class TableFit(NamedTuple):
    """Rows and settings of a fit.

    Attributes
    ----------
    n_classes : int, 0 for numbers
    beside : list of pairs of a name and an estimator
        Candidates beside the nets, boosted trees last.
    """

    data: Divided
    task: Task
    n_classes: int
    settings: PackSettings
    beside: list[tuple[str, Any]]
    seed: int
    n_threads: int | None
    cluster: Any
    caller: Caller

    @property
    def validation(self) -> pool.TableRows | None:
        """Rows held out; None: there are folds."""
        return self.data.held_out if self.data.folds is None else None

    def is_before(self, share: float) -> bool:
        """True before a share of the time limit has passed, or without a limit."""
        limit = self.settings.time_limit
        return limit is None or self.caller.seconds < share * limit


def checkpoints_of(
    folder: Any,
    every: int | timedelta,
    resume: bool,
    facts: Mapping[str, str],
    who: str,
) -> pool.Checkpoints | None:
    """Begin a fit's checkpoints,
    or go on with a folder's checkpoints of a fit with equal facts.
    """
    if folder is None:
        if resume:
            raise ValueError(
                f"{who}: resume=True needs checkpoint=, the folder to go on from"
            )
        return None
    scalars.path(who, "checkpoint", folder)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "fit.json"
    if not file.exists() and any(folder.iterdir()):
        raise ValueError(
            f"{who}: checkpoint must be an empty folder, or a fit's, got {folder}"
        )
    if not (resume and file.exists()):
        for old in folder.rglob("*.safetensors"):
            old.unlink()
        file.write_text(json.dumps(facts))
    there = json.loads(file.read_text())
    for name, value in facts.items():
        if there.get(name) != value:
            raise ValueError(
                f"{who}: {folder} is the checkpoint of another fit: its {name} is "
                f"{there.get(name)}, here it is {value}; resume=False starts over"
            )
    return pool.Checkpoints(folder, every)


def digest_of(data: Divided) -> str:
    """Hash of all rows of a fit, and of their folds."""
    hasher = hashlib.blake2b(digest_size=16)
    parts = [
        (*rows.values, rows.y, rows.weight) for rows in (data.training, data.held_out)
    ]
    for array in (
        *parts[0],
        *parts[1],
        *(rows for fold in data.folds or () for rows in fold),
    ):
        if array is not None:
            hasher.update(f"{array.dtype}, {array.shape}".encode())
            hasher.update(np.ascontiguousarray(array).data)
    return hasher.hexdigest()


class TableEnsemble(NamedTuple):
    """A trained ensemble and its reports.

    Attributes
    ----------
    members : list of pairs of a name and a fitted estimator, beside the pack
    n_rows : int, the number of rows trained on
    leaderboard : frame of pandas, or list of dicts
    scores, sizes : (n_held_out,) arrays
        Conformal scores of the validation rows,
        by nets that were not trained on the row, and the sizes that divide them.
    decisions : list of float, weights of the classes; empty where all are 1
    """

    pack: Pack
    members: list[tuple[str, Any]]
    n_rows: int
    leaderboard: Any
    scores: Array
    sizes: Array
    decisions: list[float]


def selected(fit: TableFit) -> TableEnsemble:
    """Train nets and estimators;
    select the best weighted mean on the validation rows.
    """
    held_out = fit.data.held_out
    waits = _start_estimators(fit)
    pack = train_pack(
        fit.data.training,
        fit.validation,
        task=fit.task,
        n_classes=fit.n_classes,
        settings=fit.settings,
        seed=fit.seed,
        n_threads=fit.n_threads,
        extra=(extra.predictions for wait in waits for extra in wait()),
        cluster=fit.cluster,
        folds=fit.data.folds,
        caller=fit.caller,
    )
    beside = [extra for wait in waits for extra in wait()]
    scores = scores_of(fit.task, held_out.y, pack.validated)
    sizes = np.ones(len(scores))
    # Sizes take about a twentieth of the nets' time.
    if fit.task == "regression" and fit.is_before(0.5):
        apart = fit_arguments.folds_apart(fit.data.groups, conformal.SIZE_SETTINGS.cv)
        kept = fit.caller.checkpoints and fit.caller.checkpoints.within("sizes")
        own: Any = {"seed": fit.seed, "n_threads": fit.n_threads, "checkpoints": kept}
        sizes = conformal.learn_sizes(pack, held_out, folds=apart, **own)
    scorer = Scorer(fit.task, held_out.y, held_out.weight, fit.settings.score)
    decisions = _decisions(fit, pack, scorer)
    pack.validated = np.empty(0)
    scored = [
        (each.name, scorer.score_of(each.predictions), each.seconds) for each in beside
    ]
    board = reports.leaderboard(pack, scored)
    members = [(extra.name, extra.estimator) for extra in beside]
    n_rows = len(fit.data.training.y)
    return TableEnsemble(pack, members, n_rows, board, scores, sizes, decisions)


def _decisions(fit: TableFit, pack: Pack, scorer: Scorer) -> list[float]:
    """Weights of the classes for a score of labels, and the pack's score with them."""
    score = fit.settings.score
    if not isinstance(score, LabelScore):
        return []
    weights = decision_weights(score, pack.validated, scorer.weight)
    pack.validation_score = scorer.score_of(pack.validated * weights)
    return [] if (weights == 1).all() else weights.tolist()


def refitted(fit: TableFit, ensemble: TableEnsemble) -> TableEnsemble:
    """The ensemble trained again on all rows, or the same ensemble after a warning."""
    whole = fit.data.training
    members = ensemble.members
    try:
        if fit.validation is not None:
            whole = joined_rows(whole, fit.validation)
            if fit.is_before(1):
                members = [(name, extras.fit(model, whole)) for name, model in members]
        pack = refitted_pack(fit, ensemble.pack, whole)
    except (NotRefitted, KeyboardInterrupt) as error:
        reason, _, advice = (str(error) or "was interrupted").partition(": ")
        message = f"refit=True {reason}: the ensemble is that of the selection"
        warn(f"{fit.caller.who}: {message}{advice and f'; {advice}'}", UserWarning)
        return ensemble
    return ensemble._replace(pack=pack, members=members, n_rows=len(whole.y))


def _start_estimators(fit: TableFit) -> list[Callable[[], list[Extra]]]:
    """Functions that wait for the estimators.

    The user's estimators are already fitted.
    Trees grow beside the nets if there are threads for both.
    """
    n_own = len(fit.beside) - fit.settings.trees
    in_turn = not fit.settings.trees or n_threads_of(fit.n_threads) == 1
    fitted = partial(
        extras.fitted,
        training=fit.data.training,
        validation=fit.validation,
        n_classes=fit.n_classes,
        folds=fit.data.folds or (),
    )
    return [
        extras.start(partial(fitted, fit.beside[:n_own]), in_turn=True),
        extras.start(partial(fitted, fit.beside[n_own:]), in_turn=in_turn),
    ]


def columns_in_order(
    setting: Any, schema: Schema, classes: NDArray[Any] | None, who: str
) -> tuple[int, ...]:
    """Constraints of the columns of numbers,
    in their order; empty without constraints.
    """
    if setting is None:
        return ()
    names = schema.columns
    if isinstance(setting, Mapping):
        for name in setting:
            scalars.known(who, "column in monotonic_cst", name, names)
        setting = [setting.get(name, 0) for name in names]
    signs = np.asarray(setting)
    if signs.shape != (len(names),) or not np.isin(signs, (-1, 0, 1)).all():
        raise ValueError(
            f"{who}: monotonic_cst must be -1 (falls), 0 (free) or 1 (rises) for each "
            f"of the {messages.count(len(names), 'column')}, got {setting!r}"
        )
    if not signs.any():
        return ()
    if classes is not None and len(classes) > 2:
        raise ValueError(f"{who}: monotonic_cst is for two classes, got {len(classes)}")
    chosen = dict(zip(names, signs.astype(int).tolist(), strict=True))
    others: dict[str, Any] = {"dates or times": schema.dates, "levels": schema.levels}
    for name, sign in chosen.items():
        for kind, columns in others.items():
            if sign and name in columns:
                raise ValueError(
                    f"{who}: monotonic_cst is for columns of numbers, and {name!r} "
                    f"holds {kind}: put numbers in the place of what has an order"
                )
    return tuple(chosen.get(name, 0) for name in schema.number_names)


class NotRefitted(Exception):
    """A refit that did not finish: the reason, and after a colon the advice."""


def joined_rows(first: pool.TableRows, second: pool.TableRows) -> pool.TableRows:
    parts = (first, second)
    values = Values(
        *map(np.concatenate, zip(*(part.values for part in parts), strict=True))
    )
    return pool.TableRows(
        values, np.concatenate([first.y, second.y]), pool.joined_weights(*parts)
    )


def refitted_pack(fit: TableFit, pack: Pack, rows: pool.TableRows) -> Pack:
    """The ensemble with nets trained on all rows,
    for the numbers of epochs that were best.

    One net replaces a recipe's nets of several folds, with their mean number of epochs.
    Scores and residuals of the selection are kept.
    """
    outputs = outputs_of(
        pack.task, rows.y, rows.weight, fit.n_classes, fit.settings.loss
    )
    of_nets = pool.net_settings(outputs, fit.settings)
    checkpoints = fit.caller.checkpoints
    by_encoding: dict[str, dict[int, list[Member]]] = {}
    for member in pack.members:
        recipes = by_encoding.setdefault(member.recipe.encoding, {})
        recipes.setdefault(member.recipe.number, []).append(member)
    encodings, members = [], []
    for place, same_encoding in enumerate(by_encoding.values()):
        _seconds_left(fit)
        groups = [*same_encoding.values()]
        encoding = replace(pack.encodings[groups[0][0].encoding])
        generator = np.random.default_rng([fit.seed, place, 3])
        X = pool.shortest(
            encoding.fit_expanded(rows.values, rows.y, outputs.kind, generator)
        )
        nets = [
            pool.new_net(same[0].recipe, encoding, of_nets, len(rows.y))
            for same in groups
        ]
        epochs = [
            round(float(np.mean([member.epoch for member in same]))) for same in groups
        ]
        kept = checkpoints and checkpoints.within(f"refit{place}")
        histories = fit_many(
            nets,
            X,
            outputs.targets(rows.y),
            epochs=epochs,
            batch_size=pool.batch_size_of(len(rows.y)),
            sample_weight=rows.weight,
            time_limit=_seconds_left(fit),
            n_threads=fit.n_threads,
            **(kept.words if kept else {}),
        )
        statuses = {history.status for history in histories}
        if Status.INTERRUPTED in statuses:
            raise KeyboardInterrupt
        if Status.OUT_OF_TIME in statuses:
            raise _out_of_time(fit)
        if statuses != {Status.COMPLETED}:
            raise NotRefitted("has nets that diverged")
        encodings.append(encoding)
        for net, same, n in zip(nets, groups, epochs, strict=True):
            weight = sum(member.weight for member in same)
            recipe = same[0].recipe
            net = pool.without_idle_units(net, recipe, encoding, of_nets, X)
            members.append(
                same[0]._replace(net=net, encoding=place, weight=weight, epoch=n)
            )
    return replace(
        pack, outputs=outputs, encodings=tuple(encodings), members=tuple(members)
    )


def _seconds_left(fit: TableFit) -> float | None:
    """Seconds until the time limit, or None; raises NotRefitted if no time is left."""
    if (limit := fit.settings.time_limit) is None:
        return None
    if (left := limit - fit.caller.seconds) <= 0:
        raise _out_of_time(fit)
    return left


def _out_of_time(fit: TableFit) -> NotRefitted:
    limit = f"did not end within time_limit={fit.settings.time_limit:g}"
    return NotRefitted(f"{limit}: more time, or fewer nets, would do")


# Drawn rows: number for each row, least and most in all.
FOR_EACH = 4
FEWEST_DRAWN = 20_000
MOST_DRAWN = 200_000
# A drawn row takes columns of the nearest of this many other rows.
N_OTHERS = 16
DRAWN_AT_ONCE = 4096
# Rows that all epochs see, about;
# three times as many for wider layers. The fewest epochs.
ROWS_SEEN, FEWEST_EPOCHS = 1_000_000, 5
# Layers that are tried in turn,
# until the loss is at most this share above the ensemble's.
LAYERS = ((64, 64), (128, 128))
ABOVE = 0.03


def train_student(
    pack: Pack,
    values: Values,
    columns: tuple[Array, Array],
    predict: Callable[[Values], Array],
    settings: PackSettings,
    hidden: tuple[int, ...],
    seed: int,
    n_threads: int | None,
) -> tuple[Member, Encoding, Array, int]:
    """Train a net on predictions of rows, and of drawn rows;
    a fifth of the rows ends the training.

    The encoding has the greatest weight in the ensemble. Returned are the net without a
    score, its encoding, the indices of the fifth, and the number of drawn rows.
    """
    generator = np.random.default_rng([seed, 4])
    n = len(values.codes)
    order = generator.permutation(n)
    held_out = np.sort(order[: max(n // 5, 1)])
    own = np.sort(order[max(n // 5, 1) :])
    n_drawn = min(max(FOR_EACH * len(own), FEWEST_DRAWN), MOST_DRAWN)
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
        name = next(
            member.recipe.encoding
            for member in pack.members
            if member.encoding == place
        )
    else:  # an ensemble of trees alone
        name, encoding = next(iter(encodings_for(values).items()))
        if settings.signs:
            encoding.scaling = "rising"
        if y.ndim == 1:
            targets = y[: len(own)]
        else:
            targets = y[: len(own)].argmax(axis=1)
        encoding.fit(values.part(own), targets, pack.outputs.kind, generator)
    expanded = (
        encoding.expanded(rows.part(part))
        for part in (slice(n_rows), slice(n_rows, None))
    )
    X = pool.joined(*expanded)
    net_seed = int(generator.integers(1 << 31))
    activation: Any = "relu" if settings.signs else "silu"
    recipe = Recipe(0, name, hidden, activation, 3e-3, 0.0, 0.0, 0.0, net_seed)
    of_nets = pool.net_settings(pack.outputs, settings)
    if settings.loss.power is None:
        # A quantile is learned as the ensemble's mean prediction,
        # which the pinball loss would miss.
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
        None,
        [call],
        epochs=limits.epochs,
        callbacks=limits.look,
        time_limit=None,
        n_threads=n_threads,
    )[0]
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
    """Yield n rows, some at once;
    each column comes from a row or the nearest of a few others.

    Parts of a date stay together.
    Near rows have close ranks of numbers, and the same levels.

    References
    ----------
    Bucila, Caruana & Niculescu-Mizil (2006), "Model compression".
    """
    of_numbers, of_codes = columns
    n_rows = len(values.codes)
    n_columns = int(max([-1, *of_numbers, *of_codes])) + 1
    ranks = np.empty(values.numbers.shape, np.float32)
    for j, column in enumerate(values.numbers.T):
        ranks[:, j] = np.searchsorted(np.sort(column), column) / n_rows
    for start in range(0, n, DRAWN_AT_ONCE):
        size = min(DRAWN_AT_ONCE, n - start)
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


class Distilled(NamedTuple):
    """A net that learned an ensemble's predictions, beside the ensemble.

    Attributes
    ----------
    model : a model of tables of this net alone
    held_out : indices of the rows that ended the training
    part : the rows on which both are compared
    of_net, of_all : predictions of these rows by the net, and by the ensemble
    loss, loss_of_all : the losses of these predictions
    """

    model: Any
    held_out: Array
    n_drawn: int
    part: pool.TableRows
    of_net: Array
    of_all: Array
    loss: float
    loss_of_all: float

    @property
    def above(self) -> float:
        """The share of the ensemble's loss by which the net's is higher."""
        return (self.loss - self.loss_of_all) / max(abs(self.loss_of_all), 1e-300)


def distilled(model: Any, X: Any, y: Any, hidden_layer_sizes: Any) -> Any:
    """A model of one net that learns the predictions of the ensemble.

    Without sizes, wider layers are tried until the net's loss is low enough.
    """
    who = f"{type(model).__name__}.distilled"
    start = time.perf_counter()
    values = model._values(X, "distilled")
    n = len(values.codes)
    if n < 2:
        raise ValueError(f"{who}: X must have 2 rows or more, got {n}")
    layers: tuple[tuple[int, ...], ...] = LAYERS
    if hidden_layer_sizes is not None:
        layers = (_layers(hidden_layer_sizes, who),)
    compared = _rows_to_compare(model, values, y, who)
    seed = int(check_random_state(model.random_state).randint(2**31 - 1))
    best: Distilled | None = None
    for hidden in layers:
        tried = _tried(model, values, compared, hidden, seed, y is not None)
        # A loss that is NaN gives way to any other.
        if best is None or not tried.loss >= best.loss:
            best = tried
        if best.above <= ABOVE:
            break
    assert best is not None
    if not best.above <= ABOVE:
        rows = f"on {len(best.part.y)} rows"
        message = f"the net's loss is {best.above:.1%} above the ensemble's {rows}"
        advice = "predict with the ensemble, or try wider hidden_layer_sizes"
        warn(f"{who}: {message}: {advice}", UserWarning)
    _report(model, best, compared, values, seed)
    model._say(f"{who}: {best.model.summary()}", start)
    return best.model


def _tried(
    model: Any,
    values: Values,
    compared: KeptRows,
    hidden: tuple[int, ...],
    seed: int,
    has_targets: bool,
) -> Distilled:
    """A net of some layers; targets of X serve where its training has not seen them."""
    name = type(model).__name__
    pack = model.pack_
    classes = getattr(model, "classes_", None)
    signs = columns_in_order(model.monotonic_cst, model.schema_, classes, name)
    member, encoding, held_out, n_drawn = train_student(
        pack,
        values,
        model.schema_.places,
        model._predicted,
        model._settings()._replace(signs=signs),
        hidden,
        seed,
        model._n_threads(),
    )
    part = compared.part.take(held_out) if has_targets else compared.part
    small = clone(model)
    of_one = replace(pack, encodings=(encoding,), members=(member,), n_trained=1)
    of_one.extra_weights = NO_NUMBERS
    small._take(model.schema_, of_one, [], classes)
    scorer = Scorer(pack.task, part.y, part.weight, model._own_score())
    of_net = small._predicted(part.values)
    of_all = model._predicted(part.values)
    return Distilled(
        small,
        held_out,
        n_drawn,
        part,
        of_net,
        of_all,
        loss=-scorer.score_of(of_net),
        loss_of_all=-scorer.score_of(of_all),
    )


def _report(
    model: Any, best: Distilled, compared: KeptRows, values: Values, seed: int
) -> None:
    """Write scores, leaderboard and the comparison with the ensemble into the model."""
    small = best.model
    pack = small.pack_
    pack.members = (pack.members[0]._replace(score=-best.loss),)
    pack.validation_score = -best.loss
    rows = compared._replace(part=best.part)
    scores, sizes = _scores(model.pack_, rows, best.of_net, best.of_all)
    pack.take_scores(scores / sizes, best.part.weight)
    small.leaderboard_ = reports.leaderboard(pack)
    held_out = values.part(best.held_out)
    away = small._predicted(held_out) - model._predicted(held_out)
    n_trained = len(values.codes) - len(best.held_out)
    small.training_ = {**model.training_, "rows": n_trained}
    small.training_["distilled"] = {
        "drawn_rows": best.n_drawn,
        "loss": best.loss,
        "ensemble_loss": best.loss_of_all,
        "difference": float(np.sqrt(np.mean(away**2))),
    }
    generator = np.random.default_rng([seed, 2])
    small._kept = kept_of(best.part, scores, sizes, generator)


def _layers(sizes: Any, who: str) -> tuple[int, ...]:
    if not isinstance(sizes, Sequence | np.ndarray) or isinstance(sizes, str):
        sizes = [sizes]
    return tuple(
        scalars.positive_integer(who, f"hidden_layer_sizes[{i}]", size)
        for i, size in enumerate(sizes)
    )


def _rows_to_compare(model: Any, values: Values, y: Any, who: str) -> KeptRows:
    """The rows of the targets y or, without y, those that the model keeps."""
    n = len(values.codes)
    classes = getattr(model, "classes_", None)
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
    """Conformal scores of a net's predictions,
    and the sizes that divide them, (n_rows,).

    With folds, the ensemble was trained on the rows it keeps. Each row is scored by
    members that did not see it, shifted by the difference between net and ensemble.
    """
    part = rows.part
    scores = scores_of(pack.task, part.y, of_net)
    if rows.scores is None or rows.sizes is None:
        return scores, conformal.sizes_of(pack, part.values)
    return scores + (rows.scores - scores_of(pack.task, part.y, of_all)), rows.sizes
