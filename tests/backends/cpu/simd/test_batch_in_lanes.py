"""The batch in lanes: into blocks and out of them, and their products, to the bit."""

import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from panelled import INTERPRETED, address, block, chains

from fastmlp.backends.cpu.plan.workspace import aligned
from fastmlp.backends.cpu.simd.batch_in_lanes import batch_in_lanes, tile
from fastmlp.backends.cpu.tuning import LARGEST_TILE
from fastmlp.compiler.target import lanes_of

UNTOUCHED = 77.0
each_dtype = pytest.mark.parametrize("dtype", [np.float32, np.float64])


def move(name: str, dtype: Any) -> Any:
    chosen = getattr(batch_in_lanes(dtype), name)

    def of_seven(a: Any, b: Any, c: Any, d: Any, e: Any, f: Any, g: Any) -> None:
        chosen(a, b, c, d, e, f, g)

    return block(of_seven)


def product(dtype: Any, vectors: int, units: int) -> Any:
    chosen = tile(dtype, vectors, units)

    def of_seven(a: Any, b: Any, c: Any, d: Any, e: Any, f: Any, g: Any) -> None:
        chosen(a, b, c, d, e, f, g)

    return block(of_seven)


def widths(lanes: int) -> list[int]:
    return [1, 2, 3, lanes - 1, lanes, lanes + 1, 2 * lanes + 1]


@each_dtype
def test_rows_go_into_lanes_and_out_again(dtype: Any, rng: Any) -> None:
    lanes = lanes_of(dtype)
    stand, lie = move("into_lanes", dtype), move("out_of_lanes", dtype)
    for width in widths(lanes):
        for n in (1, 3, lanes, lanes + 2):
            x = rng.normal(size=(n, width)).astype(dtype)
            height = -(-width // lanes) * lanes
            # Vectors of two groups of rows lie next to each other.
            units = np.full((height, 2, lanes), UNTOUCHED, dtype)
            check = np.zeros((3, lanes), dtype)
            unit, out = units[0].nbytes, np.full((n + 1, width), UNTOUCHED, dtype)
            for first, group in ((0, 0), (lanes, 1)):
                if first >= n:
                    continue
                place = address(units, 0, group)
                stand(address(x), width, first, n - 1, place, unit, address(check, 1))
                rows = np.minimum(np.arange(first, first + lanes), n - 1)
                assert np.array_equal(units[:width, group].T, x[rows])
                assert not units[width:, group].any()
                lie(place, width, first, n - 1, address(out), unit, address(check, 1))
            assert np.array_equal(out[:n], x)
            assert (out[n] == UNTOUCHED).all()
            assert not check.any()
            if n <= lanes:
                assert (units[:, 1] == UNTOUCHED).all()


@each_dtype
@pytest.mark.parametrize("fault", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_noticed_on_the_way_in_and_out(fault: float, dtype: Any) -> None:
    lanes = lanes_of(dtype)
    for width in widths(lanes):
        x = np.ones((3, width), dtype)
        x[1, -1] = fault
        units = np.zeros((-(-width // lanes) * lanes, lanes), dtype)
        checks = np.zeros((2, lanes), dtype)
        how = (units[0].nbytes, address(checks))
        move("into_lanes", dtype)(address(x), width, 0, 2, address(units), *how)
        assert np.isnan(checks[0]).any()
        out, how = np.empty_like(x), (units[0].nbytes, address(checks, 1))
        move("out_of_lanes", dtype)(address(units), width, 0, 2, address(out), *how)
        assert np.isnan(checks[1]).any()
        assert np.array_equal(out, x, equal_nan=True)


@each_dtype
@pytest.mark.parametrize("vectors", [1, LARGEST_TILE[1]])
@pytest.mark.parametrize("units", [1, 2, LARGEST_TILE[0]])
def test_a_tile_is_a_chain_of_multiply_adds(units: int, vectors: int, dtype: Any, rng: Any) -> None:
    n_rows, n_out, multiply = vectors * lanes_of(dtype), units + 3, product(dtype, vectors, units)
    for n_in in (1, 2, 17, 130):
        x = rng.normal(size=(n_rows, n_in)).astype(dtype)
        w = rng.normal(size=(n_in, n_out)).astype(dtype)
        b = rng.normal(size=n_out).astype(dtype)
        expected = chains(b, x, w)[:, 1 : units + 1].T
        x_in_lanes = np.ascontiguousarray(x.T)
        for positive in (0, 1):
            out = aligned((units + 1) * n_rows, dtype).reshape(units + 1, n_rows)
            out[:] = UNTOUCHED
            places = (address(out), address(b, 1), address(w, 0, 1))
            multiply(*places, n_out, address(x_in_lanes), n_in, positive)
            if positive:
                expected = np.where(expected < 0, 0, expected)
            assert np.array_equal(out[:units], expected)
            assert (out[units] == UNTOUCHED).all()


@each_dtype
def test_the_positive_part_keeps_nan(dtype: Any) -> None:
    x, w = np.ones((1, lanes_of(dtype)), dtype), np.ones(1, dtype)
    x[0, :3] = np.nan, -np.inf, np.inf
    out, bias = np.empty_like(x), np.zeros(1, dtype)
    places = (address(out), address(bias), address(w))
    product(dtype, 1, 1)(*places, 1, address(x), 1, 1)
    assert np.isnan(out[0, 0])
    assert out[0, 1:4].tolist() == [0, np.inf, 1]


# Rows that end where memory ends: to touch the next byte is to crash.
AT_THE_EDGE = """
import numpy as np
from guard_page import memory_with_an_edge
from fastmlp.compiler.target import lanes_of
from backends.cpu.simd.test_batch_in_lanes import address, move

memory, end, page = memory_with_an_edge()
for dtype in (np.float32, np.float64):
    lanes, size = lanes_of(dtype), np.dtype(dtype).itemsize
    stand, lie = move("into_lanes", dtype), move("out_of_lanes", dtype)
    for width in range(1, 2 * lanes + 2):
        units, check = np.zeros((3 * lanes, lanes), dtype), np.zeros(lanes, dtype)
        for n in (1, lanes - 1, lanes):
            edge = end - n * width * size
            line = np.frombuffer(memory, dtype, n * width, page - n * width * size)
            line[:] = np.arange(n * width)
            stand(edge, width, 0, n - 1, address(units), units[0].nbytes, address(check))
            units += 1
            lie(address(units), width, 0, n - 1, edge, units[0].nbytes, address(check))
            assert line.tolist() == list(range(1, n * width + 1))
print("alive")
"""


@pytest.mark.skipif(
    sys.platform == "win32" or INTERPRETED, reason="needs mprotect, and code that could run over"
)
def test_no_byte_after_the_rows_is_read_or_written(python: Callable[..., str]) -> None:
    assert python(AT_THE_EDGE).strip() == "alive"
