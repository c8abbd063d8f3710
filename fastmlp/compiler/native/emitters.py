"""The LLVM IR of functions with two bodies, see `intrinsics` and `elementary`."""

import platform
from typing import Any

import numpy as np
from llvmlite import ir

from fastmlp.compiler.elementary import copysign, magic, octave, polynomial, scaled, where
from fastmlp.compiler.intrinsics import (
    DRAW,
    STATE,
    emitted,
    exchange_if,
    fence,
    fetch_add,
    flush_denormals,
    fma,
    load_acquire,
    next_word,
    pause,
    restore_denormals,
    stack,
    store_release,
)
from fastmlp.compiler.target import is_arm

INT64, BOOL = np.dtype(np.int64), np.dtype(np.bool_)
WORD32: Any = ir.IntType(32)
WORD: Any = ir.IntType(64)
X86_FLUSH = 0x8040  # flush to zero, denormals are zero
ARM_FLUSH = 1 << 24


def entry_alloca(builder: Any, kind: Any) -> Any:
    """Allocate on the stack in the entry block of the function that is being built."""
    with builder.goto_entry_block():
        place = builder.alloca(kind)
    place.align = 64
    return place


def declared(builder: Any, name: str, kind: Any) -> Any:
    """A function of this name and type, which the module declares once."""
    module = builder.module
    return module.globals.get(name) or ir.Function(module, kind, name)


def emit_fetch(builder: Any, address: Any) -> None:
    """Prefetch into the second-level cache."""
    place, number = ir.IntType(8).as_pointer(), WORD32
    kind = ir.FunctionType(ir.VoidType(), [place, *[number] * 3])
    prefetch = builder.module.declare_intrinsic("llvm.prefetch.p0", (), kind)
    # Read (not write), locality 2 (second level), data (not instructions).
    words = [ir.Constant(number, word) for word in (0, 2, 1)]
    builder.call(prefetch, [builder.inttoptr(address, place), *words])


def _pointer(builder: Any, address: Any) -> Any:
    return builder.inttoptr(address, WORD.as_pointer())


def _x86(builder: Any, mode: Any) -> Any:
    """Write `mode` to the control register, or set its flags if None; return the old value."""
    place = builder.alloca(WORD32)
    text = ir.PointerType(ir.IntType(8))
    kind = ir.FunctionType(ir.VoidType(), [text])
    pointer = builder.bitcast(place, text)
    if mode is None:
        builder.call(declared(builder, "llvm.x86.sse.stmxcsr", kind), [pointer])
        old = builder.load(place)
        builder.store(builder.or_(old, ir.Constant(WORD32, X86_FLUSH)), place)
    else:
        old = builder.trunc(mode, WORD32)
        builder.store(old, place)
    builder.call(declared(builder, "llvm.x86.sse.ldmxcsr", kind), [pointer])
    return builder.zext(old, WORD)


def _arm(builder: Any, mode: Any) -> Any:
    # Inline assembly would need an assembler, without which LLVM ends the process.
    read, write = ir.FunctionType(WORD, []), ir.FunctionType(ir.VoidType(), [WORD])
    old = mode
    if mode is None:
        old = builder.call(declared(builder, "llvm.aarch64.get.fpcr", read), [])
        mode = builder.or_(old, ir.Constant(WORD, ARM_FLUSH))
    builder.call(declared(builder, "llvm.aarch64.set.fpcr", write), [mode])
    return old


def _switch(builder: Any, mode: Any = None) -> Any:
    if platform.machine().lower() in ("x86_64", "amd64"):
        return _x86(builder, mode)
    return _arm(builder, mode) if is_arm() else ir.Constant(WORD, 0)


emitted(flush_denormals, INT64)(_switch)
emitted(restore_denormals)(_switch)

# The instruction that tells a core it is spinning, by machine.
PAUSES: dict[str, tuple[str, tuple[int, ...]]] = {
    "x86_64": ("llvm.x86.sse2.pause", ()),
    "AMD64": ("llvm.x86.sse2.pause", ()),
    "aarch64": ("llvm.aarch64.hint", (1,)),
    "arm64": ("llvm.aarch64.hint", (1,)),
}


@emitted(pause)
def _pause(builder: Any) -> None:
    name, hints = PAUSES.get(platform.machine(), ("", ()))
    if name:
        numbers = [ir.Constant(WORD32, hint) for hint in hints]
        kind = ir.FunctionType(ir.VoidType(), [number.type for number in numbers])
        builder.call(builder.module.declare_intrinsic(name, (), kind), numbers)


