"""Pairs of bfloat16: bits against NumPy; products against NumPy on rounded operands."""

from typing import Any

import numpy as np
import pytest
from epilogues import each_epilogue, finished, magnitude
from hypothesis import given, settings
from hypothesis import strategies as st
from paired import across, along, to_bfloat16
from panelled import INTERPRETED, address, block, from_panels, rounding, to_panels

from fastmlp.backends.cpu.plan.packing import round_up
from fastmlp.backends.cpu.plan.workspace import aligned
from fastmlp.backends.cpu.simd.gemm import product
from fastmlp.backends.cpu.simd.microkernel import STORE
from fastmlp.backends.cpu.simd.pack import pairs
from fastmlp.backends.cpu.simd.vector import Panels
from fastmlp.backends.cpu.tuning import DEPTH_BLOCK, ROW_BLOCK
from fastmlp.compiler import block_of
from fastmlp.compiler.target import lanes_of, pair_products

LANES = lanes_of(np.float32)
# One piece of three lines, which a product by column prefetches in turns.
STREAM = np.array([1, 3, 0])
STREAM[2] = address(STREAM)
CUTS = [2 * DEPTH_BLOCK - 1, 2 * DEPTH_BLOCK, 2 * DEPTH_BLOCK + 1, 4 * DEPTH_BLOCK + 17]
DEPTHS = [1, 2, 17] if INTERPRETED else [1, 2, 3, 16, 17, 33, *CUTS]
MOST_ROWS, MOST_COLUMNS = (10, 40) if INTERPRETED else (70, 130)


def multiply(
    start: Any, a: Any, b: Any, by_column: bool, epilogue: int = STORE, c: Any = None
) -> Any:
    """The product of A and B rounded to bfloat16, as kernels have it computed."""
    height, depth = a.shape
    most, vector = round_up(height, ROW_BLOCK), 4 * LANES
    left = across(a.T, LANES) if by_column else along(a, LANES, most)
    right, origin = across(b, LANES), to_panels(start, LANES, most)
    if c is None:
        c = to_panels(np.zeros_like(start), LANES, most)
    compiled = block_of(product, "float32", by_column=by_column, pairs=pair_products())
    streams = address(STREAM) if by_column and depth % 2 else 0
    for r in range(0, height, ROW_BLOCK):
        compiled(
            address(c, 0, r), c[0].nbytes, address(origin, 0, r), vector, origin[0].nbytes,
            address(right), right[0].nbytes,
            address(left, r // LANES) if by_column else address(left, 0, r), left[0].nbytes,
            (depth + 1) // 2, epilogue, address(c, 0, r), b.shape[1], min(ROW_BLOCK, height - r),
            streams,
        )  # fmt: skip
    return from_panels(c, height, b.shape[1])


def draw(*sizes: tuple[int, ...]) -> list[Any]:
    rng = np.random.default_rng(0)
    return [rng.normal(size=size).astype(np.float32) for size in sizes]


@each_epilogue
@settings(derandomize=True, deadline=None, max_examples=5 if INTERPRETED else 60)
@given(st.integers(1, MOST_ROWS), st.integers(1, MOST_COLUMNS), st.sampled_from(DEPTHS))
def test_a_product_of_pairs_is_that_of_rounded_numbers(
    by_column: bool, epilogue: int, height: int, width: int, depth: int
) -> None:
    start, a, b, operand = draw((height, width), (height, depth), (depth, width), (height, width))
    c = to_panels(operand, LANES, round_up(height, ROW_BLOCK))
    actual = multiply(start, a, b, by_column, epilogue, c)
    a, b, start, operand = (
        m.astype(np.float64) for m in (to_bfloat16(a), to_bfloat16(b), start, operand)
    )
    exact = finished(start + a @ b, epilogue, operand)
    size = magnitude(abs(start) + abs(a) @ abs(b), epilogue, operand)
    assert (abs(actual - exact) <= 2 * rounding(depth, np.float32) * size).all()


@pytest.mark.parametrize("by_column", [False, True])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_numbers_that_are_not_finite_pass_through_a_product(by_column: bool, bad: float) -> None:
    start, a, b = draw((9, 20), (9, 7), (7, 20))
    a[4, 6] = bad
    actual = multiply(start, a, b, by_column)
    with np.errstate(all="ignore"):
        expected = start + to_bfloat16(a) @ to_bfloat16(b)
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-4)
    assert np.isfinite(np.delete(actual, 4, 0)).all()


