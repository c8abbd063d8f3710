"""New processes: time to a first fit, with an empty cache and a full one, and peak memory."""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from benchmarks.output import DOCS, ROOT, Table
from benchmarks.peers import PEERS, load
from benchmarks.race import OVER, Part, Race, environment, program
from benchmarks.scores import Record, quartiles
from benchmarks.workloads import BY_NAME

WORKLOAD = "16-64-64-2@64"
TURNS = 5
N_THREADS = min(2, os.cpu_count() or 1)


def fit_of(name: str) -> str:
    """A program that trains one epoch of the workload."""
    return f"from benchmarks.cold_start import first_fit; first_fit({name!r})"


def first_fit(name: str) -> None:
    """Train one epoch by the contestant's first variant."""
    load(name).make(BY_NAME[WORKLOAD]).epochs(1)


class Start(NamedTuple):
    """Wall time, CPU time and the peak of the memory in MB, of a new process."""

    seconds: float
    cpu_seconds: float
    peak_mb: float


def launch(command: str, cache: Path, checkout: Path = ROOT) -> Start:
    """Run a program in a new process, with the fastmlp of a checkout."""
    folders = ("NUMBA_CACHE_DIR", "TORCHINDUCTOR_CACHE_DIR", "JAX_COMPILATION_CACHE_DIR")
    caches = {name: str(cache / name) for name in folders}
    options = {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0", "PYTHONWARNINGS": "ignore"}
    env = {**environment(N_THREADS, checkout), **caches, **options}
    begin = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-c", program(command)], env=env, cwd=checkout, stderr=subprocess.DEVNULL
    )
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - begin
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"{command!r} ended with {process.returncode}")
    unit = 1 if sys.platform == "darwin" else 1024
    cpu_seconds = usage.ru_utime + usage.ru_stime
    return Start(seconds, cpu_seconds, usage.ru_maxrss * unit / 1e6)


def measure(race: Race, earlier: list[Record]) -> list[Record]:
    """The first process, later ones, and memory, of each contestant that trains."""
    records: list[Record] = []
    for name in dict.fromkeys(c.name for c in race.contestants if PEERS[c.name].trains):
        if race.is_over:
            records.append({"contestant": name, "unsupported": OVER})
            continue
        race.say(f"cold starts of {PEERS[name].title}")
        with tempfile.TemporaryDirectory() as folder:
            try:
                first = launch(fit_of(name), Path(folder))
                turns = range(1 if race.quick else TURNS)
                later = [launch(fit_of(name), Path(folder)).seconds for _ in turns]
            except RuntimeError as error:
                records.append({"contestant": name, "error": str(error)})
                continue
        times = {"empty": first.seconds, "full": sorted(later)}
        records.append({"contestant": name, **times, "peak_mb": first.peak_mb})
    return records


def table(results: Record, threads: int = 0) -> Iterator[str]:
    rows = []
    for r in results["cold_starts"]:
        if "empty" in r:
            seconds = f"{r['empty']:.1f}", f"{quartiles(r['full']).median:.1f}"
            rows.append((PEERS[r["contestant"]].title, *seconds, f"{r['peak_mb']:,.0f}"))
    titles = ("", ">empty cache, s", ">full cache, s", ">peak memory, MB")
    text = "A new process, from its start to the end of one epoch of 16-64-64-2@64:"
    yield from Table(titles, rows).under(text)


PART = Part("cold", "cold_starts", measure, table, DOCS / "benchmarks.md")
