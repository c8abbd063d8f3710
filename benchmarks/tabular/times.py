"""The CPU time of fits and predictions of tables: `python -m benchmarks.tabular.times --pages`.

Rows are made up: 16 numbers, with 4 categories or without. Fits take the rows to validate on from
those to train on; compiled code is there from a fit before. Predictions of frames are beside those
of CatBoost, if it is installed. Run it with OMP_NUM_THREADS=1.
"""

import argparse
import time
from collections.abc import Iterator
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from typing import Any, Literal

import numpy as np

from benchmarks import machine, output
from benchmarks.output import DOCS, say
from benchmarks.race import calls_in_turns, repeated, timed
from benchmarks.scores import Record, counted, digits, grouped
from benchmarks.tabular.compare import complete
from benchmarks.tabular.models import fitted_catboost, pack_of
from benchmarks.tabular.sources import SplitTable
from benchmarks.workloads import Array

PAGE = DOCS / "tables.md"
LIBRARIES = ("numba", "numpy", "scikit-learn", "pandas", "catboost")
N_NUMBERS, N_LEVELS = 16, 6
# Columns of categories, by the kind of a table.
KINDS = {"numbers": 0, "numbers and categories": 4}
CATBOOST, THREADS = "CatBoost", 1
TASK: Literal["regression"] = "regression"
# Turns of predictions, after a first; calls of one row in a turn.
TURNS, CALLS = 9, 100


def made_up(
    n_rows: int, kind: str = "numbers and categories", seed: int = 0
) -> tuple[Any, Array]:
    """A frame, and numbers to predict."""
    pandas = import_module("pandas")
    rng = np.random.default_rng(seed)
    numbers = rng.standard_normal((n_rows, N_NUMBERS))
    codes = rng.integers(N_LEVELS, size=(n_rows, 4))
    frame = pandas.DataFrame(numbers, columns=[f"x{i}" for i in range(N_NUMBERS)])
    for i, column in enumerate(codes.T[: KINDS[kind]]):
        frame[f"c{i}"] = np.array(list("abcdef"), object)[column]
    signal = np.sin(2 * numbers[:, 0]) + numbers[:, 1] * numbers[:, 2]
    if KINDS[kind]:
        signal += 0.5 * (codes[:, 0] % 3)
    return frame, signal + np.abs(numbers[:, 3]) + rng.standard_normal(n_rows)


def catboost_of(frame: Any, y: Array) -> Any:
    """A fitted CatBoost; a fifth of the rows end its training, as those of a pack do."""
    parts = np.split(np.arange(len(y)), [len(y) * 4 // 5, len(y)])
    return fitted_catboost(SplitTable("made up", TASK, frame, y, *parts), THREADS, 0)[0]


def run(options: argparse.Namespace) -> list[Record]:
    """CPU seconds of fits, and of predictions by numbers of rows, by kind and model."""
    records: list[Record] = []
    clock = time.process_time
    for kind in KINDS:
        data, warm = made_up(options.rows, kind), made_up(1500, kind)
        new, calls, fits = made_up(max(options.predicted), kind, seed=1)[0], {}, {}
        for preset in options.presets:
            pack_of(TASK, THREADS, 0, preset=preset, max_iter=2).fit(*warm).predict(
                warm[0]
            )
            model = pack_of(TASK, THREADS, 0, preset=preset)
            fits[preset], _ = timed(partial(model.fit, *data), clock)
            calls[preset] = model.predict
            say(f"{kind}, {preset}: {fits[preset]:.2f} s")
        if find_spec("catboost") is not None:
            fits[CATBOOST], model = timed(partial(catboost_of, *data), clock)
            calls[CATBOOST] = partial(model.predict, thread_count=THREADS)
        predicted: dict[str, list[float]] = {name: [] for name in calls}
        for n in options.predicted:
            times = max(1, CALLS // n)
            ready = {
                name: partial(repeated(call, new[:n]), times)
                for name, call in calls.items()
            }
            for name, seconds in calls_in_turns(ready, TURNS + 1, clock=clock).items():
                predicted[name].append(float(np.median(seconds[1:])) / times)
        for name, rows in predicted.items():
            records.append(
                {"kind": kind, "model": name, "fit": fits[name], "rows": rows}
            )
    return records


def lines(results: Record) -> Iterator[str]:
    settings, records = results["settings"], results["records"]
    facts = (
        f"CPU time of fits of {settings['rows']:,} rows",
        "one of each",
        counted(THREADS),
    )
    yield f"{machine.measured(results, *facts)}\n"
    sizes = [f">{n:,} row{'s' * (n > 1)}" for n in settings["predicted"]]
    titles = ["", ">fit, s", *sizes]
    for kind, runs in grouped(records, "kind").items():
        yield f"{kind.capitalize()}; predictions in ms, in brackets the time over CatBoost's:\n"
        base = [r["rows"] for r in runs if r["model"] == CATBOOST]
        rows = []
        for r in runs:
            name, cells = r["model"], [digits(1e3 * each) for each in r["rows"]]
            if base and name != CATBOOST:
                pairs = zip(cells, r["rows"], base[0], strict=True)
                cells = [
                    f"{cell} ({digits(each / other)})" for cell, each, other in pairs
                ]
            rows.append(
                [name if name == CATBOOST else f"`{name}`", digits(r["fit"]), *cells]
            )
        yield from output.Table(titles, rows).markdown()
        yield ""


def measure(options: argparse.Namespace, earlier: Record) -> Record:
    settings = {name: vars(options)[name] for name in ("rows", "predicted")}
    with complete():
        return {"settings": settings, "records": run(options)}


OPTIONS: Record = {
    "--rows": {"type": int, "default": 20_000, "help": "of a fit"},
    "--predicted": {"nargs": "+", "type": int, "default": [1, 100, 10_000, 100_000]},
    "--presets": {"nargs": "+", "default": ["fast", "balanced"]},
}
main = output.program(PAGE, measure, OPTIONS, times=lines)

if __name__ == "__main__":
    main()
