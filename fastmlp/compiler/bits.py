"""Building blocks of the elementary functions: exact operations that vectorise and never branch.

Each is emitted by name as one or a few instructions, so that a loop's vector body and its scalar
remainder give the same bits.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

Generate = Callable[..., Any]


def _mantissa(kind: ir.Type) -> int:
    """Return the number of mantissa bits."""
    return 23 if isinstance(kind, ir.FloatType) else 52


def magic(dtype: Any) -> Any:
    """Return the number whose last bit is worth 1: adding it rounds a small number to an integer.

    The last bits of the sum are that integer, which `scaled` uses as an exponent. The factor 1.5,
    not 1, keeps the sum's exponent unchanged for negative integers.
    """
    kind = np.dtype(dtype).type
    return kind(1.5 * 2.0 ** np.finfo(kind).nmant)


def _integer(builder: Any, number: Any) -> Any:
    width = 32 if isinstance(number.type, ir.FloatType) else 64
    return builder.bitcast(number, ir.IntType(width))


def _bits_of(number: Any, kind: ir.Type) -> ir.Constant:
    """Return the bits of a constant, as an integer of the width of `kind`."""
    if isinstance(kind, ir.FloatType):
        return ir.Constant(ir.IntType(32), int(np.float32(number).view(np.int32)))
    return ir.Constant(ir.IntType(64), int(np.float64(number).view(np.int64)))


@intrinsic
def where(typing_context: Any, condition: Any, a: Any, b: Any) -> Any:
    """Return a if the condition holds, else b; both are computed."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.select(*arguments)

    return a(types.boolean, a, a), generate


@intrinsic
def copysign(typing_context: Any, a: Any, b: Any) -> Any:
    """Return a with the sign of b."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        kind = arguments[0].type
        form = ir.FunctionType(kind, [kind] * 2)
        function = builder.module.declare_intrinsic("llvm.copysign", [kind], form)
        return builder.call(function, arguments)

    return a(a, a), generate


@intrinsic
def polynomial(typing_context: Any, x: Any, coefficients: Any) -> Any:
    """Return sum_j c_j x^j by Horner's rule, every step fused."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        x, kind = arguments[0], arguments[0].type
        form = ir.FunctionType(kind, [kind] * 3)
        fma = builder.module.declare_intrinsic("llvm.fma", [kind], form)
        *others, value = cgutils.unpack_tuple(builder, arguments[1])
        for coefficient in reversed(others):
            value = builder.call(fma, (value, x, coefficient))
        return value

    return x(x, coefficients), generate


@intrinsic
def scaled(typing_context: Any, x: Any, t: Any) -> Any:
    """Return x 2^n, for t = n + magic; x and the result must be normal numbers."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        x, t = (_integer(builder, number) for number in arguments)
        power = builder.shl(t, ir.Constant(t.type, _mantissa(arguments[0].type)))
        return builder.bitcast(builder.add(x, power), arguments[0].type)

    return x(x, x), generate


@intrinsic
def octave(typing_context: Any, x: Any) -> Any:
    """Return k + magic + bias, for the k that brings 2^-k x into [sqrt(1/2), sqrt(2)).

    x must be a normal number above 0. The bias is that of the exponent: 127 or 1023.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        (number,) = arguments
        kind = number.type
        # Down by sqrt(1/2) and up by 1, which is the bias.
        shift = builder.sub(_bits_of(1, kind), _bits_of(np.sqrt(0.5), kind))
        above = builder.add(_integer(builder, number), shift)
        exponent = builder.lshr(above, ir.Constant(above.type, _mantissa(kind)))
        rounder = magic(np.float32 if isinstance(kind, ir.FloatType) else np.float64)
        return builder.bitcast(builder.add(exponent, _bits_of(rounder, kind)), kind)

    return x(x), generate
