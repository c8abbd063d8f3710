"""Whether there is room for what is about to be allocated.

Linux grants memory that it does not have, and kills the process that then writes to it; so sizes
are looked at before.
"""

import contextlib
import os
from pathlib import Path

# Not worth a look, which takes 0.1 ms.
SMALL = 1 << 27
UNITS = ("bytes", "KB", "MB", "GB", "TB", "PB", "EB")
CGROUP = Path("/sys/fs/cgroup")


def require(n_bytes: int, who: str, what: str) -> None:
    """Raise where so many bytes are more than the process can get.

    Raises
    ------
    MemoryError
        Naming who wanted how much for what, and how much there is.
    """
    if n_bytes <= SMALL:
        return
    most = available()
    if most is not None and n_bytes > most:
        raise MemoryError(
            f"{who}: {what} needs {readable(n_bytes)}, and {readable(most)} are available"
        )


def available() -> int | None:
    """Return how many bytes the process can still get; None where nothing tells."""
    told = [n for n in (_machine(), _control_group(), _address_space()) if n is not None]
    return max(0, min(told)) if told else None


def _machine() -> int | None:
    with contextlib.suppress(OSError, KeyError, ValueError):
        fields = _table(Path("/proc/meminfo"))
        return (fields["MemAvailable:"] + fields["SwapFree:"]) * 1024
    with contextlib.suppress(OSError, ValueError, AttributeError):
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return None


def _control_group() -> int | None:
    """What the control group may still take; pages of files are given back when need be."""
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
    """Read lines of a name and a number."""
    rows = (line.split() for line in path.read_text().splitlines())
    return {row[0]: int(row[1]) for row in rows if len(row) > 1}


def readable(n_bytes: int) -> str:
    """Return a number of bytes in three digits and a unit."""
    number, unit = float(n_bytes), 0
    while number >= 1000 and unit < len(UNITS) - 1:
        number, unit = number / 1000, unit + 1
    return f"{number:,.3g} {UNITS[unit]}"
