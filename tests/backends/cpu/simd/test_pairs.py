"""Pairs of bfloat16 and their products, as each kind of processor computes them."""

import platform
import re
from collections import Counter
from collections.abc import Callable
from fractions import Fraction
from functools import cache
from typing import Any, NamedTuple

import llvmlite.binding as llvm
import numba
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from panelled import (
    INTERPRETED,
    across,
    address,
    along,
    assembly_for,
    block,
    each_epilogue,
    finished,
    from_panels,
    innermost,
    magnitude,
    multiply_panels,
    rounding,
    to_bfloat16,
    to_panels,
)

from fastmlp.backends.cpu.plan.packing import round_up
from fastmlp.backends.cpu.plan.plan import aligned
from fastmlp.backends.cpu.simd import gemm
from fastmlp.backends.cpu.simd.microkernel import STORE, Epilogue, Operands, Start
from fastmlp.backends.cpu.simd.pack import moves
from fastmlp.backends.cpu.simd.vector import Panels
from fastmlp.backends.cpu.simd.vector_function import sum_to_odd
from fastmlp.backends.cpu.tuning import DEPTH_BLOCK, ROW_BLOCK
from fastmlp.compiler import COMPILER, block_of, target
from fastmlp.compiler.target import (
    Host,
    PairProducts,
    lanes_of,
    pair_products,
    pair_target,
)

LANES = lanes_of(np.float32)
CUTS = [2 * DEPTH_BLOCK - 1, 2 * DEPTH_BLOCK, 2 * DEPTH_BLOCK + 1, 4 * DEPTH_BLOCK + 17]
DEPTHS = [1, 2, 17] if INTERPRETED else [1, 2, 3, 16, 17, 33, *CUTS]
MOST_ROWS, MOST_COLUMNS = (10, 40) if INTERPRETED else (70, 130)


def multiply(
    start: Any, a: Any, b: Any, by_column: bool, epilogue: int = STORE, c: Any = None
) -> Any:
    (height, depth), width = a.shape, b.shape[1]
    most = round_up(height, ROW_BLOCK)
    if by_column:
        left = across(a.T, LANES)
    else:
        left = along(a, LANES, most)
    right = across(b, LANES)
    origin = to_panels(start, LANES, most)
    if c is None:
        c = to_panels(np.zeros_like(start), LANES, most)
    compiled = block_of(
        gemm.product, "float32", by_column=by_column, pairs=pair_products()
    )
    multiply_panels(
        compiled,
        c,
        origin,
        left,
        right,
        by_column,
        (depth + 1) // 2,
        epilogue,
        (height, width),
    )
    return from_panels(c, height, width)


def draw(*sizes: tuple[int, ...]) -> list[Any]:
    rng = np.random.default_rng(sum(map(sum, sizes)))
    return [rng.normal(size=size).astype(np.float32) for size in sizes]


@pytest.mark.slow
@pytest.mark.few(3)
@each_epilogue
@settings(derandomize=True, deadline=None, max_examples=5 if INTERPRETED else 30)
@given(st.integers(1, MOST_ROWS), st.integers(1, MOST_COLUMNS), st.sampled_from(DEPTHS))
def test_a_product_of_pairs_is_that_of_rounded_numbers(
    by_column: bool, epilogue: int, height: int, width: int, depth: int
) -> None:
    start, a, b, operand = draw(
        (height, width), (height, depth), (depth, width), (height, width)
    )
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
def test_numbers_that_are_not_finite_pass_through_a_product(
    by_column: bool, bad: float
) -> None:
    start, a, b = draw((9, 20), (9, 7), (7, 20))
    a[4, 6] = bad
    actual = multiply(start, a, b, by_column)
    with np.errstate(all="ignore"):
        expected = start + to_bfloat16(a) @ to_bfloat16(b)
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-4)
    assert np.isfinite(np.delete(actual, 4, 0)).all()


SPECIAL = [
    0.0,
    -0.0,
    1e-40,
    -1e-40,
    np.inf,
    -np.inf,
    np.nan,
    3.4e38,
    1 + 2**-8,
    1 + 3 * 2**-8,
]


