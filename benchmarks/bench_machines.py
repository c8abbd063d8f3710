"""One net over two processes:
fastmlp over MPI beside PyTorch's DistributedDataParallel over gloo.

Each process has one thread and a core of its own, and half of the rows. Both are on
this machine: measured is the price of the messages of a step, not the gain of several
machines.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from benchmarks.bench_train import Race
from benchmarks.output import ROOT
from benchmarks.peers import Unsupported
from benchmarks.race import cores_first, environment, timed
from benchmarks.scores import Record, failed
from benchmarks.workloads import CE, Array, Workload, sized

RANKS = 2
# Times that the processes of a turn take.
REPEATS = 5
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
    """A library, and the settings of the network of its messages."""

    title: str
    module: str
    needs: tuple[str, ...]
    settings: dict[str, str]


OURS = "fastmlp"
SHARED = "fastmlp-shared"
TORCH = "torch"
CONTESTANTS = {
    OURS: Way("fastmlp", "fastmlp_nets", ("mpi4py",), {**AS_ROOT, **LOOPBACK}),
    SHARED: Way("fastmlp", "fastmlp_nets", ("mpi4py",), AS_ROOT),
    TORCH: Way("torch", "torch_ddp", ("torch",), {"GLOO_SOCKET_IFNAME": "lo"}),
}
MACHINES = (
    Workload((16, 64, 64, 2), 1024, 32_768),
    Workload((784, 128, 10), 1024, 16_384, loss=CE),
    Workload((784, 512, 512, 10), 1024, 16_384, loss=CE),
)
BY_NAME = {workload.name: workload for workload in MACHINES}


def share(workload: Workload, rank: int, size: int) -> tuple[Array, Array]:
    x, y = workload.data()
    n = len(x) // size
    rows = slice(rank * n, (rank + 1) * n)
    return x[rows], y[rows]


def bind(rank: int) -> None:
    cores = cores_first()
    os.sched_setaffinity(0, [cores[rank % len(cores)]])


def trained(run: Any, load: Workload, ranks: Any, quick: bool) -> Record:
    """In a rank: the seconds of a step by turn, the loss,
    and parameters after an ordered epoch.

    Parameters
    ----------
    ranks : has `barrier()`, which waits for all, and `agreed(n)`, the first rank's number
    """

    def seconds(n: int) -> float:
        def epochs() -> None:
            run.epochs(n)
            ranks.barrier()

        ranks.barrier()
        spent, _ = timed(epochs)
        return spent

    run.epochs(1, shuffle=False)
    parameters = run.parameters()
    places = np.linspace(0, len(parameters) - 1, SAMPLE).astype(int)
    n = 1
    if not quick:
        n = max(1, round(SECONDS / seconds(1)))
    n = ranks.agreed(n)
    turns = [seconds(n) / (n * load.n_steps) for _ in range(REPEATS)]
    return {
        "step_seconds": turns,
        "loss": run.loss(),
        "sample": [float(p) for p in parameters[places]],
    }


def main(module: str, name: str, size: str, file: str) -> None:
    """In a rank: train in all ways; the first prints a line of JSON of the fastest."""
    ranks = import_module(f"benchmarks.peers.{module}").Ranks(file)
    bind(ranks.rank)
    quick = size == "quick"
    load = sized(BY_NAME[name], quick)
    ways = {way: trained(run, load, ranks, quick) for way, run in ranks.runs(load)}
    tried = {way: min(record["step_seconds"]) for way, record in ways.items()}
    best = min(tried, key=lambda way: tried[way])
    if ranks.rank == 0:
        reply = {"way": best, "tried": tried, **ways[best]}
        print(json.dumps(reply), flush=True)
    ranks.close()


def missing(name: str) -> str | None:
    """The reason that a contestant cannot take part, or None."""
    way = CONTESTANTS[name]
    absent = [library for library in way.needs if find_spec(library) is None]
    if absent:
        return f"not installed: {', '.join(absent)}"
    if way.title == "fastmlp" and mpiexec() is None:
        return "there is no mpiexec"
    if len(cores_first()) < RANKS:
        return f"it needs {RANKS} cores: --threads {RANKS}"
    return None


def mpiexec() -> str | None:
    """The program that starts ranks: the environment's own, or that of the path."""
    folders = [str(Path(sys.executable).parent), os.environ.get("PATH", "")]
    return shutil.which("mpiexec", path=os.pathsep.join(folders))


