"""Marks and endings of fits, work of many threads,
memory that calls take, memory with an edge.
"""

import ctypes
import gc
import mmap
import os
import signal
import threading
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fastmlp.compiler.jit import INTERPRETED
from fastmlp.model import core_of

needs_compiler = pytest.mark.skipif(
    INTERPRETED, reason="NUMBA_DISABLE_JIT is set: too slow"
)
# Fits of a few epochs on purpose.
unconverged = pytest.mark.filterwarnings(
    "ignore::sklearn.exceptions.ConvergenceWarning"
)


def state_of(net: Any) -> tuple[Any, ...]:
    """What a net's next steps depend on; state of zeros is as good as none."""
    state = core_of(net).state
    slots = state.slots()
    generator = state.generator
    kept = None if slots is None or not slots.any() else slots.tobytes()
    drawn = None if generator is None else generator.bit_generator.state
    return net.parameters.tobytes(), net.n_steps, kept, drawn


class Cut(Exception):
    """What ends a fit that is cut."""


def cut_after(epoch: int) -> Callable[[Any], None]:
    """A callback that ends a fit after an epoch."""

    def callback(report: Any) -> None:
        if report.epoch == epoch:
            raise Cut

    return callback


def killed_after(epoch: int, work: Callable[[Callable[[Any], None]], Any]) -> None:
    """Do work with a callback,
    in a forked child that the callback kills after an epoch.
    """

    def kill(report: Any) -> None:
        if report.epoch == epoch:
            os.kill(os.getpid(), signal.SIGKILL)

    process = os.fork()
    if process == 0:
        try:
            signal.alarm(100)
            work(kill)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == -signal.SIGKILL


def in_threads(work: Callable[[int], Any], n: int = 8) -> list[Any]:
    """Return what n threads make of their numbers; raise what one of them raises."""
    results: list[Any] = [None] * n
    errors: list[BaseException] = []
    start = threading.Barrier(n)

    def run(i: int) -> None:
        start.wait()
        try:
            results[i] = work(i)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(i,)) for i in range(n)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return results


def kept_by(call: Callable[[], object]) -> int:
    """Return the bytes of Python and NumPy that the call leaves."""
    gc.collect()
    tracemalloc.start()
    try:
        call()
        gc.collect()
        return tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()


def peak_of(call: Callable[[], object]) -> int:
    """Return the most bytes that it has of Python and NumPy,
    beside what was there before.
    """
    gc.collect()
    tracemalloc.start()
    try:
        call()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def peak_of_process() -> int:
    """Return the most bytes that this process has had in memory,
    where there is a /proc.

    The peak of getrusage begins at that of the process that has started this one.
    """
    return _told("VmHWM:")


def bytes_of_process() -> int:
    """Return the bytes that this process has in memory now, where there is a /proc."""
    return _told("VmRSS:")


def _told(field: str) -> int:
    return 1024 * int(Path("/proc/self/status").read_text().split(field)[1].split()[0])


def memory_with_an_edge() -> tuple[mmap.mmap, int, int]:
    """Return the memory, where its last byte that may be touched ends,
    and how many there are.
    """
    page = mmap.PAGESIZE
    memory = mmap.mmap(-1, 2 * page)
    begin = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    protect = ctypes.CDLL(None, use_errno=True).mprotect
    protect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    assert protect(begin + page, page, 0) == 0
    return memory, begin + page, page
