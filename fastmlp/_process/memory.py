"""Check that memory is available before it is allocated.

Linux grants more memory than it has, and kills the process that then writes to it.
"""

import contextlib
import os
from pathlib import Path

# Bytes below which nothing is checked: a check takes 0.1 ms.
SMALL = 1 << 27
UNITS = ("bytes", "KB", "MB", "GB", "TB", "PB", "EB")
CGROUP = Path("/sys/fs/cgroup")


def require(n_bytes: int, who: str, what: str) -> None:
    """Check that the process can allocate so many bytes.

    Raises
    ------
    MemoryError
        If it cannot; the message names the caller, the sizes and the purpose.
    """
    if n_bytes <= SMALL:
        return
    most = available()
    if most is not None and n_bytes > most:
        raise MemoryError(
            f"{who}: {what} needs {readable(n_bytes)}, and {readable(most)} are available"
        )


def available() -> int | None:
    """Return how many bytes the process can still allocate, or None if that is unknown."""
    limits = [n for n in (_machine(), _control_group(), _address_space()) if n is not None]
    return max(0, min(limits)) if limits else None


def _machine() -> int | None:
    with contextlib.suppress(OSError, KeyError, ValueError):
        fields = _table(Path("/proc/meminfo"))
        return (fields["MemAvailable:"] + fields["SwapFree:"]) * 1024
    with contextlib.suppress(OSError, ValueError, AttributeError):
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return None


def _control_group() -> int | None:
    """Return the bytes that the control group may still use; cached file pages count as free."""
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
    """Return the numbers of a file with a name and a number on each line."""
    rows = (line.split() for line in path.read_text().splitlines())
    return {row[0]: int(row[1]) for row in rows if len(row) > 1}


def readable(n_bytes: int) -> str:
    """Return a number of bytes in three digits and a unit."""
    number, unit = float(n_bytes), 0
    while number >= 1000 and unit < len(UNITS) - 1:
        number, unit = number / 1000, unit + 1
    return f"{number:,.3g} {UNITS[unit]}"