@emitted(load_acquire, INT64)
def _load(builder: Any, address: Any) -> Any:
    return builder.load_atomic(_pointer(builder, address), "acquire", 8)


@emitted(store_release)
def _store(builder: Any, address: Any, value: Any) -> None:
    builder.store_atomic(value, _pointer(builder, address), "release", 8)


@emitted(fetch_add, INT64)
def _add(builder: Any, address: Any, value: Any) -> Any:
    return builder.atomic_rmw("add", _pointer(builder, address), value, "acq_rel")


@emitted(exchange_if, BOOL)
def _exchange_if(builder: Any, address: Any, expected: Any, value: Any) -> Any:
    pointer = _pointer(builder, address)
    pair = builder.cmpxchg(pointer, expected, value, "acq_rel", "acquire")
    return builder.extract_value(pair, 1)


@emitted(fence)
def _fence(builder: Any) -> None:
    builder.fence("seq_cst")


@emitted(next_word, INT64)
def _next_word(builder: Any, generator: Any) -> Any:
    fields = _pointer(builder, generator)
    state, draw = (
        builder.load(builder.gep(fields, [ir.Constant(WORD, i)], source_etype=WORD))
        for i in (STATE, DRAW)
    )
    kind = ir.FunctionType(WORD32, [WORD])
    bits = builder.call(builder.inttoptr(draw, kind.as_pointer()), [state])
    return builder.zext(bits, WORD)


@emitted(stack, INT64, constant=True)
def _stack_of(builder: Any, n_bytes: int) -> Any:
    return builder.ptrtoint(entry_alloca(builder, ir.ArrayType(ir.IntType(8), n_bytes)), WORD)


@emitted(fma, 0, alike=True)
def _fma(builder: Any, a: Any, b: Any, c: Any) -> Any:
    kind = ir.FunctionType(a.type, [a.type] * 3)
    return builder.call(builder.module.declare_intrinsic("llvm.fma", [a.type], kind), [a, b, c])


# Exact operations that vectorise and never branch, so that a loop's vector body and its scalar
# remainder give the same bits.


def _mantissa(kind: ir.Type) -> int:
    return 23 if isinstance(kind, ir.FloatType) else 52


def _integer(builder: Any, number: Any) -> Any:
    return builder.bitcast(number, WORD32 if isinstance(number.type, ir.FloatType) else WORD)


def _bits_of(number: Any, kind: ir.Type) -> ir.Constant:
    """The bits of a constant, as an integer of the width of `kind`."""
    if isinstance(kind, ir.FloatType):
        return ir.Constant(WORD32, int(np.float32(number).view(np.int32)))
    return ir.Constant(WORD, int(np.float64(number).view(np.int64)))


@emitted(where, 1)
def _where(builder: Any, condition: Any, a: Any, b: Any) -> Any:
    return builder.select(condition, a, b)


@emitted(copysign, 0, alike=True)
def _copysign(builder: Any, a: Any, b: Any) -> Any:
    kind = ir.FunctionType(a.type, [a.type] * 2)
    return builder.call(builder.module.declare_intrinsic("llvm.copysign", [a.type], kind), [a, b])


@emitted(polynomial, 0)
def _polynomial(builder: Any, x: Any, coefficients: Any) -> Any:
    *others, value = coefficients
    for coefficient in reversed(others):
        value = _fma(builder, value, x, coefficient)
    return value


@emitted(scaled, 0, alike=True)
def _scaled(builder: Any, x: Any, t: Any) -> Any:
    number, power = _integer(builder, x), _integer(builder, t)
    power = builder.shl(power, ir.Constant(power.type, _mantissa(x.type)))
    return builder.bitcast(builder.add(number, power), x.type)


@emitted(octave, 0, alike=True)
def _octave(builder: Any, x: Any) -> Any:
    kind = x.type
    # Down by sqrt(1/2) and up by 1, which is the bias.
    shift = builder.sub(_bits_of(1, kind), _bits_of(np.sqrt(0.5), kind))
    above = builder.add(_integer(builder, x), shift)
    exponent = builder.lshr(above, ir.Constant(above.type, _mantissa(kind)))
    rounder = magic(np.float32 if isinstance(kind, ir.FloatType) else np.float64)
    return builder.bitcast(builder.add(exponent, _bits_of(rounder, kind)), kind)
