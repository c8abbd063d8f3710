"""On how many threads a call may run, and whether Numba's may be asked.

They may not on Numba's workqueue layer (which aborts the process where two Python threads enter,
and costs 80 us a launch), nor in a process forked after a parallel launch (where GNU OpenMP kills
the child and hangs the grandchild). Helpers are then Python threads.
"""

import ctypes
import importlib
import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

import numba

POOLS = {"tbb": "tbbpool", "omp": "omppool", "workqueue": "workqueue"}
CHOICES = {"threadsafe": ("tbb", "omp"), "forksafe": ("tbb", "workqueue"), "safe": ("tbb",)}

_state = {"forked": False, "busy": 0}
# A signal's handler may ask while this thread holds it.
_lock = threading.RLock()


def threading_layer() -> str:
    """Return the name of the layer that Numba uses, or would use: tbb, omp or workqueue."""
    try:
        return numba.threading_layer()
    except ValueError:
        wanted = numba.config.THREADING_LAYER
        priority = numba.config.THREADING_LAYER_PRIORITY
        for name in CHOICES.get(wanted, priority if wanted == "default" else (wanted,)):
            if _present(name):
                return name
        return "workqueue"


def thread_limit() -> int:
    """Return the most threads to use: affinity, cgroup quota and NUMBA_NUM_THREADS allowing."""
    return max(1, min(numba.config.NUMBA_NUM_THREADS, _cgroup_cpus()))


def parallel_is_safe() -> bool:
    """Whether a parallel kernel may be launched in this process."""
    return not _state["forked"] and threading_layer() != "workqueue"


class reserved:
    """A context that tells how many threads a call may use: those wanted, less what others use now.

    1 us sooner than `contextmanager` would make it. They are given back once, and by `__del__`
    where an interrupt came as it was entered or left: 39 of 13,000 in short calls, each of which
    left the process with fewer threads for good.
    """

    def __init__(self, wanted: int) -> None:
        self._wanted, self._n = wanted, 0

    def __enter__(self) -> int:
        wanted = self._wanted
        limit = max(thread_limit(), wanted)
        try:
            with _lock:
                n = max(1, min(wanted, limit - _state["busy"]))
                _state["busy"] += n
                self._n = n
        except BaseException:  # Ctrl-C, as the lock is given back: no __exit__ follows
            self.__exit__()
            raise
        return n

    def __exit__(self, *_: object) -> None:
        with _lock:
            _state["busy"] -= self._n
            self._n = 0

    def __del__(self) -> None:
        if self._n:
            self.__exit__()


@contextmanager
def threads(n: int) -> Iterator[None]:
    """Launch on `n` threads inside, and put the calling thread's number back after."""
    before = numba.get_num_threads()
    numba.set_num_threads(n)
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


def find_tbb() -> None:
    """Load TBB from where pip puts it, which no loader searches; Numba then finds it by name.

    It must be there before anybody asks Numba for threads.
    """
    for name in ("libtbb.so.12", "libtbb.12.dylib"):
        with suppress(OSError):
            ctypes.CDLL(str(Path(sys.prefix, "lib", name)), mode=ctypes.RTLD_GLOBAL)


@cache
def _cgroup_cpus() -> int:
    """Return the CPUs that the control group may use, rounded up; many where it sets no limit."""
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return -(-int(quota) // int(period))
    except (OSError, ValueError):
        return 1 << 16


def after_fork(renew: Callable[[], None]) -> None:
    """Have something renewed in every forked child."""
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=renew)


def _remember_fork() -> None:
    """Remember a fork after anybody, another library too, has started Numba's threads."""
    global _lock
    pool = sys.modules.get("numba.np.ufunc.parallel")
    _state["forked"] = _state["forked"] or bool(getattr(pool, "_is_initialized", False))
    _lock, _state["busy"] = threading.RLock(), 0


after_fork(_remember_fork)
find_tbb()
