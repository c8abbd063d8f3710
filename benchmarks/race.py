"""Contestants in turns, each in a process of its own that is stopped between its turns."""

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
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.machine import versions
from benchmarks.output import ROOT
from benchmarks.peers import PEERS, Unsupported, load
from benchmarks.scores import Comparison, Record, counted, failed
from benchmarks.workloads import Workload, sized

PR_SET_PDEATHSIG = 1
# glibc keeps freed memory, as the allocators do that PyTorch's guide to tuning names. Else what one
# step's large arrays take is given back, and faulted in again for the next: 2.6 ms a step of
# 4-32-16-4 at 10,000 rows by PyTorch, and 1.1 with this.
HEAP = {
    "MALLOC_MMAP_THRESHOLD_": str(2**32),
    "MALLOC_TRIM_THRESHOLD_": str(2**33),
    "MALLOC_TOP_PAD_": str(2**26),
}
# Settings that hold a library to the kernels of another processor: on one with AVX-512, OpenBLAS's
# for Haswell reach half of its own rate.
HOLDS = (
    "OPENBLAS_CORETYPE",
    "OPENBLAS_L2_SIZE",
    "MKL_ENABLE_INSTRUCTIONS",
    "ONEDNN_MAX_CPU_ISA",
)
LIMIT_SECONDS = 900
# A turn has at most so many times the calls by which their number was found.
MOST_LONGER = 8
# Cores first: pools take their size from them when they are imported.
WORK = "from benchmarks.race import bind, main; bind({}); main()"


def program(code: str) -> str:
    """A program that runs code with these benchmarks, and with the fastmlp of the checkout that it
    is started in, which may have benchmarks of its own."""
    here = f"import sys; sys.path.insert(0, {str(ROOT)!r}); import benchmarks; del sys.path[0]"
    return f"{here}; {code}"


def environment(n_threads: int, checkout: Path = ROOT) -> dict[str, str]:
    """An environment in which every thread pool has n_threads, nothing holds a library back, and
    fastmlp is that of a checkout."""
    pools = ("OMP_NUM", "MKL_NUM", "OPENBLAS_NUM", "NUMBA_NUM", "VECLIB_MAXIMUM")
    sizes = {f"{pool}_THREADS": str(n_threads) for pool in pools}
    eigen = "true" if n_threads > 1 else "false"
    return {
        **{name: value for name, value in os.environ.items() if name not in HOLDS},
        **sizes,
        **HEAP,
        "XLA_FLAGS": f"--xla_cpu_multi_thread_eigen={eigen}",
        "JAX_PLATFORMS": "cpu",
        "TORCHINDUCTOR_COMPILE_THREADS": "1",
        "PYTHONPATH": os.pathsep.join(
            [str(checkout), os.environ.get("PYTHONPATH", "")]
        ),
    }


@cache
def mkl_shim() -> str:
    """The path of a new library that has MKL take its fast paths on any maker's processor."""
    folder = Path(tempfile.mkdtemp())
    source, library = folder / "shim.c", folder / "shim.so"
    source.write_text("int mkl_serv_intel_cpu_true(void) { return 1; }\n")
    subprocess.run(["cc", "-shared", "-fPIC", "-o", library, source], check=True)
    return str(library)


def bind(n_threads: int) -> None:
    """In the child: its cores, from which pools take their size, and an end with its parent's."""
    if sys.platform == "linux":
        os.sched_setaffinity(0, cores_first()[:n_threads])
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def cores_first() -> list[int]:
    """The processors that may be used, one of each core before the second of any."""
    seen: Counter[str] = Counter()
    ranked = []
    for cpu in sorted(os.sched_getaffinity(0)):
        path = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list")
        core = path.read_text() if path.exists() else str(cpu)
        ranked.append((seen[core], cpu))
        seen[core] += 1
    return [cpu for _, cpu in sorted(ranked)]


