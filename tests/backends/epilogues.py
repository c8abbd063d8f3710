"""Epilogues in NumPy, for the tests of products and of tiles."""

from typing import Any

import numpy as np
import pytest

from fastmlp.backends.cpu.simd.microkernel import (
    BY_COLUMN,
    PLUS,
    RELU,
    RELU_PLUS,
    STORE,
    TIMES,
    WHERE_POSITIVE,
)

EPILOGUES = {
    "store": STORE,
    "relu": RELU,
    "times": TIMES,
    "where_positive": WHERE_POSITIVE,
    "plus": PLUS,
    "relu_plus": RELU_PLUS,
}
# By column there are fewer.
each_epilogue = pytest.mark.parametrize(
    ("by_column", "epilogue"),
    [
        pytest.param(by_column, code, id=f"{'by_column' if by_column else 'by_row'}-{name}")
        for by_column in (False, True)
        for name, code in EPILOGUES.items()
        if not by_column or code in BY_COLUMN
    ],
)


def finished(value: Any, epilogue: int, operand: Any) -> Any:
    """The product after its epilogue."""
    if epilogue in (PLUS, RELU_PLUS):
        value = value + operand
    if epilogue in (RELU, RELU_PLUS):
        return np.maximum(value, 0)
    if epilogue == TIMES:
        return value * operand
    return np.where(operand > 0, value, 0) if epilogue == WHERE_POSITIVE else value


def magnitude(size: Any, epilogue: int, operand: Any) -> Any:
    """The size that rounding of sums is relative to, after the epilogue."""
    if epilogue in (PLUS, RELU_PLUS):
        return size + abs(operand)
    return size * abs(operand) if epilogue == TIMES else size
