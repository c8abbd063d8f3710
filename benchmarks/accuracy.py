"""The price of mixed precision: `python -m benchmarks.accuracy`; losses and scores of seeds.

Each seed trains the same net in float32 and with products of bfloat16: same start, same rows, same
order. A third fit, in float32 from a start that is a millionth larger, shows any rounding's effect.
Sizes, rates and epochs are constants here, chosen before a score was seen.
"""

import argparse
import time
from collections.abc import Callable, Iterator
from importlib import import_module
from typing import Any, NamedTuple

import numpy as np

from benchmarks import machine, output, tables
from benchmarks.mixed import PAGE
from benchmarks.output import say
from benchmarks.scores import Record, grouped
from benchmarks.tables import Rows
from benchmarks.tabular.sources import sources
from benchmarks.workloads import BY_NAME, Array
from fastmlp import MLP

HIDDEN, BATCH, SEEDS = (256, 256), 128, 5
# Some units in the last place of each parameter.
NUDGE = np.float32(1 + 1e-6)
KINDS = ("float32", "bfloat16", "nudged")
# The most that a loss may change, of itself.
MOST = 0.01


class Task(NamedTuple):
    """A net, and the rows of each seed.

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
    table = sources()[name]

    def rows(seed: int) -> tuple[Rows, Rows]:
        train, _, test = tables.split(table, seed)
        return train, test

    return Task(name, rows, table.score)


def _of_workload(name: str, n_rows: int, epochs: int) -> Task:
    """The task of a net that is timed, on more rows of its teacher's."""
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


def fits(task: Task, seed: int, epochs: int | None = None) -> Iterator[Record]:
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
            "score": tables.score(task.score, test.y, net.predict(test.x)),
        }


def measure(options: argparse.Namespace, earlier: Record) -> Record:
    tasks, seeds, epochs = (SMALL, 2, 2) if options.quick else (TASKS, SEEDS, None)
    records: list[Record] = []
    for task in tasks:
        for seed in range(seeds):
            say(f"{task.name}, seed {seed}")
            records += fits(task, seed, epochs)
    return {"records": records}


def of(results: Record, task: str, what: str, kind: str = "bfloat16") -> tuple[Array, Array]:
    """A task's numbers by seed, in float32 and of another kind."""
    records = [r for r in results["records"] if r["task"] == task]
    by_kind = {k: [r[what] for r in runs] for k, runs in grouped(records, "kind").items()}
    return np.array(by_kind["float32"]), np.array(by_kind[kind])


class Change(NamedTuple):
    """The relative change of a mean loss, and the standard error of differences by seed."""

    mean: float
    error: float


def change(results: Record, task: str, what: str, kind: str = "bfloat16") -> Change:
    """The change by another kind of fit."""
    plain, other = of(results, task, what, kind)
    error = (other - plain).std(ddof=1) / np.sqrt(len(plain)) / plain.mean()
    return Change(float(other.mean() / plain.mean() - 1), float(error))


def lines(results: Record) -> Iterator[str]:
    records = results["records"]
    seeds = len({r["seed"] for r in records})
    yield machine.measured(results, f"{len(records)} fits", versions={})
    yield (
        f"Mean losses of {seeds} seeds after the last epoch in float32, and by how much that of "
        "bfloat16 is above it (and the standard error of that, of pairs of fits of the same seed), "
        "and that of float32 from a start that is a millionth larger: what any rounding does. Mean "
        "scores in float32 and their standard deviation by seed, and what bfloat16 adds.\n"
    )
    rows = []
    for name, (first, *_) in grouped(records, "task").items():
        cells = [name, first["net"], f"{first['rows']:,}", str(first["epochs"])]
        for what in ("training", "test"):
            changes = (change(results, name, what, kind) for kind in KINDS[1:])
            cells += [f"{of(results, name, what)[0].mean():.4f}"]
            cells += [f"{mean:+.2%} ({error:.2%})" for mean, error in changes]
        plain, mixed = of(results, name, "score")
        cells += [first["score_name"], f"{plain.mean():.4f}", f"{plain.std(ddof=1):.4f}"]
        rows.append([*cells, f"{(mixed - plain).mean():+.4f}"])
    titles = ["task", "net", ">rows", ">epochs"]
    for what in ("training", "test"):
        titles += [f">{what} loss", ">bfloat16", ">nudged"]
    titles += ["score", ">float32", ">by seed", ">change"]
    yield from output.Table(titles, rows).markdown()
    yield f"\n{_verdict(results)}"


def _verdict(results: Record) -> str:
    names = list(grouped(results["records"], "task"))
    near, alike = (
        [n for n in names if abs(change(results, n, what).mean) <= MOST]
        for what in ("training", "test")
    )
    changes = [change(results, n, "training") for n in names if n not in near]
    chance = [mean for mean, error in changes if abs(mean) <= 2 * error]
    scores = [of(results, n, "score") for n in names]
    noise = [p for p, mixed in scores if abs((mixed - p).mean()) <= p.std(ddof=1)]
    return (
        f"Training losses change by at most {MOST:.0%} on {len(near)} of {len(names)}, losses of "
        f"the rows to test on {len(alike)}. Of the others' training losses {len(chance)} change by "
        "less than two standard errors. Scores change by less than their standard deviation on "
        f"{len(noise)}."
    )


QUICK = {"action": "store_true", "help": "digits, 2 seeds, 2 epochs"}
main = output.program(PAGE, measure, {"--quick": QUICK}, accuracy=lines)

if __name__ == "__main__":
    main()