class Contestant:
    """A worker process that is stopped (SIGSTOP) between requests, so that no idle pool spins.

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
        self.name, self.n_threads, self.shim, self.idle_cpu = name, n_threads, shim, 0.0
        self.log = tempfile.TemporaryFile("w+")  # noqa: SIM115
        preload = (
            {"LD_PRELOAD": mkl_shim()} if shim and "torch" in PEERS[name].needs else {}
        )
        compiled = {"NUMBA_CACHE_DIR": str(cache)} if cache else {}
        self.process = subprocess.Popen(
            [sys.executable, "-c", program(WORK.format(n_threads)), name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log,
            cwd=checkout,
            env={**environment(n_threads, checkout), **preload, **compiled},
            text=True,
            start_new_session=True,
        )
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.requests, self.replies = self.process.stdin, self.process.stdout
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
        try:
            self.requests.write(json.dumps({"verb": verb, **options}) + "\n")
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

    def twin(self) -> "Contestant":
        """Another process of the same contestant."""
        return Contestant(self.name, self.n_threads, shim=self.shim)

    def close(self) -> None:
        if self.process.poll() is None:
            self._signal(signal.SIGKILL)
        self.process.wait()
        for file in (self.requests, self.replies, self.log):
            file.close()

    def last_line(self) -> str:
        self.log.seek(0)
        return (self.log.read().strip().splitlines() or ["no output"])[-1]

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
    fields = stat.read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class Worker:
    """The contestant's module, and the work of a part that it has made last.

    Attributes
    ----------
    work : a part's `Work(worker, **request)`; it has `about`, and `turn(**request)`, which is timed
    """

    def __init__(self, name: str) -> None:
        self.name, self.module = name, load(name)
        self.work: Any = None
        self.clock = time.perf_counter

    def about(self) -> Record:
        if hasattr(self.module, "about"):
            return {"about": self.module.about()}
        numbers = versions(PEERS[self.name].needs)
        return {
            "about": ", ".join(f"{name} {number}" for name, number in numbers.items())
        }

    def folder(self) -> Record:
        """The folder that fastmlp was imported from."""
        return {"folder": str(Path(import_module("fastmlp").__file__ or "").parents[1])}

    def count_cpu_time(self) -> Record:
        """Time all later turns by the CPU time of this process, which others disturb less."""
        self.clock = time.process_time
        return {}

    def make(self, part: str, **request: Any) -> Record:
        """Make the work of a part, in the place of the last; the reply describes it."""
        self.work = None
        self.work = import_module(f"benchmarks.{part}").Work(self, **request)
        about: Record = self.work.about
        return about

    def turn(self, **request: Any) -> Record:
        reply: Record = self.work.turn(**request)
        return reply

    def drop(self) -> Record:
        self.work = None
        return {}


def answer(worker: Worker, line: str) -> Record:
    """The reply to a request, or the error that it raised."""
    request = json.loads(line)
    try:
        return getattr(worker, request.pop("verb"))(**request)
    except Unsupported as reason:
        return {"unsupported": str(reason)}
    except Exception as error:
        traceback.print_exc()
        text = str(error).strip().splitlines() or [""]
        return {"error": f"{type(error).__name__}: {text[0][:200]}"}


def main() -> None:
    """Answer until the pipe closes; output of libraries goes to stderr."""
    replies = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    warnings.simplefilter("ignore")
    worker = Worker(sys.argv[1])
    for line in sys.stdin:
        replies.write(json.dumps(answer(worker, line)) + "\n")


Say = Callable[[str], None]
Clock = Callable[[], float]
# The reason that work is left out which would begin after `Race.until`.
OVER = "the time was over"
# A later pass keeps the variant that the first has chosen, and how long a turn is.
KEPT = ("variant", "tried", "first_seconds", "loss", "epoch_seconds")


class Race(NamedTuple):
    """Contestants, and how much of their work is measured.

    Attributes
    ----------
    names : parts of names of the workloads that take part; None: all
    repeats : turns of each contestant
    workload_seconds : bounds the turns of one workload; preparing comes on top
    quick : few rows, first variants only
    twins : second processes of those that train in mixed precision, too
    trial_seconds : no further variant of a contestant is tried after them
    until : by `time.perf_counter`; no work is begun later, and turns end, but two of each
    """

    contestants: Sequence[Any]
    names: Sequence[str] | None
    repeats: int
    workload_seconds: float
    quick: bool
    say: Say
    twins: Sequence[Any] = ()
    trial_seconds: float = math.inf
    until: float = math.inf

    @property
    def is_over(self) -> bool:
        """Return True if no more work is to begin."""
        return time.perf_counter() > self.until

    def asked_for(self, name: str) -> bool:
        """Return True if a workload's name contains one of the parts, or there are none."""
        return asked_for(name, self.names)

    def only(self, names: Iterable[str]) -> "Race":
        """The race of the contestants of these names."""
        names = set(names)
        return self._replace(
            contestants=[c for c in self.contestants if c.name in names]
        )

    def take_turns(
        self,
        part: str,
        entries: Iterable[tuple[Any, Record, Record]],
        turn: Callable[[Any, Record], None],
        most: int | None = None,
    ) -> None:
        """Have contestants make the work of a part, then have those that could take turns.

        Parameters
        ----------
        entries : contestants, their records, which get their replies, and requests for the work
        most : of turns of each
        """
        ready = []
        for contestant, record, request in entries:
            if failed(record):
                continue
            reply = self.prepared(contestant, part, request)
            record |= {**reply, **{key: record[key] for key in KEPT if key in record}}
            ready += [] if failed(reply) else [(contestant, record)]
        self.rounds(ready, turn, min(self.repeats, most or self.repeats))

    def rounds(
        self, entries: Sequence[Any], turn: Callable[..., None], n: int | None = None
    ) -> None:
        """Call `turn` with each entry in each round, of as many as there are repeats."""
        in_turns(
            entries, n or self.repeats, turn, seconds=self.until - time.perf_counter()
        )

    def prepared(self, contestant: Any, part: str, request: Record) -> Record:
        if self.is_over:
            return {"unsupported": OVER}
        shown = [
            value
            for value in request.values()
            if value and not isinstance(value, float)
        ]
        what = ", ".join([part, *map(str, shown)])
        self.say(
            f"{what}: preparing {contestant.title}, {counted(contestant.n_threads)}"
        )
        reply: Record = contestant.ask("make", part=part, quick=self.quick, **request)
        return reply

    def train(
        self,
        entries: Sequence[tuple[Any, Workload]],
        earlier: list[Record] | None = None,
    ) -> list[Record]:
        """Seconds of a step by turn, or why there are none, of each contestant's workload.

        All workloads have the same number of steps. With the records of an earlier pass, the turns
        go on with the same variants.
        """
        known = {
            (r["contestant"], r["threads"], r["workload"]): r for r in earlier or ()
        }
        records = [
            known.get((c.name, c.n_threads, w.name))
            or key_of(c, workload=w.name, step_seconds=[])
            for c, w in entries
        ]
        first = sized(entries[0][1], self.quick)
        turn_seconds = self.workload_seconds / (self.repeats * len(entries))

        def turn(contestant: Any, record: Record) -> None:
            n = max(1, int(min(max(turn_seconds, 0.02), 0.5) / record["epoch_seconds"]))
            add(record["step_seconds"], contestant.ask("turn", n=n), n * first.n_steps)

        tried_for = self.trial_seconds
        works = [
            (
                c,
                r,
                {
                    "workload": w.name,
                    "variant": r.get("variant"),
                    "trial_seconds": tried_for,
                },
            )
            for (c, w), r in zip(entries, records, strict=True)
        ]
        self.take_turns("training", works, turn)
        return records

    def ways(
        self, part: str, seconds: float, *, fewest: int = 1, **request: Any
    ) -> list[Record]:
        """Seconds a unit by turn, of each contestant and each of its ways, which a reply names.

        A call has one unit, or as many as the reply says.

        Parameters
        ----------
        seconds, fewest : the time of a turn, and the calls that it has at least
        request : goes to the work of the part, and into the records
        """
        entries: list[tuple[Any, Record, int]] = []
        failures = []
        for contestant in self.contestants:
            reply = self.prepared(contestant, part, request)
            for way, facts in reply.get("ways", {}).items():
                record = key_of(contestant, way=way, seconds=[], **request, **facts)
                unit = seconds / facts.get("units", 1)
                entries.append(
                    (contestant, record, calls_in(contestant, way, unit, fewest))
                )
            if failed(reply):
                failures.append(key_of(contestant, seconds=[], **request, **reply))

        def turn(contestant: Any, record: Record, calls: int) -> None:
            add(
                record["seconds"],
                contestant.ask("turn", name=record["way"], calls=calls),
            )

        self.rounds(entries, turn)
        return [*(record for _, record, _ in entries), *failures]


