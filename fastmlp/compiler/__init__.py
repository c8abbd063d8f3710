"""The compiler: marks of kernels, `prange`, records, compiled blocks, code cache.

Importing it loads neither Numba nor LLVM: `native` has the translator, `by_numba` all of Numba.
"""

from fastmlp.compiler.blocks import Block, Key, block_of, entry_of, is_ours
from fastmlp.compiler.intrinsics import (
    Record,
    call,
    coefficients_at,
    exchange_if,
    fence,
    fetch_add,
    flush_denormals,
    flushed,
    fma,
    load_acquire,
    next_word,
    pause,
    prange,
    record_at,
    records_at,
    restore_denormals,
    restored,
    row,
    rows,
    stack,
    store_release,
    thread_number,
)
from fastmlp.compiler.jit import COMPILER, INTERPRETED, njit
from fastmlp.compiler.source import hinted

__all__ = [
    "COMPILER", "INTERPRETED", "Block", "Key", "Record", "block_of", "call", "coefficients_at",
    "entry_of", "exchange_if", "fence", "fetch_add", "flush_denormals", "flushed", "fma", "hinted",
    "is_ours", "load_acquire", "next_word", "njit", "pause", "prange", "record_at", "records_at",
    "restore_denormals", "restored", "row", "rows", "stack", "store_release", "thread_number",
]  # fmt: skip
