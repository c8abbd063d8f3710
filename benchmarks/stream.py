"""Rows streamed from a Parquet file: fastmlp beside the peers' loaders, and beside its own limits.

A turn of a contestant reads all rows without training, trains on them from memory, and trains on
them as they are read. Nothing is faster than the slower of the first two.
"""

import tempfile
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks.machine import memory
from benchmarks.output import DOCS, Table
from benchmarks.peers import PEERS
from benchmarks.race import Part, Race, key_of, timed
from benchmarks.scores import Quartiles, Record, grouped, over, ways
from benchmarks.workloads import Workload, sized

PAGE = DOCS / "stream.md"
MODULES = {
    "fastmlp": "fastmlp_nets",
    "torch": "torch_nets",
    "compile": "torch_nets",
    "jax": "keras_stream",
}
TITLES = {"jax": "Keras"}
COLUMNS = ("torch", "compile", "jax")
VERBS = ("reading", "memory", "streamed")
GROUP_ROWS = 100_000
# Turns of a contestant on a net, at most: PyTorch takes 10 s and more for one.
TURNS = 3


class Stream(NamedTuple):
    """A net, the file's rows, and how many of them are held at a time to be mixed.

    Attributes
    ----------
    ours : fastmlp alone takes part
    """

    workload: Workload
    buffer_rows: int
    epochs: int = 1
    ours: bool = False

    @property
    def name(self) -> str:
        """The net, its batch, and the millions of rows."""
        return f"{self.workload.name}, {self.workload.n_rows / 1e6:g}M rows"

    def quick(self) -> "Stream":
        n = 64 * self.workload.batch
        return self._replace(
            workload=self.workload._replace(n_rows=n), buffer_rows=n // 4
        )


STREAMS = (
    Stream(Workload((20, 16, 1), 256, 4_096_000), 1_024_000),
    Stream(Workload((20, 64, 64, 1), 256, 4_096_000), 1_024_000),
    Stream(Workload((20, 128, 128, 1), 64, 2_048_000), 512_000),
    Stream(Workload((20, 256, 256, 1), 64, 1_024_000), 256_000),
    Stream(Workload((20, 16, 1), 256, 40_960_000), 1_024_000, 2, ours=True),
)
BY_NAME = {stream.name: stream for stream in STREAMS}


def write(workload: Workload, path: Path) -> None:
    """Write a workload's rows as columns of Parquet, uncompressed, X first and then y."""
    import pyarrow
    from pyarrow.parquet import ParquetWriter

    x, y = workload.data()
    names = [*(f"x{j}" for j in range(x.shape[1])), "y"]
    schema = pyarrow.schema(
        [(name, pyarrow.from_numpy_dtype(x.dtype)) for name in names]
    )
    with ParquetWriter(path, schema, compression="none", use_dictionary=False) as file:
        for first in range(0, len(x), GROUP_ROWS):
            rows = slice(first, first + GROUP_ROWS)
            columns = [*np.ascontiguousarray(x[rows].T), y[rows, 0]]
            file.write_table(
                pyarrow.table(columns, schema=schema), row_group_size=GROUP_ROWS
            )


def measure(race: Race, earlier: list[Record]) -> list[Record]:
    """Nanoseconds a row of each verb by turn, of each net and contestant."""

    def turn(contestant: Any, record: Record) -> None:
        replies = {verb: contestant.ask("turn", what=verb) for verb in VERBS}
        if all("ns" in reply for reply in replies.values()):
            record["turns"].append(
                {verb: reply["ns"] for verb, reply in replies.items()}
            )

    records = []
    for stream in (s for s in STREAMS if race.asked_for(s.name)):
        contestants = race.only(["fastmlp"] if stream.ours else MODULES).contestants
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "rows.parquet"
            race.say(f"{stream.name}: writing the file")
            write(sized(stream, race.quick).workload, path)
            request = {"name": stream.name, "path": str(path)}
            works = [
                (c, key_of(c, stream=stream.name, turns=[]), request)
                for c in contestants
            ]
            race.take_turns("stream", works, turn, TURNS)
            for contestant in contestants:
                contestant.ask("drop")
        records += [record for _, record, _ in works]
    return records


class Medians(NamedTuple):
    """Medians of a record's turns, nanoseconds a row, and ratios of them.

    Attributes
    ----------
    over : the time over the slower of reading and training
    kept : the share of the speed from memory that is kept
    most : the share that could be kept, as reading takes a core for its time
    """

    reading: float
    memory: float
    streamed: float
    over: float
    kept: float
    most: float


def medians(record: Record) -> Medians:
    turns = np.array([[turn[verb] for verb in VERBS] for turn in record["turns"]])
    reading, memory, streamed = np.median(turns, axis=0).tolist()
    over_slower = np.median(turns[:, 2] / turns[:, :2].max(axis=1))
    kept = np.median(turns[:, 1] / turns[:, 2])
    most = memory / max(reading, memory + reading / record["threads"])
    return Medians(reading, memory, streamed, float(over_slower), float(kept), most)


