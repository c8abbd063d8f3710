"""A model of tables of one small net, which has learned what an ensemble predicts."""

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from sklearn.base import clone
from sklearn.utils import check_random_state

from fastmlp.estimators.to_core import n_threads_of
from fastmlp.tabular.estimators import fit_arguments, reports
from fastmlp.tabular.estimators.fitting import columns_in_order
from fastmlp.tabular.estimators.scoring import KeptRows, kept_of
from fastmlp.tabular.pack import Pack, TableRows, conformal, distillation
from fastmlp.tabular.pack.outputs import Scorer, scores_of
from fastmlp.tabular.schema import Values
from fastmlp.validation import scalars


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
    pack, columns = model.pack_, distillation.TableColumns(*model.schema_.places)
    settings, n_threads = model._settings()._replace(signs=signs), n_threads_of(model.n_jobs)
    member, encoding, held_out, n_drawn = distillation.distilled(
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
