"""Rows streamed from a Parquet file: fastmlp beside the peers' loaders, and beside its own limits.

A turn of a contestant reads all rows without training, trains on them from memory, and trains on
them as they are read. Nothing is faster than the slower of the first two.
"""

import tempfile
import time
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks import race
from benchmarks.peers import PEERS
from benchmarks.scores import counted, quartiles
from benchmarks.workloads import Workload

MODULES = {
    "fastmlp": "fastmlp_stream",
    "torch": "torch_stream",
    "compile": "torch_stream",
    "jax": "keras_stream",
}
TITLES = {"jax": "Keras"}
COLUMNS = ("torch", "compile", "jax")
VERBS = ("reading", "memory", "streamed")
# The most that a fit takes over the slower of reading and training, and the peers' least.
MOST, LEAST = 1.2, 3.0
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
        """The same of few rows, in four buffers."""
        n = 64 * self.workload.batch
        return self._replace(workload=self.workload._replace(n_rows=n), buffer_rows=n // 4)


STREAMS = (
    Stream(Workload((20, 16, 1), 256, 4_096_000), 1_024_000),
    Stream(Workload((20, 64, 64, 1), 256, 4_096_000), 1_024_000),
    Stream(Workload((20, 128, 128, 1), 64, 2_048_000), 512_000),
    Stream(Workload((20, 256, 256, 1), 64, 1_024_000), 256_000),
    Stream(Workload((20, 16, 1), 256, 40_960_000), 1_024_000, 2, ours=True),
)
BY_NAME = {stream.name: stream for stream in STREAMS}


def of_name(name: str, quick: bool) -> Stream:
    """Return what a name stands for."""
    return BY_NAME[name].quick() if quick else BY_NAME[name]


def write(workload: Workload, path: Path) -> None:
    """Write a workload's rows as columns of Parquet, uncompressed, X first and then y."""
    import pyarrow
    from pyarrow.parquet import ParquetWriter

    x, y = workload.data()
    names = [*(f"x{j}" for j in range(x.shape[1])), "y"]
    schema = pyarrow.schema([(name, pyarrow.from_numpy_dtype(x.dtype)) for name in names])
    with ParquetWriter(path, schema, compression="none", use_dictionary=False) as file:
        for first in range(0, len(x), GROUP_ROWS):
            rows = slice(first, first + GROUP_ROWS)
            columns = [*np.ascontiguousarray(x[rows].T), y[rows, 0]]
            file.write_table(pyarrow.table(columns, schema=schema), row_group_size=GROUP_ROWS)


def measure(
    contestants: list[Any], names: list[str] | None, effort: race.Effort, say: race.Say
) -> list[dict[str, Any]]:
    """Return a record per net and contestant: nanoseconds a row of each verb, by turn.

    Only nets are tried whose names contain one of `names`, if there are some.
    """
    records = []
    for stream in STREAMS:
        if not race.asked_for(stream.name, names):
            continue
        group = [
            c for c in contestants if c.name in MODULES and (c.name == "fastmlp" or not stream.ours)
        ]
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "rows.parquet"
            say(f"{stream.name}: writing the file")
            write((stream.quick() if effort.quick else stream).workload, path)
            records += _turns(stream, group, path, effort, say)
    return records


def _turns(
    stream: Stream, contestants: list[Any], path: Path, effort: race.Effort, say: race.Say
) -> list[dict[str, Any]]:
    records, ready = [], []
    for contestant in contestants:
        say(f"{stream.name}: preparing {contestant.title}, {counted(contestant.n_threads)}")
        reply = contestant.ask(
            "prepare_stream", name=stream.name, path=str(path), quick=effort.quick
        )
        record = {
            "stream": stream.name,
            "contestant": contestant.name,
            "threads": contestant.n_threads,
        }
        record |= {**reply, "turns": []}
        records.append(record)
        if "way" in reply:
            ready.append((contestant, record))
    for repeat in range(min(effort.repeats, TURNS)):
        for contestant, record in race.rotated(ready, repeat):
            replies = {verb: contestant.ask("stream", what=verb) for verb in VERBS}
            if all("ns" in reply for reply in replies.values()):
                record["turns"].append({verb: reply["ns"] for verb, reply in replies.items()})
    for contestant, _ in ready:
        contestant.ask("end_stream")
    return records


def medians(record: dict[str, Any]) -> dict[str, float]:
    """Return the medians of a record's turns, and what follows from them.

    Beside the verbs: `over`, the time over the slower of reading and training; `kept`, the speed
    from memory that is kept; `most`, how much could be, as reading takes a core for its time.
    """
    turns = record["turns"]
    found = {key: float(np.median([turn[key] for turn in turns])) for key in VERBS}
    found["over"] = float(
        np.median([t["streamed"] / max(t["reading"], t["memory"]) for t in turns])
    )
    found["kept"] = float(np.median([t["memory"] / t["streamed"] for t in turns]))
    reading, memory = found["reading"], found["memory"]
    found["most"] = memory / max(reading, memory + reading / record["threads"])
    return found


def ratios(record: dict[str, Any], ours: dict[str, Any]) -> Any:
    """Return a peer's time over fastmlp's, by turn."""
    pairs = zip(record["turns"], ours["turns"], strict=False)
    return quartiles([theirs["streamed"] / own["streamed"] for theirs, own in pairs])


def groups(results: dict[str, Any]) -> Iterator[tuple[Stream, int, dict[str, dict[str, Any]]]]:
    """Yield each net with its number of threads and the records that have turns."""
    records = [r for r in results.get("streams") or [] if r["turns"]]
    for name, threads in dict.fromkeys((r["stream"], r["threads"]) for r in records):
        its = {
            r["contestant"]: r for r in records if (r["stream"], r["threads"]) == (name, threads)
        }
        yield of_name(name, results.get("quick", False)), threads, its


def title(name: str) -> str:
    """Return a contestant's name for people."""
    return TITLES.get(name, PEERS[name].title)


def lines(results: dict[str, Any]) -> Iterator[str]:
    """All of it, as text."""
    for stream, threads, its in groups(results):
        yield f"\nrows of Parquet into {stream.name}, {counted(threads)}; ns a row, medians"
        yield (
            f"  {'contestant':<14} {'reading':>8} {'memory':>8} {'streamed':>8} {'/ slower':>8} "
            f"{'kept':>5} {'most':>5} {'grown, MB':>9}  {'/ fastmlp':>9}  way"
        )
        for name, record in its.items():
            m = medians(record)
            ratio = ratios(record, its["fastmlp"]).median if "fastmlp" in its else float("nan")
            yield (
                f"  {title(name):<14} {m['reading']:>8.0f} {m['memory']:>8.0f} "
                f"{m['streamed']:>8.0f} {m['over']:>8.2f} {m['kept']:>5.2f} {m['most']:>5.2f} "
                f"{record['grown'] / 1e6:>9.0f}  {ratio:>9.2f}  {record['way']}"
            )
    for r in results.get("streams") or []:
        if not r["turns"]:
            why = r.get("error") or r.get("unsupported") or "no result"
            yield f"  {r['stream']}: {title(r['contestant'])}: {why}"


def table(results: dict[str, Any], threads: int) -> Iterator[str]:
    """fastmlp beside its limits, and the peers beside it, in Markdown."""
    found = [
        (stream, its) for stream, n, its in groups(results) if n == threads and "fastmlp" in its
    ]
    if not found:
        return
    yield (
        "\nfastmlp beside its limits, nanoseconds a row. `over` is its time over the slower "
        f"of reading alone and training from memory; it is to be {MOST:g} at most. `kept` is the "
        "share of the speed from memory, and `possible` what would be left of it if the reading "
        "took its time on one core and nothing else.\n"
    )
    yield (
        "| net@batch | MFLOP a step | reading | from memory | streamed | over | kept | "
        "possible | memory, MB |\n|---|--:|--:|--:|--:|--:|--:|--:|--:|"
    )
    for stream, its in found:
        m = medians(its["fastmlp"])
        cells = [stream.name, f"{stream.workload.flops / 1e6:.3g}"]
        cells += [f"{m[verb]:,.0f}" for verb in VERBS]
        cells += [f"{m['over']:.2f}", f"{m['kept']:.0%}", f"{m['most']:.0%}"]
        yield f"| {' | '.join(cells)} | {its['fastmlp']['grown'] / 1e6:,.0f} |"
    titles = " | ".join(title(name) for name in COLUMNS)
    yield (
        "\nThe peers over the same file: their time over fastmlp's, medians (and quartiles) of "
        f"turns, which is to be {LEAST:g} at least; below 1 the peer is ahead.\n"
    )
    yield f"| net@batch | fastmlp, rows a second | fastest peer | {titles} |"
    yield "|---|--:|---|" + "--:|" * len(COLUMNS)
    yield from (_row(stream, its) for stream, its in found if len(its) > 1)
    yield from _ways(found)


def _row(stream: Stream, its: dict[str, dict[str, Any]]) -> str:
    by_name = {n: ratios(r, its["fastmlp"]) for n, r in its.items() if n != "fastmlp"}
    best = min(by_name, key=lambda name: by_name[name].median)
    q = by_name[best]
    cells = [stream.name, f"{1e9 / medians(its['fastmlp'])['streamed']:,.0f}"]
    cells += [f"**{q.median:.2f}x** ({q.low:.2f} to {q.high:.2f}), {title(best)}"]
    cells += [f"{by_name[name].median:.2f}x" if name in by_name else "-" for name in COLUMNS]
    return f"| {' | '.join(cells)} |"


def _ways(found: list[tuple[Stream, dict[str, dict[str, Any]]]]) -> Iterator[str]:
    for name in COLUMNS:
        its = [(stream, records[name]) for stream, records in found if name in records]
        ways = dict.fromkeys(record["way"] for _, record in its)
        if ways:
            yield f"\n{title(name)}, the fastest of its ways: {'; '.join(ways)}."


class Turns:
    """The fastest of a contestant's ways to train on a file.

    Attributes
    ----------
    way : its name
    tried : seconds of all ways
    grown : bytes by which the process has grown at most when it first trained in that way
    """

    def __init__(self, contestant: str, name: str, path: str, quick: bool) -> None:
        module = import_module(f"benchmarks.peers.{MODULES[contestant]}")
        load, self.tried = of_name(name, quick), dict[str, float]()
        grown = {}
        for way in module.WAYS:
            self._run = module.streamed(load, Path(path), way, contestant)
            before = _memory(reset=True)
            self._run.streamed()
            grown[way] = _memory() - before
            begin = time.perf_counter()
            if len(module.WAYS) > 1:
                self._run.streamed()
            self.tried[way] = time.perf_counter() - begin
        self.way = min(self.tried, key=lambda way: self.tried[way])
        self.grown = grown[self.way]
        if self.way != module.WAYS[-1]:
            self._run = module.streamed(load, Path(path), self.way, contestant)
            self._run.streamed()

    def take(self, what: str) -> dict[str, Any]:
        """Return nanoseconds a row."""
        begin = time.perf_counter()
        n = getattr(self._run, what)()
        seconds = time.perf_counter() - begin
        return {"ns": 1e9 * seconds / n}


def _memory(*, reset: bool = False) -> int:
    """Return the most bytes that the process has had in memory; `reset`: from now on."""
    if not Path("/proc/self/clear_refs").exists():
        return 0
    if reset:
        Path("/proc/self/clear_refs").write_text("5")
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))
