"""Prediction intervals of numbers: `python -m benchmarks.tabular.intervals --pages`.

The tables are those for development. All models train on the same rows, and take the
same others to stop by, and for their conformal step if they have one. A score is the
interval score: the mean width, and 2 / (1 - coverage) times what targets lie outside;
the true quantiles have the least.
"""

import argparse
from collections.abc import Callable, Iterator
from importlib import import_module
from itertools import product
from typing import Any

import numpy as np

from benchmarks import machine, output
from benchmarks.output import DOCS, say
from benchmarks.scores import Record, counted, geometric, grouped
from benchmarks.tabular.compare import complete
from benchmarks.tabular.models import (
    MOST_LEVELS,
    ROUNDS,
    categories,
    fitted,
    fitted_catboost,
    native,
)
from benchmarks.tabular.sources import SplitTable, chosen, group_of, read, sources
from benchmarks.workloads import Array
from fastmlp.tabular.outputs import conformal_quantile
from fastmlp.tabular.settings import PRESETS

COVERAGE = 0.9
QUANTILES = ((1 - COVERAGE) / 2, (1 + COVERAGE) / 2)
OWN = "own widths"
ONE = "one width"
CATBOOST = "CatBoost"
TREES = "HistGradientBoosting"
MAPIE = "MAPIE with these"
MODELS = (OWN, ONE, CATBOOST, TREES, MAPIE)
By = dict[str, Array]


def of_fastmlp(table: SplitTable, seed: int, options: argparse.Namespace) -> By:
    """The intervals of a pack: of each row's own width,
    and of one for all of the same errors.
    """
    model = fitted(table, options.threads, seed, preset=options.preset)
    rows = table.x.iloc[table.test]
    held_out = table.x.iloc[table.validation]
    errors = np.sort(np.abs(table.y[table.validation] - model.predict(held_out)))
    half = conformal_quantile(errors, COVERAGE)
    middle = model.predict(rows)
    one = np.stack([middle - half, middle + half], axis=1)
    return {OWN: model.predict_interval(rows, COVERAGE), ONE: one}


def of_catboost(table: SplitTable, seed: int, options: argparse.Namespace) -> By:
    """The outer quantiles of one model of CatBoost's."""
    loss = f"MultiQuantile:alpha={QUANTILES[0]:g},{QUANTILES[1]:g}"
    model, x = fitted_catboost(table, options.threads, seed, loss_function=loss)
    return {CATBOOST: np.sort(model.predict(x.iloc[table.test]), axis=1)}


def of_trees(table: SplitTable, seed: int, options: argparse.Namespace) -> By:
    """The outer quantiles of scikit-learn's trees,
    a model for each, and MAPIE's step with them.
    """
    trees = import_module("sklearn.ensemble")
    x = native(table, MOST_LEVELS)
    texts = np.isin([*x], categories(table))
    # MAPIE tries a model on a row of ones, which texts refuse.
    for name in categories(table):
        codes = x[name].cat.codes.astype(np.float64)
        x[name] = codes.where(codes >= 0)
    x = x.to_numpy(np.float64)
    train, held_out, test = (
        x[rows] for rows in (table.train, table.validation, table.test)
    )
    y = table.y[table.train]
    y_held_out = table.y[table.validation]
    models = []
    for quantile in (*QUANTILES, 0.5):
        models.append(
            trees.HistGradientBoostingRegressor(
                loss="quantile",
                quantile=quantile,
                max_iter=ROUNDS,
                early_stopping=True,
                categorical_features=texts,
                random_state=seed,
            ).fit(train, y, X_val=held_out, y_val=y_held_out)
        )
    low, high, _ = (model.predict(test) for model in models)
    conformal = import_module("mapie.regression").ConformalizedQuantileRegressor(
        models, confidence_level=COVERAGE, prefit=True
    )
    pairs = conformal.conformalize(held_out, y_held_out).predict_interval(test)[1]
    return {TREES: np.stack([low, high], axis=1), MAPIE: pairs[:, :, 0]}


