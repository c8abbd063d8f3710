"""One net over two processes: fastmlp over MPI beside PyTorch's DistributedDataParallel over gloo.

Each process has one thread and a core of its own, and half of the rows. Both are on this machine:
what is measured is what a step costs beside its messages, not what several machines gain.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks import race
from benchmarks.contestant import ROOT, cores_first, environment
from benchmarks.scores import quartiles
from benchmarks.workloads import CE, Array, Workload

RANKS = 2
# Of each contestant: processes that are started, and times that each of them takes.
TURNS, REPEATS = 3, 5
SECONDS = 0.4
LIMIT_SECONDS = 300
# Parameters after an epoch in the order of the rows, of which so many are compared.
SAMPLE = 256
# Root may not start Open MPI's processes otherwise; other MPIs do not know these.
AS_ROOT = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
LOOPBACK = {
    "OMPI_MCA_pml": "ob1",
    "OMPI_MCA_btl": "self,tcp",
    "OMPI_MCA_btl_tcp_if_include": "lo",
}
# Where cores are busy with other work: a rank that waits gives its core away.
YIELD = {"OMPI_MCA_mpi_yield_when_idle": "1"}


class Way(NamedTuple):
    """A library and what its messages go over."""

    title: str
    module: str
    needs: tuple[str, ...]
    settings: dict[str, str]


OURS, SHARED, TORCH = "fastmlp, TCP", "fastmlp, shared memory", "PyTorch, TCP"
CONTESTANTS = {
    OURS: Way("fastmlp", "fastmlp_ranks", ("mpi4py",), {**AS_ROOT, **LOOPBACK}),
    SHARED: Way("fastmlp", "fastmlp_ranks", ("mpi4py",), AS_ROOT),
    TORCH: Way("torch", "torch_ddp", ("torch",), {"GLOO_SOCKET_IFNAME": "lo"}),
}
MACHINES = (
    Workload((16, 64, 64, 2), 1024, 32_768),
    Workload((784, 128, 10), 1024, 16_384, loss=CE),
    Workload((784, 512, 512, 10), 1024, 16_384, loss=CE),
)
BY_NAME = {workload.name: workload for workload in MACHINES}
# Steps a second over PyTorch's, both over TCP.
AIMS = dict(zip(BY_NAME, (2.0, 2.0, 1.2), strict=True))


def of_name(name: str, *, quick: bool) -> Workload:
    """Return what a name stands for."""
    return BY_NAME[name].quick() if quick else BY_NAME[name]


def share(workload: Workload, rank: int, size: int) -> tuple[Array, Array]:
    """Return the rows of a rank."""
    x, y = workload.data()
    n = len(x) // size
    return x[rank * n : (rank + 1) * n], y[rank * n : (rank + 1) * n]


def bind(rank: int) -> None:
    """Give a rank a core of its own."""
    cores = cores_first()
    os.sched_setaffinity(0, [cores[rank % len(cores)]])


def sample(parameters: Array) -> list[float]:
    """Return some of the parameters."""
    chosen = np.linspace(0, len(parameters) - 1, SAMPLE).astype(int)
    return [float(number) for number in parameters[chosen]]


def epochs_of(seconds: float, *, quick: bool) -> int:
    """Return the epochs that are timed at once, of what one takes."""
    return 1 if quick else max(1, round(SECONDS / seconds))


def report(ways: dict[str, dict[str, Any]]) -> None:
    """Print the fastest of a contestant's ways."""
    tried = {way: min(each["step_seconds"]) for way, each in ways.items()}
    best = min(tried, key=lambda way: tried[way])
    print(json.dumps({"way": best, "tried": tried, **ways[best]}), flush=True)


def missing(name: str) -> str | None:
    """Return why a contestant cannot take part, or None."""
    absent = [library for library in CONTESTANTS[name].needs if find_spec(library) is None]
    if absent:
        return f"not installed: {', '.join(absent)}"
    if CONTESTANTS[name].title == "fastmlp" and mpiexec() is None:
        return "there is no mpiexec"
    return None


def mpiexec() -> str | None:
    """Return the program that starts ranks: the environment's own, or that of the path."""
    folders = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    return shutil.which("mpiexec", path=folders)


def run(name: str, workload: str, *, quick: bool) -> dict[str, Any]:
    """Return what the processes of a contestant say of a workload, or why they say nothing."""
    with tempfile.TemporaryDirectory() as folder:
        size = "quick" if quick else "full"
        polite = YIELD if quick else {}
        started = _start(name, [workload, size, str(Path(folder) / "meeting")], polite)
        try:
            said = [process.communicate(timeout=LIMIT_SECONDS) for process in started]
        except subprocess.TimeoutExpired:
            return {"error": f"no result within {LIMIT_SECONDS} s"}
        finally:
            for process in started:
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
    for process, (_, words) in zip(started, said, strict=True):
        if process.returncode:
            return {"error": _last_words(words)}
    found: dict[str, Any] = json.loads(said[0][0].strip().splitlines()[-1])
    return found


def _last_words(text: str) -> str:
    """Return the last error of a text, or its last line; mpiexec says more after a rank's."""
    said = [line for line in text.splitlines() if line.strip("\0 ")]
    errors = [line for line in said if re.match(r"\w+(Error|Exception): ", line)]
    return [*(said or ["nothing said"]), *errors][-1][:200]


