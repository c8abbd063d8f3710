"""The pack with one part less: each variant is made of the pack's own parts."""

import copy
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any, NamedTuple
from unittest.mock import patch

import numpy as np

from benchmarks.tabular.sources import SplitTable
from benchmarks.workloads import Array
from fastmlp.tabular.encoders.encoding import Encoding
from fastmlp.tabular.pack import PRESETS, Pack, Preset, TableRows, pool
from fastmlp.tabular.pack import pack as packs
from fastmlp.tabular.pack.outputs import Task
from fastmlp.tabular.pack.selection import Selection, bagged, greedy
from fastmlp.tabular.pack.settings import Recipe, draw, encodings_for
from fastmlp.tabular.schema import Schema
from fastmlp.tabular.schema.rule import Task as EncodedTask

WHOLE, TWO_SEEDS = "nothing", "two packs, of two seeds"
Encodings = Mapping[str, Encoding]


class NetsTraining(NamedTuple):
    """The training of the nets of a variant.

    Attributes
    ----------
    encodings : from the pack's encodings to those of the variant
    recipe : from a recipe of the pack to that of the variant
    averaged : whether nets have averaged parameters
    """

    encodings: Callable[[Encodings], Encodings] = dict
    recipe: Callable[[Recipe], Recipe] = lambda recipe: recipe
    averaged: bool = True


class PackRows(NamedTuple):
    """A table as a pack takes it: values of a schema, learned of the rows to train on."""

    task: Task
    n_classes: int
    training: TableRows
    validation: TableRows
    test: TableRows


class Ablated(NamedTuple):
    """A variant's predictions of the rows to test on, and its seconds.

    Attributes
    ----------
    seconds, cpu : to train, to select and to predict; of the clock, and of all cores together
    """

    predictions: Array
    seconds: float
    cpu: float


@contextmanager
def complete() -> Iterator[None]:
    """Raise if a signal ends a fit, which else would go on with half-trained nets."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.filterwarnings("error", message="fit_many interrupted")
        yield


def rows_of(table: SplitTable) -> PackRows:
    """A table's parts."""
    schema = Schema.learn(table.x.iloc[table.train])
    parts = [
        TableRows(schema.read(table.x.iloc[rows]), table.y[rows])
        for rows in (table.train, table.validation, table.test)
    ]
    n_classes = 0 if table.task == "regression" else int(table.y.max()) + 1
    return PackRows(table.task, n_classes, *parts)


def _scaled_alone(encodings: Encodings) -> Encodings:
    return {"scaled": Encoding(embedding="none")}


def _first_alone(encodings: Encodings) -> Encodings:
    return dict(list(encodings.items())[:1])


def _no_statistics(encodings: Encodings) -> Encodings:
    return {name: replace(e, target_levels=None) for name, e in encodings.items()}


def best_alone(predictions: Any, loss: Any, n_rows: int, *_: Any, **known: Any) -> Selection:
    """The candidate with the least loss; in the place of `bagged`."""
    losses = np.array([loss(candidate, known.get("weight")) for candidate in predictions])
    return Selection((np.arange(len(losses)) == losses.argmin()).astype(np.float64), losses.min())


def all_alike(predictions: Any, loss: Any, n_rows: int, *_: Any, **known: Any) -> Selection:
    """All candidates with the same weight; in the place of `bagged`."""
    n = len(predictions)
    mean = np.mean(np.asarray(predictions), axis=0)
    return Selection(np.full(n, 1 / n), loss(mean, known.get("weight")))


def once(predictions: Any, loss: Any, n_rows: int, *_: Any, **known: Any) -> Selection:
    """One selection, of all rows; in the place of `bagged`."""
    weight = known.get("weight")
    most = known.get("max_members")
    return greedy(predictions, lambda mean: loss(mean, weight), max_members=most)


