"""The one place for Numba's options.

No fastmath flag is set: products are fused by name (`fma`), sums run in the order that is written,
so the bits of a result do not depend on how LLVM vectorised or inlined a loop. error_model="numpy"
because a division by zero inside prange would otherwise return 0 in silence.
"""

import os
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import update_wrapper, wraps
from types import FunctionType
from typing import Any, TypeVar, overload

import numba
import numpy as np
from numba.core.compiler_lock import global_compiler_lock

from fastmlp._process import signals
from fastmlp.compiler.cache import CodeCache
from fastmlp.compiler.pipeline import Compiler

Function = TypeVar("Function", bound=Callable[..., Any])
INTERPRETED = bool(numba.config.DISABLE_JIT)
# The versions of Numba whose private parts the translator was tried with.
TRIED = (0, 65), (0, 69)


def chosen_compiler(asked: str, version: str) -> str:
    """Return who compiles the kernels, "translator" or "numba", as asked by FASTMLP_COMPILER.

    Raises
    ------
    ValueError
        Where something else is asked for.
    """
    if asked not in ("", "translator", "numba"):
        raise ValueError(f"FASTMLP_COMPILER must be 'translator' or 'numba', not {asked!r}")
    release = tuple(int(part) for part in version.split(".")[:2])
    return "translator" if asked != "numba" and TRIED[0] <= release < TRIED[1] else "numba"


COMPILER = chosen_compiler(os.environ.get("FASTMLP_COMPILER", ""), numba.__version__)
OPTIONS = {"nogil": True, "error_model": "numpy"}
# What a block is made of becomes part of it: LLVM leaves a long function a call where two places
# call it, and a loop with a call in it does not vectorise (mish in float64: 23 ns, inlined 4 ns).
INLINED = {"error_model": "numpy", "forceinline": True, "pipeline_class": Compiler}


@overload
def njit(function: Function) -> Function: ...
@overload
def njit(*, parallel: bool) -> Callable[[Function], Function]: ...
def njit(function: Any = None, *, parallel: bool = False) -> Any:
    """Compile a kernel or a function that kernels call: by the translator, or by Numba.

    A `parallel` kernel shares its `prange` loops. Its first argument is `team`: the address of the
    team's record, or 0 where the calling thread works alone. Numba's compilation uses the threads
    of Numba in place of a team, and two compilations: a parallel region of one thread still costs
    a launch.
    """
    if function is None:
        return _parallel if parallel else njit
    return numba.njit(**OPTIONS)(function)


def _alone(function: Any) -> Any:
    """Return the function with 0 for its thread's number: a call without a team uses the buffers of
    the first thread, also where a thread of a team makes it."""
    names = {**function.__globals__, "thread_number": _first_thread}
    what = function.__code__, names, function.__name__, function.__defaults__
    return update_wrapper(FunctionType(*what, function.__closure__), function)


@numba.njit
def _first_thread() -> int:
    return 0


def _parallel(function: Function) -> Function:
    if INTERPRETED:
        return function
    serial: Any = numba.njit(**OPTIONS)(_alone(function))
    shared: Any = numba.njit(**OPTIONS, parallel=True)(function)

    def kernel(team: Any, *arguments: Any) -> None:
        if team != 0:
            shared(team, *arguments)
        else:
            serial(team, *arguments)

    compiled: Any = numba.njit(**OPTIONS)(kernel)
    # What the translator reads.
    compiled.source = function
    return compiled


def kernel(
    name: str, *, nogil: bool = True, parallel: bool = False
) -> Callable[[Function], Function]:
    """Compile, on first call, a function that Python calls; store its code under `name`."""

    def compile_later(function: Function) -> Function:
        if INTERPRETED:
            # Compiled code never warns of an overflow.
            return np.errstate(all="ignore")(function)
        options = {**OPTIONS, "nogil": nogil, "parallel": parallel}
        compiled: Any = numba.njit(**options)(function)
        compiled._cache = CodeCache(name)
        compiled.compile = _whole(compiled.compile)
        return compiled

    return compile_later


def numbas_lock() -> AbstractContextManager[Any]:
    """Return the lock in which Numba compiles, taken in one step: by Numba's way, Ctrl-C could come
    after it was taken and before the block begins, and leave it taken for ever."""
    return getattr(global_compiler_lock, "_lock", None) or nullcontext()


def _whole(compile: Callable[..., Any]) -> Callable[..., Any]:
    """Have a compilation, or what loads its result, end before a signal's handler runs."""

    @wraps(compile)
    def compile_whole(*arguments: Any) -> Any:
        with numbas_lock(), signals.deferred():
            return compile(*arguments)

    return compile_whole
