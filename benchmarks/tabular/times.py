"""The seconds of fits and predictions of tables: `python -m benchmarks.tabular.times --pages`.

Rows are made up, 16 numbers and 4 categories. Fits take the rows to validate on from those to
train on; compiled code is there from a fit before. Predictions are beside those of CatBoost, if it
is installed.
"""

import argparse
from collections.abc import Callable, Iterator
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import numpy as np

from benchmarks import machine, output
from benchmarks.output import DOCS, say
from benchmarks.race import calls_in_turns, timed
from benchmarks.scores import Record, counted, digits, grouped
from benchmarks.tabular.compare import complete
from benchmarks.tabular.models import fitted_catboost, pack_of, predictor
from benchmarks.tabular.sources import SplitTable
from benchmarks.workloads import Array

PAGE = DOCS / "tables.md"
LIBRARIES = ("numba", "numpy", "scikit-learn", "pandas", "catboost")
TASKS = ("binary", "regression")
N_NUMBERS, N_CATEGORIES, N_LEVELS = 16, 4, 6
CATBOOST = "CatBoost"
# Turns of predictions of many rows.
TIMES = 5


def made_up(n_rows: int, task: str, seed: int = 0) -> tuple[Any, Array]:
    """A frame of numbers and categories, and targets: two classes, or numbers."""
    pandas = import_module("pandas")
    rng = np.random.default_rng(seed)
    numbers = rng.standard_normal((n_rows, N_NUMBERS))
    codes = rng.integers(N_LEVELS, size=(n_rows, N_CATEGORIES))
    frame = pandas.DataFrame(numbers, columns=[f"x{i}" for i in range(N_NUMBERS)])
    for i, column in enumerate(codes.T):
        frame[f"c{i}"] = np.array(list("abcdef"), object)[column]
    signal = np.sin(2 * numbers[:, 0]) + numbers[:, 1] * numbers[:, 2] + 0.5 * (codes[:, 0] % 3)
    y = signal + np.abs(numbers[:, 3]) + rng.standard_normal(n_rows)
    return frame, y if task == "regression" else (y > np.median(y)).astype(np.int64)


def catboost_of(task: Any, threads: int, frame: Any, y: Array) -> Any:
    """A fitted CatBoost; a fifth of the rows end its training, as those of a pack do."""
    parts = np.split(np.arange(len(y)), [len(y) * 4 // 5, len(y)])
    return fitted_catboost(SplitTable("made up", task, frame, y, *parts), threads, 0)[0]


def run(options: argparse.Namespace) -> list[Record]:
    """Seconds of fits, of one row's prediction and of many, by task and model."""
    records: list[Record] = []
    for task in TASKS:
        data = made_up(options.rows, task)
        new = made_up(options.predicted, task, seed=1)[0]
        models, fits = {}, {}
        for preset in options.presets:
            _warm_up(task, preset, options.threads)
            models[preset], fits[preset] = _fitted(task, preset, data, options)
            say(f"{task}, {preset}: {fits[preset]:.2f} s")
        if find_spec("catboost") is not None:
            made = partial(catboost_of, task, options.threads, *data)
            fits[CATBOOST], models[CATBOOST] = timed(made)
        calls = {name: predictor(model, task) for name, model in models.items()}
        row, rows = _in_turns(calls, new[:1], 40 * TIMES), _in_turns(calls, new, TIMES)
        for name in models:
            times = {"fit": fits[name], "row": row[name], "rows": rows[name]}
            records.append({"task": task, "model": name, **times})
    return records


def lines(results: Record) -> Iterator[str]:
    settings, records = results["settings"], results["records"]
    turns = "one of each" if settings["turns"] == 1 else f"medians of {settings['turns']}"
    facts = f"fits of {settings['rows']:,} rows", turns, counted(settings["threads"])
    yield f"{machine.measured(results, *facts)}\n"
    titles, rows = [""], []
    for task in TASKS:
        titles += [f">{task}: fit, s", ">1 row, ms", f">{settings['predicted']:,} rows, s"]
    for name, runs in grouped(records, "model").items():
        cells = [name if name == CATBOOST else f"`{name}`"]
        for r in runs:
            cells += map(digits, (r["fit"], 1e3 * r["row"], r["rows"]))
        rows.append(cells)
    yield from output.Table(titles, rows).markdown()


def _fitted(
    task: str, preset: str, data: tuple[Any, Array], options: argparse.Namespace
) -> tuple[Any, float]:
    """The last of the models, and the median of the seconds of the fits."""
    seconds = []
    for turn in range(options.turns):
        model = pack_of(task, options.threads, turn, preset=preset)
        seconds.append(timed(partial(model.fit, *data))[0])
    return model, float(np.median(seconds))


def _warm_up(task: str, preset: str, threads: int) -> None:
    frame, y = made_up(1500, task)
    model = pack_of(task, threads, 0, preset=preset, max_iter=2).fit(frame, y)
    predictor(model, task)(frame[:1])


def _in_turns(calls: dict[str, Callable[[Any], Any]], rows: Any, n: int) -> dict[str, float]:
    """The median seconds of each call, which take turns after a first."""
    ready = {name: partial(call, rows) for name, call in calls.items()}
    seconds = calls_in_turns(ready, n + 1)
    return {name: float(np.median(times[1:])) for name, times in seconds.items()}


def measure(options: argparse.Namespace, earlier: Record) -> Record:
    settings = {name: vars(options)[name] for name in ("rows", "predicted", "turns", "threads")}
    with complete():
        return {"settings": settings, "records": run(options)}


OPTIONS: Record = {
    "--rows": {"type": int, "default": 10_000, "help": "of a fit"},
    "--predicted": {"type": int, "default": 100_000, "help": "rows"},
    "--presets": {"nargs": "+", "default": ["fast", "balanced", "best"]},
    "--turns": {"type": int, "default": 3, "help": "fits of each; medians count"},
    "--threads": {"type": int, "default": 2},
}
main = output.program(PAGE, measure, OPTIONS, times=lines)

if __name__ == "__main__":
    main()