@pytest.mark.parametrize(
    ("height", "width"), [(1, 1), (8, 16), (7, 17), (128, 33), (11, 40)]
)
def test_rows_are_rounded_to_nearest_even_in_both_forms(
    height: int, width: int
) -> None:
    (matrix,) = draw((height, width))
    matrix.ravel()[: len(SPECIAL)] = SPECIAL[: matrix.size]
    n_rows = round_up(height, 8)
    panels = to_panels(matrix, LANES, n_rows, np.nan)
    both = [
        np.full((len(panels), n_rows // 2, LANES), np.nan, np.float32) for _ in range(2)
    ]
    places = [address(each) for each in (panels, *both)]
    loop = moves(np.float32, LANES).pair_rows

    def run(
        source: int, stride: int, along: int, across: int, width: int, n: int
    ) -> None:
        loop(Panels(source, stride), along, across, width, n)

    block(run, pair_target())(places[0], panels[0].nbytes, *places[1:], width, height)
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
    forms = [
        aligned(LANES // 2 * LANES, np.float32).reshape(-1, LANES) for _ in range(2)
    ]
    products = moves(np.float32, LANES)
    if non_temporal:
        loop = products.pair_square_non_temporal
    else:
        loop = products.pair_square

    def run(source: int, across: int, transposed: int, n: int) -> None:
        loop(source, across, transposed, n)

    block(run, pair_target())(address(source), *map(address, forms), n)
    matrix[n:] = 0
    for form, expected in zip(forms, (matrix, matrix.T), strict=True):
        np.testing.assert_array_equal(form, across(expected, LANES)[0])


@pytest.mark.parametrize(("height", "width"), [(1, 1), (2, 16), (7, 17), (6, 40)])
def test_weights_are_packed_in_pairs_from_flat_ones(height: int, width: int) -> None:
    (matrix,) = draw((height, width))
    matrix.ravel()[: len(SPECIAL)] = SPECIAL[: matrix.size]
    expected = across(matrix, LANES)
    loop = moves(np.float32, LANES).pack_pairs
    panels = np.full_like(expected, np.nan)

    def run(source: int, n: int, target: int, stride: int, width: int) -> None:
        loop(source, n, target, stride, width)

    for k in range(0, height, 2):
        where = (address(panels, 0, k // 2), panels[0].nbytes)
        block(run, pair_target())(address(matrix, k), min(2, height - k), *where, width)
    np.testing.assert_array_equal(panels.view(np.uint32), expected.view(np.uint32))


AVX512 = (
    "+sse,+sse2,+sse3,+ssse3,+sse4.1,+sse4.2,+popcnt,+avx,+avx2,+fma,+bmi,+bmi2,"
    "+avx512f,+avx512bw,+avx512dq,+avx512vl,+avx512cd,+avx512bf16"
)
AMX = f"{AVX512},+amx-tile,+amx-bf16"
ARM = "+neon,+bf16"


class Machine(NamedTuple):
    triple: str
    cpu: str
    features: str
    n_bytes: int
    largest: tuple[int, int]


MACHINES: dict[PairProducts, Machine] = {
    "tiles": Machine("x86_64-linux-gnu", "sapphirerapids", AMX, 64, (8, 2)),
    "lanes": Machine("x86_64-linux-gnu", "cooperlake", AVX512, 64, (8, 2)),
    "matrices": Machine("aarch64-linux-gnu", "neoverse-v1", ARM, 16, (4, 3)),
}
each_kind = pytest.mark.parametrize("kind", MACHINES)
each_reading = pytest.mark.parametrize(
    "by_column", [False, True], ids=["along", "by_column"]
)
# Rows of whole tiles and strips, and others;
# sums of no whole tile, of some, and with each rest.
HEIGHTS = [1, 5, 8, 24, 33]
WIDTHS = [1, 17, 40]
DEPTHS_OF_KINDS = [1, 3, 31, 32, 79]


def disguise(kind: PairProducts, monkeypatch: pytest.MonkeyPatch) -> Machine:
    machine = MACHINES[kind]
    monkeypatch.setattr(numba.config, "CPU_NAME", machine.cpu)
    monkeypatch.setattr(numba.config, "CPU_FEATURES", machine.features)
    monkeypatch.setattr(gemm, "LARGEST_TILE", machine.largest)
    monkeypatch.setattr(gemm, "HALF_VECTORS", machine.n_bytes == 64)
    monkeypatch.setattr(gemm, "next_panels", gemm.panels_at_once)
    monkeypatch.setattr(gemm, "njit", lambda function: function)
    return machine


def multiply_by(kind: PairProducts, start: Any, a: Any, b: Any, by_column: bool) -> Any:
    """start + A B of rounded numbers, by the kernel in plain Python.

    Memory that no product may read is NaN, and so it is where C has padding.
    """
    (height, depth), width, lanes = a.shape, b.shape[1], MACHINES[kind].n_bytes // 4
    most = round_up(height, 8)
    vector = 4 * lanes
    if by_column:
        left = across(a.T, lanes)
    else:
        left = along(a, lanes, most)
    right = across(b, lanes)
    origin = to_panels(start, lanes, most)
    right = np.concatenate([right, np.full_like(right, np.nan)], axis=1)
    c = to_panels(np.full_like(start, np.nan), lanes, most, np.nan)
    with np.errstate(all="ignore"):
        gemm.product(np.float32, by_column, kind)(
            Panels(address(c), c[0].nbytes),
            Start(address(origin), vector, origin[0].nbytes),
            Operands(
                address(right),
                right[0].nbytes,
                address(left),
                left[0].nbytes,
                (depth + 1) // 2,
            ),
            Epilogue(STORE, 0),
            gemm.Shape(width, height),
            0,
        )
    return from_panels(c, height, width)


@pytest.mark.slow
@pytest.mark.few(4)
@each_kind
@each_reading
@pytest.mark.parametrize("depth", [*DEPTHS_OF_KINDS, 2 * DEPTH_BLOCK + 19])
def test_a_product_is_that_of_rounded_numbers(
    kind: PairProducts, by_column: bool, depth: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    disguise(kind, monkeypatch)
    for i, height in enumerate(HEIGHTS if depth < DEPTH_BLOCK else [12]):
        width = WIDTHS[(i + depth) % len(WIDTHS)]
        start, a, b = draw((height, width), (height, depth), (depth, width))
        actual = multiply_by(kind, start, a, b, by_column)
        a, b, start = (
            m.astype(np.float64) for m in (to_bfloat16(a), to_bfloat16(b), start)
        )
        size = abs(start) + abs(a) @ abs(b)
        error = abs(actual - (start + a @ b))
        assert (error <= 2 * rounding(depth, np.float32) * size).all()


def pairs_in_order(kind: PairProducts, start: Any, a: Any, b: Any) -> Any:
    """start + A B as the kind's instruction sums it:
    by 16 pairs, or one after the other.

    A product of two bfloat16 is a float32; subnormal numbers are not among these.
    """
    depth = round_up(len(b), 32 if kind == "tiles" else 2)
    whole = (
        np.zeros((len(a), depth), np.float32),
        np.zeros((depth, b.shape[1]), np.float32),
    )
    whole[0][:, : a.shape[1]], whole[1][: len(b)] = to_bfloat16(a), to_bfloat16(b)
    products = whole[0][:, :, None] * whole[1]
    low, high = products[:, ::2], products[:, 1::2]
    n_deep = depth // 2 if kind == "tiles" else 0
    total = start
    for k in range(0, n_deep, 16):
        first = np.zeros_like(start)
        second = np.zeros_like(start)
        for i in range(k, k + 16):
            first = first + low[:, i]
            second = second + high[:, i]
        total = total + (first + second)
    for k in range(n_deep, depth // 2):
        if kind == "matrices":
            total = sum_to_odd(total, sum_to_odd(low[:, k], high[:, k]))
        else:
            total = low[:, k] + (high[:, k] + total)
    return total


@pytest.mark.slow
@pytest.mark.few(3)
@each_kind
@each_reading
def test_sums_have_one_order(
    kind: PairProducts, by_column: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    disguise(kind, monkeypatch)
    for depth in (7, 79):
        start, a, b = draw((23, 40), (23, depth), (depth, 40))
        expected = pairs_in_order(kind, start, a, b)
        for height in (1, 8, 23):
            for width in (17, 40):
                operands = start[:height, :width], a[:height], b[:, :width]
                assert np.array_equal(
                    multiply_by(kind, *operands, by_column), expected[:height, :width]
                )


@pytest.mark.few(12)
@each_kind
@each_reading
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", [6, 34])
def test_numbers_that_are_not_finite_stay_in_their_row(
    kind: PairProducts,
    by_column: bool,
    bad: float,
    place: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    disguise(kind, monkeypatch)
    start, a, b = draw((21, 20), (21, 35), (35, 20))
    a[4, place] = bad
    actual = multiply_by(kind, start, a, b, by_column)
    with np.errstate(all="ignore"):
        expected = start + to_bfloat16(a) @ to_bfloat16(b)
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-4)
    assert np.isfinite(np.delete(actual, 4, 0)).all()


def test_a_sum_is_rounded_to_odd() -> None:
    (a, b), n = draw((200,), (200,)), 200
    b *= np.float32(2) ** np.arange(-n // 2, n // 2).astype(np.float32)
    for x, y, actual in zip(a, b, sum_to_odd(a, b), strict=True):
        exact = Fraction(float(x)) + Fraction(float(y))
        if exact == Fraction(float(actual)):
            continue
        assert actual.view(np.uint32) % 2 == 1
        beside = np.nextafter(
            actual, np.float32(np.inf if exact > Fraction(float(actual)) else -np.inf)
        )
        ends = sorted(Fraction(float(end)) for end in (actual, beside))
        assert ends[0] < exact < ends[1]
    large = np.float32(3.4e38)
    special = np.array([np.inf, -np.inf, np.nan, 0], np.float32)
    with np.errstate(all="ignore"):
        assert np.array_equal(sum_to_odd(special, special), special, equal_nan=True)
        assert np.isinf(sum_to_odd(np.full(4, large), np.full(4, large))).all()


@pytest.mark.parametrize(
    ("name", "features", "permits", "expected"),
    [
        ("sapphirerapids", AMX, True, "tiles"),
        ("sapphirerapids", AMX, False, "lanes"),
        ("sapphirerapids", AMX.replace("+avx512bf16", "-avx512bf16"), True, "widened"),
        ("znver4", AVX512, True, "lanes"),
        ("haswell", "+avx2,+fma", True, "widened"),
        ("generic", "", True, "widened"),
        ("generic", ARM, True, "matrices"),
        ("neoverse-v1", "+neon", True, "widened"),
    ],
)
def test_pairs_are_multiplied_by_what_the_processor_has(
    name: str,
    features: str,
    permits: bool,
    expected: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(numba.config, "CPU_NAME", name)
    monkeypatch.setattr(numba.config, "CPU_FEATURES", features)
    monkeypatch.setattr(target, "permits_tiles", lambda: permits)
    assert pair_products() == expected


def test_only_linux_is_asked_for_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.platform", "darwin")
    assert not target.permits_tiles.__wrapped__()


@pytest.mark.skipif(platform.system() != "Linux", reason="the call is Linux'")
def test_tiles_are_permitted_only_where_there_are_any() -> None:
    assert not target.permits_tiles() or llvm.get_host_cpu_features().get("amx-tile")


reads_machine_code = pytest.mark.skipif(
    INTERPRETED or COMPILER == "numba", reason="it reads the translator's machine code"
)


@cache
def _assembly(kind: PairProducts, by_column: bool) -> str:
    machine = MACHINES[kind]
    loop: Any = gemm.product(np.float32, by_column, kind)
    return assembly_for(loop, machine.triple, machine.cpu, machine.features)


# A vector that is loaded from a fixed place on the stack.
RELOAD = re.compile(r"^\s+vmov\w+\s+-?\d*\(%rsp\)", re.MULTILINE)


class Loop(NamedTuple):
    text: str
    n: Counter[str]


def loops_of(kind: PairProducts, by_column: bool, word: str) -> list[Loop]:
    texts = (loop for loop in innermost(_assembly(kind, by_column)) if word in loop)
    return [
        Loop(text, Counter(line.split()[0] for line in text.splitlines()[1:]))
        for text in texts
    ]


@pytest.mark.slow
@reads_machine_code
@each_reading
def test_a_loop_by_tiles_has_four(
    by_column: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    disguise("tiles", monkeypatch)
    loops = loops_of("tiles", by_column, "tdpbf16ps")
    # Two tiles of rows by two panels: each operand is loaded once for two products.
    largest = [
        loop.n for loop in loops if loop.n["tdpbf16ps"] == loop.n["tileloadd"] == 4
    ]
    assert largest
    # The unit takes 64 cycles for them; a single port shuffles.
    for n in largest:
        shuffles = (n[name] for name in n if re.match("vperm|vunpck|vshuf", name))
        assert sum(shuffles) == (96 if by_column else 0)
    for loop in loops:
        assert not RELOAD.search(loop.text)
        assert not {"ldtilecfg", "tilerelease", "tilezero", "tilestored"} & set(loop.n)
    text = _assembly("tiles", by_column)
    assert text.count("\tldtilecfg") == text.count("\ttilerelease") == 1


@reads_machine_code
@each_reading
def test_a_loop_by_bfmmla_has_twelve(
    by_column: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    disguise("matrices", monkeypatch)
    loops = loops_of("matrices", by_column, "bfmmla")
    largest = max(loops, key=lambda loop: loop.n["bfmmla"])
    # 4 rows x 12 columns; of three panels of B, and by column of A, two rows are woven.
    assert largest.n["bfmmla"] == 12
    assert largest.n["zip1"] == largest.n["zip2"] == (4 if by_column else 3)
    assert largest.n["ldr"] + 2 * largest.n["ldp"] == 8
    assert not any("[sp" in loop.text for loop in loops)
    assert "fmla\t" not in _assembly("matrices", by_column)


@pytest.mark.slow
@reads_machine_code
@each_reading
def test_avx512_bf16_alone_uses_no_tile(
    by_column: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    disguise("lanes", monkeypatch)
    assert (
        max(loop.n["vdpbf16ps"] for loop in loops_of("lanes", by_column, "vdpbf16ps"))
        == 16
    )
    assert "tile" not in _assembly("lanes", by_column)


@reads_machine_code
@pytest.mark.parametrize(
    ("kind", "feature"),
    [("tiles", "amx-tile"), ("lanes", "avx512bf16"), ("matrices", "bf16")],
)
def test_an_instruction_that_the_target_lacks_is_an_error(
    kind: PairProducts, feature: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """LLVM would end the process."""
    disguise(kind, monkeypatch)
    loop: Any = gemm.product(np.float32, False, kind)
    words = rf"not compile product\.\S+: llvm\.\S+ needs {feature}, which haswell lacks"
    with pytest.raises(RuntimeError, match=words):
        block(loop, Host("haswell", "+avx2,+fma"))


STEP = """
from fastmlp.compiler import target
target.permits_tiles = lambda: True
from fastmlp.network import spec
from backends.cpu.test_mixed_precision import check_step

spec.WIDE_INPUTS = spec.WIDE_OUTPUTS = 4
check_step((37, 20, 18, 3), 41, "relu", 41)
print(target.pair_products(), target.vector_bytes())
"""


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["tiles", "matrices"])
def test_a_step_rounds_its_operands(
    kind: PairProducts, python: Callable[..., str]
) -> None:
    """In plain Python, where a machine is no more than a name."""
    machine = MACHINES[kind]
    environment = {
        "NUMBA_CPU_NAME": machine.cpu,
        "NUMBA_CPU_FEATURES": machine.features,
    }
    printed = python(STEP, NUMBA_DISABLE_JIT="1", **environment).split()
    assert printed == [kind, str(machine.n_bytes)]
