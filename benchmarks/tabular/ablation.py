"""The worth of each part of the pack: `python -m benchmarks.tabular.ablation --pages`.

The tables are real ones that the recipe was made on, never those that are kept aside. A loss is the
log loss of classes or the RMSE of numbers, of the rows to test on.
"""

import argparse
import copy
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any, NamedTuple
from unittest.mock import patch

import numpy as np

from benchmarks import machine, output
from benchmarks.output import say
from benchmarks.race import spent
from benchmarks.scores import Record, change_cells, counted, geometric
from benchmarks.tabular.compare import PAGE, score
from benchmarks.tabular.sources import SplitTable, chosen, group_of, read, sources
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
    schema = Schema.learn(table.x.iloc[table.train])
    parts = [
        TableRows(schema.read(table.x.iloc[rows]), table.y[rows])
        for rows in (table.train, table.validation, table.test)
    ]
    n_classes = 0 if table.task == "regression" else int(table.y.max()) + 1
    return PackRows(table.task, n_classes, *parts)


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
    "pieces: scaled columns alone": NetsTraining(
        encodings=lambda encodings: {"scaled": Encoding(embedding="none")}
    ),
    "finer pieces in every other net": NetsTraining(
        encodings=lambda encodings: dict([*encodings.items()][:1])
    ),
    "target statistics": NetsTraining(
        encodings=lambda encodings: {
            name: replace(encoding, target_levels=None) for name, encoding in encodings.items()
        }
    ),
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

    def trained(nets: NetsTraining, seed: int) -> tuple[Record, Any]:
        return spent(lambda: train(rows, nets, seed, threads, preset))

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


def _ablated(rows: PackRows, trained: tuple[Record, Any], selection: Any = None) -> Ablated:
    times, known = trained
    more, predictions = spent(lambda: select(known, selection).predict(rows.test.values))
    if rows.n_classes:
        predictions = predictions / predictions.sum(axis=1, keepdims=True)
    return Ablated(predictions, *(times[key] + more[key] for key in ("seconds", "cpu")))


def _encodings(rows: PackRows) -> Encodings:
    return encodings_for(rows.training.values.numbers.shape[1])


def _inputs(rows: PackRows, encodings: Encodings) -> list[int]:
    """The number of inputs of nets, by encoding."""
    values, y, rng = rows.training.values, rows.training.y, np.random.default_rng(0)
    kind: EncodedTask = "classification" if rows.n_classes else "regression"
    return [replace(e).fit(values, y, kind, rng).n_inputs for e in encodings.values()]


TABLES = (
    *("attrition", "churn_telecom", "prenatal_care", "unemployment_benefits"),
    *("british_election", "hpc", "police_force"),
    *("ames", "computers", "concrete", "sacramento", "wage"),
)


def measure(options: argparse.Namespace, earlier: Record) -> Record:
    """Add the records of the options; a table that has records is not run again."""
    results = {**earlier, "threads": options.threads, "preset": options.preset}
    results.setdefault("variants", [])
    with complete():
        run(options, results)
    return results


def run(options: argparse.Namespace, results: Record) -> None:
    threads, records = options.threads, results["variants"]
    missing = left(developed(options.tables), options.turns, records)
    _warm_up({sources()[name].task for _, name in missing}, threads)
    for turn, name in missing:
        table = read(sources()[name])
        for variant, ablated in variants(rows_of(table), turn, threads, options.preset):
            record = {"table": name, "turn": turn, "variant": variant}
            record |= {"seconds": ablated.seconds, "cpu": ablated.cpu}
            records.append(record | score(table, ablated.predictions))
        say(f"turn {turn + 1}, {name}")
        output.keep(results, options)


def developed(words: list[str]) -> list[str]:
    names = list(chosen(words))
    apart = sorted(name for name in names if group_of(name) != "development")
    if apart:
        raise ValueError(f"kept aside, for the comparison alone: {', '.join(apart)}")
    return names


