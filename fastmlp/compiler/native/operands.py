"""The operands of translated code: numbers, views of memory, tables, records; and arithmetic.

Any other operand (a function, a dtype, a number known when translating) is a constant Python
object.
"""

import operator
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir

from fastmlp.compiler.native.emitters import entry_alloca
from fastmlp.compiler.source import Unsupported


class Number(NamedTuple):
    """A number in a register."""

    value: Any
    dtype: np.dtype[Any]


class View(NamedTuple):
    """n contiguous numbers, or records, at an address."""

    address: Any
    n: Any
    dtype: np.dtype[Any]


class MatrixOperand(NamedTuple):
    """n contiguous rows of numbers at an address; n columns if `transposed`."""

    address: Any
    n: Any
    width: Any
    dtype: np.dtype[Any]
    transposed: bool = False


class RecordOperand(NamedTuple):
    """A record at an address."""

    address: Any
    dtype: np.dtype[Any]


INT64, FLOAT64, BOOL = np.dtype(np.int64), np.dtype(np.float64), np.dtype(np.bool_)
WORD: Any = ir.IntType(64)
# The head of NumPy's arrays, behind every object's head, which is longer without the GIL.
ARRAY = np.dtype(
    {
        "names": ["data", "shape"],
        "formats": [np.int64, np.int64],
        "offsets": [object.__basicsize__, object.__basicsize__ + 16],
    }
)
KINDS: dict[np.dtype[Any], Any] = {
    INT64: WORD,
    np.dtype(np.uint64): WORD,
    np.dtype(np.int32): ir.IntType(32),
    np.dtype(np.uint32): ir.IntType(32),
    np.dtype(np.uint16): ir.IntType(16),
    np.dtype(np.float32): ir.FloatType(),
    FLOAT64: ir.DoubleType(),
    BOOL: ir.IntType(1),
}
RELATIONS = {"Lt": "<", "LtE": "<=", "Gt": ">", "GtE": ">=", "Eq": "==", "NotEq": "!="}
FOLDED: dict[str, Callable[..., Any]] = {
    "Add": operator.add, "Sub": operator.sub, "Mult": operator.mul, "Div": operator.truediv,
    "FloorDiv": operator.floordiv, "Mod": operator.mod, "LShift": operator.lshift,
    "RShift": operator.rshift, "BitAnd": operator.and_, "BitOr": operator.or_,
    "BitXor": operator.xor,
    "Lt": operator.lt, "LtE": operator.le, "Gt": operator.gt, "GtE": operator.ge,
    "Eq": operator.eq, "NotEq": operator.ne,
}  # fmt: skip
OF_FLOATS = {"Add": "fadd", "Sub": "fsub", "Mult": "fmul", "Div": "fdiv"}
OF_INTEGERS = {
    "Add": "add", "Sub": "sub", "Mult": "mul", "LShift": "shl", "BitAnd": "and_", "BitOr": "or_",
    "BitXor": "xor",
}  # fmt: skip


def is_tuple(operand: Any) -> bool:
    return isinstance(operand, tuple) and not isinstance(
        operand, Number | View | MatrixOperand | RecordOperand
    )


def tuple_like(operand: Any, parts: Iterable[Any]) -> Any:
    return type(operand)(*parts) if hasattr(operand, "_fields") else tuple(parts)


def is_constant(*operands: Any) -> bool:
    return not any(
        isinstance(one, Number | View | MatrixOperand | RecordOperand | tuple) for one in operands
    )


def number_of(operand: Any) -> Number:
    if isinstance(operand, Number):
        return operand
    if isinstance(operand, (bool, int, float, np.bool_, np.integer, np.floating)):
        kind = type(operand)
        dtype = {bool: BOOL, int: INT64, float: FLOAT64}.get(kind) or np.dtype(kind)
        if dtype in KINDS:
            return Number(ir.Constant(KINDS[dtype], operand.real), dtype)
    raise Unsupported(f"{operand!r} is not a number")


