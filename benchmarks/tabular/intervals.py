"""Do prediction intervals hold as many of the targets as they say? Beside trees' quantiles."""

from importlib import import_module
from typing import Any

import numpy as np

from benchmarks.page import row
from benchmarks.tabular.models import MOST_LEVELS, fitted, native
from benchmarks.tabular.sources import Table
from benchmarks.workloads import Array

COVERAGE = 0.9
FASTMLP, TREES = "fastmlp", "quantiles of trees"


def pack_intervals(table: Table, threads: int, seed: int, preset: str) -> Array:
    """Return fastmlp's intervals of the rows to test on, shape (n_rows, 2)."""
    model = fitted(table, threads, seed, preset=preset)
    return np.asarray(model.predict_interval(table.x.iloc[table.test], COVERAGE))


def tree_intervals(table: Table, seed: int) -> Array:
    """Return the outer quantiles of scikit-learn's trees, one model for each, shape (n_rows, 2)."""
    trees = import_module("sklearn.ensemble")
    x, train, validation = native(table, MOST_LEVELS), table.train, table.validation
    found = []
    for quantile in ((1 - COVERAGE) / 2, (1 + COVERAGE) / 2):
        model = trees.HistGradientBoostingRegressor(
            loss="quantile",
            quantile=quantile,
            max_iter=1000,
            early_stopping=True,
            random_state=seed,
        )
        model.fit(
            x.iloc[train], table.y[train], X_val=x.iloc[validation], y_val=table.y[validation]
        )
        found.append(model.predict(x.iloc[table.test]))
    return np.stack(found, axis=1)


def held(table: Table, intervals: Array) -> dict[str, float]:
    """Return the share of targets that intervals hold, and their mean width in deviations of y."""
    y = table.y[table.test]
    inside = (intervals[:, 0] <= y) & (y <= intervals[:, 1])
    width = np.maximum(intervals[:, 1] - intervals[:, 0], 0)
    return {"held": float(inside.mean()), "width": float(width.mean() / table.y.std())}


def records(table: Table, threads: int, seed: int, preset: str) -> list[dict[str, Any]]:
    """Return a record of each model."""
    each = {
        FASTMLP: pack_intervals(table, threads, seed, preset),
        TREES: tree_intervals(table, seed),
    }
    about = {"table": table.name, "rows": len(table.test), "turn": seed}
    return [about | {"model": name, **held(table, found)} for name, found in each.items()]


def lines(found: list[dict[str, Any]]) -> list[str]:
    """Return the page's table: means over turns."""
    told = [
        row("table", "rows to test on", *(f"{m}: held | width" for m in (FASTMLP, TREES))),
        "|---|--:|--:|--:|--:|--:|",
    ]
    tables = list(dict.fromkeys(r["table"] for r in found))
    means = np.array([[_means(found, name, m) for m in (FASTMLP, TREES)] for name in tables])
    for name, mean in zip(tables, means, strict=True):
        rows = next(r["rows"] for r in found if r["table"] == name)
        told.append(row(name, f"{rows:,}", *_cells(mean)))
    told.append(row("mean", "", *_cells(means.mean(axis=0))))
    return told


def _means(found: list[dict[str, Any]], table: str, model: str) -> tuple[float, float]:
    its = [r for r in found if (r["table"], r["model"]) == (table, model)]
    return float(np.mean([r["held"] for r in its])), float(np.mean([r["width"] for r in its]))


def _cells(mean: Array) -> list[str]:
    return [text for held, width in mean for text in (f"{100 * held:.1f} %", f"{width:.2f}")]
