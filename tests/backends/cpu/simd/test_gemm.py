"""Matrix products of any shape, of few outputs, and of a batch in lanes: to the bit."""

from functools import cache
from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
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

from fastmlp.backends.cpu.plan.packing import few_outputs, round_up
from fastmlp.backends.cpu.plan.plan import aligned
from fastmlp.backends.cpu.simd.flat_weights import batch_in_lanes, tile
from fastmlp.backends.cpu.simd.gemm import packed_product, packed_tile, product, rows_at_once
from fastmlp.backends.cpu.simd.microkernel import RELU, STORE, TIMES, WHERE_POSITIVE, Epilogue
from fastmlp.backends.cpu.simd.skinny import delta_unit, skinny
from fastmlp.backends.cpu.simd.vector import Panels
from fastmlp.backends.cpu.tuning import (
    DEPTH_BLOCK,
    LARGEST_TILE,
    ROW_BLOCK,
    SMALL_TILE_ROWS,
    STRIP_ROWS,
)
from fastmlp.compiler import Block, block_of
from fastmlp.compiler.target import lanes_of

UNTOUCHED = 77.0
Reading = Literal[False, True, "packed"]
CUTS = [DEPTH_BLOCK - 1, DEPTH_BLOCK, DEPTH_BLOCK + 1, 2 * DEPTH_BLOCK + 17]
DEPTHS = [1, 3, 17] if INTERPRETED else [1, 3, 16, 17, *CUTS]
MOST_ROWS, MOST_COLUMNS = (10, 40) if INTERPRETED else (70, 130)

each_dtype = pytest.mark.parametrize("dtype", [np.float32, np.float64])
readings: dict[str, Reading] = {"by_row": False, "by_column": True, "packed": "packed"}
each_reading = pytest.mark.parametrize("by_column", readings.values(), ids=readings)
each_epilogue = epilogues_of(**readings)
for_many_shapes = settings(derandomize=True, deadline=None, max_examples=5 if INTERPRETED else 30)
some_shape = given(st.integers(1, MOST_ROWS), st.integers(1, MOST_COLUMNS), st.sampled_from(DEPTHS))


def panels_of_a(a: Any, by_column: Reading, lanes: int) -> Any:
    """The left matrix; where it has no numbers there are NaNs, which must not count."""
    if by_column is True:
        return to_panels(a.T.copy(), lanes, None, np.nan)
    return to_panels(a, lanes, round_up(len(a), ROW_BLOCK), np.nan)


def multiply(
    start: Any, a: Any, b: Any, by_column: Reading, epilogue: int = STORE, c: Any = None
) -> Any:
    """Panels of C, as the kernels have them computed: `ROW_BLOCK` rows a call, C the operand;
    "packed": by rows of A that are packed first."""
    dtype, (height, depth) = a.dtype, a.shape
    lanes, most = lanes_of(dtype.type), round_up(height, ROW_BLOCK)
    left, right = panels_of_a(a, by_column, lanes), to_panels(b, lanes)
    origin = to_panels(np.atleast_2d(start), lanes, most if start.ndim == 2 else 1)
    if c is None:
        c = np.full((len(right), most, lanes), UNTOUCHED, dtype)
    sizes, buffer = (height, b.shape[1]), np.zeros(0)
    if by_column == "packed":
        compiled = block_of(packed_product, dtype)
        n_tiles = rows_at_once(depth, dtype.itemsize) // SMALL_TILE_ROWS
        buffer = aligned(n_tiles * packed_tile(depth, dtype.itemsize, lanes) // 8, np.float64)
    else:
        compiled = block_of(product, dtype, by_column=by_column)
    panels = (c, origin, left, right)
    multiply_panels(compiled, *panels, by_column is True, depth, epilogue, sizes, buffer)
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
    dtype: Any, by_column: Reading, height: int, width: int, depth: int
) -> None:
    start, a, b = draw(np.random.default_rng(0), dtype, *shapes(height, width, depth))
    actual = from_panels(multiply(start, a, b, by_column), height, width)
    assert np.array_equal(actual, chains(start, a, b))


