"""The operands of translated code: numbers,
views of memory, tables, records; and arithmetic.

Any other operand (a function, a dtype, a number known when translating) is a constant
Python object. Functions with two bodies, see `jit`, `memory` and `elementary`, have
their LLVM IR here.
"""

import operator
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir

from fastmlp.compiler import jit, memory
from fastmlp.compiler.elementary import (
    copysign,
    magic,
    octave,
    polynomial,
    scaled,
    where,
)
from fastmlp.compiler.jit import Unsupported
from fastmlp.compiler.target import Host

INT64 = np.dtype(np.int64)
FLOAT64 = np.dtype(np.float64)
BOOL = np.dtype(np.bool_)
WORD32: Any = ir.IntType(32)
WORD: Any = ir.IntType(64)
BYTE: Any = ir.IntType(8)
POINTER: Any = ir.PointerType()
# The dtype of a number that is a pointer. Memory of the stack has one: LLVM 22 forgets
# what an address points to that is made of the integer of a pointer in a loop that it
# unrolls.
ADDRESS_DTYPE = np.dtype("V8")
X86_FLUSH = 0x8040  # flush to zero, denormals are zero
ARM_FLUSH = 1 << 24


def entry_alloca(builder: Any, kind: Any) -> Any:
    """Allocate on the stack in the entry block of the function that is being built."""
    with builder.goto_entry_block():
        place = builder.alloca(kind)
    place.align = 64
    # llvmlite gives it a type that names its content's, for `load`, which knows it
    # anyway.
    place.type = POINTER
    return place


def is_pointer(value: Any) -> bool:
    return isinstance(value.type, ir.PointerType)


def pointer_of(builder: Any, address: Any) -> Any:
    """The pointer of an address, which is a word or a pointer."""
    if is_pointer(address):
        return address
    return builder.inttoptr(address, POINTER)


def word_of(builder: Any, value: Any) -> Any:
    """The word of an address; any other value itself."""
    return builder.ptrtoint(value, WORD) if is_pointer(value) else value


def add(builder: Any, a: Any, b: Any) -> Any:
    """The sum of words, or the element pointer of an address and a word."""
    if is_pointer(b):
        a, b = b, a
    if is_pointer(a):
        return builder.gep(a, [b], source_etype=BYTE)
    return builder.add(a, b)


def subtract(builder: Any, a: Any, b: Any) -> Any:
    """The difference; an element pointer if only the first is a pointer."""
    if is_pointer(a) and not is_pointer(b):
        return add(builder, a, builder.neg(b))
    return builder.sub(word_of(builder, a), word_of(builder, b))


def declare(builder: Any, name: str, kind: Any) -> Any:
    """A function of this name and type, which the module declares once."""
    module = builder.module
    return module.globals.get(name) or ir.Function(module, kind, name)


# Features of processors by the beginnings of LLVM's names of their instructions.
_INSTRUCTION_FEATURES = {
    "llvm.x86.avx512bf16.": "avx512bf16",
    "llvm.x86.tdpbf16ps": "amx-bf16",
    "llvm.x86.tile": "amx-tile",
    "llvm.x86.ldtilecfg": "amx-tile",
    "llvm.aarch64.neon.bfmmla": "bf16",
}


def check_instructions(module: Any, on: Host) -> None:
    """LLVM ends the process where its target lacks an instruction."""
    for name in module.globals:
        for start, feature in _INSTRUCTION_FEATURES.items():
            if name.startswith(start) and not on.has(feature):
                raise Unsupported(f"{name} needs {feature}, which {on.name} lacks")


def emit_fetch(builder: Any, address: Any) -> None:
    """Prefetch into the second-level cache."""
    number = WORD32
    kind = ir.FunctionType(ir.VoidType(), [POINTER, *[number] * 3])
    prefetch = builder.module.declare_intrinsic("llvm.prefetch.p0", (), kind)
    # Read (not write), locality 2 (second level), data (not instructions).
    words = [ir.Constant(number, word) for word in (0, 2, 1)]
    builder.call(prefetch, [pointer_of(builder, address), *words])


def _x86(builder: Any, mode: Any) -> Any:
    """Write `mode` to the control register,
    or set its flags if None; return the old value.
    """
    place = builder.alloca(WORD32)
    kind = ir.FunctionType(ir.VoidType(), [POINTER])
    if mode is None:
        builder.call(declare(builder, "llvm.x86.sse.stmxcsr", kind), [place])
        old = builder.load(place)
        builder.store(builder.or_(old, ir.Constant(WORD32, X86_FLUSH)), place)
    else:
        old = builder.trunc(mode, WORD32)
        builder.store(old, place)
    builder.call(declare(builder, "llvm.x86.sse.ldmxcsr", kind), [place])
    return builder.zext(old, WORD)


