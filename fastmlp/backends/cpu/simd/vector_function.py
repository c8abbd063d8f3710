"""Vector loops as functions of words that kernels call, compiled and not."""

import inspect
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np

from fastmlp.backends.cpu.simd.vector import Scalar
from fastmlp.backends.cpu.simd.vector_numpy import NumPyVectors
from fastmlp.compiler.jit import emitted

VectorFunction = Callable[..., None]


def vector_function(loop: Callable[..., None], scalar: Scalar, lanes: int) -> VectorFunction:
    """``loop(v, ...)``, of a `Vectors` and of words, as a function of the words alone.

    An argument may be a NamedTuple of words.
    """
    return _vector_function(loop, np.dtype(scalar), lanes)


@cache
def _vector_function(loop: Callable[..., None], dtype: np.dtype[Any], lanes: int) -> VectorFunction:
    scalar = dtype.type

    def run(*arguments: Any) -> None:
        loop(NumPyVectors(scalar, lanes), *map(_plain, arguments))

    def generate(builder: Any, *values: Any) -> None:
        # Stored code needs no LLVM.
        from fastmlp.backends.cpu.simd.vector_llvm import LLVMVectors

        v = LLVMVectors(builder, scalar, lanes)
        loop(v, *map(v.argument, values))

    signature = inspect.signature(loop)
    run.__name__ = loop.__name__
    run.__signature__ = signature.replace(  # type: ignore[attr-defined]
        parameters=[*signature.parameters.values()][1:]
    )
    emitted(run)(generate)
    return run


class Loops:
    """A module's vector loops by their names, as functions of the words alone."""

    def __init__(self, module: dict[str, Any], scalar: Scalar, lanes: int) -> None:
        self._module, self._scalar, self._lanes = module, scalar, lanes

    def __getattr__(self, name: str) -> VectorFunction:
        return vector_function(self._module[name], self._scalar, self._lanes)


def _plain(argument: Any) -> Any:
    """An argument in Python's integers."""
    words = isinstance(argument, tuple)
    return argument._make(map(int, argument)) if words else int(argument)