def left(names: list[str], turns: int, records: list[Record]) -> list[tuple[int, str]]:
    """The turns and tables that have no records."""
    known = {(r["turn"], r["table"]) for r in records}
    return [(t, name) for t in range(turns) for name in names if (t, name) not in known]


def _warm_up(tasks: set[str], threads: int) -> None:
    """Have the code of all variants compiled before any is timed."""
    small = {"binary": "breast_cancer", "multiclass": "digits", "regression": "diabetes"}
    for task in sorted(tasks):
        say(f"warm up: {task}")
        for _ in variants(rows_of(read(sources()[small[task]])), 0, threads, "fast"):
            pass


class Changes:
    """Changes of the loss in per cent, and ratios of CPU seconds, nan where nothing changes.

    Attributes
    ----------
    changes, ratios : (tables, variants), geometric means of turns
    """

    def __init__(self, records: list[Record]) -> None:
        self.tables = list(dict.fromkeys(r["table"] for r in records))
        self.variants = [v for v in dict.fromkeys(r["variant"] for r in records) if v != WHOLE]
        self.changes = np.array([self._of(records, "score", name) for name in self.tables])
        self.ratios = np.array([self._of(records, "cpu", name) for name in self.tables])
        self.changes = 100 * (self.changes - 1)

    def _of(self, records: list[Record], key: str, table: str) -> list[float]:
        numbers = {(r["variant"], r["turn"]): r[key] for r in records if r["table"] == table}
        turns = [turn for variant, turn in numbers if variant == WHOLE]
        ratios = []
        for variant in self.variants:
            known = [t for t in turns if (variant, t) in numbers]
            changes = [numbers[variant, t] / numbers[WHOLE, t] for t in known]
            ratios.append(geometric(changes) if changes else float("nan"))
        return ratios


def ablation_lines(results: Record) -> Iterator[str]:
    """Yield the section on the parts: a row a part, then a row a table."""
    records = results["variants"]
    if not records:
        return
    grid = Changes(records)
    turns = len({r["turn"] for r in records})
    packs = "one pack" if turns == 1 else f"{turns} packs of own seeds"
    what = f"{packs} of the preset `{results['preset']}`"
    versions = results["machine"]["versions"]
    shown = {n: versions[n] for n in ("numba", "numpy", "scikit-learn") if n in versions}
    facts = [f"{len(grid.tables)} tables", what, counted(results["threads"])]
    yield machine.measured(results, *facts, versions=shown)
    rows = []
    for j, name in enumerate(grid.variants):
        change = grid.changes[:, j][~np.isnan(grid.changes[:, j])]
        cells = [len(change), *change_cells(change), f"{(change > 0).sum()} of {len(change)}"]
        rows.append((name, *cells, f"{geometric(grid.ratios[:, j]):.2f}x"))
    titles = ("without", ">tables", ">loss, geometric mean", ">median", ">greater on")
    yield ""
    yield from output.Table((*titles, ">CPU seconds"), rows).markdown()
    yield "\nBy table, in per cent of the whole pack's loss; a dash where it has no such part:\n"
    rows = [
        (name, *("-" if np.isnan(c) else f"{c:+.1f}" for c in changes))
        for name, changes in zip(grid.tables, grid.changes, strict=True)
    ]
    yield from output.Table(("table", *(f">{v}" for v in grid.variants)), rows).markdown()


def options_of(tables: Sequence[str], which: str, turns: int) -> Record:
    """The options of a program that fits packs of tables."""
    return {
        "--tables": {"nargs": "+", "metavar": "NAME", "default": tables, "help": which},
        "--preset": {"choices": PRESETS, "default": "balanced"},
        "--turns": {"type": int, "default": turns, "help": "fits of each, with own seeds"},
        "--threads": {"type": int, "default": 2},
    }


OPTIONS = options_of(TABLES, "names, or development or small", 2)
main = output.program(PAGE, measure, OPTIONS, ablation=ablation_lines)

if __name__ == "__main__":
    main()
