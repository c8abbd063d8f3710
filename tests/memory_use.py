"""How much memory a call takes, and memory that ends at a protected page."""

import ctypes
import gc
import mmap
import tracemalloc
from collections.abc import Callable
from pathlib import Path


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


def memory_with_an_edge() -> tuple[mmap.mmap, int, int]:
    """Return the memory, where its last byte that may be touched ends, and how many there are."""
    page = mmap.PAGESIZE
    memory = mmap.mmap(-1, 2 * page)
    begin = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    protect = ctypes.CDLL(None, use_errno=True).mprotect
    protect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    assert protect(begin + page, page, 0) == 0
    return memory, begin + page, page
