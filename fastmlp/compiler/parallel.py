"""`prange` loops: which thread runs an iteration, and who shares them.

Two compilers take the same text. The translator gives a loop to the team whose address is the
kernel's argument `team`: its body becomes a function of (names that it reads, first, last, thread).
Numba gives it to Numba's threads.
"""

from collections.abc import Callable
from typing import Any

import numba
from numba import prange

from fastmlp.compiler.denormals import flush_denormals, restore_denormals

__all__ = ["flushed", "prange", "restored", "thread_number"]

Spread = Callable[[Any, Any, Any, Any], None]
_runtime: list[Spread] = []


def runtime(spread: Spread) -> Spread:
    """Have translated loops call ``spread(team, body, n, environment)``."""
    _runtime[:] = [spread]
    return spread


def spread() -> Any:
    """Return the function that shares a translated loop, uncompiled."""
    return getattr(_runtime[0], "py_func", _runtime[0])


def thread_number() -> Any:
    """Return the number of the thread that runs an iteration of a `prange` loop, from 0; 0 outside.

    No two threads of a loop have the same: each may have buffers of its own.
    """
    return 0


def flushed() -> Any:
    """Flush denormals in an iteration that a thread of Numba runs, and return its mode before.

    The threads of a team have flushed theirs: of translated code it takes nothing.
    """
    return 0


def restored(mode: Any) -> None:
    """Go back to the mode that `flushed` returned."""


@numba.extending.overload(thread_number)
def _thread_number() -> Any:
    return lambda: numba.get_thread_id()


@numba.extending.overload(flushed)
def _flushed() -> Any:
    return lambda: flush_denormals()


@numba.extending.overload(restored)
def _restored(mode: Any) -> Any:
    def restore(mode: Any) -> Any:
        restore_denormals(mode)

    return restore
