"""A contestant's process, which is stopped except while it answers a request."""

import ctypes
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

from benchmarks.output import ROOT
from benchmarks.peers import PEERS
from benchmarks.scores import Record

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
HOLDS = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE", "MKL_ENABLE_INSTRUCTIONS", "ONEDNN_MAX_CPU_ISA")
LIMIT_SECONDS = 900
# Cores first: pools take their size from them when they are imported.
WORK = (
    "from benchmarks.contestant import bind; bind({}); from benchmarks.worker import main; main()"
)


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
        "PYTHONPATH": os.pathsep.join([str(checkout), os.environ.get("PYTHONPATH", "")]),
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
        preload = {"LD_PRELOAD": mkl_shim()} if shim and "torch" in PEERS[name].needs else {}
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
        """The contestant's name for people."""
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
        """End the process."""
        if self.process.poll() is None:
            self._signal(signal.SIGKILL)
        self.process.wait()
        for file in (self.requests, self.replies, self.log):
            file.close()

    def last_line(self) -> str:
        """The last line of the process's stderr."""
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
