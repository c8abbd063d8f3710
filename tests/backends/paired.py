"""Matrices of bfloat16 pairs for the tests of mixed precision, in NumPy alone."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from panelled import to_panels

Array = NDArray[Any]


def upper_bits(matrix: Array) -> NDArray[np.uint16]:
    """Numbers rounded to bfloat16, to nearest even, as 16 bits; NaN is quiet, subnormals zeros."""
    value = np.ascontiguousarray(matrix, np.float32)
    bits = value.view(np.uint32).astype(np.uint64)
    nearest = bits + 0x7FFF + (bits >> 16 & 1)
    nearest = np.where(bits & 0x7F800000, nearest, bits & 0x80000000)
    nearest = np.where(np.isnan(value), bits | 0x400000, nearest)
    return (nearest >> 16).astype(np.uint16)


def to_bfloat16(matrix: Array) -> Array:
    """Numbers rounded to bfloat16, as float32."""
    return (upper_bits(matrix).astype(np.uint32) << 16).view(np.float32)


def operand(
    sizes: Sequence[int], wide: int, told: Any = "bfloat16"
) -> Callable[[int, Array], Array]:
    """From a layer and an operand of its products to the operand as they take it: rounded, if the
    layer is told, or has at least `wide` inputs and outputs. Kernels round numbers of float32."""

    def rounded(layer: int, given: Array) -> Array:
        single = given.astype(np.float32)
        is_rounded = min(sizes[layer : layer + 2]) >= wide
        if isinstance(told, tuple):
            is_rounded = told[layer] == "bfloat16"
        return (to_bfloat16(single) if is_rounded else single).astype(np.float64)

    return rounded


def _pairs(first: Array, second: Array) -> Array:
    low, high = (upper_bits(each).astype(np.uint32) for each in (first, second))
    return (high << 16 | low).view(np.float32)


def along(matrix: Array, lanes: int, n_rows: int) -> Array:
    """Pairs of neighbours in a row, in panels of half as many lanes."""
    even = np.zeros((len(matrix), matrix.shape[1] + matrix.shape[1] % 2), np.float32)
    even[:, : matrix.shape[1]] = matrix
    return to_panels(_pairs(even[:, ::2], even[:, 1::2]), lanes // 2, n_rows)


def across(matrix: Array, lanes: int) -> Array:
    """Pairs of neighbours in a column, in panels: (n_panels, pairs of rows, lanes)."""
    even = np.zeros((len(matrix) + len(matrix) % 2, matrix.shape[1]), np.float32)
    even[: len(matrix)] = matrix
    return to_panels(_pairs(even[::2], even[1::2]), lanes)
