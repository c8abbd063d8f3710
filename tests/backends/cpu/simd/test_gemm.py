"""The matrix product of any shape: against NumPy in float64, and to the bit."""

from typing import Any

import numpy as np
import pytest
from epilogues import each_epilogue, finished, magnitude
from hypothesis import given, settings
from hypothesis import strategies as st
from panelled import INTERPRETED, address, chains, from_panels, rounding, to_panels

from fastmlp.backends.cpu.plan.packing import round_up
from fastmlp.backends.cpu.simd.gemm import product
from fastmlp.backends.cpu.simd.microkernel import STORE
from fastmlp.backends.cpu.tuning import DEPTH_BLOCK, ROW_BLOCK, STRIP_ROWS
from fastmlp.compiler import block_of
from fastmlp.compiler.target import lanes_of

UNTOUCHED = 77.0
# One piece of three lines, which a product by column prefetches in turns.
STREAM = np.array([1, 3, 0])
STREAM[2] = address(STREAM)
CUTS = [DEPTH_BLOCK - 1, DEPTH_BLOCK, DEPTH_BLOCK + 1, 2 * DEPTH_BLOCK + 17]
DEPTHS = [1, 3, 17] if INTERPRETED else [1, 3, 16, 17, *CUTS]
MOST_ROWS, MOST_COLUMNS = (10, 40) if INTERPRETED else (70, 130)

each_dtype = pytest.mark.parametrize("dtype", [np.float32, np.float64])
each_reading = pytest.mark.parametrize("by_column", [False, True], ids=["by_row", "by_column"])
for_many_shapes = settings(derandomize=True, deadline=None, max_examples=5 if INTERPRETED else 60)
some_shape = given(st.integers(1, MOST_ROWS), st.integers(1, MOST_COLUMNS), st.sampled_from(DEPTHS))


def panels_of_a(a: Any, by_column: bool, lanes: int) -> Any:
    """The left matrix; where it has no numbers there are NaNs, which must not count."""
    if by_column:
        return to_panels(a.T.copy(), lanes, None, np.nan)
    return to_panels(a, lanes, round_up(len(a), ROW_BLOCK), np.nan)


