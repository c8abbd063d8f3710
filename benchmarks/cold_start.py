"""New processes: time to a first fit, with an empty cache and a full one, and peak memory."""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.contestant import ROOT, environment, program
from benchmarks.peers import PEERS, load, missing
from benchmarks.workloads import BY_NAME

WORKLOAD = "16-64-64-2@64"
N_THREADS = min(2, os.cpu_count() or 1)


def fit_of(name: str) -> str:
    """Return a program that trains one epoch of the workload."""
    return f"from benchmarks.cold_start import first_fit; first_fit({name!r})"


def first_fit(name: str) -> None:
    """Train one epoch by the contestant's first variant."""
    load(name).make(BY_NAME[WORKLOAD]).epochs(1)


class Start(NamedTuple):
    """What a new process took: wall time, CPU time, and the peak of its memory in MB."""

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


def measure(names: list[str], repeats: int) -> list[dict[str, Any]]:
    """Return one record per contestant: the first process, the median of later ones, memory."""
    records: list[dict[str, Any]] = []
    for name in names:
        if missing(name) or not PEERS[name].trains:
            continue
        with tempfile.TemporaryDirectory() as folder:
            try:
                first = launch(fit_of(name), Path(folder))
                later = [launch(fit_of(name), Path(folder)).seconds for _ in range(repeats)]
            except RuntimeError as error:
                records.append({"contestant": name, "error": str(error)})
                continue
        times = {"empty": first.seconds, "full": sorted(later)}
        records.append({"contestant": name, **times, "peak_mb": first.peak_mb})
    return records
