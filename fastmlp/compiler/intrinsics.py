"""Functions with two bodies: Python's, and LLVM IR in the place of the call."""

from collections.abc import Callable
from typing import Any

from numba import types
from numba.core.typing.templates import infer, infer_global, make_intrinsic_template

Typing = Callable[..., Any]
# The typing of each emitted function, and whether it wants to know constants.
EMITTED: dict[Any, tuple[Typing, bool]] = {}


def emitted(function: Callable[..., Any], *, prefer_literal: bool = False) -> Callable[..., Typing]:
    """Give a Python function its compiled form, as `numba.extending.intrinsic` would define it.

    Each use of an `overload` that returns such an intrinsic compiles one function more, by itself:
    that was 2.3 s of a cold start of 5 s.
    """

    def register(define: Typing) -> Typing:
        name = function.__name__
        template = make_intrinsic_template(function, define, name, prefer_literal=prefer_literal)
        infer(template)
        infer_global(function, types.Function(template))
        EMITTED[function] = define, prefer_literal
        return define

    return register
