"""Memory: how much is available, and buffers for reuse by later calls.

Linux grants more memory than it has, and kills the process that then writes to it.
"""

import contextlib
import ctypes
import os
from collections.abc import Hashable
from pathlib import Path
from typing import Any, TypeVar

# Smaller sizes are not checked: a check takes 0.1 ms.
UNCHECKED_BYTES = 1 << 27
UNITS = ("bytes", "KB", "MB", "GB", "TB", "PB", "EB")
CGROUP = Path("/sys/fs/cgroup")
T = TypeVar("T")


def require(n_bytes: int, who: str, what: str) -> None:
    """Raise a MemoryError, with caller, sizes and purpose,
    if the bytes cannot be allocated.
    """
    if n_bytes <= UNCHECKED_BYTES:
        return
    most = available()
    if most is not None and n_bytes > most:
        raise MemoryError(
            f"{who}: {what} needs {readable(n_bytes)}, and {readable(most)} are "
            f"available"
        )


def available() -> int | None:
    """Bytes that the process can still allocate; None: unknown."""
    limits = [
        n for n in (_machine(), _control_group(), _address_space()) if n is not None
    ]
    return max(0, min(limits)) if limits else None


def _machine() -> int | None:
    with contextlib.suppress(OSError, KeyError, ValueError):
        fields = _table(Path("/proc/meminfo"))
        return (fields["MemAvailable:"] + fields["SwapFree:"]) * 1024
    with contextlib.suppress(OSError, ValueError, AttributeError):
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return None


def _control_group() -> int | None:
    """Bytes that the control group may still use; cached file pages count as free."""
    with contextlib.suppress(OSError, KeyError, ValueError):
        limit = int((CGROUP / "memory.max").read_text())
        used = int((CGROUP / "memory.current").read_text())
        return limit - used + _table(CGROUP / "memory.stat")["file"]
    return None


def _address_space() -> int | None:
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource

        limit, _ = resource.getrlimit(resource.RLIMIT_AS)
        if limit != resource.RLIM_INFINITY:
            pages = int(Path("/proc/self/statm").read_text().split()[0])
            return limit - pages * resource.getpagesize()
    return None


def _table(path: Path) -> dict[str, int]:
    rows = (line.split() for line in path.read_text().splitlines())
    return {row[0]: int(row[1]) for row in rows if len(row) > 1}


def readable(n_bytes: int) -> str:
    number = float(n_bytes)
    unit = 0
    while number >= 1000 and unit < len(UNITS) - 1:
        number = number / 1000
        unit = unit + 1
    return f"{number:,.3g} {UNITS[unit]}"


# The most objects that are kept: as many threads may make the same call at once.
MOST_BUFFERS = 8
# The most entries of a table whose keys are numbers of rows.
MOST_ENTRIES = 512


def keep(table: dict[Any, Any], key: Hashable, value: T) -> T:
    """Keep a value in a table, which is emptied first if it is full."""
    if len(table) >= MOST_ENTRIES:
        table.clear()
    table[key] = value
    return value


def immortal(thing: T) -> T:
    """Keep an object until the process ends,
    after the interpreter has cleared its modules.
    """
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(thing))
    return thing


class BufferPool:
    """A thread-safe pool of large buffers for reuse; the oldest is evicted first.

    Parameters
    ----------
    most : bytes of all buffers together
    at_most : number of buffers
    """

    def __init__(self, most: int, at_most: int = MOST_BUFFERS) -> None:
        self._most = most
        self._at_most = at_most
        self._things: dict[int, tuple[Any, Any, int]] = {}

    def take(self, key: Hashable) -> Any:
        for name, (stored_key, thing, _) in list(self._things.items()):
            # Popping is one step: no two threads take the same buffer.
            if stored_key == key and self._things.pop(name, None) is not None:
                return thing
        return None

    def give(self, key: Hashable, thing: Any, n_bytes: int = 0) -> None:
        """Keep a buffer, unless it is larger than the pool."""
        if n_bytes > self._most:
            return
        self._things[id(thing)] = key, thing, n_bytes
        # Without bytes the sum, 0.8 us, stays.
        while len(self._things) > self._at_most or (
            n_bytes and self.n_bytes > self._most
        ):
            for oldest in list(self._things)[:1]:
                self._things.pop(oldest, None)

    def drop(self, thing: Any) -> bool:
        """Return False if the buffer is not in the pool."""
        return self._things.pop(id(thing), None) is not None

    @property
    def n_bytes(self) -> int:
        return sum(n_bytes for _, _, n_bytes in list(self._things.values()))

    def clear(self) -> None:
        self._things.clear()


class FreeList(BufferPool):
    """A pool of few objects that are slow to make,
    of any size; its copies are empty.
    """

    def __init__(self) -> None:
        super().__init__(0)

    def __reduce__(self) -> Any:
        return FreeList, ()
