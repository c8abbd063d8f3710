"""A million rows under one time limit: `python -m benchmarks.tabular.scale --pages`.

The rows are drawn: numbers, counts and categories of 5 to 2,000 levels; the target is the sum of a
smooth function, of jumps at conjunctions, of effects of levels, and of noise. Each model has a
process of its own, which the limit ends where its library has a way to: a callback, `time_limit=`.
"""

import argparse
import warnings
from collections.abc import Iterator
from functools import partial

import numpy as np

from benchmarks import machine, output
from benchmarks.output import say
from benchmarks.race import spent
from benchmarks.scores import Record, counted, digits, grouped
from benchmarks.tabular.compare import PAGE, available, process, score
from benchmarks.tabular.models import Model, catboost, lightgbm, pack
from benchmarks.tabular.sources import SplitTable
from benchmarks.workloads import Array

LEVELS, N_NUMBERS, N_COUNTS = (5, 20, 200, 2000), 12, 4
# Of the rows that a model gets, a tenth validates; as many more are there to test on.
SHARE, NOISE = 0.1, 0.5


def drawn(rows: int, seed: int = 0) -> SplitTable:
    """A table of rows to train and to validate on, and of a tenth more to test on."""
    from pandas import DataFrame

    rng, n_test = np.random.default_rng(seed), int(SHARE * rows)
    n = rows + n_test
    numbers = rng.standard_normal((n, N_NUMBERS))
    numbers[:, ::3] = np.exp(numbers[:, ::3])
    counts = rng.poisson(rng.uniform(1, 20, N_COUNTS), (n, N_COUNTS)).astype(np.float64)
    levels = [np.floor(k * rng.random(n) ** 2).astype(int) for k in LEVELS]
    y = _smooth(rng, np.tanh(numbers)) + _jumps(rng, np.hstack([numbers, counts]))
    for codes, k in zip(levels, LEVELS, strict=True):
        y += rng.normal(0, 0.5, k)[codes] + 0.3 * rng.standard_normal(k)[codes] * numbers[:, 1]
    y += NOISE * rng.standard_normal(n)
    numbers[rng.random(numbers.shape) < 0.02] = np.nan
    columns = {f"number {i}": column for i, column in enumerate(numbers.T)}
    columns |= {f"count {i}": column for i, column in enumerate(counts.T)}
    for codes, k in zip(levels, LEVELS, strict=True):
        columns[f"of {k}"] = np.array([f"level {i}" for i in range(k)], object)[codes]
    cut = rows - int(SHARE * rows)
    parts = np.split(np.arange(n), [cut, rows])
    return SplitTable(f"{rows:,} rows", "regression", DataFrame(columns), y, *parts)


def _smooth(rng: np.random.Generator, x: Array) -> Array:
    hidden = np.sin(x @ rng.normal(0, 1, (x.shape[1], 8)) + rng.uniform(0, 6, 8))
    return np.asarray(hidden @ rng.normal(0, 0.6, 8))


def _jumps(rng: np.random.Generator, x: Array) -> Array:
    """The sum of steps where two columns are above a quantile of their own."""
    total = np.zeros(len(x))
    for _ in range(12):
        a, b = rng.choice(x.shape[1], 2, replace=False)
        above = [x[:, i] > np.quantile(x[:1000, i], rng.uniform(0.2, 0.8)) for i in (a, b)]
        total += rng.normal(0, 0.6) * (above[0] & above[1])
    return total


def models(seconds: float) -> dict[str, Model]:
    """The models, each ended by a limit."""
    own = {p: partial(pack, preset=p, time_limit=seconds) for p in ("fast", "balanced")}
    return {
        **{f"fastmlp {preset}": model for preset, model in own.items()},
        "fastmlp balanced and trees": partial(own["balanced"], trees=True),
        "LightGBM": partial(lightgbm, seconds=seconds),
        "CatBoost": partial(catboost, seconds=seconds),
    }


def fit(name: str, rows: int, threads: int, seconds: float) -> Record:
    """The loss, the seconds and the memory of a model, in a process of its own."""
    warnings.simplefilter("ignore")
    table, model = drawn(rows), models(seconds)[name]
    model(drawn(2000), threads, 0)  # compiles
    before = machine.memory("VmRSS", reset=True)
    times, predictions = spent(partial(model, table, threads, 0))
    added = {"table_gb": before / 1e9, "added_gb": (machine.memory() - before) / 1e9}
    return {**times, **added, **score(table, np.asarray(predictions, np.float64))}


def measure(options: argparse.Namespace, earlier: Record) -> Record:
    """Add the records of the models; one that has a record is not run again."""
    records = earlier.get("records", [])
    facts = {"rows": options.rows, "threads": options.threads, "limit": options.limit}
    results = {**earlier, **facts, "noise": NOISE, "records": records}
    for name in available([*models(options.limit)]):
        if name not in grouped(records, "model"):
            with process(options.threads) as pool:
                words = name, options.rows, options.threads, options.limit
                records.append({"model": name, **pool.submit(fit, *words).result()})
            say(f"{records[-1]}")
            output.keep(results, options)
    return results


def lines(results: Record) -> Iterator[str]:
    """A row a model, the least loss first."""
    limit = f"a limit of {results['limit']:g} s"
    facts = f"{results['rows']:,} rows", limit, counted(results["threads"])
    yield machine.measured(results, *facts)
    yield ""
    rows = []
    for r in sorted(results["records"], key=lambda r: r["score"]):
        spent = digits(r["seconds"]), digits(r["cpu"]), f"{r['added_gb']:.2f}"
        rows.append((r["model"], f"{r['score']:.4f}", f"{r['R2']:.4f}", *spent))
    titles = ("model", ">RMSE", ">R2", ">seconds", ">CPU seconds", ">GB beside the table's")
    yield from output.Table(titles, rows).markdown()


LIBRARIES = ("numba", "numpy", "scikit-learn", "lightgbm", "catboost")
OPTIONS: Record = {
    "--rows": {"type": int, "default": 1_000_000},
    "--limit": {"type": float, "default": 300.0, "help": "seconds of each fit"},
    "--threads": {"type": int, "default": 2},
}
main = output.program(PAGE, measure, OPTIONS, scale=lines)

if __name__ == "__main__":
    main()
