"""The compiler: marks of kernels, `prange`, records, compiled blocks, code cache.

Importing it loads neither Numba nor LLVM:
`native` has the translator, `by_numba` all of Numba.
"""

from fastmlp.compiler.blocks import Block, Key, block_of, entry_of, is_ours
from fastmlp.compiler.jit import (
    COMPILER,
    INTERPRETED,
    call,
    flush_denormals,
    fma,
    hinted,
    next_word,
    njit,
    pause,
    prange,
    restore_denormals,
    thread_number,
)

__all__ = [
    "COMPILER",
    "INTERPRETED",
    "Block",
    "Key",
    "block_of",
    "call",
    "entry_of",
    "flush_denormals",
    "fma",
    "hinted",
    "is_ours",
    "next_word",
    "njit",
    "pause",
    "prange",
    "restore_denormals",
    "thread_number",
]
