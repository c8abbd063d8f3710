"""Thread limits: how many threads a call may use,
and where a parallel region of Numba's is safe.

Only kernels that Numba compiles open regions. Numba's workqueue layer aborts the
process if two Python threads enter. In a process forked after a region, GNU OpenMP
kills the child and hangs the grandchild.
"""

import ctypes
import importlib
import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from types import ModuleType

from fastmlp._process.memory import immortal
from fastmlp.compiler.jit import setting

POOLS = {"tbb": "tbbpool", "omp": "omppool", "workqueue": "workqueue"}
CHOICES: dict[str, tuple[str, ...]] = {
    "threadsafe": ("tbb", "omp"),
    "forksafe": ("tbb", "workqueue"),
    "safe": ("tbb",),
}

_state = {"forked": False}


class Busy(ctypes.Structure):
    """Threads in use, in memory that compiled calls read and write.

    Attributes
    ----------
    reserved : by Python's calls, changed under the lock alone
    leading : compiled calls that may share their work, changed by atomic additions alone
    """

    _fields_ = (("reserved", ctypes.c_int64), ("leading", ctypes.c_int64))


busy = immortal(Busy())
# Reentrant: a signal's handler may ask while this thread holds it.
_lock = threading.RLock()


def threading_layer() -> str:
    """The layer that Numba uses or would use: tbb, omp or workqueue."""
    import numba

    try:
        return numba.threading_layer()
    except ValueError:
        layer = numba.config.THREADING_LAYER
        priority = numba.config.THREADING_LAYER_PRIORITY
        for name in CHOICES.get(layer, priority if layer == "default" else (layer,)):
            if _present(name):
                return name
        return "workqueue"


def thread_limit() -> int:
    """The most threads to use, by affinity, cgroup quota and NUMBA_NUM_THREADS;
    in a task of Dask's its share of them.
    """
    most = min(numbas_threads(), _cgroup_cpus())
    # Not imported: a worker of Dask's has it. 0.2 us, 0.04 without.
    worker = sys.modules.get("distributed.worker")
    return max(1, most if worker is None else _in_dask_task(worker, most))


def _in_dask_task(module: ModuleType, most: int) -> int:
    """In a thread of Dask's tasks, the task's share of the threads; elsewhere all.

    Dask sets OMP_NUM_THREADS to 1 in its workers' processes,
    as a machine may have several, and libraries would use all cores in each.
    """
    running = getattr(module.thread_state, "execution_state", None)
    if running is None:
        return most
    setting = os.environ.get("OMP_NUM_THREADS", "")
    if setting.isdecimal():
        return min(most, int(setting))
    return most // running["worker"].state.nthreads


def free_threads(limit: int) -> int:
    """Threads that `reserved` would give now to a call that wants `limit`."""
    used = busy.reserved + busy.leading
    if used:
        return max(1, min(limit, max(thread_limit(), limit) - used))
    return limit


def parallel_is_safe() -> bool:
    return not _state["forked"] and threading_layer() != "workqueue"


class reserved:
    """Reserves threads for a call: those wanted, less those in use by other calls.

    `contextmanager` would take 1 us more than a class. `__del__` gives the threads back
    if an interrupt came as the context was entered or left: 39 of 13,000 interrupts in
    short calls left the process with fewer threads for good.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._n = 0

    def __enter__(self) -> int:
        try:
            with _lock:
                n = free_threads(self._most)
                busy.reserved += n
                self._n = n
        except BaseException:  # Ctrl-C, as the lock is given back: no __exit__ follows
            self.__exit__()
            raise
        return n

    def __exit__(self, *_: object) -> None:
        with _lock:
            busy.reserved -= self._n
            self._n = 0

    def __del__(self) -> None:
        if self._n:
            self.__exit__()


@contextmanager
def threads(n: int) -> Iterator[None]:
    """Set Numba's number of threads inside; restore the calling thread's after."""
    import numba

    before = numba.get_num_threads()
    numba.set_num_threads(min(n, numbas_threads()))
    try:
        yield
    finally:
        numba.set_num_threads(before)


def _present(layer: str) -> bool:
    try:
        importlib.import_module(f"numba.np.ufunc.{POOLS[layer]}")
    except (ImportError, KeyError):
        return False
    return True


def numbas_threads() -> int:
    """NUMBA_NUM_THREADS, or the number of cores that this process may use."""
    number: int = setting("NUMBA_NUM_THREADS", _cpus())
    return number


@cache
def _cpus() -> int:
    affinity = getattr(os, "sched_getaffinity", None)
    if affinity:
        return len(affinity(0))
    return os.cpu_count() or 1


@cache
def _cgroup_cpus() -> int:
    """CPUs of the control group's quota, rounded up; many without a quota."""
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return -(-int(quota) // int(period))
    except (OSError, ValueError):
        return 1 << 16


def after_fork(renew: Callable[[], None]) -> None:
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=renew)


def _remember_fork() -> None:
    """Note that this is a forked child, if Numba's threads ran before, for any library.

    A thread of the parent that starts them at that moment holds a lock of Numba's,
    so the child has another one.
    """
    global _lock
    pool = sys.modules.get("numba.np.ufunc.parallel")
    held = getattr(pool, "_backend_init_thread_lock", None)
    starting = held is not None and not held.acquire(blocking=False)
    if held is not None:
        pool.__dict__["_backend_init_thread_lock"] = threading.RLock()
    launched = starting or bool(getattr(pool, "_is_initialized", False))
    _state["forked"] = _state["forked"] or launched
    _lock = threading.RLock()
    busy.reserved = busy.leading = 0


after_fork(_remember_fork)
