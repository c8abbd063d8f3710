"""Memory that ends at a protected page: an access to the next byte crashes."""

import ctypes
import mmap


def memory_with_an_edge() -> tuple[mmap.mmap, int, int]:
    """Return the memory, where its last byte that may be touched ends, and how many there are."""
    page = mmap.PAGESIZE
    memory = mmap.mmap(-1, 2 * page)
    begin = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    protect = ctypes.CDLL(None, use_errno=True).mprotect
    protect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    assert protect(begin + page, page, 0) == 0
    return memory, begin + page, page
