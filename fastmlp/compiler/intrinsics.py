"""Functions with two bodies, Python and LLVM IR: atomics, denormals, random words, `prange` loops.

Two compilers take the same text of a `prange` loop. The translator turns the loop's body into a
function of (names that it reads, first, last, thread) for the team at the address `team`, the
kernel's first argument. Numba runs the loop on its own threads.
"""

import ctypes
import platform
from collections.abc import Callable
from typing import Any

import numba
from llvmlite import ir
from numba import prange, types
from numba.core.typing.templates import infer, infer_global, make_intrinsic_template

from fastmlp.compiler.target import is_arm

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


WORD32: Any = ir.IntType(32)
WORD64: Any = ir.IntType(64)
X86_FLUSH = 0x8040  # flush to zero, denormals are zero
ARM_FLUSH = 1 << 24


def flush_denormals() -> int:
    """Flush denormals in this thread, and return its previous mode."""
    return 0


def restore_denormals(mode: Any) -> None:
    """Restore the mode that `flush_denormals` returned."""


def _x86(builder: Any, mode: Any) -> Any:
    """Write `mode` to the control register, or set its flags if None; return the old value."""
    place = builder.alloca(WORD32)
    text = ir.PointerType(ir.IntType(8))
    kind = ir.FunctionType(ir.VoidType(), [text])
    pointer = builder.bitcast(place, text)
    if mode is None:
        builder.call(_function(builder, "llvm.x86.sse.stmxcsr", kind), [pointer])
        old = builder.load(place)
        builder.store(builder.or_(old, ir.Constant(WORD32, X86_FLUSH)), place)
    else:
        old = builder.trunc(mode, WORD32)
        builder.store(old, place)
    builder.call(_function(builder, "llvm.x86.sse.ldmxcsr", kind), [pointer])
    return builder.zext(old, WORD64)


def _arm(builder: Any, mode: Any) -> Any:
    # Not inline assembly: Numba starts no assembler for LLVM, which then ends the process.
    read, write = ir.FunctionType(WORD64, []), ir.FunctionType(ir.VoidType(), [WORD64])
    old = mode
    if mode is None:
        old = builder.call(_function(builder, "llvm.aarch64.get.fpcr", read), [])
        mode = builder.or_(old, ir.Constant(WORD64, ARM_FLUSH))
    builder.call(_function(builder, "llvm.aarch64.set.fpcr", write), [mode])
    return old


def _function(builder: Any, name: str, kind: Any) -> Any:
    module = builder.module
    return module.globals.get(name) or ir.Function(module, kind, name)


def _switch(builder: Any, mode: Any) -> Any:
    if platform.machine().lower() in ("x86_64", "amd64"):
        return _x86(builder, mode)
    if is_arm():
        return _arm(builder, mode)
    return ir.Constant(WORD64, 0)


@emitted(flush_denormals)
def _flush(typing_context: Any) -> Any:
    return types.intp(), lambda context, builder, signature, arguments: _switch(builder, None)


