"""Denormals are flushed to zero while a kernel runs.

Gradients of confident and correct predictions fall below 1e-20 and their squares below 1e-38. On
some processors an operation on a denormal takes 150 cycles, and a step twice as long. XLA's threads
flush denormals too. The caller's mode is restored when the kernel ends.
"""

import platform
from typing import Any

from llvmlite import ir
from numba import types

from fastmlp.compiler.intrinsics import emitted
from fastmlp.compiler.target import is_arm

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
