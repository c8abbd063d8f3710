"""How long fits and predictions of tables take: `python -m benchmarks.tabular.times --pages`.

Rows are made up, 16 numbers and 4 categories. Fits are without rows to validate on, which are taken
from those given; compiled code is there from a fit before. CatBoost is what its predictions are
beside, if it is installed.
"""

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import numpy as np

from benchmarks import machine
from benchmarks.page import ROOT, between_markers, row
from benchmarks.report import digits
from benchmarks.scores import counted
from benchmarks.tabular.variants import complete
from benchmarks.workloads import Array

PAGE = ROOT / "docs" / "tables.md"
TASKS = ("binary", "regression")
N_NUMBERS, N_CATEGORIES, N_LEVELS = 16, 4, 6
# Seconds of fits by preset, of one row's prediction, as aims.
AIMS = {"fast": 3.0, "balanced": 15.0}
ONE_ROW = 2e-3
CATBOOST = "CatBoost"
# How often many rows are predicted.
TIMES = 5


def arguments() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tabular.times", description=__doc__)
    parser.add_argument("--rows", type=int, default=10_000, help="of a fit")
    parser.add_argument("--predicted", type=int, default=100_000, help="rows")
    parser.add_argument("--presets", nargs="+", default=["fast", "balanced", "best"])
    parser.add_argument("--turns", type=int, default=3, help="fits of each; medians count")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--pages", action="store_true", help="rewrite the section of the page")
    return parser


def main(words: list[str] | None = None) -> None:
    """Run, print, and write what was asked for."""
    options = arguments().parse_args(words)
    with complete():
        text = "\n".join(lines(options))
    print(text)
    if options.pages:
        between_markers(PAGE, text, "times")


def made_up(n_rows: int, task: str, seed: int = 0) -> tuple[Any, Array]:
    """Return a frame of numbers and categories, and targets: two classes, or numbers."""
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


def model_of(task: str, preset: str, threads: int, seed: int) -> Any:
    """Return a model of fastmlp's, not fitted."""
    kind = "Regressor" if task == "regression" else "Classifier"
    made = getattr(import_module("fastmlp.tabular"), f"TabularMLP{kind}")
    return made(preset=preset, n_jobs=threads, random_state=seed)


def catboost_of(task: str, threads: int, frame: Any, y: Array) -> Any:
    """Return a fitted CatBoost; a fifth of the rows end its training, as those of a pack do."""
    kind = "Regressor" if task == "regression" else "Classifier"
    n = len(y) * 4 // 5
    model = getattr(import_module("catboost"), f"CatBoost{kind}")(
        early_stopping_rounds=50,
        thread_count=threads,
        random_seed=0,
        cat_features=[f"c{i}" for i in range(N_CATEGORIES)],
        verbose=False,
        allow_writing_files=False,
    )
    return model.fit(frame[:n], y[:n], eval_set=(frame[n:], y[n:]))


def lines(options: argparse.Namespace) -> Iterator[str]:
    """Yield the section: fits by preset, then predictions."""
    with_catboost = find_spec("catboost") is not None
    fits: dict[tuple[str, str], float] = {}
    ones: dict[tuple[str, str], float] = {}
    many: dict[tuple[str, str], float] = {}
    for task in TASKS:
        data = made_up(options.rows, task)
        new = made_up(options.predicted, task, seed=1)[0]
        models = {}
        for preset in options.presets:
            _warm_up(task, preset, options.threads)
            models[preset], fits[task, preset] = _fitted(task, preset, data, options)
            _say(f"{task}, {preset}: {fits[task, preset]:.2f} s")
        if with_catboost:
            begin = time.perf_counter()
            models[CATBOOST] = catboost_of(task, options.threads, *data)
            fits[task, CATBOOST] = time.perf_counter() - begin
        calls = {name: _predict(model, task) for name, model in models.items()}
        for name, found in _in_turns(calls, new[:1], 40 * TIMES).items():
            ones[task, name] = found
        for name, found in _in_turns(calls, new, TIMES).items():
            many[task, name] = found
    yield _intro(options)
    names = [*options.presets, *([CATBOOST] if with_catboost else [])]
    yield ""
    yield row(
        "", *(f"{task}: fit, s | 1 row, ms | {options.predicted:,} rows, s" for task in TASKS)
    )
    yield f"|---|{'--:|' * 3 * len(TASKS)}"
    for name in names:
        cells = [
            text
            for task in TASKS
            for text in (
                digits(fits[task, name]),
                digits(1e3 * ones[task, name]),
                digits(many[task, name]),
            )
        ]
        yield row(f"`{name}`" if name in options.presets else name, *cells)


def _fitted(
    task: str, preset: str, data: tuple[Any, Array], options: argparse.Namespace
) -> tuple[Any, float]:
    """Return the last of a turn's models, and the median of its fits' seconds."""
    seconds = []
    for turn in range(options.turns):
        model = model_of(task, preset, options.threads, turn)
        begin = time.perf_counter()
        model.fit(*data)
        seconds.append(time.perf_counter() - begin)
    return model, float(np.median(seconds))


def _warm_up(task: str, preset: str, threads: int) -> None:
    frame, y = made_up(1500, task)
    model = model_of(task, preset, threads, 0).set_params(max_iter=2).fit(frame, y)
    _predict(model, task)(frame[:1])


def _predict(model: Any, task: str) -> Callable[[Any], Any]:
    found: Callable[[Any], Any] = model.predict if task == "regression" else model.predict_proba
    return found


def _in_turns(calls: dict[str, Callable[[Any], Any]], rows: Any, n: int) -> dict[str, float]:
    """Return the median seconds of each call, which take turns."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        call(rows)
    for _ in range(n):
        for name, call in calls.items():
            begin = time.perf_counter()
            call(rows)
            seconds[name].append(time.perf_counter() - begin)
    return {name: float(np.median(each)) for name, each in seconds.items()}


def _intro(options: argparse.Namespace) -> str:
    m = machine.describe()
    found = {name: m["versions"].get(name) for name in ("numba", "numpy", "scikit-learn")}
    found |= {name: machine.installed(name) for name in ("pandas", "catboost")}
    versions = ", ".join(f"{name} {version}" for name, version in found.items() if version)
    of_turns = "one of each" if options.turns == 1 else f"medians of {options.turns}"
    return (
        f"Measured on {m['date']}: fits of {options.rows:,} rows, {of_turns}, "
        f"{counted(options.threads)}, {m['cores']} cores of {m['cpu']}, Python {m['python']}, "
        f"fastmlp {m['fastmlp']}; {versions}. The aims are {AIMS['fast']:g} s for `fast`, "
        f"{AIMS['balanced']:g} s for `balanced`, {1e3 * ONE_ROW:g} ms for a row, and as many rows "
        f"a second as {CATBOOST} predicts."
    )


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