@pytest.mark.few(21)
@each_dtype
@each_reading
@pytest.mark.parametrize("n_panels", range(1, 8))
@pytest.mark.parametrize("last", ["one", "half", "whole"])
def test_every_number_of_rows_and_panels_has_the_bits_of_one_row_and_its_room(
    dtype: Any, by_column: Reading, n_panels: int, last: str, rng: Any
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
def test_panels_beside_those_asked_for_are_untouched(
    dtype: Any, by_column: Reading, rng: Any
) -> None:
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
    dtype: Any, by_column: Reading, rng: Any
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


EACH_DEPTH = (1, 3, 16, 40) if INTERPRETED else range(1, 70)
N_ROWS = (1, 2, 8, 19, 33)


@cache
def compiled(name: str, dtype: Any) -> Block:
    chosen = getattr(skinny(dtype, lanes_of(dtype)), name)

    def dots(a: Panels, b: Any, c: Any, d: Any, e: Any, f: Any, g: Any) -> None:
        chosen(a, b, c, d, e, f, g)

    def backward_dots(a: Panels, b: Panels, c: Any, d: Epilogue, e: Any, f: Any) -> None:
        chosen(a, b, c, d, e, f)

    def add_row(a: Any, b: Any, c: Any, d: Any, e: Any) -> None:
        chosen(a, b, c, d, e)

    table: dict[str, Any] = {"dots": dots, "backward_dots": backward_dots, "add_row": add_row}
    return block(table[name])


def in_squares(matrix: Any, lanes: int) -> Any:
    """Panels with room for whole squares; where nothing is, NaN, which would show."""
    return to_panels(matrix, lanes, round_up(len(matrix), lanes), np.nan)


@pytest.mark.few(12)
@each_dtype
@pytest.mark.parametrize("n_out", [1, 2, 3, 10])
@pytest.mark.parametrize("n", N_ROWS)
def test_dot_products_come_in_columns(dtype: Any, n_out: int, n: int, rng: Any) -> None:
    lanes = lanes_of(dtype)
    for n_in in EACH_DEPTH:
        x, w = rng.normal(size=(n, n_in)).astype(dtype), rng.normal(size=(n_in, n_out))
        inputs, weights = in_squares(x, lanes), to_panels(w.T.astype(dtype), lanes, fill=np.nan)
        biases = rng.normal(size=n_out).astype(dtype)
        target = np.full(n * n_out + lanes + 1, UNTOUCHED, dtype)
        where = (address(inputs), inputs[0].nbytes, address(weights), address(biases))
        compiled("dots", dtype)(*where, address(target), n_in, n_out, n)
        expected = x.astype(float) @ w.astype(dtype) + biases
        bound = rounding(n_in, dtype) * (abs(x.astype(float)) @ abs(w) + abs(biases))
        columns = target[: n * n_out].reshape(n_out, n)
        assert (abs(columns.T - expected) <= bound).all()
        assert target[-1] == UNTOUCHED


@each_dtype
@pytest.mark.parametrize("epilogue", [STORE, TIMES, WHERE_POSITIVE])
def test_deltas_go_back_through_weights_without_a_copy(dtype: Any, epilogue: int, rng: Any) -> None:
    lanes = lanes_of(dtype)
    assert epilogue != RELU
    for n_out in EACH_DEPTH:
        for n in (1, 15, 16, 40):
            w, e = rng.normal(size=(n, n_out)).astype(dtype), rng.normal(size=(1, n_out))
            factors = rng.normal(size=(1, n)).astype(dtype)
            weights = in_squares(w, lanes)
            # Deltas and operand lie in panels of more rows than one.
            errors = to_panels(e.astype(dtype), lanes, STRIP_ROWS, np.nan)
            operand = to_panels(factors, lanes, STRIP_ROWS)
            target = np.full_like(operand, UNTOUCHED)
            panel = operand[0].nbytes
            assert errors[0].nbytes == panel
            where = (address(weights), weights[0].nbytes, address(errors), panel, address(target))
            compiled("backward_dots", dtype)(*where, epilogue, address(operand), n_out, n)
            products = w.astype(float) * e.astype(dtype)
            expected, factor = products.sum(1), factors[0].astype(float)
            bound = rounding(n_out, dtype) * abs(products).sum(1)
            if epilogue == TIMES:
                expected, bound = expected * factor, bound * abs(factor)
            elif epilogue == WHERE_POSITIVE:
                expected = np.where(factor > 0, expected, 0)
            result = target[:, 0].ravel()
            assert (abs(result[:n] - expected) <= bound).all()
            assert not result[n:].any()
            assert (target[:, 1:] == UNTOUCHED).all()


@each_dtype
def test_a_row_of_panels_is_added_up(dtype: Any, rng: Any) -> None:
    lanes = lanes_of(dtype)
    for n in EACH_DEPTH:
        numbers = rng.normal(size=(1, n)).astype(dtype)
        panels = to_panels(numbers, lanes, 3, np.nan)
        start, target = rng.normal(size=1).astype(dtype), np.full(3, UNTOUCHED, dtype)
        where = (address(panels), panels[0].nbytes, address(start), address(target, 1))
        compiled("add_row", dtype)(*where, n)
        expected = numbers.astype(float).sum() + start[0]
        assert abs(target[1] - expected) <= rounding(n, dtype) * (abs(numbers).sum() + abs(start))
        assert target[0] == target[2] == UNTOUCHED


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


@cache
def product_of(dtype: Any, vectors: int, units: int) -> Any:
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


@pytest.mark.slow
@pytest.mark.few(3)
@each_dtype
@pytest.mark.parametrize("fault", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_noticed_on_the_way_in_and_out(fault: float, dtype: Any) -> None:
    lanes = lanes_of(dtype)
    for width in widths(lanes):
        x = np.ones((3, width), dtype)
        x[1, -1] = fault
        units = np.zeros((-(-width // lanes) * lanes, lanes), dtype)
        checks = np.zeros((2, lanes), dtype)
        arguments = (units[0].nbytes, address(checks))
        move("into_lanes", dtype)(address(x), width, 0, 2, address(units), *arguments)
        assert np.isnan(checks[0]).any()
        out, arguments = np.empty_like(x), (units[0].nbytes, address(checks, 1))
        move("out_of_lanes", dtype)(address(units), width, 0, 2, address(out), *arguments)
        assert np.isnan(checks[1]).any()
        assert np.array_equal(out, x, equal_nan=True)


@each_dtype
@pytest.mark.parametrize("vectors", [1, LARGEST_TILE[1]])
@pytest.mark.parametrize("units", [1, 2, LARGEST_TILE[0]])
def test_a_tile_is_a_chain_of_multiply_adds(units: int, vectors: int, dtype: Any, rng: Any) -> None:
    n_rows, n_out, multiply = (
        vectors * lanes_of(dtype),
        units + 3,
        product_of(dtype, vectors, units),
    )
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
