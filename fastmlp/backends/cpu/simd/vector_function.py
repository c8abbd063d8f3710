"""Vector loops as functions of words that kernels call, compiled and not."""

import inspect
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
from numba import types

from fastmlp.backends.cpu.simd.vector import Scalar
from fastmlp.backends.cpu.simd.vector_llvm import LLVMVectors
from fastmlp.backends.cpu.simd.vector_numpy import NumPyVectors
from fastmlp.compiler import INTERPRETED
from fastmlp.compiler.intrinsics import emitted

VectorFunction = Callable[..., None]


def vector_function(loop: Callable[..., None], scalar: Scalar, lanes: int) -> VectorFunction:
    """Return ``loop(v, ...)``, of a `Vectors` and of words, as a function of the words alone.

    An argument may be a NamedTuple of words.
    """
    return _vector_function(loop, np.dtype(scalar), lanes)


@cache
def _vector_function(loop: Callable[..., None], dtype: np.dtype[Any], lanes: int) -> VectorFunction:
    scalar = dtype.type

    def run(*arguments: Any) -> None:
        loop(NumPyVectors(scalar, lanes), *map(_plain, arguments))

    def define(typing_context: Any, *kinds: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            v = LLVMVectors(builder, scalar, lanes)
            pairs = zip(values, signature.args, strict=True)
            loop(v, *(v.argument(value, _fields_of(kind)) for value, kind in pairs))
            return context.get_dummy_value()

        kinds_of_words = (types.intp if _fields_of(kind) is None else kind for kind in kinds)
        return types.void(*kinds_of_words), generate

    if not INTERPRETED:
        run.__name__ = loop.__name__
        # Numba reads the arguments' names, the first of which is its own.
        define.__signature__ = inspect.signature(loop)  # type: ignore[attr-defined]
        emitted(run)(define)
    return run


def _plain(argument: Any) -> Any:
    """Return an argument in Python's integers."""
    words = isinstance(argument, tuple)
    return argument._make(map(int, argument)) if words else int(argument)


def _fields_of(kind: Any) -> Any:
    """Return the NamedTuple class of an argument's type."""
    return getattr(kind, "instance_class", None)
