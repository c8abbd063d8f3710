"""The compiler: jit options, translator, `prange`, records, code cache, compiled blocks.

Importing it loads all of Numba.
"""

import fastmlp.compiler.deferred_numba
import fastmlp.compiler.elementary  # noqa: F401  (tells Numba of the compiled forms)
from fastmlp.compiler.blocks import Block, block_of, call, is_ours
from fastmlp.compiler.intrinsics import (
    exchange_if,
    fence,
    fetch_add,
    flush_denormals,
    flushed,
    load_acquire,
    next_word,
    pause,
    prange,
    restore_denormals,
    restored,
    store_release,
    thread_number,
)
from fastmlp.compiler.jit import COMPILER, INTERPRETED, kernel, njit
from fastmlp.compiler.memory import (
    Record,
    coefficients_at,
    fma,
    record_at,
    records_at,
    row,
    rows,
    stack,
)
from fastmlp.compiler.source import hinted

__all__ = [
    "COMPILER",
    "INTERPRETED",
    "Block",
    "Record",
    "block_of",
    "call",
    "coefficients_at",
    "exchange_if",
    "fence",
    "fetch_add",
    "flush_denormals",
    "flushed",
    "fma",
    "hinted",
    "is_ours",
    "kernel",
    "load_acquire",
    "next_word",
    "njit",
    "pause",
    "prange",
    "record_at",
    "records_at",
    "restore_denormals",
    "restored",
    "row",
    "rows",
    "stack",
    "store_release",
    "thread_number",
]
