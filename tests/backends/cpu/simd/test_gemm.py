"""Matrix products of any shape, and their tiles:
against NumPy in float64, and to the bit.
"""

import json
from collections.abc import Callable
from functools import cache
from typing import Any, Literal

import llvmlite.binding
import numba
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nets import Net, distance, oracle_gradient
from panelled import (
    INTERPRETED,
    address,
    block,
    chains,
    epilogues_of,
    finished,
    from_panels,
    magnitude,
    multiply_panels,
    rounding,
    to_panels,
)

from fastmlp.backends.cpu.engine import Engine
from fastmlp.backends.cpu.plan.packing import few_outputs, round_up
from fastmlp.backends.cpu.plan.plan import aligned
from fastmlp.backends.cpu.simd.flat_weights import batch_in_lanes
from fastmlp.backends.cpu.simd.gemm import (
    packed_product,
    packed_tile,
    product,
    rows_at_once,
)
from fastmlp.backends.cpu.simd.microkernel import STORE, delta_unit
from fastmlp.backends.cpu.tuning import (
    DEPTH_BLOCK,
    ROW_BLOCK,
    SMALL_TILE_ROWS,
    STRIP_ROWS,
)
from fastmlp.compiler import block_of
from fastmlp.compiler.target import lanes_of, vector_bytes

UNTOUCHED = 77.0
Reading = Literal[False, True, "packed"]
CUTS = [DEPTH_BLOCK - 1, DEPTH_BLOCK, DEPTH_BLOCK + 1, 2 * DEPTH_BLOCK + 17]
DEPTHS = [1, 3, 17] if INTERPRETED else [1, 3, 16, 17, *CUTS]
MOST_ROWS, MOST_COLUMNS = (10, 40) if INTERPRETED else (70, 130)

each_dtype = pytest.mark.parametrize("dtype", [np.float32, np.float64])
readings: dict[str, Reading] = {"by_row": False, "by_column": True, "packed": "packed"}
each_reading = pytest.mark.parametrize("by_column", readings.values(), ids=readings)
each_epilogue = epilogues_of(**readings)
for_many_shapes = settings(
    derandomize=True, deadline=None, max_examples=5 if INTERPRETED else 30
)
some_shape = given(
    st.integers(1, MOST_ROWS), st.integers(1, MOST_COLUMNS), st.sampled_from(DEPTHS)
)


def panels_of_a(a: Any, by_column: Reading, lanes: int) -> Any:
    """The left matrix; where it has no numbers there are NaNs, which must not count."""
    if by_column is True:
        return to_panels(a.T.copy(), lanes, None, np.nan)
    return to_panels(a, lanes, round_up(len(a), ROW_BLOCK), np.nan)


def multiply(
    start: Any, a: Any, b: Any, by_column: Reading, epilogue: int = STORE, c: Any = None
) -> Any:
    """Panels of C, as the kernels have them computed: `ROW_BLOCK` rows a call,
    C the operand; "packed": by rows of A that are packed first.
    """
    dtype = a.dtype
    (height, depth) = a.shape
    lanes = lanes_of(dtype.type)
    most = round_up(height, ROW_BLOCK)
    left = panels_of_a(a, by_column, lanes)
    right = to_panels(b, lanes)
    origin = to_panels(np.atleast_2d(start), lanes, most if start.ndim == 2 else 1)
    if c is None:
        c = np.full((len(right), most, lanes), UNTOUCHED, dtype)
    sizes = (height, b.shape[1])
    buffer = np.zeros(0)
    if by_column == "packed":
        compiled = block_of(packed_product, dtype)
        n_tiles = rows_at_once(depth, dtype.itemsize) // SMALL_TILE_ROWS
        buffer = aligned(
            n_tiles * packed_tile(depth, dtype.itemsize, lanes) // 8, np.float64
        )
    else:
        compiled = block_of(product, dtype, by_column=by_column)
    panels = (c, origin, left, right)
    multiply_panels(
        compiled, *panels, by_column is True, depth, epilogue, sizes, buffer
    )
    return c


def draw(rng: Any, dtype: Any, *sizes: tuple[int, ...]) -> list[Any]:
    return [rng.normal(size=size).astype(dtype) for size in sizes]


def shapes(height: int, width: int, depth: int) -> Any:
    return (height, width), (height, depth), (depth, width)


@pytest.mark.slow
@pytest.mark.few(4)
@each_dtype
@each_epilogue
@for_many_shapes
@some_shape
def test_a_product_of_any_shape_is_that_of_numpy(
    dtype: Any, by_column: Reading, epilogue: int, height: int, width: int, depth: int
) -> None:
    rng = np.random.default_rng(0)
    start, a, b, operand = draw(
        rng, dtype, *shapes(height, width, depth), (height, width)
    )
    c = to_panels(operand, lanes_of(dtype), round_up(height, ROW_BLOCK))
    actual = from_panels(multiply(start, a, b, by_column, epilogue, c), height, width)
    start, a, b, operand = (m.astype(np.float64) for m in (start, a, b, operand))
    exact = finished(start + a @ b, epilogue, operand)
    size = magnitude(abs(start) + abs(a) @ abs(b), epilogue, operand)
    assert (abs(actual - exact) <= rounding(depth, dtype) * size).all()