SELECTIONS = {
    "selection: the mean of all nets": all_alike,
    "ensemble: the best net alone": best_alone,
    "bags: one selection": once,
}
ENCODINGS = {
    "pieces: scaled columns alone": NetsTraining(encodings=_scaled_alone),
    "finer pieces in every other net": NetsTraining(encodings=_first_alone),
    "target statistics": NetsTraining(encodings=_no_statistics),
}
NETS = {
    **ENCODINGS,
    "averaged parameters": NetsTraining(averaged=False),
    "L1 penalty": NetsTraining(recipe=lambda recipe: recipe._replace(l1=0.0)),
}


def variants(
    rows: PackRows, seed: int, threads: int | None, preset: Preset = "balanced"
) -> Iterator[tuple[str, Ablated]]:
    """Yield each variant's name and predictions; those that change nothing are left out.

    The whole pack comes first. Two packs are the whole one and that of another seed.
    """

    def trained(nets: NetsTraining, seed: int) -> tuple[Any, float, float]:
        return _timed(lambda: train(rows, nets, seed, threads, preset))

    whole = trained(NetsTraining(), seed)
    usual = _ablated(rows, whole)
    yield WHOLE, usual
    for name, selection in SELECTIONS.items():
        yield name, _ablated(rows, whole, selection)
    second = _ablated(rows, trained(NetsTraining(), seed + 1000))
    mean = (usual.predictions + second.predictions) / 2
    yield TWO_SEEDS, Ablated(mean, usual.seconds + second.seconds, usual.cpu + second.cpu)
    encodings = _encodings(rows)
    n_inputs = _inputs(rows, encodings)
    for name, nets in NETS.items():
        if name in ENCODINGS and _inputs(rows, nets.encodings(encodings)) == n_inputs:
            continue
        yield name, _ablated(rows, trained(nets, seed))


def train(
    rows: PackRows, nets: NetsTraining, seed: int, threads: int | None, preset: Preset
) -> Any:
    """Train the nets of a variant; return the arguments of `_pack`, with those of the selection."""

    def drawn(*known: Any) -> list[Recipe]:
        return [nets.recipe(recipe) for recipe in draw(*known)]

    with ExitStack() as changes:
        changes.enter_context(patch.object(packs, "draw", drawn))
        for name in ("_selected", "_pack"):
            changes.enter_context(patch.object(packs, name, lambda *known: known))
        if not nets.averaged:
            changes.enter_context(patch.object(pool, "EMA", lambda *_: None))
        return packs.train_pack(
            rows.training,
            rows.validation,
            task=rows.task,
            n_classes=rows.n_classes,
            settings=PRESETS[preset],
            seed=seed,
            encodings=nets.encodings(_encodings(rows)),
            n_threads=threads,
        )


def select(known: Any, selection: Any = None) -> Pack:
    """The pack of nets that `train` has trained, by another selection than the pack's."""
    outputs, fits, candidates, predictions, arguments, scorer = known
    with patch.object(packs, "bagged", selection or bagged):
        # A copy, as each selection begins anew with its generator.
        chosen = packs._selected(*copy.deepcopy(arguments))
        return packs._pack(outputs, fits, candidates, predictions, chosen, scorer)


def _ablated(rows: PackRows, trained: tuple[Any, float, float], selection: Any = None) -> Ablated:
    known, seconds, cpu = trained
    predictions, more, more_cpu = _timed(lambda: select(known, selection).predict(rows.test.values))
    if rows.n_classes:
        predictions = predictions / predictions.sum(axis=1, keepdims=True)
    return Ablated(predictions, seconds + more, cpu + more_cpu)


def _timed(call: Callable[[], Any]) -> tuple[Any, float, float]:
    begin, begin_cpu = time.perf_counter(), time.process_time()
    result = call()
    return result, time.perf_counter() - begin, time.process_time() - begin_cpu


def _encodings(rows: PackRows) -> Encodings:
    return encodings_for(rows.training.values.numbers.shape[1])


def _inputs(rows: PackRows, encodings: Encodings) -> list[int]:
    """The number of inputs of nets, by encoding."""
    values, y, rng = rows.training.values, rows.training.y, np.random.default_rng(0)
    kind: EncodedTask = "classification" if rows.n_classes else "regression"
    return [replace(e).fit(values, y, kind, rng).n_inputs for e in encodings.values()]
