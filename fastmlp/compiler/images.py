"""Images: machine code that runs wherever it lies, loaded without LLVM.

An image is one piece of code and constants that refers to itself by distances alone. Slots in it
take the addresses of the few functions that it calls, by their names in the process: C's `memset`,
and functions of Python's. It lies in memory of no file, so a disk without permission to execute
does not matter, and children of a fork share it.

Images are for Linux on x86-64. Elsewhere what is stored is an object of LLVM's, which LLVM loads.
"""

import ctypes
import mmap
import platform
import sys
from collections.abc import Mapping
from typing import Any

LOADS = sys.platform == "linux" and platform.machine() == "x86_64" and sys.maxsize > 1 << 32
# Memory of code, which is never freed, as addresses of blocks are kept in many places.
_kept: list[mmap.mmap] = []


def executable(code: bytes, slots: Mapping[str, int] | None = None) -> int:
    """Return the address of a copy of an image that can be executed, and not be written.

    Parameters
    ----------
    slots : of each function that the image calls, where its address goes
    """
    memory = mmap.mmap(-1, len(code), mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory.write(code)
    for name, offset in (slots or {}).items():
        memory[offset : offset + 8] = address_of(name).to_bytes(8, "little")
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    protect = ctypes.CDLL(None, use_errno=True).mprotect
    place, size = ctypes.c_void_p(address), ctypes.c_size_t(len(code))
    if protect(place, size, mmap.PROT_READ | mmap.PROT_EXEC):
        raise OSError(ctypes.get_errno(), "the system does not allow to execute code in memory")
    _kept.append(memory)
    return address


def address_of(name: str) -> int:
    """Return the address of a function of C's or Python's."""
    for library in (ctypes.pythonapi, ctypes.CDLL(None)):
        function: Any = getattr(library, name, None)
        if function is not None:
            return ctypes.cast(function, ctypes.c_void_p).value or 0
    raise OSError(f"the process has no function {name}")
