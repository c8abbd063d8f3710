"""What kernels are written in: views of memory by address, and the fused multiply-add.

Each has a Python body, so kernels run uncompiled too.
"""

import ctypes
from typing import Any

import numpy as np
from llvmlite import ir
from numba import carray, types
from numba.extending import intrinsic, overload
from numba.np.unsafe.ndarray import to_fixed_tuple

from fastmlp._compile.jit import INTERPRETED


def fma(a: Any, b: Any, c: Any) -> Any:
    """Return a b + c, rounded once (uncompiled: twice)."""
    return a * b + c


def row(address: Any, n: Any, dtype: Any) -> Any:
    """Return the n numbers at `address` as an array that owns nothing.

    Loops over such views, indexed from 0 by a range, vectorise; the same loops over one flat array
    with an offset added to the index do not, which cost 3x on a 16-64-64-2 net.
    """
    kind = np.dtype(dtype)
    memory = (ctypes.c_char * (int(n) * kind.itemsize)).from_address(int(address))
    return np.frombuffer(memory, kind, int(n))


@intrinsic
def _fma(typing_context: Any, a: Any, b: Any, c: Any) -> Any:
    if not isinstance(a, types.Float) or b != a or c != a:
        return None

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        kind = arguments[0].type
        signature_of_fma = ir.FunctionType(kind, [kind] * 3)
        function = builder.module.declare_intrinsic("llvm.fma", [kind], signature_of_fma)
        return builder.call(function, arguments)

    return a(a, a, a), generate


@intrinsic
def _pointer(typing_context: Any, address: Any, dtype: Any) -> Any:
    pointer = types.CPointer(dtype.dtype)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], context.get_value_type(pointer))

    return pointer(address, dtype), generate


@overload(fma, strict=False)
def _compiled_fma(a: Any, b: Any, c: Any) -> Any:
    return lambda a, b, c: _fma(a, b, c)


@overload(row, strict=False)
def _compiled_row(address: Any, n: Any, dtype: Any) -> Any:
    return lambda address, n, dtype: carray(_pointer(address, dtype), n)


def coefficients_at(address: Any, n: Any, dtype: Any) -> Any:
    """Return the n numbers at `address` as a tuple; n must be known when compiling."""
    return tuple(row(address, n, dtype))


@overload(coefficients_at, strict=False)
def _compiled_coefficients_at(address: Any, n: Any, dtype: Any) -> Any:
    if not isinstance(n, types.Integer | types.IntegerLiteral):
        return None
    return lambda address, n, dtype: to_fixed_tuple(row(address, n, dtype), n)


def entry_alloca(builder: Any, kind: Any) -> Any:
    """Take memory for `kind` on the stack, once per call of the function that is being built.

    Numba's alloca_once would fill it with zeros, byte by byte: that compiled for 30 s.
    """
    with builder.goto_entry_block():
        place = builder.alloca(kind)
    place.align = 64
    return place


_pieces: dict[int, Any] = {}


def _interpreted_stack(n_bytes: int) -> int:
    if n_bytes not in _pieces:
        _pieces[n_bytes] = np.zeros(n_bytes, np.uint8)
    return int(_pieces[n_bytes].ctypes.data)


@intrinsic(prefer_literal=True)
def _compiled_stack(typing_context: Any, n_bytes: Any) -> Any:
    if not isinstance(n_bytes, types.IntegerLiteral):
        return None
    line = ir.ArrayType(ir.IntType(8), n_bytes.literal_value)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.ptrtoint(entry_alloca(builder, line), ir.IntType(64))

    return types.intp(n_bytes), generate


# ``stack(n_bytes)`` is the address of `n_bytes` that live as long as the calling block; n_bytes is
# literal. Call it in the block itself: what a leaf takes is gone, or not, when the leaf returns.
# So it is no overload, which would be a function of its own: LLVM then gave two pieces one place.
stack = _interpreted_stack if INTERPRETED else _compiled_stack
