"""Predictions of a small and a wide net: the latency of one row, the time of many."""

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np

from benchmarks.output import DOCS, Table
from benchmarks.peers import PEERS
from benchmarks.race import Part, Race, repeated, timed
from benchmarks.scores import Record, digits, grouped, quartiles
from benchmarks.workloads import BY_NAME

PREDICTED = "16-64-64-2@64"
# The rows of each net; with --quick of the first alone.
FEW = (1, 2, 4, 16, 64, 256, 1_000)
N_ROWS = {PREDICTED: (*FEW, 100_000), "784-512-512-10@128": FEW}
QUICK = {PREDICTED: (1, 32, 1_000, 100_000)}
SECONDS = 0.02


class Work:
    """In a contestant's process: its ways to predict so many rows, by name."""

    def __init__(self, worker: Any, quick: bool, n_rows: int, net: str = PREDICTED) -> None:
        self.clock, load = worker.clock, BY_NAME[net].quick()
        run = worker.module.make(load)
        if hasattr(run, "net") and hasattr(run.net, "partial_fit"):
            run.epochs(1)
        self.x = run.rows(np.resize(load.data()[0], (n_rows, load.sizes[0])))
        self.predictors = run.predictors()
        for predict in self.predictors.values():
            predict(self.x)
        self.about: Record = {"ways": {name: {} for name in self.predictors}}

    def turn(self, name: str, calls: int) -> Record:
        """The seconds of a call, of many after some."""
        some = repeated(self.predictors[name], self.x)
        some(max(1, calls // 10))
        return {"seconds": timed(partial(some, calls), self.clock)[0] / calls}


def measure(race: Race, earlier: list[Record]) -> list[Record]:
    """Seconds a call by turn, of each net, number of rows, contestant and way to predict."""
    everyone = race.only(name for name in PEERS if not PEERS[name].alone)
    return [
        record
        for net, sizes in (QUICK if race.quick else N_ROWS).items()
        for n_rows in sizes
        for record in everyone.ways("predictions", SECONDS, fewest=3, n_rows=n_rows, **_named(net))
    ]


def _named(net: str) -> Record:
    return {} if net == PREDICTED else {"net": net}


def table(results: Record, threads: int) -> Iterator[str]:
    """The best way of each peer, and both of fastmlp's, for the page; a table for each net."""
    records = [{"net": PREDICTED, **r} for r in results["predictions"]]
    for net, those in grouped(records, "net").items():
        yield from _table_of(net, those, threads)


def _table_of(net: str, records: list[Record], threads: int) -> Iterator[str]:
    sizes = list(dict.fromkeys(r["n_rows"] for r in records))
    best: dict[str, dict[int, float]] = {}
    for r in records:
        if r["seconds"] and r["threads"] == threads:
            title = PEERS[r["contestant"]].title
            key = f"{title}, {r['way']}" if title == "fastmlp" else title
            old = best.setdefault(key, {}).get(r["n_rows"], float("inf"))
            best[key][r["n_rows"]] = min(old, 1e6 * quartiles(r["seconds"]).median)
    rows = [
        (key, *(digits(times[n]) if n in times else "-" for n in sizes))
        for key, times in sorted(best.items(), key=lambda item: item[1].get(1, 0))
    ]
    titles = ["", *(f">{n:,} rows" if n > 1 else ">1 row" for n in sizes)]
    yield from Table(titles, rows).under(f"Predicting with {net.split('@')[0]}, microseconds:")


PART = Part("predict", "predictions", measure, table, DOCS / "benchmarks.md")
