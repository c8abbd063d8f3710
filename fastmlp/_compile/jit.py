"""The one place for Numba's options.

No fastmath flag is set: products are fused by name (`fma`), sums run in the order that is written,
so the bits of a result do not depend on how LLVM vectorised or inlined a loop. error_model="numpy"
because a division by zero inside prange would otherwise return 0 in silence.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import numba
import numpy as np
from numba.extending import register_jitable

from fastmlp import elementary
from fastmlp._compile.cache import CodeCache

Function = TypeVar("Function", bound=Callable[..., Any])
INTERPRETED = bool(numba.config.DISABLE_JIT)

for _function in elementary.FUNCTIONS:
    register_jitable(_function)


OPTIONS = {"nogil": True, "error_model": "numpy"}


def leaf(function: Function) -> Function:
    """Compile a function that only compiled code calls.

    It has no wrapper for other callers, which saves a quarter of the cold start: called from
    Python, it would crash.
    """
    bare = {"no_cpython_wrapper": True, "no_cfunc_wrapper": True}
    return numba.njit(**OPTIONS, **bare)(function)


def kernel(name: str, *, parallel: bool = False) -> Callable[[Function], Function]:
    """Compile, on first call, a function that Python calls; store its code under `name`."""

    def compile_later(function: Function) -> Function:
        if INTERPRETED:
            # Compiled code never warns of an overflow.
            return np.errstate(all="ignore")(function)
        compiled: Any = numba.njit(**OPTIONS, parallel=parallel)(function)
        compiled._cache = CodeCache(name)
        return compiled

    return compile_later
