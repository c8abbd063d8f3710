"""The gain by bfloat16 of predictions and models of tables: `python -m benchmarks.bfloat16`.

fastmlp alone, in float32 and in bfloat16 in turns, in one process. Nets, rows, tables and presets
are constants here, chosen before a time or a score was seen.
"""

import argparse
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np

from benchmarks import machine, output, tables
from benchmarks.mixed import PAGE
from benchmarks.output import say
from benchmarks.race import calls_in_turns, timed
from benchmarks.scores import Record
from benchmarks.tabular.compare import score
from benchmarks.tabular.models import fitted, predictor
from benchmarks.tabular.sources import SplitTable, sources, split_rows
from fastmlp import MLP

COMPUTED: dict[str, Any] = {"float32": None, "bfloat16": "bfloat16"}


# A net, and the rows that a call predicts.
PREDICTED: tuple[tuple[tuple[int, ...], int], ...] = (
    ((32, 256, 256, 10), 100_000),
    ((128, 1024, 1024, 10), 10_000),
    ((1024, 2048, 2048, 1000), 10_000),
    *(((784, 512, 512, 10), n) for n in (1, 10, 100, 1000, 10_000)),
)
# A table of the suite, a preset, and seeds.
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


def predictions(sizes: tuple[int, ...], n_rows: int) -> Record:
    """The seconds of a call in turns, by precision, and the distance of the outputs."""
    net, rng = MLP(sizes, seed=0), np.random.default_rng(0)
    x = rng.normal(size=(n_rows, sizes[0])).astype(np.float32)
    plain, mixed = (net.predict(x, compute_dtype=computed) for computed in COMPUTED.values())
    calls: dict[str, Any] = {
        precision: partial(net.predict, x, compute_dtype=computed)
        for precision, computed in COMPUTED.items()
    }
    times = calls_in_turns(calls, TURNS, seconds=SECONDS)
    error = np.sqrt(np.mean((mixed - plain) ** 2) / np.mean(plain**2))
    return {"net": "-".join(map(str, sizes)), "rows": n_rows, "error": float(error), **times}


def models(name: str, preset: str, seeds: int) -> Record:
    """The seconds of fits of a model of a table, by seed, and losses of the rows to test."""
    source = sources()[name]
    frame, targets = tables.read(source)
    y = np.unique(targets, return_inverse=True)[1] if source.classes else targets.to_numpy()
    record: Record = {"table": name, "preset": preset, "loss": [], "float32": [], "bfloat16": []}
    for seed in range(seeds):
        parts = split_rows(y, seed, classes=source.classes)
        table, losses = SplitTable(name, source.task, frame, y, *parts), []
        for computed in COMPUTED.values():
            fit = partial(fitted, table, None, seed, compute_dtype=computed)
            if seed == 0:
                # Compiles.
                fit(n_members=2, max_iter=1)
            seconds, model = timed(partial(fit, preset=preset))
            record[computed or "float32"].append(seconds)
            predictions = predictor(model, table.task)(frame.iloc[table.test])
            losses.append(score(table, predictions)["score"])
        record["loss"].append(losses)
    return record | {"rows": len(table.train)}


def measure(options: argparse.Namespace, earlier: Record) -> Record:
    """The records of some parts, beside those of earlier runs."""
    results = {**earlier, **{part: [] for part in options.parts}}
    for part, function, works in (("rows", predictions, PREDICTED), ("tables", models, FITTED)):
        for work in works if part in options.parts else ():
            say(f"{work}")
            results[part].append(function(*work))
    return results


def lines(results: Record) -> Iterator[str]:
    yield machine.measured(results, "least times of turns", versions={})
    yield ("The difference is that of the outputs, as a share of their root mean square.\n")
    rows: list[tuple[Any, ...]] = []
    for r in results.get("rows", []):
        plain, mixed = (min(r[name]) for name in COMPUTED)
        rates = [f"{r['rows'] / seconds:,.0f}" for seconds in (plain, mixed)]
        gain = f"**{plain / mixed:.2f}x**"
        rows.append((r["net"], f"{r['rows']:,}", *rates, gain, f"{r['error']:.1e}"))
    titles = ("net", ">rows", ">float32, rows/s", ">bfloat16, rows/s", ">gain", ">difference")
    yield from output.Table(titles, rows).markdown()
    rows = []
    for r in results.get("tables", []):
        plain, mixed = (np.mean(r[name]) for name in COMPUTED)
        first, second = np.mean(r["loss"], axis=0)
        times = [f"{plain:.2f} s", f"{mixed:.2f} s", f"**{plain / mixed:.2f}x**"]
        cells = [r["table"], f"{r['rows']:,}", r["preset"], len(r["loss"]), *times]
        rows.append((*cells, f"{first:.4g}", f"{second / first - 1:+.2%}"))
    columns = ["table", ">rows", "preset", ">seeds", *(f">{name}" for name in COMPUTED)]
    yield from output.Table([*columns, ">gain", ">loss", ">change"], rows).under(
        "Fits of models of tables: mean times of seeds, and mean losses of the rows to test on, "
        "log loss or RMSE."
    )


main = output.program(
    PAGE, measure, {"--parts": {"nargs": "+", "choices": PARTS, "default": PARTS}}, bfloat16=lines
)

if __name__ == "__main__":
    main()
