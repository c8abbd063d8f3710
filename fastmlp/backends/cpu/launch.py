"""How a call is launched: on one thread or on several, and on how many.

Serial: below a threshold of work, on one thread, on Numba's workqueue layer (which aborts the
process where two Python threads enter, and costs 80 us a launch), and in a process forked after a
parallel launch (where GNU OpenMP kills the child and hangs the grandchild).
"""

import importlib
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import numba

# On two cores serial is ahead at 7 MFLOP a step (188 us against 250) and behind at 78 (1117 against
# 825). Where another process keeps a core busy, a spinning thread waits a time slice at each join:
# too low a threshold then costs far more than too high a one.
PARALLEL_FLOPS = 10_000_000
POOLS = {"tbb": "tbbpool", "omp": "omppool", "workqueue": "workqueue"}
CHOICES = {"threadsafe": ("tbb", "omp"), "forksafe": ("tbb", "workqueue"), "safe": ("tbb",)}

_state = {"forked": False}


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


@cache
def _cgroup_cpus() -> int:
    """Return the CPUs that the control group may use, rounded up; many where it sets no limit."""
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return -(-int(quota) // int(period))
    except (OSError, ValueError):
        return 1 << 16


def _after_fork() -> None:
    """Remember a fork after anybody, another library too, has started Numba's threads."""
    pool = sys.modules.get("numba.np.ufunc.parallel")
    _state["forked"] = _state["forked"] or bool(getattr(pool, "_is_initialized", False))


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