def _start(
    name: str, arguments: list[str], settings: dict[str, str]
) -> list[subprocess.Popen[str]]:
    """Start the processes of a contestant: those of MPI by one, which starts the ranks."""
    way = CONTESTANTS[name]
    settings = {**way.settings, **settings}
    program = ["-m", f"benchmarks.peers.{way.module}", *arguments]
    if way.title == "fastmlp":
        mpi = [str(mpiexec()), "-n", str(RANKS), "--bind-to", "none"]
        return [_process([*mpi, sys.executable, "-m", "mpi4py", *program], settings)]
    ranks = [{"RANK": str(rank), "WORLD_SIZE": str(RANKS)} for rank in range(RANKS)]
    return [_process([sys.executable, *program], {**settings, **rank}) for rank in ranks]


def _process(command: list[str], settings: dict[str, str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=ROOT,
        env={**environment(1), **settings},
        text=True,
        start_new_session=True,
    )


def measure(
    libraries: list[str], names: list[str] | None, effort: race.Effort, say: race.Say
) -> list[dict[str, Any]]:
    """Return a record per workload and contestant: what each of its turns has said.

    Only workloads are tried whose names contain one of `names`, if there are some.
    """
    records = []
    for workload in MACHINES:
        if not race.asked_for(workload.name, names):
            continue
        ready = []
        for name, way in CONTESTANTS.items():
            if way.title not in libraries:
                continue
            record: dict[str, Any] = {"workload": workload.name, "contestant": name, "turns": []}
            records.append(record)
            if reason := missing(name):
                record["unsupported"] = reason
            else:
                ready.append(record)
        for turn in range(min(effort.repeats, TURNS)):
            for record in race.rotated(ready, turn):
                say(f"{workload.name}, {RANKS} processes: {record['contestant']}")
                reply = run(record["contestant"], workload.name, quick=effort.quick)
                if "error" in reply:
                    record["error"] = reply["error"]
                else:
                    record["turns"].append(reply)
    return records


class Finding(NamedTuple):
    """A contestant's steps on a workload.

    Attributes
    ----------
    ratio : PyTorch's time over this one's, quartiles of turns; None without PyTorch's
    """

    steps_a_second: float
    ratio: Any
    way: str


def findings(results: dict[str, Any]) -> dict[str, dict[str, Finding]]:
    """Return what was found, by workload and contestant."""
    found: dict[str, dict[str, Finding]] = {}
    records = {(r["workload"], r["contestant"]): r for r in results.get("machines") or []}
    for (workload, name), record in records.items():
        if not record["turns"]:
            continue
        seconds, theirs = _seconds(record), _seconds(records.get((workload, TORCH)))
        pairs = zip(theirs, seconds, strict=False)
        ratio = quartiles([their / own for their, own in pairs]) if theirs else None
        way = record["turns"][0]["way"]
        finding = Finding(1 / float(np.median(seconds)), ratio, way)
        found.setdefault(workload, {})[name] = finding
    return found


def _seconds(record: dict[str, Any] | None) -> list[float]:
    """Return the seconds of a step, by turn: the least of its times.

    A rank that has a core of its own and shares it for a moment holds the other up too.
    """
    turns = record["turns"] if record else []
    return [min(turn["step_seconds"]) for turn in turns]


def lines(results: dict[str, Any]) -> Iterator[str]:
    """All of it, as text."""
    for workload, its in findings(results).items():
        yield f"\none net over {RANKS} processes of one thread, {workload}"
        yield f"  {'contestant':<24} {'steps/s':>8} {'/ PyTorch':>9} {'quartiles':>15}  way"
        for name, one in its.items():
            q = one.ratio
            ratio = f"{q.median:>9.2f} {f'{q.low:.2f} - {q.high:.2f}':>15}" if q else f"{'-':>25}"
            yield f"  {name:<24} {one.steps_a_second:>8,.0f} {ratio}  {one.way}"
    for r in results.get("machines") or []:
        if not r["turns"]:
            why = r.get("error") or r.get("unsupported") or "no result"
            yield f"  {r['workload']}: {r['contestant']}: {why}"


def table(results: dict[str, Any]) -> Iterator[str]:
    """The same in Markdown."""
    yield (
        f"Steps a second, of the least of {REPEATS} times, medians of {TURNS} starts of the "
        "processes; in brackets quartiles of the ratio.\n"
    )
    yield (
        "| net@batch | PyTorch's DDP | fastmlp, the same over TCP | aim | "
        "fastmlp, over shared memory |\n|---|--:|--:|--:|--:|"
    )
    for workload, its in findings(results).items():
        if TORCH in its and OURS in its:
            cells = [workload, f"{its[TORCH].steps_a_second:,.0f}", _cell(its[OURS])]
            cells += [f"{AIMS[workload]:g}x", _cell(its[SHARED]) if SHARED in its else "-"]
            yield f"| {' | '.join(cells)} |"
    ways = {f"{its[TORCH].way} ({name})" for name, its in findings(results).items() if TORCH in its}
    if ways:
        yield f"\nPyTorch, the fastest of its ways: {'; '.join(sorted(ways))}."


def _cell(one: Finding) -> str:
    q = one.ratio
    return f"{one.steps_a_second:,.0f}: **{q.median:.2f}x** ({q.low:.2f} to {q.high:.2f})"