class StreamedNet(NamedTuple):
    """A net at a number of threads, and the records that have turns, by contestant."""

    stream: Stream
    threads: int
    records: dict[str, Record]

    def ratio(self, name: str) -> Quartiles:
        """A contestant's time over fastmlp's, by turn."""
        theirs, ours = (
            self.records.get(n, {"turns": []})["turns"] for n in (name, "fastmlp")
        )
        return over([t["streamed"] for t in theirs], [t["streamed"] for t in ours])


def groups(results: Record) -> Iterator[StreamedNet]:
    """Yield each net with its number of threads and the records that have turns."""
    records = [r for r in results["streams"] if r["turns"]]
    for (name, threads), group in grouped(records, "stream", "threads").items():
        stream = sized(BY_NAME[name], results.get("quick", False))
        yield StreamedNet(stream, threads, {r["contestant"]: r for r in group})


def title(name: str) -> str:
    return TITLES.get(name, PEERS[name].title)


def table(results: Record, threads: int) -> Iterator[str]:
    """fastmlp beside its limits, and the peers beside it, for the page."""
    shown = [
        g for g in groups(results) if g.threads == threads and "fastmlp" in g.records
    ]
    titles = [
        "net@batch",
        ">MFLOP a step",
        ">reading",
        ">from memory",
        ">streamed",
        ">over",
    ]
    titles += [">kept", ">possible", ">memory, MB"]
    rows = []
    for group in shown:
        m, load = medians(group.records["fastmlp"]), group.stream.workload
        cells = [
            group.stream.name,
            f"{load.flops / 1e6:.3g}",
            *(f"{ns:,.0f}" for ns in m[:3]),
        ]
        cells += [f"{m.over:.2f}", f"{m.kept:.0%}", f"{m.most:.0%}"]
        rows.append([*cells, f"{group.records['fastmlp']['grown'] / 1e6:,.0f}"])
    yield from Table(titles, rows).under(
        "fastmlp beside its limits, nanoseconds a row. `over` is its time over the slower "
        "of reading alone and training from memory. `kept` is the "
        "share of the speed from memory, and `possible` what would be left of it if the reading "
        "took its time on one core and nothing else."
    )
    peers = [f">{title(name)}" for name in COLUMNS]
    titles = ["net@batch", ">fastmlp, rows a second", "fastest peer", *peers]
    yield from Table(titles, [_cells(g) for g in shown if len(g.records) > 1]).under(
        "The peers over the same file: their time over fastmlp's, medians (and quartiles) of "
        "turns; below 1 the peer is ahead."
    )
    for name in COLUMNS:
        if records := [group.records[name] for group in shown if name in group.records]:
            yield ways(f"{title(name)}, the fastest of its ways", records)


def _cells(group: StreamedNet) -> list[str]:
    ratios = {name: group.ratio(name) for name in group.records if name != "fastmlp"}
    best = min(ratios, key=lambda name: ratios[name].median)
    cells = [
        group.stream.name,
        f"{1e9 / medians(group.records['fastmlp']).streamed:,.0f}",
    ]
    cells += [f"{ratios[best].cell}, {title(best)}"]
    return cells + [f"{ratios[n].median:.2f}x" if n in ratios else "-" for n in COLUMNS]


class Work:
    """In a contestant's process: the fastest of its ways to train on a file.

    Attributes
    ----------
    about : the way, the seconds of all that were tried, and the bytes by which the process has
        grown at most when it first trained in that way
    """

    def __init__(self, worker: Any, name: str, path: str, quick: bool) -> None:
        module = import_module(f"benchmarks.peers.{MODULES[worker.name]}")
        load, tried, grown = (
            sized(BY_NAME[name], quick),
            dict[str, float](),
            dict[str, int](),
        )

        def make(way: str) -> None:
            self._run = module.Streamed(load, Path(path), way, worker.name)

        ways = module.VARIANTS["stream"]
        for way in ways:
            make(way)
            before = memory(reset=True)
            self._run.streamed()
            grown[way] = memory() - before
            tried[way] = timed(self._run.streamed)[0] if len(ways) > 1 else 0.0
        best = min(tried, key=lambda way: tried[way])
        if best != ways[-1]:
            make(best)
            self._run.streamed()
        self.about = {"way": best, "tried": tried, "grown": grown[best]}

    def turn(self, what: str) -> Record:
        """Read the file, train on its rows from memory, or as they are read: nanoseconds a row."""
        seconds, n = timed(getattr(self._run, what))
        return {"ns": 1e9 * seconds / n}


PART = Part("stream", "streams", measure, table, PAGE)
