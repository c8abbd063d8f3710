"""What does mixed precision cost? `python -m benchmarks.accuracy`: losses and scores of seeds.

Each seed trains the same net in float32 and with products of bfloat16: same start, same rows, same
order. A third fit, in float32 from a start that is a millionth larger, says what any rounding does.
Sizes, rates and epochs are constants here, chosen before a score was seen.
"""

import argparse
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks import machine, output, tables
from benchmarks.page import MIXED, row
from benchmarks.tables import Rows, Table
from benchmarks.workloads import BY_NAME, Array
from fastmlp import MLP

HIDDEN, BATCH, SEEDS = (256, 256), 128, 5
# Some units in the last place of each parameter.
NUDGE = np.float32(1 + 1e-6)
KINDS = ("float32", "bfloat16", "nudged")
# The most that a loss may change, of itself.
MOST = 0.01


class Task(NamedTuple):
    """What is trained: how a seed's rows are made, and the net.

    Attributes
    ----------
    rows : from a seed to the rows to train, and to test on
    score : "AUC", "accuracy" or "R2", of the rows to test on
    """

    name: str
    rows: Callable[[int], tuple[Rows, Rows]]
    score: str
    hidden: tuple[int, ...] = HIDDEN
    batch: int = BATCH
    epochs: int = 10


def _of_table(name: str) -> Task:
    table = next(t for t in (*tables.TABLES, *tables.SMALL) if t.name == name)

    def rows(seed: int) -> tuple[Rows, Rows]:
        train, _, test = tables.split(table, seed)
        return train, test

    return Task(name, rows, table.score)


