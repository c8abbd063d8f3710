"""Training of a model of tables: an ensemble is selected, then trained again on all rows."""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastmlp import Status, fit_many
from fastmlp.extend import messages, n_threads_of, scalars, warn
from fastmlp.tabular import conformal, extras, fit_arguments, pool, reports
from fastmlp.tabular.extras import Extra
from fastmlp.tabular.fit_arguments import Divided
from fastmlp.tabular.outputs import Scorer, Task, outputs_of, scores_of
from fastmlp.tabular.pack import Caller, Member, Pack, train_pack
from fastmlp.tabular.schema import Schema, Values
from fastmlp.tabular.settings import PackSettings
from fastmlp.typing import Array

# On this many rows an idle unit that is removed changes no prediction.
IDLE_ROWS = 20_000


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
    folder: Any, every: int | timedelta, resume: bool, facts: Mapping[str, str], who: str
) -> pool.Checkpoints | None:
    """Begin a fit's checkpoints, or go on with a folder's checkpoints of a fit with equal facts."""
    if folder is None:
        if resume:
            raise ValueError(f"{who}: resume=True needs checkpoint=, the folder to go on from")
        return None
    scalars.path(who, "checkpoint", folder)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "fit.json"
    if not file.exists() and any(folder.iterdir()):
        raise ValueError(f"{who}: checkpoint must be an empty folder, or a fit's, got {folder}")
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
    parts = [(*rows.values, rows.y, rows.weight) for rows in (data.training, data.held_out)]
    for array in (*parts[0], *parts[1], *(rows for fold in data.folds or () for rows in fold)):
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
        Conformal scores of the validation rows, by nets that were not trained on the row, and the
        sizes that divide them.
    """

    pack: Pack
    members: list[tuple[str, Any]]
    n_rows: int
    leaderboard: Any
    scores: Array
    sizes: Array


def selected(fit: TableFit) -> TableEnsemble:
    """Train nets and estimators; select the best weighted mean on the validation rows."""
    held_out = fit.data.held_out
    waits = _begun(fit)
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
        apart = fit_arguments.folds_apart(fit.data.groups, conformal.SETTINGS.cv)
        kept = fit.caller.checkpoints and fit.caller.checkpoints.within("sizes")
        own: Any = {"seed": fit.seed, "n_threads": fit.n_threads, "checkpoints": kept}
        sizes = conformal.learn_sizes(pack, held_out, folds=apart, **own)
    pack.validated = np.empty(0)
    scorer = Scorer(fit.task, held_out.y, held_out.weight, fit.settings.score)
    scored = [(each.name, scorer.score_of(each.predictions), each.seconds) for each in beside]
    board = reports.leaderboard(pack, scored)
    members = [(extra.name, extra.estimator) for extra in beside]
    return TableEnsemble(pack, members, len(fit.data.training.y), board, scores, sizes)


def refitted(fit: TableFit, ensemble: TableEnsemble) -> TableEnsemble:
    """The ensemble trained again on all rows, or the same ensemble after a warning."""
    whole, members = fit.data.training, ensemble.members
    try:
        if fit.validation is not None:
            whole = joined_rows(whole, fit.validation)
            if fit.is_before(1):
                members = [(name, extras.fit(model, whole)) for name, model in members]
        pack = refitted_pack(
            ensemble.pack, whole, fit.n_classes, fit.settings, fit.seed, fit.n_threads, fit.caller
        )
    except (NotRefitted, KeyboardInterrupt) as error:
        reason, _, advice = (str(error) or "was interrupted").partition(": ")
        message = f"refit=True {reason}: the ensemble is that of the selection"
        warn(f"{fit.caller.who}: {message}{advice and f'; {advice}'}", UserWarning)
        return ensemble
    return ensemble._replace(pack=pack, members=members, n_rows=len(whole.y))


def _begun(fit: TableFit) -> list[Callable[[], list[Extra]]]:
    """Functions that wait for the estimators.

    The user's estimators are already fitted. Trees grow beside the nets if there are threads for
    both.
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
        extras.begun(partial(fitted, fit.beside[:n_own]), in_turn=True),
        extras.begun(partial(fitted, fit.beside[n_own:]), in_turn=in_turn),
    ]