def run(name: str, workload: str, *, quick: bool) -> Record:
    """The reply of a contestant's processes on a workload, or an error."""
    with tempfile.TemporaryDirectory() as folder:
        meeting = str(Path(folder) / "meeting")
        if quick:
            started = _start(name, [workload, "quick", meeting], YIELD)
        else:
            started = _start(name, [workload, "full", meeting], {})
        outputs = []
        try:
            for process in started:
                outputs.append(process.communicate(timeout=LIMIT_SECONDS))
        except subprocess.TimeoutExpired:
            return {"error": f"no result within {LIMIT_SECONDS} s"}
        finally:
            for process in started:
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
    for process, (_, errors) in zip(started, outputs, strict=True):
        if process.returncode:
            return {"error": _last_error(errors)}
    printed, _ = outputs[0]
    *_, last = printed.strip().splitlines()
    reply: Record = json.loads(last)
    return reply


def _last_error(text: str) -> str:
    """The last error of a text, or its last line;
    mpiexec writes more after a rank's.
    """
    lines = [line for line in text.splitlines() if line.strip("\0 ")]
    errors = [line for line in lines if re.match(r"\w+(Error|Exception): ", line)]
    *_, last = ["no output", *lines, *errors]
    return last[:200]


def _start(
    name: str, arguments: list[str], settings: dict[str, str]
) -> list[subprocess.Popen[str]]:
    """Start the processes of a contestant:
    those of MPI by one, which starts the ranks.
    """
    way = CONTESTANTS[name]
    start = partial(
        subprocess.Popen,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=ROOT,
        text=True,
        start_new_session=True,
    )
    environ = {**environment(1), **way.settings, **settings}
    program = ["-m", "benchmarks.bench_machines", way.module, *arguments]
    if way.title == "fastmlp":
        mpi = [str(mpiexec()), "-n", str(RANKS), "--bind-to", "none"]
        return [start([*mpi, sys.executable, "-m", "mpi4py", *program], env=environ)]
    started = []
    for rank in range(RANKS):
        place = {"RANK": str(rank), "WORLD_SIZE": str(RANKS)}
        started.append(start([sys.executable, *program], env={**environ, **place}))
    return started


class Work:
    """Processes that train a net; a turn starts them, and has the least of their times.

    A rank that has a core of its own and shares it for a moment holds the other up too.
    """

    def __init__(
        self, worker: Any, quick: bool, workload: str, form: str | None = None
    ) -> None:
        self.name = worker.name
        if form:
            self.name = f"{worker.name}-{form}"
        if why := missing(self.name):
            raise Unsupported(why)
        self.workload = workload
        self.quick = quick
        self.about: Record = {}
        self.units = 1

    def turn(self, n: int) -> float:
        reply = run(self.name, self.workload, quick=self.quick)
        if failed(reply):
            raise RuntimeError(reply["error"])
        self.about |= {"way": reply["way"], "loss": reply["loss"]}
        return n * float(min(reply["step_seconds"]))


@pytest.mark.libraries(*CONTESTANTS)
@pytest.mark.parametrize("net", BY_NAME)
def test_machines(race: Race, net: str) -> None:
    load = BY_NAME[net]
    race(Work, seconds=0, flops=load.flops, rows=load.batch, workload=net)


if __name__ == "__main__":
    main(*sys.argv[1:])
