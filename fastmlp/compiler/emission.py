"""Code that is put in the place of a call: of emitted functions, and of Python's own."""

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types

from fastmlp.compiler.operands import (
    BOOL,
    KINDS,
    Number,
    Unsupported,
    converted,
    is_constant,
    is_tuple,
    number_of,
    truth,
)

NUMBA = {dtype: types.boolean if dtype == BOOL else getattr(types, dtype.name) for dtype in KINDS}
DTYPES = {kind: dtype for dtype, kind in NUMBA.items()}


class Target:
    """Stands in for Numba's target context when emitted functions generate code."""

    def get_dummy_value(self) -> None:
        """Return None: the result of a function without a result."""


def of_float(builder: Any, name: str, operand: Any) -> Number:
    """Return the square root ("sqrt") or the absolute value ("fabs") of a float."""
    number = number_of(operand)
    if number.dtype.kind != "f":
        raise Unsupported(f"{name} of an integer")
    kind = number.value.type
    function = builder.module.declare_intrinsic(f"llvm.{name}", [kind])
    return Number(builder.call(function, [number.value]), number.dtype)


def as_number(builder: Any, kind: Any, operand: Any) -> Any:
    """Return a number as a scalar of this type."""
    if is_constant(operand):
        return kind(operand)
    dtype = np.dtype(kind)
    if dtype == BOOL:
        return truth(builder, operand)
    return converted(builder, operand, dtype)


def emitted_code(builder: Any, define: Any, literal: bool, arguments: tuple[Any, ...]) -> Any:
    """Put an emitted function's code where the builder stands, and return its result."""
    kinds = [_kind_for_numba(one, literal=literal) for one in arguments]
    made = define(None, *kinds)
    if made is None:
        raise Unsupported("arguments of an emitted function")
    signature, generate = made
    values = [_value_for_numba(builder, one) for one in arguments]
    result = generate(Target(), builder, signature, values)
    returned = signature.return_type
    if returned == types.void:
        return None
    return Number(result, DTYPES[types.unliteral(returned)])


def _kind_for_numba(operand: Any, *, literal: bool) -> Any:
    if is_tuple(operand):
        kinds = [_kind_for_numba(one, literal=False) for one in operand]
        return types.BaseTuple.from_types(kinds, type(operand))
    if literal and type(operand) is int:
        return types.literal(operand)
    return NUMBA[number_of(operand).dtype]


def _value_for_numba(builder: Any, operand: Any) -> Any:
    if not is_tuple(operand):
        return number_of(operand).value
    values = [_value_for_numba(builder, one) for one in operand]
    packed = ir.Constant(ir.LiteralStructType([value.type for value in values]), ir.Undefined)
    for i, value in enumerate(values):
        packed = builder.insert_value(packed, value, i)
    return packed
