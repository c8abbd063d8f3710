"""Contestants in turns, each in a process of its own that is stopped between its
turns.
"""

import ctypes
import json
import math
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks.machine import versions
from benchmarks.output import ROOT, say
from benchmarks.peers import PEERS, Unsupported, load
from benchmarks.scores import Record, failed

PR_SET_PDEATHSIG = 1
# glibc keeps freed memory, as the allocators do that PyTorch's guide to tuning names.
# Else what one step's large arrays take is given back, and faulted in again for the
# next: 2.6 ms a step of 4-32-16-4 at 10,000 rows by PyTorch, and 1.1 with this.
HEAP = {
    "MALLOC_MMAP_THRESHOLD_": str(2**32),
    "MALLOC_TRIM_THRESHOLD_": str(2**33),
    "MALLOC_TOP_PAD_": str(2**26),
}
# Settings that hold a library to the kernels of another processor:
# on one with AVX-512, OpenBLAS's for Haswell reach half of its own rate.
HOLDS = (
    "OPENBLAS_CORETYPE",
    "OPENBLAS_L2_SIZE",
    "MKL_ENABLE_INSTRUCTIONS",
    "ONEDNN_MAX_CPU_ISA",
)
LIMIT_SECONDS = 900
# A turn has at most so many times the calls by which their number was found.
MOST_LONGER = 8
# Ways to do a work are tried so many times, in turns as long as this.
TRIES = 3
TRY_SECONDS = 0.05
# A group's turns end after so many seconds, but not before two of each contestant.
GROUP_SECONDS = 60.0
# Cores first: pools take their size from them when they are imported.
WORK = "from benchmarks.race import bind, main; bind({}); main()"


def program(code: str) -> str:
    """A program that runs code with these benchmarks, and with the fastmlp of the
    checkout that it is started in, which may have benchmarks of its own.
    """
    statements = (
        "import sys",
        f"sys.path.insert(0, {str(ROOT)!r})",
        "import benchmarks",
        "del sys.path[0]",
        code,
    )
    return "; ".join(statements)


def environment(n_threads: int, checkout: Path = ROOT) -> dict[str, str]:
    """An environment in which every thread pool has n_threads,
    nothing holds a library back, and fastmlp is that of a checkout.
    """
    pools = ("OMP_NUM", "MKL_NUM", "OPENBLAS_NUM", "NUMBA_NUM", "VECLIB_MAXIMUM")
    sizes = {f"{pool}_THREADS": str(n_threads) for pool in pools}
    free = {name: value for name, value in os.environ.items() if name not in HOLDS}
    eigen = "true" if n_threads > 1 else "false"
    paths = [str(checkout), os.environ.get("PYTHONPATH", "")]
    return {
        **free,
        **sizes,
        **HEAP,
        "XLA_FLAGS": f"--xla_cpu_multi_thread_eigen={eigen}",
        "JAX_PLATFORMS": "cpu",
        "TORCHINDUCTOR_COMPILE_THREADS": "1",
        "PYTHONPATH": os.pathsep.join(paths),
    }


@cache
def mkl_shim() -> str:
    """The path of a new library that has MKL take its fast paths on any maker's
    processor.
    """
    folder = Path(tempfile.mkdtemp())
    source = folder / "shim.c"
    library = folder / "shim.so"
    source.write_text("int mkl_serv_intel_cpu_true(void) { return 1; }\n")
    subprocess.run(["cc", "-shared", "-fPIC", "-o", library, source], check=True)
    return str(library)


def bind(n_threads: int) -> None:
    """In the child: its cores, from which pools take their size,
    and an end with its parent's.
    """
    if sys.platform == "linux":
        os.sched_setaffinity(0, cores_first()[:n_threads])
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def cores_first() -> list[int]:
    """The processors that may be used, one of each core before the second of any."""
    seen: Counter[str] = Counter()
    ranked = []
    for cpu in sorted(os.sched_getaffinity(0)):
        path = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list")
        if path.exists():
            core = path.read_text()
        else:
            core = str(cpu)
        ranked.append((seen[core], cpu))
        seen[core] += 1
    return [cpu for _, cpu in sorted(ranked)]