def converted(builder: Any, operand: Any, dtype: np.dtype[Any]) -> Number:
    """Return a number in another dtype, as C would convert it."""
    number = number_of(operand)
    if number.dtype == dtype:
        return number
    if dtype not in KINDS:
        raise Unsupported(f"numbers of {dtype}")
    old, new = number.dtype.kind, dtype.kind
    wider = dtype.itemsize > number.dtype.itemsize
    if new == "b":
        return truth(builder, number)
    if old == new == "f":
        convert = builder.fpext if wider else builder.fptrunc
    elif new == "f":
        convert = builder.sitofp if old == "i" else builder.uitofp
    elif old == "f":
        convert = builder.fptosi if new == "i" else builder.fptoui
    elif dtype.itemsize == number.dtype.itemsize and old != "b":
        return Number(number.value, dtype)
    elif old == "b":
        convert = builder.zext
    else:
        convert = (builder.sext if old == "i" else builder.zext) if wider else builder.trunc
    return Number(convert(number.value, KINDS[dtype]), dtype)


def truth(builder: Any, operand: Any) -> Number:
    """True if it is not zero; NaN is True."""
    number = number_of(operand)
    if number.dtype == BOOL:
        return number
    zero = ir.Constant(number.value.type, 0)
    differs = builder.fcmp_unordered if number.dtype.kind == "f" else builder.icmp_unsigned
    return Number(differs("!=", number.value, zero), BOOL)


def common(a: Number, b: Number) -> np.dtype[Any]:
    """The common dtype of two numbers, as in Numba: integers have 64 bits."""
    if a.dtype != b.dtype and {a.dtype.kind, b.dtype.kind} == {"i", "u"}:
        raise Unsupported("integers with and without sign")
    dtype = np.result_type(a.dtype, b.dtype)
    if dtype.kind == "f":
        return dtype
    return np.dtype(np.uint64) if dtype.kind == "u" else INT64


def calculated(builder: Any, name: str, left: Any, right: Any) -> Any:
    """`sign` names the node of a binary operator."""
    if is_constant(left, right):
        return FOLDED[name](left, right)
    a, b = number_of(left), number_of(right)
    dtype = FLOAT64 if name == "Div" and common(a, b).kind != "f" else common(a, b)
    a, b = converted(builder, a, dtype), converted(builder, b, dtype)
    if dtype.kind == "f":
        if name not in OF_FLOATS:
            raise Unsupported(f"{name} of floats")
        return Number(getattr(builder, OF_FLOATS[name])(a.value, b.value), dtype)
    if name == "RShift":
        shift = builder.ashr if dtype.kind == "i" else builder.lshr
        return Number(shift(a.value, b.value), dtype)
    if name in ("FloorDiv", "Mod"):
        return Number(_divided(builder, name, a, b, right), dtype)
    if name not in OF_INTEGERS:
        raise Unsupported(f"{name} of integers")
    return Number(getattr(builder, OF_INTEGERS[name])(a.value, b.value), dtype)


def _divided(builder: Any, name: str, a: Number, b: Number, divisor: Any) -> Any:
    """The floored quotient, or the remainder; both are 0 for a divisor of 0, as in Numba."""
    if a.dtype != INT64:
        raise Unsupported(f"{name} of {a.dtype}")
    one, zero = ir.Constant(WORD, 1), ir.Constant(WORD, 0)
    if isinstance(divisor, int) and divisor > 0 and divisor & (divisor - 1) == 0:
        if name == "Mod":
            return builder.and_(a.value, ir.Constant(WORD, divisor - 1))
        return builder.ashr(a.value, ir.Constant(WORD, divisor.bit_length() - 1))
    by_zero = builder.icmp_signed("==", b.value, zero)
    safe = builder.select(by_zero, one, b.value)
    quotient, rest = builder.sdiv(a.value, safe), builder.srem(a.value, safe)
    off = builder.and_(
        builder.icmp_signed("!=", rest, zero),
        builder.icmp_signed("<", builder.xor(rest, safe), zero),
    )
    if name == "Mod":
        result = builder.select(off, builder.add(rest, safe), rest)
    else:
        result = builder.select(off, builder.sub(quotient, one), quotient)
    return builder.select(by_zero, zero, result)