def _arm(builder: Any, mode: Any) -> Any:
    # Inline assembly would need an assembler, without which LLVM ends the process.
    read = ir.FunctionType(WORD, [])
    write = ir.FunctionType(ir.VoidType(), [WORD])
    old = mode
    if mode is None:
        old = builder.call(declare(builder, "llvm.aarch64.get.fpcr", read), [])
        mode = builder.or_(old, ir.Constant(WORD, ARM_FLUSH))
    builder.call(declare(builder, "llvm.aarch64.set.fpcr", write), [mode])
    return old


def architecture_of(builder: Any) -> str:
    """The first word of LLVM's triple: "x86_64", "aarch64" or, on macOS, "arm64"."""
    word: str = builder.module.triple.partition("-")[0]
    return word


def is_arm(builder: Any) -> bool:
    return architecture_of(builder) in ("aarch64", "arm64")


def _switch(builder: Any, mode: Any = None) -> Any:
    if architecture_of(builder) == "x86_64":
        return _x86(builder, mode)
    if is_arm(builder):
        return _arm(builder, mode)
    return ir.Constant(WORD, 0)


jit.emitted(jit.flush_denormals, INT64)(_switch)
jit.emitted(jit.restore_denormals)(_switch)

# The instruction that tells a core it is spinning, by architecture.
PAUSES: dict[str, tuple[str, tuple[int, ...]]] = {
    "x86_64": ("llvm.x86.sse2.pause", ()),
    "aarch64": ("llvm.aarch64.hint", (1,)),
    "arm64": ("llvm.aarch64.hint", (1,)),
}


@jit.emitted(jit.pause)
def _pause(builder: Any) -> None:
    name, hints = PAUSES.get(architecture_of(builder), ("", ()))
    if name:
        numbers = [ir.Constant(WORD32, hint) for hint in hints]
        kind = ir.FunctionType(ir.VoidType(), [number.type for number in numbers])
        builder.call(builder.module.declare_intrinsic(name, (), kind), numbers)


@jit.emitted(memory.load_acquire, INT64)
def _load(builder: Any, address: Any) -> Any:
    return builder.load_atomic(pointer_of(builder, address), "acquire", 8, typ=WORD)


@jit.emitted(memory.store_release)
def _store(builder: Any, address: Any, value: Any) -> None:
    # llvmlite 0.50 stores a word atomically by a pointer to words only.
    place = builder.inttoptr(word_of(builder, address), WORD.as_pointer())
    builder.store_atomic(value, place, "release", 8)


@jit.emitted(memory.fetch_add, INT64)
def _add(builder: Any, address: Any, value: Any) -> Any:
    return builder.atomic_rmw("add", pointer_of(builder, address), value, "acq_rel")


@jit.emitted(memory.exchange_if, BOOL)
def _exchange_if(builder: Any, address: Any, expected: Any, value: Any) -> Any:
    pointer = pointer_of(builder, address)
    pair = builder.cmpxchg(pointer, expected, value, "acq_rel", "acquire")
    return builder.extract_value(pair, 1)


@jit.emitted(memory.fence)
def _fence(builder: Any) -> None:
    builder.fence("seq_cst")


@jit.emitted(jit.next_word, INT64)
def _next_word(builder: Any, generator: Any) -> Any:
    fields = pointer_of(builder, generator)
    state, draw = (
        builder.load(
            builder.gep(fields, [ir.Constant(WORD, i)], source_etype=WORD), typ=WORD
        )
        for i in (jit.STATE, jit.DRAW)
    )
    kind = ir.FunctionType(WORD32, [WORD])
    bits = builder.call(builder.inttoptr(draw, kind.as_pointer()), [state])
    return builder.zext(bits, WORD)


@jit.emitted(memory.stack, INT64, constant=True)
def _stack_of(builder: Any, n_bytes: int) -> Any:
    return entry_alloca(builder, ir.ArrayType(BYTE, n_bytes))


@jit.emitted(jit.fma, 0, alike=True)
def _fma(builder: Any, a: Any, b: Any, c: Any) -> Any:
    kind = ir.FunctionType(a.type, [a.type] * 3)
    return builder.call(
        builder.module.declare_intrinsic("llvm.fma", [a.type], kind), [a, b, c]
    )


