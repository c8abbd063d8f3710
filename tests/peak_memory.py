"""How much memory a call takes at a time, and a process."""

import gc
import tracemalloc
from collections.abc import Callable
from pathlib import Path


def peak_of(call: Callable[[], object]) -> int:
    """Return the most bytes that it has of Python and NumPy, beside what was there before."""
    gc.collect()
    tracemalloc.start()
    try:
        call()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def peak_of_process() -> int:
    """Return the most bytes that this process has had in memory, where there is a /proc.

    The peak of getrusage begins at that of the process that has started this one.
    """
    return _told("VmHWM:")


def bytes_of_process() -> int:
    """Return the bytes that this process has in memory now, where there is a /proc."""
    return _told("VmRSS:")


def _told(field: str) -> int:
    return 1024 * int(Path("/proc/self/status").read_text().split(field)[1].split()[0])