def compared(builder: Any, name: str, left: Any, right: Any) -> Any:
    if is_constant(left, right):
        return FOLDED[name](left, right)
    if name not in RELATIONS:
        raise Unsupported(name)
    a, b = number_of(left), number_of(right)
    dtype, sign = common(a, b), RELATIONS[name]
    a, b = converted(builder, a, dtype), converted(builder, b, dtype)
    if dtype.kind == "f":
        # NaN != x is True, every other relation with NaN is False.
        compare = builder.fcmp_unordered if sign == "!=" else builder.fcmp_ordered
    else:
        compare = builder.icmp_signed if dtype.kind == "i" else builder.icmp_unsigned
    return Number(compare(sign, a.value, b.value), BOOL)


def negated(builder: Any, operand: Any) -> Any:
    if is_constant(operand):
        return -operand
    number = number_of(operand)
    if number.dtype.kind == "f":
        return Number(builder.fneg(number.value), number.dtype)
    return Number(builder.neg(converted(builder, number, INT64).value), INT64)


def chosen(builder: Any, name: str, operands: list[Any]) -> Any:
    """The least ("Lt") or the largest ("Gt") operand; with NaN, the one Python returns."""
    if is_constant(*operands):
        return min(operands) if name == "Lt" else max(operands)
    best, *others = (number_of(operand) for operand in operands)
    for other in others:
        dtype = common(best, other)
        best, other = converted(builder, best, dtype), converted(builder, other, dtype)
        better = compared(builder, name, other, best).value
        best = Number(builder.select(better, other.value, best.value), dtype)
    return best


def kind_of(operand: Any) -> Any:
    """One name may hold operands of one kind only."""
    if isinstance(operand, (Number, View, RecordOperand)):
        return type(operand), operand.dtype
    if isinstance(operand, MatrixOperand):
        return MatrixOperand, operand.dtype, operand.transposed
    if is_tuple(operand):
        return type(operand), *(kind_of(item) for item in operand)
    return type(operand), operand


def registers_of(operand: Any) -> list[Any]:
    """The registers that hold an operand; empty for a constant."""
    if isinstance(operand, Number):
        return [operand.value]
    if isinstance(operand, View):
        return [operand.address, operand.n]
    if isinstance(operand, MatrixOperand):
        return [operand.address, operand.n, operand.width]
    if isinstance(operand, RecordOperand):
        return [operand.address]
    if is_tuple(operand):
        return [register for item in operand for register in registers_of(item)]
    return []


def in_registers(operand: Any, registers: Iterator[Any]) -> Any:
    """An operand of the same kind that is held in other registers."""
    if isinstance(operand, (Number, RecordOperand)):
        return type(operand)(next(registers), operand.dtype)
    if isinstance(operand, View):
        return View(next(registers), next(registers), operand.dtype)
    if isinstance(operand, MatrixOperand):
        address, n, width = (next(registers) for _ in range(3))
        return operand._replace(address=address, n=n, width=width)
    if is_tuple(operand):
        return tuple_like(operand, (in_registers(item, registers) for item in operand))
    return operand


def movable(operand: Any) -> Any:
    if is_tuple(operand):
        return tuple_like(operand, map(movable, operand))
    numeric = isinstance(operand, (bool, int, float, np.bool_, np.integer, np.floating))
    return number_of(operand) if numeric else operand


def _environment(operands: tuple[Any, ...]) -> Any:
    return ir.LiteralStructType([register.type for register in registers_of(operands)])


def stored(builder: Any, operands: tuple[Any, ...]) -> Any:
    """Write the registers of operands to the stack; return the address."""
    place = entry_alloca(builder, _environment(operands))
    for i, register in enumerate(registers_of(operands)):
        builder.store(register, builder.gep(place, [_field(0), _field(i)], inbounds=True))
    return builder.ptrtoint(place, WORD)


def loaded(builder: Any, address: Any, operands: tuple[Any, ...]) -> list[Any]:
    kind = _environment(operands)
    place = builder.inttoptr(address, kind.as_pointer())
    n = len(kind.elements)
    return [builder.load(builder.gep(place, [_field(0), _field(i)])) for i in range(n)]


def _field(i: int) -> Any:
    return ir.Constant(ir.IntType(32), i)