# Exact operations that vectorise and never branch,
# so that a loop's vector body and its scalar remainder give the same bits.


def _mantissa(kind: ir.Type) -> int:
    return 23 if isinstance(kind, ir.FloatType) else 52


def _integer(builder: Any, number: Any) -> Any:
    return builder.bitcast(
        number, WORD32 if isinstance(number.type, ir.FloatType) else WORD
    )


def _bits_of(number: Any, kind: ir.Type) -> ir.Constant:
    """The bits of a constant, as an integer of the width of `kind`."""
    if isinstance(kind, ir.FloatType):
        return ir.Constant(WORD32, int(np.float32(number).view(np.int32)))
    return ir.Constant(WORD, int(np.float64(number).view(np.int64)))


@jit.emitted(where, 1)
def _where(builder: Any, condition: Any, a: Any, b: Any) -> Any:
    return builder.select(condition, a, b)


@jit.emitted(copysign, 0, alike=True)
def _copysign(builder: Any, a: Any, b: Any) -> Any:
    kind = ir.FunctionType(a.type, [a.type] * 2)
    return builder.call(
        builder.module.declare_intrinsic("llvm.copysign", [a.type], kind), [a, b]
    )


@jit.emitted(polynomial, 0)
def _polynomial(builder: Any, x: Any, coefficients: Any) -> Any:
    *others, value = coefficients
    for coefficient in reversed(others):
        value = _fma(builder, value, x, coefficient)
    return value


@jit.emitted(scaled, 0, alike=True)
def _scaled(builder: Any, x: Any, t: Any) -> Any:
    number = _integer(builder, x)
    power = _integer(builder, t)
    power = builder.shl(power, ir.Constant(power.type, _mantissa(x.type)))
    return builder.bitcast(builder.add(number, power), x.type)


@jit.emitted(octave, 0, alike=True)
def _octave(builder: Any, x: Any) -> Any:
    kind = x.type
    # Down by sqrt(1/2) and up by 1, which is the bias.
    shift = builder.sub(_bits_of(1, kind), _bits_of(np.sqrt(0.5), kind))
    above = builder.add(_integer(builder, x), shift)
    exponent = builder.lshr(above, ir.Constant(above.type, _mantissa(kind)))
    rounder = magic(np.float32 if isinstance(kind, ir.FloatType) else np.float64)
    return builder.bitcast(builder.add(exponent, _bits_of(rounder, kind)), kind)


class Number(NamedTuple):
    """A number in a register."""

    value: Any
    dtype: np.dtype[Any]


class View(NamedTuple):
    """n contiguous numbers, or records, from a pointer on."""

    address: Any
    n: Any
    dtype: np.dtype[Any]


class MatrixOperand(NamedTuple):
    """n contiguous rows of numbers from a pointer on; n columns if `transposed`."""

    address: Any
    n: Any
    width: Any
    dtype: np.dtype[Any]
    transposed: bool = False


class RecordOperand(NamedTuple):
    """A record at a pointer."""

    address: Any
    dtype: np.dtype[Any]


# The head of NumPy's arrays, behind every object's head,
# which is longer without the GIL.
ARRAY = np.dtype(
    {
        "names": ["data", "shape"],
        "formats": [np.int64, np.int64],
        "offsets": [object.__basicsize__, object.__basicsize__ + 16],
    }
)
LLVM_TYPES: dict[np.dtype[Any], Any] = {
    INT64: WORD,
    np.dtype(np.uint64): WORD,
    np.dtype(np.int32): ir.IntType(32),
    np.dtype(np.uint32): ir.IntType(32),
    np.dtype(np.uint16): ir.IntType(16),
    np.dtype(np.float32): ir.FloatType(),
    FLOAT64: ir.DoubleType(),
    BOOL: ir.IntType(1),
    ADDRESS_DTYPE: POINTER,
}
RELATION_SIGNS = {
    "Lt": "<",
    "LtE": "<=",
    "Gt": ">",
    "GtE": ">=",
    "Eq": "==",
    "NotEq": "!=",
}
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
    if hasattr(operand, "_fields"):
        return type(operand)(*parts)
    return tuple(parts)


def is_constant(*operands: Any) -> bool:
    return not any(
        isinstance(one, Number | View | MatrixOperand | RecordOperand | tuple)
        for one in operands
    )


