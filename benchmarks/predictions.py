"""Predictions: the latency of one row, and the time of many.

All contestants predict with two nets, and the libraries that servers use with ten drawn ones.
"""

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np

from benchmarks.output import DOCS, Table
from benchmarks.peers import PEERS
from benchmarks.race import Part, Race, repeated, timed
from benchmarks.scores import (
    Comparison,
    Record,
    best_turns,
    counted,
    digits,
    fastest,
    grouped,
    quartiles,
)
from benchmarks.workloads import BY_NAME, Workload

PREDICTED, WIDE = "16-64-64-2@64", "784-512-512-10@128"
ROWS = (1, 2, 4, 16, 64, 256, 1_000, 10_000)
N_ROWS = {PREDICTED: ROWS, WIDE: ROWS}
QUICK = {PREDICTED: (1, 16, 1_000, 10_000), WIDE: (16, 1_000)}
SECONDS = 0.02
GROUP = "Predictions by "
N_DRAWN, NARROWEST, WIDEST = 10, 64, 1000
SERVERS = ("fastmlp", "onnx", "torch")
# Turns of a drawn net: 1,280 ways and numbers of rows would take half an hour.
TURNS = 3


def drawn(seed: int = 1) -> Iterator[Workload]:
    """Three nets that are known to be hard, and others of a seed."""
    rng = np.random.default_rng(seed)
    chosen = [(784, 512, 512, 10), (128, 256, 256, 10), (128, 1024, 1024, 10)]
    while len(chosen) < N_DRAWN:
        hidden = rng.integers(NARROWEST, WIDEST + 1, size=rng.integers(1, 4))
        chosen.append(
            (int(rng.integers(8, 801)), *hidden.tolist(), int(rng.integers(1, 21)))
        )
    for sizes in chosen:
        yield Workload(sizes, 64, 256)


DRAWN = {load.name: load for load in drawn()}


class Work:
    """In a contestant's process: its ways to predict so many rows, by name."""

    def __init__(self, worker: Any, quick: bool, n_rows: int, net: str) -> None:
        self.clock, load = worker.clock, {**DRAWN, **BY_NAME}[net].quick()
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
    return _measured(everyone, QUICK if race.quick else N_ROWS, fewest=3)


def measure_drawn(race: Race, earlier: list[Record]) -> list[Record]:
    servers = race.only(SERVERS)._replace(repeats=min(race.repeats, TURNS))
    return _measured(
        servers, {name: ROWS for name in DRAWN if race.asked_for(name)}, fewest=1
    )


def _measured(
    race: Race, nets: Mapping[str, tuple[int, ...]], fewest: int
) -> list[Record]:
    return [
        record
        for net, sizes in nets.items()
        for n in sizes
        for record in race.ways(
            "predictions", SECONDS, fewest=fewest, n_rows=n, net=net
        )
    ]


def compared(
    results: Record, threads: int, key: str = "predictions"
) -> Iterator[Comparison]:
    """The fastest way of fastmlp and of each peer."""
    records = [r for r in results[key] if r["threads"] == threads]
    for (net, n_rows), those in grouped(records, "net", "n_rows").items():
        rows = f"{n_rows:,} row{'s' if n_rows > 1 else ''}"
        yield from fastest(f"{GROUP}{net.split('@')[0]}", rows, best_turns(those))


def table(results: Record, threads: int) -> Iterator[str]:
    """The best way of each peer, and both of fastmlp's, for the page; a table for each net."""
    for net, records in grouped(results["predictions"], "net").items():
        yield from _table_of(net, records, threads)


def _table_of(net: str, records: list[Record], threads: int) -> Iterator[str]:
    sizes, best = (
        [*dict.fromkeys(r["n_rows"] for r in records)],
        dict[tuple[str, int], float](),
    )
    for r in (r for r in records if r["seconds"] and r["threads"] == threads):
        title = PEERS[r["contestant"]].title
        key = f"{title}, {r['way']}" if title == "fastmlp" else title, r["n_rows"]
        best[key] = min(best.get(key, np.inf), 1e6 * quartiles(r["seconds"]).median)
    rows = [
        (title, *(digits(best[title, n]) if (title, n) in best else "-" for n in sizes))
        for title in sorted(
            {title for title, _ in best}, key=lambda t: best.get((t, sizes[0]), 0)
        )
    ]
    titles = ["", *(f">{n:,} rows" if n > 1 else ">1 row" for n in sizes)]
    yield from Table(titles, rows).under(
        f"Predicting with {net.split('@')[0]}, microseconds:"
    )


def drawn_table(results: Record, threads: int = 0) -> Iterator[str]:
    """A row for each net, a table for each number of threads."""
    for n in dict.fromkeys(r["threads"] for r in results["drawn"]):
        cells = {(c.group, c.case): c.cell for c in compared(results, n, "drawn")}
        nets, cases = (dict.fromkeys(names) for names in zip(*cells, strict=True))
        rows = [
            (net.removeprefix(GROUP), *(cells.get((net, case), "-") for case in cases))
            for net in nets
        ]
        yield from Table(["", *(f">{case}" for case in cases)], rows).under(
            f"Ten drawn nets, {counted(n)}: the time of the faster of ONNX Runtime and PyTorch "
            "over fastmlp's:"
        )


PART = Part(
    "predict", "predictions", measure, table, DOCS / "benchmarks.md", compared=compared
)
DRAWN_PART = Part(
    *("drawn", "drawn", measure_drawn, drawn_table, DOCS / "benchmarks.md"),
    compared=partial(compared, key="drawn"),
)
