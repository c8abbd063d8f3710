"""Atomic operations on 64-bit integers by address, a pause and a prefetch.

Uncompiled they are plain reads and writes: uncompiled code never runs in a team.
"""

import ctypes
import platform
from typing import Any

from llvmlite import ir
from numba import types

from fastmlp.compiler.intrinsics import emitted

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