class Part(NamedTuple):
    """A part of `compare`, as its list of parts has it.

    Attributes
    ----------
    name, key : on the command line, and of its results
    measure : from a race and the results of an earlier pass to those of both
    table : from all results and a number of threads to the lines of its page, which the terminal
        shows too; before them the terminal shows those of `lines`
    page : several parts may share one; None: the terminal alone shows it
    kind : of its results: a list of records, or a dict of such lists
    repeated : True if a second pass is made, minutes later
    draw : writes the pictures of its page from all results; None: it has none
    compared : from all results and a number of threads to comparisons with the fastest peer
    """

    name: str
    key: str
    measure: Callable[[Race, Any], Any]
    table: Callable[[Record, int], Iterable[str]] = lambda results, threads: ()
    page: Path | None = None
    lines: Callable[[Record], Iterable[str]] = lambda results: ()
    kind: type = list
    repeated: bool = False
    draw: Callable[[Record], None] | None = None
    compared: Callable[[Record, int], Iterable[Comparison]] = lambda results, threads: ()


def asked_for(name: str, parts: Sequence[str] | None) -> bool:
    """Return True if a name contains one of the parts, or there are none."""
    return not parts or any(part in name for part in parts)


def rotated(items: Sequence[Any], by: int) -> list[Any]:
    """The items, beginning with another one for each number: being first may be an advantage."""
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


