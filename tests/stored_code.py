"""Scripts that ask for compiled code, and damages of files that hold some."""

from collections.abc import Callable

# Prints relu(-1), relu(2), sigmoid(0) and how often the compiler ran.
EVALUATE = """
import ctypes
import sys
import numpy as np
from fastmlp.compiler import block_of
from fastmlp.rules.activations import RULES
from fastmlp.backends.cpu.kernels.elementwise import activation_loop

z, value, slope = np.array([-1.0, 2.0, 0.0]), np.empty(3), np.empty(3)
kind = ctypes.CFUNCTYPE(None, *[ctypes.c_ssize_t] * 4)
numbers = []
for name, chosen in (("relu", z[:2]), ("sigmoid", z[2:])):
    address = block_of(activation_loop, np.float64, RULES[name]).address
    kind(address)(chosen.ctypes.data, value.ctypes.data, slope.ctypes.data, chosen.size)
    numbers += value[: chosen.size].tolist()
compiler = sys.modules.get("fastmlp.compiler.native.objects")
print(*numbers, compiler is not None and len(compiler.TRANSLATED) > 0)
"""
RIGHT = "0.0 2.0 0.5"

# Prints which libraries of compilers were imported.
IMPORTED = "\nprint({'numba', 'llvmlite'} & sys.modules.keys() or '')"

DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "emptied": lambda content: b"",
    "cut in its digest": lambda content: content[:20],
    "cut after its digest": lambda content: content[:32],
    "cut in the middle": lambda content: content[: len(content) // 2],
    "without its last byte": lambda content: content[:-1],
    "with a byte more": lambda content: content + b"\0",
    "flipped in its digest": lambda content: flip(content, 5),
    "flipped at its start": lambda content: flip(content, 32),
    "flipped in the middle": lambda content: flip(content, len(content) // 2),
    "flipped at its end": lambda content: flip(content, len(content) - 1),
}


def flip(content: bytes, where: int) -> bytes:
    changed = bytearray(content)
    changed[where] ^= 0xFF
    return bytes(changed)
