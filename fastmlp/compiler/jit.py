"""The jit options, the choice of the compiler, and Numba's own with full-width vectors."""

import os
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import update_wrapper, wraps
from types import FunctionType
from typing import Any, TypeVar, overload

import numba
import numpy as np
from numba.core.compiler import CompilerBase, DefaultPassBuilder
from numba.core.compiler_lock import global_compiler_lock
from numba.core.compiler_machinery import register_pass
from numba.core.lowering import Lower
from numba.core.typed_passes import NativeLowering

from fastmlp._process import signals
from fastmlp.compiler.cache import CodeCache
from fastmlp.compiler.native.translator import FULL_WIDTH


class FullWidth(Lower):
    """Numba's lowering, with `FULL_WIDTH` set on the function."""

    def pre_lower(self) -> None:
        set.add(self.function.attributes, FULL_WIDTH)
        super().pre_lower()


@register_pass(mutates_CFG=True, analysis_only=False)
class FullWidthLowering(NativeLowering):
    """The pass that lowers a block, or a function that is inlined in one."""

    _name = "fastmlp_full_width_lowering"

    @property
    def lowering_class(self) -> Any:
        return FullWidth


class Compiler(CompilerBase):
    """Numba's compiler with this lowering pass."""

    def define_pipelines(self) -> list[Any]:
        manager = DefaultPassBuilder.define_nopython_pipeline(self.state)
        manager.passes = [
            (FullWidthLowering if step is NativeLowering else step, words)
            for step, words in manager.passes
        ]
        manager.finalize()
        return [manager]


Function = TypeVar("Function", bound=Callable[..., Any])
INTERPRETED = bool(numba.config.DISABLE_JIT)
# The versions of Numba that the translator was tried with, first and one after the last: it uses
# private parts of Numba.
TRIED = (0, 65), (0, 69)


def chosen_compiler(asked: str, version: str) -> str:
    """Return the compiler of the kernels, "translator" or "numba", for a value of FASTMLP_COMPILER.

    Raises
    ------
    ValueError
        If the value is neither of them, nor empty.
    """
    if asked not in ("", "translator", "numba"):
        raise ValueError(f"FASTMLP_COMPILER must be 'translator' or 'numba', not {asked!r}")
    release = tuple(int(part) for part in version.split(".")[:2])
    return "translator" if asked != "numba" and TRIED[0] <= release < TRIED[1] else "numba"


COMPILER = chosen_compiler(os.environ.get("FASTMLP_COMPILER", ""), numba.__version__)
OPTIONS: dict[str, Any] = {"nogil": True, "error_model": "numpy"}
# Functions that a block calls are inlined: LLVM does not inline a long function that is called
# twice, and a loop with a call in it does not vectorise. mish, float64: 23 -> 4 ns a number.
INLINED: dict[str, Any] = {"error_model": "numpy", "forceinline": True, "pipeline_class": Compiler}


@overload
def njit(function: Function) -> Function: ...
@overload
def njit(*, parallel: bool) -> Callable[[Function], Function]: ...
def njit(function: Any = None, *, parallel: bool = False) -> Any:
    """Compile a kernel, or a function that kernels call, by the translator or by Numba.

    A `parallel` kernel shares its `prange` loops among threads. Its first argument is `team`: the
    address of the team's record, or 0 if the calling thread works alone. Numba compiles it twice,
    and runs the parallel form on its own threads: a parallel region of one thread still costs a
    launch.
    """
    if function is None:
        return _parallel if parallel else njit
    return numba.njit(**OPTIONS)(function)


def _alone(function: Any) -> Any:
    """Return the function with 0 for its thread's number: a call without a team uses the buffers of
    the first thread, also where a thread of a team makes it."""
    names = {**function.__globals__, "thread_number": _first_thread}
    parts = function.__code__, names, function.__name__, function.__defaults__
    return update_wrapper(FunctionType(*parts, function.__closure__), function)


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
    # The text that the translator reads.
    compiled.source = function
    return compiled


def kernel(
    name: str, *, nogil: bool = True, parallel: bool = False
) -> Callable[[Function], Function]:
    """Compile a function that Python calls, on first call; store its code under `name`."""

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
    """Return Numba's compiler lock itself, whose `__enter__` is one step: in Numba's own wrapper,
    Ctrl-C could come between acquiring it and entering the block, and leave it locked."""
    return getattr(global_compiler_lock, "_lock", None) or nullcontext()


def _whole(compile: Callable[..., Any]) -> Callable[..., Any]:
    """Defer signal handlers while a function is compiled, or its code is loaded."""

    @wraps(compile)
    def compile_whole(*arguments: Any) -> Any:
        with numbas_lock(), signals.deferred():
            return compile(*arguments)

    return compile_whole