@emitted(restore_denormals)
def _restore(typing_context: Any, mode: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        _switch(builder, arguments[0])
        return context.get_dummy_value()

    return types.void(types.intp), generate


# The instruction that tells a core it is spinning, by machine; on other machines there is none.
PAUSES: dict[str, tuple[str, tuple[int, ...]]] = {
    "x86_64": ("llvm.x86.sse2.pause", ()),
    "AMD64": ("llvm.x86.sse2.pause", ()),
    "aarch64": ("llvm.aarch64.hint", (1,)),
    "arm64": ("llvm.aarch64.hint", (1,)),
}
WORD: Any = ir.IntType(64)


def load_acquire(address: Any) -> Any:
    """Return the word; after it, everything written before the `store_release` is visible."""
    return ctypes.c_int64.from_address(int(address)).value


def store_release(address: Any, value: Any) -> None:
    """Write the word; earlier writes of this thread become visible before it."""
    ctypes.c_int64.from_address(int(address)).value = int(value)


def fetch_add(address: Any, value: Any) -> Any:
    """Add to the word; return its previous value."""
    word = ctypes.c_int64.from_address(int(address))
    before = word.value
    word.value = before + int(value)
    return before


def exchange_if(address: Any, expected: Any, value: Any) -> Any:
    """Write the word if it has the expected value; return True if it had."""
    word = ctypes.c_int64.from_address(int(address))
    same = word.value == int(expected)
    if same:
        word.value = int(value)
    return same


def fence() -> None:
    """Order all earlier writes of this thread, non-temporal ones included, before later writes;
    `store_release` alone does not order non-temporal stores."""


def pause() -> None:
    """Pause for some tens of cycles (140 on recent Intel cores)."""


def _pointer(builder: Any, address: Any) -> Any:
    return builder.inttoptr(address, WORD.as_pointer())


def emit_fetch(builder: Any, address: Any) -> None:
    """Prefetch the line at the address into the second-level cache."""
    place, number = ir.IntType(8).as_pointer(), ir.IntType(32)
    kind = ir.FunctionType(ir.VoidType(), [place, *[number] * 3])
    prefetch = builder.module.declare_intrinsic("llvm.prefetch.p0", (), kind)
    # Arguments: read (not write), locality 2 (second level), data (not instructions).
    words = [ir.Constant(number, word) for word in (0, 2, 1)]
    builder.call(prefetch, [builder.inttoptr(address, place), *words])


@emitted(load_acquire)
def _load(typing_context: Any, address: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.load_atomic(_pointer(builder, arguments[0]), "acquire", 8)

    return types.int64(types.int64), generate


@emitted(store_release)
def _store(typing_context: Any, address: Any, value: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        builder.store_atomic(arguments[1], _pointer(builder, arguments[0]), "release", 8)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), generate


@emitted(fetch_add)
def _add(typing_context: Any, address: Any, value: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.atomic_rmw("add", _pointer(builder, arguments[0]), arguments[1], "acq_rel")

    return types.int64(types.int64, types.int64), generate


@emitted(exchange_if)
def _exchange_if(typing_context: Any, address: Any, expected: Any, value: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        pointer = _pointer(builder, arguments[0])
        pair = builder.cmpxchg(pointer, *arguments[1:], "acq_rel", "acquire")
        return builder.extract_value(pair, 1)

    return types.boolean(types.int64, types.int64, types.int64), generate


@emitted(fence)
def _fence(typing_context: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        builder.fence("seq_cst")
        return context.get_dummy_value()

    return types.void(), generate


@emitted(pause)
def _pause(typing_context: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        name, hints = PAUSES.get(platform.machine(), ("", ()))
        if name:
            numbers = [ir.Constant(ir.IntType(32), hint) for hint in hints]
            kind = ir.FunctionType(ir.VoidType(), [number.type for number in numbers])
            builder.call(builder.module.declare_intrinsic(name, (), kind), numbers)
        return context.get_dummy_value()

    return types.void(), generate


# Fields of a `bitgen_t`: the state, and the function that draws 32 bits.
STATE, DRAW = 0, 2


def next_word(generator: Any) -> Any:
    """Return the next 32 random bits of a generator, by the address of its `bitgen_t`."""
    fields = (ctypes.c_int64 * (DRAW + 1)).from_address(int(generator))
    draw = ctypes.CFUNCTYPE(ctypes.c_uint32, ctypes.c_void_p)(fields[DRAW])
    return draw(fields[STATE])


@emitted(next_word)
def _next_word(typing_context: Any, generator: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        fields = builder.inttoptr(arguments[0], WORD.as_pointer())
        state, draw = (
            builder.load(builder.gep(fields, [ir.Constant(WORD, i)], source_etype=WORD))
            for i in (STATE, DRAW)
        )
        kind = ir.FunctionType(ir.IntType(32), [WORD])
        bits = builder.call(builder.inttoptr(draw, kind.as_pointer()), [state])
        return builder.zext(bits, WORD)

    return types.int64(types.int64), generate


__all__ = ["flushed", "prange", "restored", "thread_number"]

ShareLoop = Callable[[Any, Any, Any, Any], None]
_runtime: list[ShareLoop] = []


def runtime(share_loop: ShareLoop) -> ShareLoop:
    """Register the function that a translated loop calls: ``(team, body, n, environment)``."""
    _runtime[:] = [share_loop]
    return share_loop


def share_loop() -> Any:
    """Return the registered function, uncompiled."""
    return getattr(_runtime[0], "py_func", _runtime[0])


def thread_number() -> Any:
    """Return the number of the thread that runs an iteration of a `prange` loop, from 0; 0 outside.

    The threads of a loop have different numbers: each may have buffers of its own.
    """
    return 0


def flushed() -> Any:
    """Flush denormals in an iteration that a thread of Numba runs; return its previous mode.

    It does nothing in translated code: the threads of a team flush denormals when they enter.
    """
    return 0


def restored(mode: Any) -> None:
    """Restore the mode that `flushed` returned."""


@numba.extending.overload(thread_number)
def _thread_number() -> Any:
    return lambda: numba.get_thread_id()


@numba.extending.overload(flushed)
def _flushed() -> Any:
    return lambda: flush_denormals()


@numba.extending.overload(restored)
def _restored(mode: Any) -> Any:
    def restore(mode: Any) -> Any:
        restore_denormals(mode)

    return restore
