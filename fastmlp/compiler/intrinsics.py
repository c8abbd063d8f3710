"""Functions with two bodies: Python, and LLVM IR that replaces the call in compiled code."""

from collections.abc import Callable
from typing import Any

from numba import types
from numba.core.typing.templates import infer, infer_global, make_intrinsic_template

Typing = Callable[..., Any]
# Each emitted function's typing function, and True if it takes constants as literal types.
EMITTED: dict[Any, tuple[Typing, bool]] = {}


def emitted(function: Callable[..., Any], *, prefer_literal: bool = False) -> Callable[..., Typing]:
    """Register the compiled form of a Python function, as `numba.extending.intrinsic` does.

    An `overload` that returns an intrinsic compiles one function more for each use: 2.3 s of a cold
    start of 5 s.
    """

    def register(define: Typing) -> Typing:
        name = function.__name__
        template = make_intrinsic_template(function, define, name, prefer_literal=prefer_literal)
        infer(template)
        infer_global(function, types.Function(template))
        EMITTED[function] = define, prefer_literal
        return define

    return register
