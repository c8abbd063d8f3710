"""Tiles of the matrix product: every shape, against NumPy in float64, and to the bit."""

import json
from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import llvmlite.binding
import numba
import numpy as np
import pytest
from nets import Net, distance, oracle_gradient
from panelled import (
    INTERPRETED,
    address,
    block,
    chains,
    each_epilogue,
    finished,
    from_panels,
    magnitude,
    rounding,
    to_panels,
)

from fastmlp.backends.cpu.engine import Engine
from fastmlp.backends.cpu.simd.microkernel import (
    RELU,
    STORE,
    WHERE_POSITIVE,
    Epilogue,
    Operands,
    Start,
    TileForm,
    sweep,
)
from fastmlp.backends.cpu.simd.vector import Panels
from fastmlp.backends.cpu.tuning import DEPTH_BLOCK, ROW_BLOCK, SMALL_TILE_ROWS, STRIP_ROWS
from fastmlp.compiler import Block
from fastmlp.compiler.target import lanes_of, vector_bytes

SHAPES = sorted(
    {(r, v) for r in (SMALL_TILE_ROWS, STRIP_ROWS) for v in (1, 2, 3)} | {(1, 1), (1, 4)}
)
# Sums that are shorter than a vector, that fill it, and that are cut once and twice.
CUTS = [DEPTH_BLOCK - 1, DEPTH_BLOCK, DEPTH_BLOCK + 1, 2 * DEPTH_BLOCK + 17]
DEPTHS = [1, 3, 17] if INTERPRETED else [1, 3, 16, 17, *CUTS]
HEIGHTS = [1, 9] if INTERPRETED else [1, 2, 7, 8, 9, 31, ROW_BLOCK]
STARTS = ["matrix", "bias", "zeros"]
UNTOUCHED, PANEL_ROWS = 77.0, ROW_BLOCK + 16

each_dtype = pytest.mark.parametrize("dtype", [np.float32, np.float64])
each_shape = pytest.mark.parametrize("shape", SHAPES, ids=lambda s: f"{s[0]}x{s[1]}")
each_reading = pytest.mark.parametrize("by_column", [False, True], ids=["by_row", "by_column"])


@cache
def swept(dtype: Any, shape: tuple[int, int], by_column: bool, narrow: bool = False) -> Block:
    multiply = sweep(TileForm(dtype, lanes_of(dtype), *shape, by_column, narrow))

    def sweep_once(
        c: Panels, start: Start, factors: Operands, epilogue: Epilogue, n_rows: Any
    ) -> None:
        multiply(c, start, factors, epilogue, n_rows, 0)

    return block(sweep_once)


class Matrices(NamedTuple):
    start: Any
    a: Any
    b: Any
    c: Any


def draw(rng: Any, dtype: Any, vectors: int, height: int, depth: int) -> Matrices:
    width = vectors * lanes_of(dtype)
    start, a, b = (
        rng.normal(size=size).astype(dtype)
        for size in ((height, width), (height, depth), (depth, width))
    )
    memory = np.full((vectors + 2, PANEL_ROWS, lanes_of(dtype)), UNTOUCHED, dtype)
    return Matrices(start, a, b, memory)


def multiply(
    compiled: Block, these: Matrices, by_column: bool, epilogue: int = STORE, **options: Any
) -> Any:
    """Run a sweep into the inner panels of the memory, and return what it has in the end.

    `start` is a matrix, one row (a bias), or None for one vector of zeros. The operand is C
    itself. NaNs surround A and B: whoever reads them shows it.
    """
    height, depth = these.a.shape
    lanes, size = these.c.shape[2], these.a.itemsize
    nan = float("nan")
    if by_column:
        a = to_panels(these.a.T.copy(), lanes, depth, nan)
    else:
        a = to_panels(these.a, lanes, PANEL_ROWS, nan)
    b = to_panels(these.b, lanes, depth + 3, nan)
    start = options.get("start", these.start)
    if start is None:
        origin, row_stride, panel_stride = np.zeros(lanes, a.dtype), 0, 0
    else:
        by_row = start.ndim == 2
        origin = to_panels(np.atleast_2d(start), lanes, PANEL_ROWS if by_row else 1)
        row_stride, panel_stride = lanes * size * by_row, origin[0].nbytes
    compiled(
        address(these.c, 1), these.c[0].nbytes, address(origin), row_stride, panel_stride,
        address(b), b[0].nbytes, address(a), a[0].nbytes, depth, epilogue, address(these.c, 1),
        height,
    )  # fmt: skip
    return from_panels(these.c[1:-1], height, these.b.shape[1])