def number_of(operand: Any) -> Number:
    if isinstance(operand, Number):
        return operand
    if isinstance(operand, (bool, int, float, np.bool_, np.integer, np.floating)):
        kind = type(operand)
        dtype = {bool: BOOL, int: INT64, float: FLOAT64}.get(kind) or np.dtype(kind)
        if dtype in LLVM_TYPES:
            return Number(ir.Constant(LLVM_TYPES[dtype], operand.real), dtype)
    raise Unsupported(f"{operand!r} is not a number")


def convert(builder: Any, operand: Any, dtype: np.dtype[Any]) -> Number:
    """Return a number in another dtype, as C would cast it."""
    number = number_of(operand)
    if number.dtype == dtype:
        return number
    if dtype not in LLVM_TYPES:
        raise Unsupported(f"numbers of {dtype}")
    if number.dtype == ADDRESS_DTYPE:
        word = Number(word_of(builder, number.value), INT64)
        return convert(builder, word, dtype)
    if dtype == ADDRESS_DTYPE:
        word = convert(builder, number, INT64)
        return Number(pointer_of(builder, word.value), ADDRESS_DTYPE)
    old, new = number.dtype.kind, dtype.kind
    wider = dtype.itemsize > number.dtype.itemsize
    if new == "b":
        return truth(builder, number)
    if old == new == "f":
        cast = builder.fpext if wider else builder.fptrunc
    elif new == "f":
        cast = builder.sitofp if old == "i" else builder.uitofp
    elif old == "f":
        cast = builder.fptosi if new == "i" else builder.fptoui
    elif dtype.itemsize == number.dtype.itemsize and old != "b":
        return Number(number.value, dtype)
    elif old == "b":
        cast = builder.zext
    else:
        if wider:
            cast = builder.sext if old == "i" else builder.zext
        else:
            cast = builder.trunc
    return Number(cast(number.value, LLVM_TYPES[dtype]), dtype)


def truth(builder: Any, operand: Any) -> Number:
    """True if it is not zero; NaN is True."""
    number = number_of(operand)
    if number.dtype == BOOL:
        return number
    if number.dtype == ADDRESS_DTYPE:
        number = convert(builder, number, INT64)
    zero = ir.Constant(number.value.type, 0)
    if number.dtype.kind == "f":
        differs = builder.fcmp_unordered
    else:
        differs = builder.icmp_unsigned
    return Number(differs("!=", number.value, zero), BOOL)


def common(a: Number, b: Number) -> np.dtype[Any]:
    """The common dtype of two numbers, as in Numba: integers have 64 bits."""
    if ADDRESS_DTYPE in (a.dtype, b.dtype):
        return ADDRESS_DTYPE
    if a.dtype != b.dtype and {a.dtype.kind, b.dtype.kind} == {"i", "u"}:
        raise Unsupported("integers with and without sign")
    dtype = np.result_type(a.dtype, b.dtype)
    if dtype.kind == "f":
        return dtype
    return np.dtype(np.uint64) if dtype.kind == "u" else INT64


def calculate(builder: Any, name: str, left: Any, right: Any) -> Any:
    """`sign` names the node of a binary operator."""
    if is_constant(left, right):
        return FOLDED[name](left, right)
    a, b = number_of(left), number_of(right)
    if common(a, b) == ADDRESS_DTYPE:
        return _of_addresses(builder, name, a, b)
    if name == "Div" and common(a, b).kind != "f":
        dtype = FLOAT64
    else:
        dtype = common(a, b)
    a = convert(builder, a, dtype)
    b = convert(builder, b, dtype)
    if dtype.kind == "f":
        if name not in OF_FLOATS:
            raise Unsupported(f"{name} of floats")
        return Number(getattr(builder, OF_FLOATS[name])(a.value, b.value), dtype)
    if name == "RShift":
        shift = builder.ashr if dtype.kind == "i" else builder.lshr
        return Number(shift(a.value, b.value), dtype)
    if name in ("FloorDiv", "Mod"):
        return Number(_divide(builder, name, a, b, right), dtype)
    if name not in OF_INTEGERS:
        raise Unsupported(f"{name} of integers")
    return Number(getattr(builder, OF_INTEGERS[name])(a.value, b.value), dtype)