@pytest.mark.few(21)
@each_dtype
@each_reading
@pytest.mark.parametrize("n_panels", range(1, 8))
@pytest.mark.parametrize("last", ["one", "half", "whole"])
def test_every_number_of_rows_and_panels_is_chains_of_fma_and_has_its_room(
    dtype: Any, by_column: Reading, n_panels: int, last: str, rng: Any
) -> None:
    lanes = lanes_of(dtype)
    width = (n_panels - 1) * lanes + {"one": 1, "half": lanes // 2, "whole": lanes}[
        last
    ]
    depth = DEPTHS[-2]
    most = min(MOST_ROWS, ROW_BLOCK)
    start, a, b = draw(rng, dtype, *shapes(most, width, depth))
    expected = chains(start, a, b)
    for height in range(1, most + 1):
        c = multiply(start[:height], a[:height], b, by_column)
        assert np.array_equal(from_panels(c, height, width), expected[:height])
        assert (c[:, round_up(height, STRIP_ROWS) :] == UNTOUCHED).all()


@each_dtype
@each_reading
def test_other_panels_stay_and_a_bias_starts_rows(
    dtype: Any, by_column: Reading, rng: Any
) -> None:
    lanes = lanes_of(dtype)
    for n_panels in range(1, 8):
        start, a, b = draw(rng, dtype, *shapes(9, n_panels * lanes, 3))
        memory = np.full((n_panels + 4, ROW_BLOCK, lanes), UNTOUCHED, dtype)
        multiply(start, a, b, by_column, STORE, memory[2:-2])
        assert (memory[[0, 1, -2, -1]] == UNTOUCHED).all()
        assert not (memory[2:-2, :9] == UNTOUCHED).any()
    _, a, b = draw(rng, dtype, *shapes(13, 37, DEPTHS[-2]))
    bias = rng.normal(size=37).astype(dtype)
    for start in (bias, np.zeros_like(bias)):
        actual = from_panels(multiply(start, a, b, by_column), 13, 37)
        assert np.array_equal(actual, chains(start, a, b))


@each_dtype
def test_no_rows_write_nothing(dtype: Any) -> None:
    vector = np.full(lanes_of(dtype), UNTOUCHED, dtype)
    place = address(vector)
    multiplied = block_of(product, dtype, by_column=False)
    multiplied(
        place, 0, place, 0, 0, place, 0, place, 0, 1, STORE, place, len(vector), 0, 0
    )
    assert (vector == UNTOUCHED).all()


@pytest.mark.parametrize("lanes", [2, 4, 8, 16])
def test_contiguous_deltas_belong_to_one_strip_and_one_panel(lanes: int) -> None:
    unit = delta_unit(lanes)
    assert STRIP_ROWS % unit == 0
    assert lanes % unit == 0
    # Transposed, deltas have room in a panel of rows.
    assert few_outputs(lanes) <= lanes


@cache
def move(name: str, dtype: Any) -> Any:
    chosen = getattr(batch_in_lanes(dtype), name)

    def of_seven(a: Any, b: Any, c: Any, d: Any, e: Any, f: Any, g: Any) -> None:
        chosen(a, b, c, d, e, f, g)

    def with_rows_close(a: Any, b: Any, c: Any, d: Any, e: Any, f: Any, g: Any) -> None:
        chosen(a, b, d - c + 1, e + c * b * size, b * size, f, g)

    size = np.dtype(dtype).itemsize
    return block(with_rows_close if name == "out_of_lanes" else of_seven)


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


# A machine with AVX2 and no more,
# and one of which nothing is known: 8, 4, 4 and 2 lanes.
AVX2 = "+sse,+sse2,+sse3,+ssse3,+sse4.1,+sse4.2,+popcnt,+avx,+avx2,+fma,+bmi,+bmi2"
OTHERS: dict[str, tuple[dict[str, str], int, list[str]]] = {
    "haswell": (
        {"NUMBA_CPU_NAME": "haswell", "NUMBA_CPU_FEATURES": AVX2},
        32,
        ["float32", "float64"],
    ),
    "generic": (
        {"NUMBA_CPU_NAME": "generic", "NUMBA_CPU_FEATURES": ""},
        16,
        ["float64"],
    ),
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
            results.append(
                (slopes, distance(slopes, oracle_gradient(net, parameters, data)[1]))
            )
    return results


GRADIENTS = """
import json, sys
from fastmlp.compiler.target import vector_bytes
from fastmlp.backends.cpu.tuning import ROW_BLOCK, STRIP_ROWS
from backends.cpu.simd.test_gemm import gradients

results = [(a.astype(float).tolist(), d) for a, d in gradients(sys.argv[1:])]
print(json.dumps([vector_bytes(), results]))
"""


def runs_code_for(name: str) -> bool:
    host = llvmlite.binding.get_host_cpu_features()
    return name != "haswell" or all(host.get(word[1:]) for word in AVX2.split(","))


@pytest.mark.slow
@pytest.mark.skipif(
    INTERPRETED, reason="uncompiled, there are no machines to compile for"
)
@pytest.mark.parametrize("other", OTHERS)
def test_narrower_vectors_find_the_same_gradients(
    other: str, python: Callable[..., str]
) -> None:
    if not runs_code_for(other):
        pytest.skip("this machine cannot run code for that one")
    environment, n_bytes, dtypes = OTHERS[other]
    width, theirs = json.loads(python(GRADIENTS, *dtypes, **environment))
    assert width == n_bytes
    for (slopes, error), (their_slopes, their_error) in zip(
        gradients(dtypes), theirs, strict=True
    ):
        bound = 2e-5 if slopes.dtype == np.float32 else 1e-10
        assert error <= bound
        assert their_error <= bound
        assert distance(np.array(their_slopes), slopes.astype(float)) <= bound