@pytest.mark.few(12)
@each_dtype
@each_shape
@each_epilogue
def test_a_tile_is_the_product_of_numpy_and_touches_nothing_else(
    dtype: Any, shape: Any, by_column: bool, epilogue: int, rng: Any
) -> None:
    """Starts come in turn: every height has all of them."""
    for i, depth in enumerate(DEPTHS):
        for j, height in enumerate(HEIGHTS):
            start = STARTS[(i + j + epilogue) % len(STARTS)]
            these = draw(rng, dtype, shape[1], height, depth)
            operand = rng.normal(size=these.c[1:-1].shape).astype(dtype)
            these.c[1:-1, :ROW_BLOCK] = operand[:, :ROW_BLOCK]
            base = {"matrix": these.start, "bias": these.start[0], "zeros": None}[start]
            compiled = swept(dtype, shape, by_column)
            actual = multiply(compiled, these, by_column, epilogue, start=base)
            a, b = these.a.astype(np.float64), these.b.astype(np.float64)
            base = 0.0 if base is None else base.astype(np.float64)
            beside = from_panels(operand, height, these.b.shape[1]).astype(np.float64)
            exact = finished(base + a @ b, epilogue, beside)
            size = magnitude(abs(base) + abs(a) @ abs(b), epilogue, beside)
            assert (abs(actual - exact) <= rounding(depth, dtype) * size).all()
            written = -(-height // shape[0]) * shape[0]
            assert (these.c[[0, -1]] == UNTOUCHED).all()
            assert np.array_equal(these.c[1:-1, written:ROW_BLOCK], operand[:, written:ROW_BLOCK])
            assert (these.c[1:-1, ROW_BLOCK:] == UNTOUCHED).all()


@each_dtype
@each_epilogue
@pytest.mark.parametrize("vectors", [1, 2])
@pytest.mark.skipif(vector_bytes() < 64, reason="only AVX-512 has narrow tiles")
def test_a_narrow_tile_has_the_bits_of_a_whole_one_and_zeros_after_them(
    vectors: int, epilogue: int, by_column: bool, dtype: Any, rng: Any
) -> None:
    shape, half = (STRIP_ROWS, vectors), lanes_of(dtype) // 2
    for depth in DEPTHS:
        these = draw(rng, dtype, vectors, HEIGHTS[-1], depth)
        these.c[1:-1] = rng.normal(size=these.c[1:-1].shape)
        again = these._replace(c=these.c.copy())
        whole = multiply(swept(dtype, shape, by_column), these, by_column, epilogue)
        narrow = multiply(swept(dtype, shape, by_column, True), again, by_column, epilogue)
        assert np.array_equal(narrow[:, :-half], whole[:, :-half])
        assert not narrow[:, -half:].any()


@each_dtype
@each_shape
@each_reading
def test_every_element_is_one_chain_of_multiply_adds(
    dtype: Any, shape: Any, by_column: bool, rng: Any
) -> None:
    for depth in DEPTHS:
        these = draw(rng, dtype, shape[1], HEIGHTS[-1], depth)
        actual = multiply(swept(dtype, shape, by_column), these, by_column)
        assert np.array_equal(actual, chains(these.start, these.a, these.b))


@each_dtype
@each_shape
@each_reading
def test_a_sum_that_is_cut_and_goes_on_from_c_has_the_same_bits(
    dtype: Any, shape: Any, by_column: bool, rng: Any
) -> None:
    these = draw(rng, dtype, shape[1], HEIGHTS[-1], DEPTHS[-1])
    compiled = swept(dtype, shape, by_column)
    whole = multiply(compiled, these, by_column)
    for cut in (1, DEPTHS[-1] // 2):
        first = these._replace(a=these.a[:, :cut], b=these.b[:cut])
        rest = these._replace(a=these.a[:, cut:], b=these.b[cut:])
        half = multiply(compiled, first, by_column).copy()
        assert np.array_equal(multiply(compiled, rest, by_column, start=half), whole)


@each_dtype
@each_shape
def test_relu_keeps_nan_and_makes_no_number_of_it(dtype: Any, shape: Any, rng: Any) -> None:
    these = draw(rng, dtype, shape[1], 3, 5)
    these.a[1, 2] = np.nan
    actual = multiply(swept(dtype, shape, False), these, False, RELU)
    assert np.isnan(actual[1]).all()
    assert (actual[[0, 2]] >= 0).all()


@each_dtype
@each_shape
def test_where_positive_lets_nothing_pass_for_zero_or_nan(dtype: Any, shape: Any, rng: Any) -> None:
    these = draw(rng, dtype, shape[1], 4, 5)
    these.c[1:-1, :4, :] = np.array([0, np.nan, -1, 1], dtype)[None, :, None]
    expected = chains(these.start, these.a, these.b)
    actual = multiply(swept(dtype, shape, False), these, False, WHERE_POSITIVE)
    assert not actual[:3].any()
    assert np.array_equal(actual[3], expected[3])


@pytest.mark.parametrize(
    ("name", "features", "n_bytes"),
    [
        (None, "+sse2,+avx,+avx2,+fma,+avx512f", 64),
        ("haswell", "+sse2,+avx,+avx2,+fma,-avx512f", 32),
        ("haswell", "+sse2,+avx", 16),
        ("generic", "", 16),
        ("generic", None, 16),
    ],
)
def test_vectors_are_as_wide_as_the_features_that_numba_compiles_for(
    name: Any, features: Any, n_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(numba.config, "CPU_NAME", name)
    monkeypatch.setattr(numba.config, "CPU_FEATURES", features)
    assert vector_bytes() == n_bytes
    assert (lanes_of(np.float32), lanes_of(np.float64)) == (n_bytes // 4, n_bytes // 8)


# A machine with AVX2 and no more, and one of which nothing is known: 8, 4, 4 and 2 lanes.
AVX2 = "+sse,+sse2,+sse3,+ssse3,+sse4.1,+sse4.2,+popcnt,+avx,+avx2,+fma,+bmi,+bmi2"
OTHERS: dict[str, tuple[dict[str, str], int, list[str]]] = {
    "haswell": (
        {"NUMBA_CPU_NAME": "haswell", "NUMBA_CPU_FEATURES": AVX2},
        32,
        ["float32", "float64"],
    ),
    "generic": ({"NUMBA_CPU_NAME": "generic", "NUMBA_CPU_FEATURES": ""}, 16, ["float64"]),
    # Of this machine's name: LLVM ends the process at a register that was struck out.
    "without AVX": ({"NUMBA_ENABLE_AVX": "0"}, 16, ["float32"]),
}
SIZES = [(17, 5, 33), (70, 9, 3), (1, 1)]


def gradients(dtypes: list[str]) -> list[tuple[Any, float]]:
    results = []
    for dtype in dtypes:
        for sizes in SIZES:
            activation = "tanh" if dtype == "float32" else "relu"
            net = Net(sizes, activation, penalties={"l2": 0.1}, dtype=dtype)
            parameters, data = net.draw(np.random.default_rng(0), 70, weighted=True)
            _, slopes = Engine(net.network, 1).loss_and_gradient(parameters, data)
            results.append((slopes, distance(slopes, oracle_gradient(net, parameters, data)[1])))
    return results


GRADIENTS = """
import json, sys
from fastmlp.compiler.target import vector_bytes
from fastmlp.backends.cpu.tuning import ROW_BLOCK, STRIP_ROWS
from backends.cpu.simd.test_microkernel import gradients

results = [(a.astype(float).tolist(), d) for a, d in gradients(sys.argv[1:])]
print(json.dumps([vector_bytes(), results]))
"""


def runs_code_for(name: str) -> bool:
    host = llvmlite.binding.get_host_cpu_features()
    return name != "haswell" or all(host.get(word[1:]) for word in AVX2.split(","))


@pytest.mark.slow
@pytest.mark.skipif(INTERPRETED, reason="uncompiled, there are no machines to compile for")
@pytest.mark.parametrize("other", OTHERS)
def test_a_machine_with_narrower_vectors_finds_the_same_gradients(
    other: str, python: Callable[..., str]
) -> None:
    if not runs_code_for(other):
        pytest.skip("this machine cannot run code for that one")
    environment, n_bytes, dtypes = OTHERS[other]
    width, theirs = json.loads(python(GRADIENTS, *dtypes, **environment))
    assert width == n_bytes
    for (slopes, error), (their_slopes, their_error) in zip(gradients(dtypes), theirs, strict=True):
        bound = 2e-5 if slopes.dtype == np.float32 else 1e-10
        assert error <= bound
        assert their_error <= bound
        assert distance(np.array(their_slopes), slopes.astype(float)) <= bound