def _of_workload(name: str, n_rows: int, epochs: int) -> Task:
    """Return the task of a net that is timed, on more rows of its teacher's."""
    load = BY_NAME[name]._replace(n_rows=n_rows)

    def rows(seed: int) -> tuple[Rows, Rows]:
        x, y = load.data()
        order = np.random.default_rng(seed).permutation(n_rows)
        train, test = np.split(order, [n_rows * 3 // 4])
        return Rows(x[train], y[train]), Rows(x[test], y[test])

    return Task(name, rows, "accuracy", load.sizes[1:-1], load.batch, epochs)


def _digits(seed: int) -> tuple[Rows, Rows]:
    x, y = import_module("sklearn.datasets").load_digits(return_X_y=True)
    split = import_module("sklearn.model_selection").train_test_split
    parts = split((x / 16).astype(np.float32), y, test_size=0.25, random_state=seed, stratify=y)
    train, test, known, truth = parts
    return Rows(train, known), Rows(test, truth)


SMALL = (Task("digits", _digits, "accuracy"),)
TASKS = (
    *SMALL,
    _of_table("credit_data"),
    _of_table("surveys"),
    _of_table("diamonds"),
    _of_workload("784-512-512-10@128", 20_480, 5),
    _of_workload("128-1024-1024-10@512", 32_768, 5),
    _of_workload("1024-2048-2048-1000@512", 8_192, 4),
)


def measure(task: Task, seed: int, epochs: int | None = None) -> Iterator[dict[str, Any]]:
    """Train in both precisions, and from a nudged start; yield losses and scores, of float32."""
    train, test = task.rows(seed)
    n_outputs = int(train.y.max()) + 1 if task.score == "accuracy" else 1
    sizes = (train.x.shape[1], *task.hidden, n_outputs)
    for kind in KINDS:
        computed: Any = "bfloat16" if kind == "bfloat16" else None
        net = MLP(sizes, loss=tables.LOSSES[task.score], seed=seed, compute_dtype=computed)
        if kind == "nudged":
            net.parameters[:] *= NUDGE
        begin = time.perf_counter()
        net.fit(*train, epochs=epochs or task.epochs, batch_size=task.batch)
        table = Table("", task.name, "", task.score)
        yield {
            "task": task.name,
            "net": "-".join(map(str, sizes)),
            "score_name": task.score,
            "kind": kind,
            "seed": seed,
            "rows": len(train.y),
            "epochs": epochs or task.epochs,
            "seconds": time.perf_counter() - begin,
            "training": net.loss_and_gradient(*train)[0],
            "test": net.loss_and_gradient(*test)[0],
            "score": tables.score(table, test.y, net.predict(test.x)),
        }


def run(tasks: Iterable[Task], seeds: int, epochs: int | None = None) -> dict[str, Any]:
    """Return all records, and where they were made."""
    records: list[dict[str, Any]] = []
    for task in tasks:
        for seed in range(seeds):
            print(f"{task.name}, seed {seed}", file=sys.stderr, flush=True)
            records += measure(task, seed, epochs)
    return {"machine": machine.describe(), "records": records}


def of(
    results: dict[str, Any], task: str, what: str, kind: str = "bfloat16"
) -> tuple[Array, Array]:
    """Return a task's numbers by seed, in float32 and of another kind."""
    found = [r for r in results["records"] if r["task"] == task]
    first, second = (
        np.array([r[what] for r in found if r["kind"] == k]) for k in ("float32", kind)
    )
    return first, second


class Change(NamedTuple):
    """By how much a mean loss changes, of itself, and the standard error of that: of differences of
    the same seed."""

    mean: float
    error: float


def change(results: dict[str, Any], task: str, what: str, kind: str = "bfloat16") -> Change:
    """Return what another kind of fit changes."""
    plain, other = of(results, task, what, kind)
    error = (other - plain).std(ddof=1) / np.sqrt(len(plain)) / plain.mean()
    return Change(float(other.mean() / plain.mean() - 1), float(error))


def lines(results: dict[str, Any]) -> Iterator[str]:
    """The table, in Markdown."""
    m, records = results["machine"], results["records"]
    seeds = len({r["seed"] for r in records})
    yield (
        f"Measured on {m['date']}: {len(records)} fits on {m['cpu']}, fastmlp {m['fastmlp']}. "
        f"Mean losses of {seeds} seeds after the last epoch in float32, and by how much that of "
        "bfloat16 is above it (and the standard error of that, of pairs of fits of the same seed), "
        "and that of float32 from a start that is a millionth larger: what any rounding does. Mean "
        "scores in float32 and their standard deviation by seed, and what bfloat16 adds.\n"
    )
    yield (
        "| task | net | rows | epochs | training loss | bfloat16 | nudged | test loss | bfloat16 | "
        "nudged | score | float32 | by seed | change |"
    )
    yield "|---|---|--:|--:|--:|--:|--:|--:|--:|--:|---|--:|--:|--:|"
    for name in dict.fromkeys(r["task"] for r in records):
        first = next(r for r in records if r["task"] == name)
        cells = [name, first["net"], f"{first['rows']:,}", str(first["epochs"])]
        for what in ("training", "test"):
            changes = (change(results, name, what, kind) for kind in KINDS[1:])
            cells += [f"{of(results, name, what)[0].mean():.4f}"]
            cells += [f"{each.mean:+.2%} ({each.error:.2%})" for each in changes]
        plain, mixed = of(results, name, "score")
        cells += [first["score_name"], f"{plain.mean():.4f}", f"{plain.std(ddof=1):.4f}"]
        yield row(*cells, f"{(mixed - plain).mean():+.4f}")
    yield f"\n{_verdict(results)}"


def _verdict(results: dict[str, Any]) -> str:
    names = list(dict.fromkeys(r["task"] for r in results["records"]))
    near, alike = (
        [n for n in names if abs(change(results, n, what).mean) <= MOST]
        for what in ("training", "test")
    )
    chance = [n for n in names if n not in near and _by_chance(results, n)]
    noise = [n for n in names if _within(*of(results, n, "score"))]
    return (
        f"Training losses change by at most {MOST:.0%} on {len(near)} of {len(names)}, losses of "
        f"the rows to test on {len(alike)}. Of the others' training losses {len(chance)} change by "
        "less than two standard errors. Scores change by less than their standard deviation on "
        f"{len(noise)}."
    )


def _by_chance(results: dict[str, Any], name: str) -> bool:
    its = change(results, name, "training")
    return abs(its.mean) <= 2 * its.error


def _within(plain: Array, mixed: Array) -> bool:
    return bool(abs((mixed - plain).mean()) <= plain.std(ddof=1))


def main(words: list[str] | None = None) -> None:
    """Measure or load, print, and write what was asked for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.accuracy", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="digits, 2 seeds, 2 epochs")
    parser.add_argument("--json", type=Path, help="where the results go, or come from")
    parser.add_argument("--from-json", action="store_true", help="render an earlier run's again")
    parser.add_argument("--pages", action="store_true", help="rewrite docs/mixed-precision.md")
    options = parser.parse_args(words)
    output.check(parser, options)
    if options.from_json:
        results = output.earlier(options)
    else:
        results = run(SMALL, 2, 2) if options.quick else run(TASKS, SEEDS)
        output.keep(results, options)
    output.show(lines(results), options, MIXED, "accuracy")


if __name__ == "__main__":
    main()
