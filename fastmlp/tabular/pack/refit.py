"""The nets of an ensemble trained anew, on all rows, once the selection is done."""

import math
from dataclasses import replace

import numpy as np

from fastmlp.many.fit_many import fit_many
from fastmlp.tabular.pack.outputs import outputs_of
from fastmlp.tabular.pack.pack import Caller, Member, Pack
from fastmlp.tabular.pack.pool import NetSettings, TableRows, batch_size_of, new_net
from fastmlp.tabular.pack.rows import shortest
from fastmlp.tabular.pack.settings import PackSettings
from fastmlp.tabular.schema import Values
from fastmlp.tabular.schema.rule import Task as EncodedTask
from fastmlp.training.history import Status


class NotRefitted(Exception):
    """A refit that has not come to its end: why, and after a colon what to do."""


def joined_rows(first: TableRows, second: TableRows) -> TableRows:
    """The rows of both."""
    parts = (first, second)
    values = Values(*map(np.concatenate, zip(*(part.values for part in parts), strict=True)))
    weight = None
    if first.weight is not None or second.weight is not None:
        ones = (np.ones(len(part.y)) if part.weight is None else part.weight for part in parts)
        weight = np.concatenate([*ones])
    return TableRows(values, np.concatenate([first.y, second.y]), weight)


def refitted_pack(
    pack: Pack,
    rows: TableRows,
    n_classes: int,
    settings: PackSettings,
    seed: int,
    n_threads: int | None,
    caller: Caller,
) -> Pack:
    """The ensemble whose nets are trained on all rows, for the epochs that were best before.

    One net takes the place of those of a recipe in several folds; its epochs are their mean. Scores
    and residuals are those of the selection.

    Raises
    ------
    NotRefitted
        If the time limit is over, or a net has diverged.
    KeyboardInterrupt
        On Ctrl-C.
    """
    outputs = outputs_of(pack.task, rows.y, rows.weight, n_classes, settings.loss)
    kind: EncodedTask = "regression" if pack.task == "regression" else "classification"
    loss = settings.loss.of_nets if kind == "regression" else None
    of_nets = NetSettings(outputs, settings.compute_dtype, settings.signs, loss)
    by_encoding: dict[str, dict[int, list[Member]]] = {}
    for member in pack.members:
        recipes = by_encoding.setdefault(member.recipe.encoding, {})
        recipes.setdefault(member.recipe.number, []).append(member)
    batch = batch_size_of(len(rows.y))
    encodings, members = [], []
    for place, same_encoding in enumerate(by_encoding.values()):
        _seconds_left(settings, caller)
        groups = [*same_encoding.values()]
        encoding = replace(pack.encodings[groups[0][0].encoding])
        generator = np.random.default_rng([seed, place, 3])
        X = shortest(encoding.fit_expanded(rows.values, rows.y, kind, generator))
        signs = encoding.signs(settings.signs) if settings.signs else None
        steps = math.ceil(len(rows.y) / batch)
        nets = [new_net(same[0].recipe, X.shape[1], of_nets, steps, signs) for same in groups]
        epochs = [round(float(np.mean([member.epoch for member in same]))) for same in groups]
        histories = fit_many(
            nets,
            X,
            outputs.targets(rows.y),
            epochs=epochs,
            batch_size=batch,
            sample_weight=rows.weight,
            time_limit=_seconds_left(settings, caller),
            n_threads=n_threads,
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
            weight = sum(member.weight for member in same)
            members.append(same[0]._replace(net=net, encoding=place, weight=weight, epoch=n))
    return Pack(
        outputs,
        tuple(encodings),
        tuple(members),
        extra_weights=pack.extra_weights,
        validation_score=pack.validation_score,
        residuals=pack.residuals,
        n_trained=pack.n_trained,
        row_weights=pack.row_weights,
        sizes=pack.sizes,
    )


def _seconds_left(settings: PackSettings, caller: Caller) -> float | None:
    """The seconds until the time limit, or None; raises NotRefitted if there are none."""
    if settings.time_limit is None:
        return None
    if (left := settings.time_limit - caller.seconds) <= 0:
        raise _out_of_time(settings)
    return left


def _out_of_time(settings: PackSettings) -> NotRefitted:
    limit = f"did not end within time_limit={settings.time_limit:g}"
    return NotRefitted(f"{limit}: more time, or fewer nets, would do")