def calls_in(contestant: Any, way: str, seconds: float, fewest: int = 1) -> int:
    """How many calls of a way, each of one unit, take about so many seconds.

    A cold call tells little: by the time of one, turns of small nets' steps lasted 3 ms for 50, and
    showed twice the time of a step. The first call may compile, so a turn is timed twice: by the
    time of one that compiled, each turn had one call, and showed three times the time of a step.
    """
    calls = fewest
    while True:
        replies = [contestant.ask("turn", name=way, calls=calls) for _ in range(2)]
        once = min(reply.get("seconds", seconds) for reply in replies)
        ideal = max(fewest, int(seconds / once))
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


def calls_in_turns(
    calls: Mapping[str, Callable[[], Any]],
    rounds: int,
    *,
    seconds: float = math.inf,
    clock: Clock = time.perf_counter,
) -> dict[str, list[float]]:
    """The seconds of calls, which take turns in this process, by name and turn."""
    times: dict[str, list[float]] = {name: [] for name in calls}

    def turn(name: str) -> None:
        times[name].append(timed(calls[name], clock)[0])

    in_turns([(name,) for name in calls], rounds, turn, seconds=seconds)
    return times


def repeated(call: Callable[..., Any], *arguments: Any) -> Callable[[int], None]:
    """A function that makes a call so many times."""

    def run(n: int) -> None:
        for _ in range(n):
            call(*arguments)

    return run


def key_of(contestant: Any, **more: Any) -> Record:
    """The beginning of a contestant's record."""
    return {"contestant": contestant.name, "threads": contestant.n_threads, **more}


def untimed(records: Iterable[Record]) -> list[Record]:
    """Records of training without their times: to go on with their variants."""
    return [{**record, "step_seconds": []} for record in records]


def add(times: list[float], reply: Record, units: int = 1) -> None:
    """Add the seconds a unit of a turn, if it has some."""
    times += [reply["seconds"] / units] if "seconds" in reply else []