WAYS: tuple[Callable[[SplitTable, int, argparse.Namespace], By], ...]
WAYS = (of_fastmlp, of_catboost, of_trees)


def held(table: SplitTable, intervals: Array) -> dict[str, float]:
    """The share of targets that intervals hold, and their score in deviations of y.

    References
    ----------
    Gneiting & Raftery (2007), "Strictly proper scoring rules,
    prediction, and estimation".
    """
    y = table.y[table.test]
    (low, high) = intervals.T
    outside = np.maximum(low - y, 0) + np.maximum(y - high, 0)
    scores = np.maximum(high - low, 0) + 2 / (1 - COVERAGE) * outside
    return {
        "held": float((outside == 0).mean()),
        "score": float(scores.mean() / table.y.std()),
    }


def developed(words: list[str]) -> list[str]:
    names = list(chosen(words))
    if apart := sorted(name for name in names if group_of(name) != "development"):
        raise ValueError(f"kept aside, for the comparison alone: {', '.join(apart)}")
    return [name for name in names if sources()[name].task == "regression"]


def measure(options: argparse.Namespace, earlier: Record) -> Record:
    """Add the records of the options; a table that has records is not run again."""
    results = {
        "records": [],
        **earlier,
        "threads": options.threads,
        "preset": options.preset,
    }
    known = {(r["turn"], r["table"]) for r in results["records"]}
    missing = {*product(range(options.turns), developed(options.tables))} - known
    with complete():
        for turn, name in sorted(missing):
            table = read(sources()[name])
            about = {"table": name, "rows": len(table.test), "turn": turn}
            for way in WAYS:
                for model, intervals in way(table, turn, options).items():
                    record = about | {
                        "model": model,
                        **held(table, np.asarray(intervals)),
                    }
                    results["records"].append(record)
            say(f"turn {turn + 1}, {name}")
            output.keep(results, options)
    return results


def lines(results: Record) -> Iterator[str]:
    """Yield the section: a row a table, means over turns."""
    records: list[dict[str, Any]] = results["records"]
    turns = len({r["turn"] for r in records})
    preset = results["preset"]
    if turns == 1:
        fits = "a fit a table"
    else:
        fits = f"{turns} fits a table, of own seeds"
    facts = [f"preset `{preset}`", fits, counted(results["threads"])]
    yield machine.measured(results, *facts)
    yield ""
    rows = []
    shares = []
    scores = []
    for name, of_table in grouped(records, "table").items():
        by_model = grouped(of_table, "model")
        shares.append(
            [np.mean([r["held"] for r in by_model[model]]) for model in MODELS]
        )
        scores.append(
            [np.mean([r["score"] for r in by_model[model]]) for model in MODELS]
        )
        rows.append((name, f"{of_table[0]['rows']:,}", *_cells(shares[-1], scores[-1])))
    rows.append(
        ("mean", "", *_cells(np.mean(shares, axis=0), geometric(scores, axis=0)))
    )
    titles = [title for model in MODELS for title in (f">{model}: held", ">score")]
    yield from output.Table(("table", ">rows to test on", *titles), rows).markdown()


def _cells(shares: Any, scores: Any) -> list[str]:
    pairs = zip(shares, scores, strict=True)
    return [
        text
        for held, score in pairs
        for text in (f"{100 * held:.1f} %", f"{score:.2f}")
    ]


PAGE = DOCS / "how-to" / "intervals.md"
LIBRARIES = ("numba", "numpy", "scikit-learn", "catboost", "mapie")
WHICH = "names, or development; those of numbers count"
OPTIONS: Record = {
    "--tables": {
        "nargs": "+",
        "metavar": "NAME",
        "default": ["development"],
        "help": WHICH,
    },
    "--preset": {"choices": PRESETS, "default": "balanced"},
    "--turns": {"type": int, "default": 1, "help": "fits of each, with own seeds"},
    "--threads": {"type": int, "default": 2},
}
main = output.program(PAGE, measure, OPTIONS, intervals=lines)

if __name__ == "__main__":
    main()
