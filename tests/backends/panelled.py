"""Matrices in panels for the tests of the kernels, and the bounds of their rounding."""

from collections.abc import Callable
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from fastmlp.backends.cpu.plan.workspace import aligned
from fastmlp.compiler import Block, fma

Array = NDArray[Any]
# Uncompiled kernels are a thousand times slower: the same tests there take fewer shapes.
INTERPRETED = bool(numba.config.DISABLE_JIT)


def to_panels(matrix: Array, lanes: int, n_rows: int | None = None, fill: float = 0.0) -> Array:
    """The matrix as (n_panels, n_rows, lanes), and `fill` where it has no numbers."""
    height, width = matrix.shape
    n_rows = height if n_rows is None else n_rows
    n_panels = -(-width // lanes)
    padded = np.full((n_rows, n_panels * lanes), fill, matrix.dtype)
    padded[:height, :width] = matrix
    panels = aligned(padded.size, matrix.dtype).reshape(n_panels, n_rows, lanes)
    panels[...] = padded.reshape(n_rows, n_panels, lanes).transpose(1, 0, 2)
    return panels


def from_panels(panels: Array, height: int, width: int) -> Array:
    """The matrix of this shape that lies in panels."""
    n_panels, n_rows, lanes = panels.shape
    return panels.transpose(1, 0, 2).reshape(n_rows, n_panels * lanes)[:height, :width]


def address(array: Array, *index: int) -> int:
    """Where an element of a C-contiguous array lies."""
    return int(array.ctypes.data) + sum(i * n for i, n in zip(index, array.strides, strict=False))


def rounding(depth: int, dtype: Any) -> float:
    """Bound the relative error of a sum of so many products and of one operation more."""
    return (depth + 2) * float(np.finfo(dtype).eps)


@numba.njit
def _chains(start: Any, a: Any, b: Any, c: Any) -> None:
    for i in range(c.shape[0]):
        for j in range(c.shape[1]):
            total = start[i, j]
            for k in range(a.shape[1]):
                total = fma(a[i, k], b[k, j], total)
            c[i, j] = total


def chains(start: Array, a: Array, b: Array) -> Array:
    """start + A B, each element one chain of multiply-adds in the order of k: the kernels' bits."""
    c = np.empty((a.shape[0], b.shape[1]), a.dtype)
    _chains(np.broadcast_to(start, c.shape).copy(), a, b, c)
    return c


def block(loop: Callable[..., None]) -> Block:
    """Compile a function of integers, past the disk cache."""
    return Block(loop, None)


def assembly(compiled: Block) -> str:
    """The machine code of a block, as text."""
    return str(compiled._code._library.get_asm_str())