SPECIAL = [0.0, -0.0, 1e-40, -1e-40, np.inf, -np.inf, np.nan, 3.4e38, 1 + 2**-8, 1 + 3 * 2**-8]


@pytest.mark.parametrize(("height", "width"), [(1, 1), (8, 16), (7, 17), (128, 33), (11, 40)])
def test_rows_are_rounded_to_nearest_even_in_both_forms(height: int, width: int) -> None:
    (matrix,) = draw((height, width))
    matrix.ravel()[: len(SPECIAL)] = SPECIAL[: matrix.size]
    n_rows = round_up(height, 8)
    panels = to_panels(matrix, LANES, n_rows, np.nan)
    both = [np.full((len(panels), n_rows // 2, LANES), np.nan, np.float32) for _ in range(2)]
    places = [address(each) for each in (panels, *both)]
    loop = pairs(np.float32, LANES).pair_rows

    def run(source: int, stride: int, along: int, across: int, width: int, n: int) -> None:
        loop(Panels(source, stride), along, across, width, n)

    block(run)(places[0], panels[0].nbytes, *places[1:], width, height)
    paired_rows = (height + 1) // 2
    expected = along(matrix, LANES, 2 * paired_rows).view(np.uint32)
    actual = both[0][:, :paired_rows].reshape(expected.shape).view(np.uint32)
    np.testing.assert_array_equal(actual, expected)
    actual = both[1][:, :paired_rows].view(np.uint32)
    np.testing.assert_array_equal(actual, across(matrix, LANES).view(np.uint32))


@pytest.mark.parametrize("non_temporal", [False, True])
@pytest.mark.parametrize("n", [1, 2, 5, LANES - 1, LANES, LANES + 1])
def test_a_square_is_paired_and_transposed(non_temporal: bool, n: int) -> None:
    (matrix,) = draw((LANES, LANES))
    source = to_panels(matrix, LANES)
    forms = [aligned(LANES // 2 * LANES, np.float32).reshape(-1, LANES) for _ in range(2)]
    its = pairs(np.float32, LANES)
    loop = its.pair_square_non_temporal if non_temporal else its.pair_square

    def run(source: int, across: int, transposed: int, n: int) -> None:
        loop(source, across, transposed, n)

    block(run)(address(source), *map(address, forms), n)
    matrix[n:] = 0
    for form, expected in zip(forms, (matrix, matrix.T), strict=True):
        np.testing.assert_array_equal(form, across(expected, LANES)[0])


@pytest.mark.parametrize(("height", "width"), [(1, 1), (2, 16), (7, 17), (6, 40)])
def test_weights_are_packed_in_pairs_from_flat_ones(height: int, width: int) -> None:
    (matrix,) = draw((height, width))
    matrix.ravel()[: len(SPECIAL)] = SPECIAL[: matrix.size]
    expected, loop = across(matrix, LANES), pairs(np.float32, LANES).pack_pairs
    panels = np.full_like(expected, np.nan)

    def run(source: int, n: int, target: int, stride: int, width: int) -> None:
        loop(source, n, target, stride, width)

    for k in range(0, height, 2):
        where = (address(panels, 0, k // 2), panels[0].nbytes)
        block(run)(address(matrix, k), min(2, height - k), *where, width)
    np.testing.assert_array_equal(panels.view(np.uint32), expected.view(np.uint32))
