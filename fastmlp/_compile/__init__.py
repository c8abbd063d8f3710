"""Compile policy: the jit options, the disk cache, and rules as compiled blocks."""

from fastmlp._compile.atomics import exchange_if, fetch_add, load_acquire, pause, store_release
from fastmlp._compile.blocks import Block, block_of, call
from fastmlp._compile.jit import kernel, leaf
from fastmlp._compile.memory import coefficients_at, fma, row

__all__ = [
    "Block",
    "block_of",
    "call",
    "coefficients_at",
    "exchange_if",
    "fetch_add",
    "fma",
    "kernel",
    "leaf",
    "load_acquire",
    "pause",
    "row",
    "store_release",
]
