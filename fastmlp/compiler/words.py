"""Random words of NumPy's bit generators, for compiled code: its `bitgen_t`, documented for C."""

import ctypes
from typing import Any

from llvmlite import ir
from numba import types

from fastmlp.compiler.intrinsics import emitted

# Fields of a `bitgen_t`: the state, and the function that draws 32 bits.
STATE, DRAW = 0, 2
WORD: Any = ir.IntType(64)


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
