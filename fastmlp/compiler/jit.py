"""Numba's settings, the choice of the compiler, and the marks of functions that kernels call.

Stored code needs neither Numba nor LLVM: nothing here imports them.
"""

import os
import sys
from collections.abc import Callable
from typing import Any, Literal, TypeVar, overload

Function = TypeVar("Function", bound=Callable[..., Any])


def setting(name: str, default: Any = None) -> Any:
    """A setting of Numba's: its present value if Numba is imported, else the environment's
    NUMBA_...

    The result has the default's type, or is a str.
    """
    config = sys.modules.get("numba.core.config")
    if hasattr(config, name):
        return getattr(config, name)
    text = os.environ.get(name if name.startswith("NUMBA_") else f"NUMBA_{name}")
    try:
        return default if text is None else (str if default is None else type(default))(text)
    except ValueError:  # Numba ignores it too
        return default


def chosen_compiler(asked: str) -> Literal["translator", "numba"]:
    if asked not in ("", "translator", "numba"):
        raise ValueError(f"FASTMLP_COMPILER must be 'translator' or 'numba', not {asked!r}")
    return "numba" if asked == "numba" else "translator"


INTERPRETED = bool(setting("DISABLE_JIT", 0))
COMPILER = chosen_compiler(os.environ.get("FASTMLP_COMPILER", ""))
# How Numba compiles a marked function: as a function, with its `prange` loops on Numba's threads,
# or inlined where it is called.
Mark = Literal["function", "parallel", "inlined"]
_MARK = "fastmlp_mark"


@overload
def njit(function: Function) -> Function: ...
@overload
def njit(*, parallel: bool) -> Callable[[Function], Function]: ...
def njit(function: Any = None, *, parallel: bool = False) -> Any:
    """Mark a kernel, or a function that kernels call: the translator and Numba may compile it.

    A `parallel` kernel shares its `prange` loops among threads. The first argument is `team`: the
    address of the team's record, or 0 if the calling thread works alone.
    """
    return _marked("parallel" if parallel else "function", function)


def inlined(function: Function) -> Function:
    """Mark a function that Numba inlines: a loop with a call in it does not vectorise."""
    marked: Function = _marked("inlined", function)
    return marked


def _marked(mark: Mark, function: Any) -> Any:
    def put(function: Function) -> Function:
        function.__dict__[_MARK] = mark
        return function

    return put if function is None else put(function)


def mark_of(function: Any) -> Mark | None:
    mark: Mark | None = getattr(function, _MARK, None)
    return mark
