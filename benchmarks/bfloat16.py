"""What do predictions and models of tables gain by bfloat16? `python -m benchmarks.bfloat16`.

fastmlp alone, in float32 and in bfloat16 in turns, in one process. Nets, rows, tables and presets
are constants here, chosen before a time or a score was seen.
"""

import argparse
import json
import sys
import time
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks import machine, tables
from benchmarks.page import MIXED, between_markers, row
from benchmarks.tabular.sources import split_rows
from fastmlp import MLP

PRECISIONS: tuple[Any, ...] = (None, "bfloat16")


class Predicted(NamedTuple):
    """A net, and how many rows a call predicts."""

    sizes: tuple[int, ...]
    n_rows: int

    @property
    def name(self) -> str:
        """The sizes of the layers."""
        return "-".join(map(str, self.sizes))


MIDDLE = (784, 512, 512, 10)
PREDICTED = (
    Predicted((32, 256, 256, 10), 100_000),
    Predicted((128, 1024, 1024, 10), 10_000),
    Predicted((1024, 2048, 2048, 1000), 10_000),
    *(Predicted(MIDDLE, n) for n in (1, 10, 100, 1000, 10_000)),
)
# A table of `tables.TABLES`, a preset, and seeds.
FITTED = (
    ("credit_data", "fast", 5),
    ("credit_data", "balanced", 5),
    ("surveys", "fast", 2),
    ("diamonds", "fast", 3),
    ("diamonds", "balanced", 1),
)
PARTS = ("rows", "tables")
# Turns of each precision, and the seconds after which they end.
TURNS, SECONDS = 15, 6.0


def predictions(predicted: Predicted) -> dict[str, Any]:
    """Return the seconds of a call in turns, by precision, and how far the outputs are apart."""
    net, rng = MLP(predicted.sizes, seed=0), np.random.default_rng(0)
    x = rng.normal(size=(predicted.n_rows, predicted.sizes[0])).astype(np.float32)
    found = [net.predict(x, compute_dtype=precision) for precision in PRECISIONS]
    times: list[list[float]] = [[] for _ in PRECISIONS]
    end = time.perf_counter() + SECONDS
    while len(times[0]) < 2 or (len(times[0]) < TURNS and time.perf_counter() < end):
        for its, precision in zip(times, PRECISIONS, strict=True):
            begin = time.perf_counter()
            net.predict(x, compute_dtype=precision)
            its.append(time.perf_counter() - begin)
    error = np.sqrt(np.mean((found[1] - found[0]) ** 2) / np.mean(found[0] ** 2))
    told = {"net": predicted.name, "rows": predicted.n_rows, "error": float(error)}
    return {**told, "float32": times[0], "bfloat16": times[1]}


def models(name: str, preset: str, seeds: int) -> dict[str, Any]:
    """Return the seconds of fits of a model of a table, by seed, and losses of the rows to test."""
    fastmlp, metrics = import_module("fastmlp"), import_module("sklearn.metrics")
    table = next(t for t in tables.TABLES if t.name == name)
    frame, y = tables.read(table)
    classes = table.score != "R2"
    kind = fastmlp.TabularMLPClassifier if classes else fastmlp.TabularMLPRegressor
    found: dict[str, Any] = {"table": name, "preset": preset, "loss": [], "float32": []}
    found |= {"bfloat16": []}
    for seed in range(seeds):
        train, validation, test = split_rows(np.asarray(y), seed, classes=classes)
        losses = []
        for precision in PRECISIONS:
            model = kind(preset=preset, random_state=seed, compute_dtype=precision)
            if seed == 0:
                # Compiles.
                small = kind(n_members=2, max_iter=1, random_state=0, compute_dtype=precision)
                small.fit(frame.iloc[train], y.iloc[train])
            given = [part.iloc[rows] for rows in (train, validation) for part in (frame, y)]
            begin = time.perf_counter()
            model.fit(*given[:2], X_val=given[2], y_val=given[3])
            found[precision or "float32"].append(time.perf_counter() - begin)
            rows, truth = frame.iloc[test], y.iloc[test]
            if classes:
                losses.append(float(metrics.log_loss(truth, model.predict_proba(rows))))
            else:
                losses.append(float(metrics.mean_squared_error(truth, model.predict(rows)) ** 0.5))
        found["loss"].append(losses)
    return found | {"rows": len(train)}


def run(parts: tuple[str, ...]) -> dict[str, Any]:
    """Return the records of some parts, and where they were made."""
    results: dict[str, Any] = {"machine": machine.describe()}
    if "rows" in parts:
        results["rows"] = []
        for predicted in PREDICTED:
            print(f"{predicted.name}, {predicted.n_rows} rows", file=sys.stderr, flush=True)
            results["rows"].append(predictions(predicted))
    if "tables" in parts:
        results["tables"] = []
        for one in FITTED:
            print(*one, file=sys.stderr, flush=True)
            results["tables"].append(models(*one))
    return results


def lines(results: dict[str, Any]) -> Iterator[str]:
    """The tables, in Markdown."""
    m = results["machine"]
    yield (
        f"Measured on {m['date']}: {m['cores']} cores of {m['cpu']}, fastmlp {m['fastmlp']}, least "
        "times of turns. The difference is that of the outputs, as a share of their root mean "
        "square.\n"
    )
    yield row("net", "rows", "float32, rows/s", "bfloat16, rows/s", "gain", "difference")
    yield "|---|--:|--:|--:|--:|--:|"
    for r in results.get("rows", []):
        plain, mixed = (min(r[name]) for name in ("float32", "bfloat16"))
        rates = [f"{r['rows'] / seconds:,.0f}" for seconds in (plain, mixed)]
        cells = [r["net"], f"{r['rows']:,}", *rates, f"**{plain / mixed:.2f}x**"]
        yield row(*cells, f"{r['error']:.1e}")
    yield (
        "\nFits of models of tables: mean times of seeds, and mean losses of the rows to test on, "
        "log loss or RMSE.\n"
    )
    yield row("table", "rows", "preset", "seeds", "float32", "bfloat16", "gain", "loss", "change")
    yield "|---|--:|---|--:|--:|--:|--:|--:|--:|"
    for r in results.get("tables", []):
        plain, mixed = (np.mean(r[name]) for name in ("float32", "bfloat16"))
        first, second = np.mean(r["loss"], axis=0)
        times = [f"{plain:.2f} s", f"{mixed:.2f} s", f"**{plain / mixed:.2f}x**"]
        cells = [r["table"], f"{r['rows']:,}", r["preset"], len(r["loss"]), *times]
        yield row(*cells, f"{first:.4g}", f"{second / first - 1:+.2%}")


def main(words: list[str] | None = None) -> None:
    """Measure or load, print, and write what was asked for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bfloat16", description=__doc__)
    parser.add_argument("--parts", nargs="*", choices=PARTS, default=PARTS, help="none: render")
    parser.add_argument("--json", type=Path, help="where results go; other parts there are kept")
    parser.add_argument("--pages", action="store_true", help="rewrite docs/mixed-precision.md")
    options = parser.parse_args(words)
    kept = options.json and options.json.is_file()
    results = json.loads(options.json.read_text()) if kept else {}
    if options.parts:
        results |= run(tuple(options.parts))
    if options.json:
        options.json.write_text(json.dumps(results, indent=1))
    text = "\n".join(lines(results))
    print(text)
    if options.pages:
        between_markers(MIXED, text, "bfloat16")


if __name__ == "__main__":
    main()