class Contestant:
    """A worker process that is stopped (SIGSTOP)
    between requests, so that no idle pool spins.

    Parameters
    ----------
    checkout : the folder whose fastmlp it imports
    cache : the folder of its compiled code; None: the usual one

    Attributes
    ----------
    name : its key in `PEERS`
    idle_cpu : seconds of CPU that it used while it was stopped; must be 0
    """

    def __init__(
        self,
        name: str,
        n_threads: int,
        *,
        shim: bool = False,
        checkout: Path = ROOT,
        cache: Path | None = None,
    ) -> None:
        self.name = name
        self.n_threads = n_threads
        self.idle_cpu = 0.0
        self.log = tempfile.TemporaryFile("w+")  # noqa: SIM115
        variables = environment(n_threads, checkout)
        if shim and "torch" in PEERS[name].needs:
            variables["LD_PRELOAD"] = mkl_shim()
        if cache:
            variables["NUMBA_CACHE_DIR"] = str(cache)
        self.process = subprocess.Popen(
            [sys.executable, "-c", program(WORK.format(n_threads)), name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log,
            cwd=checkout,
            env=variables,
            text=True,
            start_new_session=True,
        )
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.requests = self.process.stdin
        self.replies = self.process.stdout
        reply = self.ask("about")
        self.about = reply.get("about") or reply["error"]

    @property
    def title(self) -> str:
        return PEERS[self.name].title

    def ask(self, verb: str, **options: Any) -> Record:
        """Continue the process for a request, and stop it after its reply."""
        if self.process.poll() is not None:
            return {"error": "its process has ended"}
        self._continue()
        timer = threading.Timer(LIMIT_SECONDS, self._signal, (signal.SIGKILL,))
        timer.start()
        request = json.dumps({"verb": verb, **options})
        try:
            self.requests.write(request + "\n")
            self.requests.flush()
            line = self.replies.readline()
        except BrokenPipeError:
            line = ""
        finally:
            timer.cancel()
        if not line:
            return {"error": f"its process ended: {self.last_line()}"}
        self._stop()
        return json.loads(line)

    def close(self) -> None:
        if self.process.poll() is None:
            self._signal(signal.SIGKILL)
        self.process.wait()
        for file in (self.requests, self.replies, self.log):
            file.close()

    def last_line(self) -> str:
        self.log.seek(0)
        lines = self.log.read().strip().splitlines()
        if not lines:
            return "no output"
        return lines[-1]

    def _signal(self, number: int) -> None:
        os.killpg(self.process.pid, number)

    def _stop(self) -> None:
        self._signal(signal.SIGSTOP)
        if hasattr(os, "WSTOPPED"):
            os.waitid(os.P_PID, self.process.pid, os.WSTOPPED)
        self._cpu = cpu_seconds(self.process.pid)

    def _continue(self) -> None:
        if hasattr(self, "_cpu"):
            self.idle_cpu += cpu_seconds(self.process.pid) - self._cpu
            self._signal(signal.SIGCONT)


def cpu_seconds(pid: int) -> float:
    """The CPU time of a process and its threads so far; 0 where there is no /proc."""
    stat = Path(f"/proc/{pid}/stat")
    if not stat.exists():
        return 0.0
    _, _, after_name = stat.read_text().rpartition(")")
    fields = after_name.split()
    user = int(fields[11])
    system = int(fields[12])
    return (user + system) / os.sysconf("SC_CLK_TCK")


class Worker:
    """The contestant's module, and the works that it has made for a group.

    Attributes
    ----------
    works : by key a work and its calls a turn; a work has `about`, the facts that it replies,
        `units`, the steps or rows of a call, and `turn(n)`, the seconds of n calls
    trial_seconds : after them no further way to do a work is tried
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.module: Any = None
        if PEERS[name].module:
            self.module = load(name)
        self.works: dict[str, tuple[Any, int]] = {}
        self.clock: Clock = time.perf_counter
        self.trial_seconds = math.inf

    def about(self) -> Record:
        if hasattr(self.module, "about"):
            return {"about": self.module.about()}
        numbers = versions(PEERS[self.name].needs)
        listed = ", ".join(f"{name} {number}" for name, number in numbers.items())
        return {"about": listed}

    def folder(self) -> Record:
        """The folder that fastmlp was imported from."""
        file = import_module("fastmlp").__file__ or ""
        return {"folder": str(Path(file).parents[1])}

    def settle(self, cpu_time: bool, trial_seconds: float) -> Record:
        """Time turns by this process's CPU time,
        which others disturb less, or by the clock.
        """
        if cpu_time:
            self.clock = time.process_time
        else:
            self.clock = time.perf_counter
        self.trial_seconds = trial_seconds
        return {}

    def make(
        self, key: str, work: str, seconds: float, quick: bool, **request: Any
    ) -> Record:
        """Make a work, and find how many of its calls take the seconds of a turn."""
        module, _, name = work.rpartition(".")
        work_class = getattr(import_module(module), name)
        made = work_class(self, quick, **request)
        if quick or not seconds:
            calls = 1
        else:
            calls = calls_in(made.turn, seconds)
        self.works[key] = (made, calls)
        return {**made.about, "steps": calls * made.units}

    def turn(self, key: str) -> Record:
        """The seconds of a unit, of many."""
        work, calls = self.works[key]
        seconds = work.turn(calls)
        return {"seconds": seconds / (calls * work.units)}

    def drop(self) -> Record:
        self.works.clear()
        return {}


def answer(worker: Worker, verb: str, **request: Any) -> Record:
    """The reply to a request, or the error that it raised."""
    try:
        reply: Record = getattr(worker, verb)(**request)
        return reply
    except Unsupported as reason:
        return {"unsupported": str(reason)}
    except Exception as error:
        traceback.print_exc()
        first_line, _, _ = str(error).strip().partition("\n")
        return {"error": f"{type(error).__name__}: {first_line[:200]}"}


def main() -> None:
    """Answer until the pipe closes; output of libraries goes to stderr."""
    replies = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    warnings.simplefilter("ignore")
    worker = Worker(sys.argv[1])
    for line in sys.stdin:
        request = json.loads(line)
        reply = answer(worker, **request)
        replies.write(json.dumps(reply) + "\n")


class Here:
    """A contestant in this process, for works of few rows."""

    idle_cpu = 0.0

    def __init__(self, name: str) -> None:
        self.worker = Worker(name)
        self.title = PEERS[name].title
        self.about = ""

    def ask(self, verb: str, **request: Any) -> Record:
        return answer(self.worker, verb, **request)

    def close(self) -> None:
        """No process ends."""


Clock = Callable[[], float]
# The reason that work is left out which would begin after `Settings.until`.
OVER = "the five minutes were over"
# The contestant of another checkout.
BEFORE = "before"


class Settings(NamedTuple):
    """How much is measured, and by which clock.

    Attributes
    ----------
    turns : of each contestant of a group
    quick : few rows, one turn, and all in this process
    cpu_time : CPU seconds of the contestant's process count
    shim : PyTorch's MKL takes this processor for Intel's
    checkout : the folder of the fastmlp that is the contestant "before"
    until : by `time.perf_counter`; no group begins later
    """

    threads: int = 1
    turns: int = 1
    quick: bool = True
    cpu_time: bool = False
    shim: bool = False
    checkout: Path | None = None
    until: float = math.inf
    trial_seconds: float = math.inf


class Race:
    """Groups of works, whose contestants take turns;
    their processes live until it is closed.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.groups: dict[Any, dict[str, Record]] = {}
        self.contestants: dict[str, Any] = {}
        self.cache = tempfile.TemporaryDirectory()

    def contestant(self, name: str) -> Any:
        """The contestant of a name, whose process is started,
        and stopped until its turn.
        """
        known = self.contestants.get(name)
        if known and (self.settings.quick or known.process.poll() is None):
            return known
        made = self._start(name)
        self.contestants[name] = made
        made.ask(
            "settle",
            cpu_time=self.settings.cpu_time,
            trial_seconds=self.settings.trial_seconds,
        )
        return made

    def _start(self, name: str) -> Any:
        settings = self.settings
        if settings.quick:
            return Here(name)
        if name != BEFORE:
            return Contestant(name, settings.threads, shim=settings.shim)
        folder = settings.checkout or ROOT
        place = Path(self.cache.name)
        made = Contestant("fastmlp", settings.threads, checkout=folder, cache=place)
        reply = made.ask("folder")
        if reply.get("folder") != str(folder):
            made.close()
            raise SystemExit(f"fastmlp of {folder} was not imported: {made.about}")
        return made

    def run(
        self, libraries: Sequence[str], work: str, seconds: float, request: Record
    ) -> dict[str, Record]:
        """By library the seconds of a unit by turn, and facts; or why there are none.

        Parameters
        ----------
        libraries : names of contestants; what follows a dash is the form that the work has
        work : the module and the class
        seconds : of a turn
        """
        records: dict[str, Record] = {}
        ready = []
        for library in libraries:
            name, _, form = library.partition("-")
            if time.perf_counter() > self.settings.until:
                records[library] = {"unsupported": OVER}
                continue
            say(f"preparing {library}, {', '.join(map(str, request.values()))}")
            contestant = self.contestant(name)
            options = {**request}
            if form:
                options["form"] = form
            reply = contestant.ask(
                "make",
                key=library,
                work=work,
                seconds=seconds,
                quick=self.settings.quick,
                **options,
            )
            records[library] = {"seconds": [], "version": contestant.about, **reply}
            if not failed(reply):
                ready.append((contestant, library))

        def turn(contestant: Any, library: str) -> None:
            reply = contestant.ask("turn", key=library)
            if failed(reply):
                records[library] |= reply
            else:
                records[library]["seconds"].append(reply["seconds"])

        in_turns(ready, self.settings.turns, turn, seconds=GROUP_SECONDS)
        for contestant in {contestant for contestant, _ in ready}:
            contestant.ask("drop")
        return records

    def close(self) -> None:
        """End all processes; one that has computed while it waited was not stopped."""
        for contestant in self.contestants.values():
            contestant.close()
        self.cache.cleanup()
        idle = sum(contestant.idle_cpu for contestant in self.contestants.values())
        if idle:
            say(f"CPU that waiting contestants used: {idle:.2f} s")


class Ways:
    """Ways to do one work, of which the fastest counts.

    Parameters
    ----------
    ways : functions that make n calls, by name
    units : steps, or rows, of a call
    warm : a tenth of the calls come before the clock starts

    Attributes
    ----------
    about : the way
    """

    def __init__(
        self,
        worker: Any,
        quick: bool,
        ways: Mapping[str, Callable[[int], Any]],
        *,
        units: int = 1,
        warm: bool = True,
    ) -> None:
        self.clock = worker.clock
        self.units = units
        self.warm = warm
        way = next(iter(ways))
        if len(ways) > 1 and not quick:
            way = fastest(ways, self.clock)
        self.run = ways[way]
        self.about: Record = {"way": way}
        if warm:
            self.run(1)

    def turn(self, n: int) -> float:
        if self.warm:
            self.run(max(1, n // 10))
        seconds, _ = timed(partial(self.run, n), self.clock)
        return seconds


def fastest(ways: Mapping[str, Callable[[int], Any]], clock: Clock) -> str:
    """The way whose calls take the least time, medians of turns."""

    def seconds_of(run: Callable[[int], Any], n: int) -> float:
        seconds, _ = timed(partial(run, n), clock)
        return seconds

    calls: dict[str, int] = {}
    times: dict[str, list[float]] = {}
    for name, run in ways.items():
        calls[name] = calls_in(partial(seconds_of, run), TRY_SECONDS)
        times[name] = []

    def turn(name: str) -> None:
        n = calls[name]
        times[name].append(seconds_of(ways[name], n) / n)

    def median(name: str) -> float:
        return float(np.median(times[name]))

    in_turns([(name,) for name in ways], TRIES, turn)
    return min(times, key=median)


def rotated(items: Sequence[Any], by: int) -> list[Any]:
    """The items, beginning with another one for each number:
    being first may be an advantage.
    """
    by %= max(1, len(items))
    return [*items[by:], *items[:by]]


def in_turns(
    entries: Sequence[Any],
    rounds: int,
    turn: Callable[..., None],
    *,
    seconds: float = math.inf,
) -> None:
    """Call `turn` with each entry, a tuple of its arguments, in each round.

    Rounds end after some seconds, but not before two of them.
    """
    end = time.perf_counter() + seconds
    for i in range(rounds):
        if i > 1 and time.perf_counter() > end:
            return
        for entry in rotated(entries, i):
            turn(*entry)


def calls_in(turn: Callable[[int], float], seconds: float) -> int:
    """How many calls take about the seconds of a turn.

    A cold call tells little: by the time of one, turns of small nets' steps lasted 3 ms
    for 50, and showed twice the time of a step. One that is shorter than a turn is
    timed again.
    """
    calls = 1
    while True:
        once = turn(calls) / calls
        if once * calls >= seconds:
            return max(1, int(seconds / once))
        once = min(once, turn(calls) / calls)
        ideal = max(1, int(seconds / max(once, 1e-9)))
        if ideal <= MOST_LONGER * calls:
            return ideal
        calls *= MOST_LONGER


def timed(
    call: Callable[[], Any], clock: Clock = time.perf_counter
) -> tuple[float, Any]:
    """The seconds of a call, and its result."""
    begin = clock()
    result = call()
    return clock() - begin, result


def spent(
    call: Callable[[], Any], cpu: Clock = time.process_time
) -> tuple[Record, Any]:
    """The seconds of a call, of the clock and of all cores together, and its result."""
    begin = cpu()
    seconds, result = timed(call)
    return {"seconds": seconds, "cpu": cpu() - begin}, result


def repeated(call: Callable[..., Any], *arguments: Any) -> Callable[[int], None]:
    """A function that makes a call so many times."""

    def run(n: int) -> None:
        for _ in range(n):
            call(*arguments)

    return run
