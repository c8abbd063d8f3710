"""`prange` loops: the function that shares a loop among threads, and a thread's number.

Two compilers take the same text. The translator turns a loop's body into a function of (names that
it reads, first, last, thread) for the team at the address `team`, the kernel's first argument.
Numba runs the loop on its own threads.
"""

from collections.abc import Callable
from typing import Any

import numba
from numba import prange

from fastmlp.compiler.intrinsics import flush_denormals, restore_denormals

__all__ = ["flushed", "prange", "restored", "thread_number"]

ShareLoop = Callable[[Any, Any, Any, Any], None]
_runtime: list[ShareLoop] = []


def runtime(share_loop: ShareLoop) -> ShareLoop:
    """Register the function that a translated loop calls: ``(team, body, n, environment)``."""
    _runtime[:] = [share_loop]
    return share_loop


def share_loop() -> Any:
    """Return the registered function, uncompiled."""
    return getattr(_runtime[0], "py_func", _runtime[0])


def thread_number() -> Any:
    """Return the number of the thread that runs an iteration of a `prange` loop, from 0; 0 outside.

    The threads of a loop have different numbers: each may have buffers of its own.
    """
    return 0


def flushed() -> Any:
    """Flush denormals in an iteration that a thread of Numba runs; return its previous mode.

    It does nothing in translated code: the threads of a team flush denormals when they enter.
    """
    return 0


def restored(mode: Any) -> None:
    """Restore the mode that `flushed` returned."""


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