def columns_in_order(
    setting: Any, schema: Schema, classes: NDArray[Any] | None, who: str
) -> tuple[int, ...]:
    """Constraints of the columns of numbers, in their order; empty without constraints."""
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
            f"{who}: monotonic_cst must be -1 (falls), 0 (free) or 1 (rises) for each of the "
            f"{messages.count(len(names), 'column')}, got {setting!r}"
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
                    f"{who}: monotonic_cst is for columns of numbers, and {name!r} holds {kind}: "
                    "put numbers in the place of what has an order"
                )
    return tuple(chosen.get(name, 0) for name in schema.number_names)


class NotRefitted(Exception):
    """A refit that did not finish: the reason, and after a colon the advice."""


def joined_rows(first: pool.TableRows, second: pool.TableRows) -> pool.TableRows:
    parts = (first, second)
    values = Values(*map(np.concatenate, zip(*(part.values for part in parts), strict=True)))
    return pool.TableRows(values, np.concatenate([first.y, second.y]), pool.joined_weights(*parts))


def refitted_pack(
    pack: Pack,
    rows: pool.TableRows,
    n_classes: int,
    settings: PackSettings,
    seed: int,
    n_threads: int | None,
    caller: Caller,
) -> Pack:
    """The ensemble with nets trained on all rows, for the numbers of epochs that were best.

    One net replaces a recipe's nets of several folds, with their mean number of epochs. Scores and
    residuals of the selection are kept.
    """
    outputs = outputs_of(pack.task, rows.y, rows.weight, n_classes, settings.loss)
    of_nets = pool.net_settings(outputs, settings)
    by_encoding: dict[str, dict[int, list[Member]]] = {}
    for member in pack.members:
        recipes = by_encoding.setdefault(member.recipe.encoding, {})
        recipes.setdefault(member.recipe.number, []).append(member)
    encodings, members = [], []
    for place, same_encoding in enumerate(by_encoding.values()):
        _seconds_left(settings, caller)
        groups = [*same_encoding.values()]
        encoding = replace(pack.encodings[groups[0][0].encoding])
        generator = np.random.default_rng([seed, place, 3])
        X = pool.shortest(encoding.fit_expanded(rows.values, rows.y, outputs.kind, generator))
        nets = [pool.new_net(same[0].recipe, encoding, of_nets, len(rows.y)) for same in groups]
        epochs = [round(float(np.mean([member.epoch for member in same]))) for same in groups]
        kept = caller.checkpoints and caller.checkpoints.within(f"refit{place}")
        histories = fit_many(
            nets,
            X,
            outputs.targets(rows.y),
            epochs=epochs,
            batch_size=pool.batch_size_of(len(rows.y)),
            sample_weight=rows.weight,
            time_limit=_seconds_left(settings, caller),
            n_threads=n_threads,
            **(kept.words if kept else {}),
        )
        statuses = {history.status for history in histories}
        if Status.INTERRUPTED in statuses:
            raise KeyboardInterrupt
        if Status.OUT_OF_TIME in statuses:
            raise _out_of_time(settings)
        if statuses != {Status.COMPLETED}:
            raise NotRefitted("has nets that diverged")
        encodings.append(encoding)
        for net, same, n in zip(nets, groups, epochs, strict=True):
            weight, recipe = sum(member.weight for member in same), same[0].recipe
            net = pool.without_idle_units(net, recipe, encoding, of_nets, X[:IDLE_ROWS])
            members.append(same[0]._replace(net=net, encoding=place, weight=weight, epoch=n))
    return replace(pack, outputs=outputs, encodings=tuple(encodings), members=tuple(members))


def _seconds_left(settings: PackSettings, caller: Caller) -> float | None:
    """Seconds until the time limit, or None; raises NotRefitted if no time is left."""
    if settings.time_limit is None:
        return None
    if (left := settings.time_limit - caller.seconds) <= 0:
        raise _out_of_time(settings)
    return left


def _out_of_time(settings: PackSettings) -> NotRefitted:
    limit = f"did not end within time_limit={settings.time_limit:g}"
    return NotRefitted(f"{limit}: more time, or fewer nets, would do")