def _of_addresses(builder: Any, name: str, a: Number, b: Number) -> Number:
    """A sum or a difference with an address is one too; all else takes its word."""
    if name == "Add":
        value = add(builder, a.value, b.value)
    elif name == "Sub":
        value = subtract(builder, a.value, b.value)
    else:
        a = convert(builder, a, INT64)
        b = convert(builder, b, INT64)
        result: Number = calculate(builder, name, a, b)
        return result
    return Number(value, ADDRESS_DTYPE if is_pointer(value) else INT64)


def _divide(builder: Any, name: str, a: Number, b: Number, divisor: Any) -> Any:
    """The floored quotient, or the remainder;
    both are 0 for a divisor of 0, as in Numba.
    """
    if a.dtype != INT64:
        raise Unsupported(f"{name} of {a.dtype}")
    one, zero = ir.Constant(WORD, 1), ir.Constant(WORD, 0)
    if isinstance(divisor, int) and divisor > 0 and divisor & (divisor - 1) == 0:
        if name == "Mod":
            return builder.and_(a.value, ir.Constant(WORD, divisor - 1))
        return builder.ashr(a.value, ir.Constant(WORD, divisor.bit_length() - 1))
    by_zero = builder.icmp_signed("==", b.value, zero)
    safe = builder.select(by_zero, one, b.value)
    quotient = builder.sdiv(a.value, safe)
    rest = builder.srem(a.value, safe)
    off = builder.and_(
        builder.icmp_signed("!=", rest, zero),
        builder.icmp_signed("<", builder.xor(rest, safe), zero),
    )
    if name == "Mod":
        result = builder.select(off, builder.add(rest, safe), rest)
    else:
        result = builder.select(off, builder.sub(quotient, one), quotient)
    return builder.select(by_zero, zero, result)


def compare(builder: Any, name: str, left: Any, right: Any) -> Any:
    if is_constant(left, right):
        return FOLDED[name](left, right)
    if name not in RELATION_SIGNS:
        raise Unsupported(name)
    a, b = number_of(left), number_of(right)
    dtype = common(a, b)
    sign = RELATION_SIGNS[name]
    a = convert(builder, a, dtype)
    b = convert(builder, b, dtype)
    if dtype.kind == "f":
        # NaN != x is True, every other relation with NaN is False.
        if sign == "!=":
            relation = builder.fcmp_unordered
        else:
            relation = builder.fcmp_ordered
    else:
        if dtype.kind == "i":
            relation = builder.icmp_signed
        else:
            relation = builder.icmp_unsigned
    return Number(relation(sign, a.value, b.value), BOOL)


def negate(builder: Any, operand: Any) -> Any:
    if is_constant(operand):
        return -operand
    number = number_of(operand)
    if number.dtype.kind == "f":
        return Number(builder.fneg(number.value), number.dtype)
    return Number(builder.neg(convert(builder, number, INT64).value), INT64)


def choose(builder: Any, name: str, operands: list[Any]) -> Any:
    """The least ("Lt") or largest ("Gt") operand; with NaN, the one Python returns."""
    if is_constant(*operands):
        if name == "Lt":
            return min(operands)
        return max(operands)
    best, *others = (number_of(operand) for operand in operands)
    for other in others:
        dtype = common(best, other)
        best = convert(builder, best, dtype)
        other = convert(builder, other, dtype)
        better = compare(builder, name, other, best).value
        best = Number(builder.select(better, other.value, best.value), dtype)
    return best


def operand_kind(operand: Any) -> Any:
    """One name may hold operands of one kind only."""
    if isinstance(operand, (Number, View, RecordOperand)):
        return type(operand), operand.dtype
    if isinstance(operand, MatrixOperand):
        return MatrixOperand, operand.dtype, operand.transposed
    if is_tuple(operand):
        return type(operand), *(operand_kind(item) for item in operand)
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


def store_registers(builder: Any, operands: tuple[Any, ...]) -> Any:
    """Write the registers of operands to the stack; return the place."""
    kind = _environment(operands)
    place = entry_alloca(builder, kind)
    for i, register in enumerate(registers_of(operands)):
        builder.store(register, _field(builder, place, kind, i))
    return place


def load_registers(builder: Any, address: Any, operands: tuple[Any, ...]) -> list[Any]:
    kind = _environment(operands)
    place = pointer_of(builder, address)
    return [
        builder.load(_field(builder, place, kind, i), typ=part)
        for i, part in enumerate(kind.elements)
    ]


def _field(builder: Any, place: Any, kind: Any, i: int) -> Any:
    words = [ir.Constant(WORD32, 0), ir.Constant(WORD32, i)]
    return builder.gep(place, words, inbounds=True, source_etype=kind)