def multiply(
    start: Any, a: Any, b: Any, by_column: bool, epilogue: int = STORE, c: Any = None
) -> Any:
    """Panels of C, as the kernels have them computed: `ROW_BLOCK` rows a call, C the operand."""
    dtype, (height, depth) = a.dtype, a.shape
    lanes = lanes_of(dtype.type)
    vector = lanes * a.itemsize
    left, right = panels_of_a(a, by_column, lanes), to_panels(b, lanes)
    matrix = start.ndim == 2
    origin = to_panels(np.atleast_2d(start), lanes, round_up(height, ROW_BLOCK) if matrix else 1)
    if c is None:
        c = np.full((len(right), round_up(height, ROW_BLOCK), lanes), UNTOUCHED, dtype)
    compiled = block_of(product, dtype, by_column=by_column)
    streams = address(STREAM) if by_column and depth % 2 else 0
    for r in range(0, height, ROW_BLOCK):
        place = address(left, r // lanes) if by_column else address(left) + r * vector
        stride = vector * matrix
        compiled(
            address(c) + r * vector, c[0].nbytes, address(origin) + r * stride, stride,
            origin[0].nbytes, address(right), right[0].nbytes, place, left[0].nbytes,
            depth, epilogue, address(c) + r * vector, b.shape[1], min(ROW_BLOCK, height - r),
            streams,
        )  # fmt: skip
    return c


def draw(rng: Any, dtype: Any, *sizes: tuple[int, ...]) -> list[Any]:
    return [rng.normal(size=size).astype(dtype) for size in sizes]


def shapes(height: int, width: int, depth: int) -> Any:
    return (height, width), (height, depth), (depth, width)


@each_dtype
@each_epilogue
@for_many_shapes
@some_shape
def test_a_product_of_any_shape_is_that_of_numpy(
    dtype: Any, by_column: bool, epilogue: int, height: int, width: int, depth: int
) -> None:
    rng = np.random.default_rng(0)
    start, a, b, operand = draw(rng, dtype, *shapes(height, width, depth), (height, width))
    c = to_panels(operand, lanes_of(dtype), round_up(height, ROW_BLOCK))
    actual = from_panels(multiply(start, a, b, by_column, epilogue, c), height, width)
    start, a, b, operand = (m.astype(np.float64) for m in (start, a, b, operand))
    exact = finished(start + a @ b, epilogue, operand)
    size = magnitude(abs(start) + abs(a) @ abs(b), epilogue, operand)
    assert (abs(actual - exact) <= rounding(depth, dtype) * size).all()


@each_dtype
@each_reading
@for_many_shapes
@some_shape
def test_no_element_depends_on_how_the_product_is_tiled(
    dtype: Any, by_column: bool, height: int, width: int, depth: int
) -> None:
    start, a, b = draw(np.random.default_rng(0), dtype, *shapes(height, width, depth))
    actual = from_panels(multiply(start, a, b, by_column), height, width)
    assert np.array_equal(actual, chains(start, a, b))


@each_dtype
@each_reading
@pytest.mark.parametrize("n_panels", range(1, 8))
@pytest.mark.parametrize("last", ["one", "half", "whole"])
def test_every_number_of_rows_and_panels_has_the_bits_of_one_row_and_its_room(
    dtype: Any, by_column: bool, n_panels: int, last: str, rng: Any
) -> None:
    lanes = lanes_of(dtype)
    width = (n_panels - 1) * lanes + {"one": 1, "half": lanes // 2, "whole": lanes}[last]
    depth, most = DEPTHS[-2], min(MOST_ROWS, ROW_BLOCK)
    start, a, b = draw(rng, dtype, *shapes(most, width, depth))
    alone = [from_panels(multiply(start[[r]], a[[r]], b, by_column), 1, width) for r in range(most)]
    for height in range(1, most + 1):
        c = multiply(start[:height], a[:height], b, by_column)
        assert np.array_equal(from_panels(c, height, width), np.concatenate(alone[:height]))
        assert (c[:, round_up(height, STRIP_ROWS) :] == UNTOUCHED).all()


@each_dtype
@each_reading
def test_panels_beside_those_asked_for_are_untouched(dtype: Any, by_column: bool, rng: Any) -> None:
    lanes = lanes_of(dtype)
    for n_panels in range(1, 8):
        start, a, b = draw(rng, dtype, *shapes(9, n_panels * lanes, 3))
        memory = np.full((n_panels + 4, ROW_BLOCK, lanes), UNTOUCHED, dtype)
        multiply(start, a, b, by_column, STORE, memory[2:-2])
        assert (memory[[0, 1, -2, -1]] == UNTOUCHED).all()
        assert not (memory[2:-2, :9] == UNTOUCHED).any()


@each_dtype
@each_reading
def test_a_bias_and_a_row_of_zeros_start_every_row_alike(
    dtype: Any, by_column: bool, rng: Any
) -> None:
    _, a, b = draw(rng, dtype, *shapes(13, 37, DEPTHS[-2]))
    bias = rng.normal(size=37).astype(dtype)
    for start in (bias, np.zeros_like(bias)):
        actual = from_panels(multiply(start, a, b, by_column), 13, 37)
        assert np.array_equal(actual, chains(start, a, b))


@each_dtype
def test_a_product_of_no_rows_writes_nothing(dtype: Any) -> None:
    vector = np.full(lanes_of(dtype), UNTOUCHED, dtype)
    place = address(vector)
    compiled = block_of(product, dtype, by_column=False)
    compiled(place, 0, place, 0, 0, place, 0, place, 0, 1, STORE, place, len(vector), 0, 0)
    assert (vector == UNTOUCHED).all()
