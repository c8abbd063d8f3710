"""The one place for Numba's options.

No fastmath flag is set: products are fused by name (`fma`), sums run in the order that is written,
so the bits of a result do not depend on how LLVM vectorised or inlined a loop. error_model="numpy"
because a division by zero inside prange would otherwise return 0 in silence.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import wraps
from typing import Any, TypeVar

import numba
import numpy as np
from numba.core.compiler_lock import global_compiler_lock

from fastmlp._process import signals
from fastmlp.compiler.cache import CodeCache
from fastmlp.compiler.pipeline import Compiler

Function = TypeVar("Function", bound=Callable[..., Any])
INTERPRETED = bool(numba.config.DISABLE_JIT)
OPTIONS = {"nogil": True, "error_model": "numpy"}
# What a block is made of becomes part of it: LLVM leaves a long function a call where two places
# call it, and a loop with a call in it does not vectorise (mish in float64: 23 ns, inlined 4 ns).
INLINED = {"error_model": "numpy", "forceinline": True, "pipeline_class": Compiler}


def leaf(function: Function) -> Function:
    """Compile a function that compiled code calls, the translator's or Numba's."""
    return numba.njit(**OPTIONS)(function)


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
