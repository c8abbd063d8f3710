"""Products of pairs as each kind of processor computes them: in plain Python on any host, in the
order that its instruction sums, and as machine code for it, which is read here and not run."""

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
from machine_code import assembly_for, innermost
from paired import across, along, to_bfloat16
from panelled import INTERPRETED, address, from_panels, rounding, to_panels

from fastmlp.backends.cpu.plan.packing import round_up
from fastmlp.backends.cpu.simd import gemm
from fastmlp.backends.cpu.simd.microkernel import STORE, Epilogue, Operands, Start
from fastmlp.backends.cpu.simd.vector import Panels
from fastmlp.backends.cpu.simd.vector_numpy import sum_to_odd
from fastmlp.backends.cpu.tuning import DEPTH_BLOCK
from fastmlp.compiler import COMPILER, target
from fastmlp.compiler.target import PairProducts, pair_products

AVX512 = (
    "+sse,+sse2,+sse3,+ssse3,+sse4.1,+sse4.2,+popcnt,+avx,+avx2,+fma,+bmi,+bmi2,"
    "+avx512f,+avx512bw,+avx512dq,+avx512vl,+avx512cd,+avx512bf16"
)
AMX, ARM = f"{AVX512},+amx-tile,+amx-bf16", "+neon,+bf16"


class Machine(NamedTuple):
    """A processor as LLVM knows it, its vectors, and the largest tile of a product."""

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
each_reading = pytest.mark.parametrize("by_column", [False, True], ids=["along", "by_column"])
# Rows of whole tiles and strips, and others; sums of no whole tile, of some, and with each rest.
HEIGHTS, WIDTHS = [1, 5, 8, 24, 33], [1, 17, 40]
DEPTHS_OF_KINDS = [1, 3, 31, 32, 79]


def disguise(kind: PairProducts, monkeypatch: pytest.MonkeyPatch) -> Machine:
    """Have products made as for a machine of this kind."""
    machine = MACHINES[kind]
    monkeypatch.setattr(numba.config, "CPU_NAME", machine.cpu)
    monkeypatch.setattr(numba.config, "CPU_FEATURES", machine.features)
    monkeypatch.setattr(gemm, "LARGEST_TILE", machine.largest)
    monkeypatch.setattr(gemm, "HALF_VECTORS", machine.n_bytes == 64)
    monkeypatch.setattr(gemm, "next_panels", gemm.panels_at_once)
    monkeypatch.setattr(gemm, "njit", lambda function: function)
    return machine


def draw(*sizes: tuple[int, ...]) -> list[Any]:
    rng = np.random.default_rng(sum(map(sum, sizes)))
    return [rng.normal(size=size).astype(np.float32) for size in sizes]


def multiply(kind: PairProducts, start: Any, a: Any, b: Any, by_column: bool) -> Any:
    """start + A B of rounded numbers, by the kernel in plain Python.

    Memory that no product may read is NaN, and so it is where C has padding.
    """
    (height, depth), width, lanes = a.shape, b.shape[1], MACHINES[kind].n_bytes // 4
    most, vector = round_up(height, 8), 4 * lanes
    left = across(a.T, lanes) if by_column else along(a, lanes, most)
    right, origin = across(b, lanes), to_panels(start, lanes, most)
    right = np.concatenate([right, np.full_like(right, np.nan)], axis=1)
    c = to_panels(np.full_like(start, np.nan), lanes, most, np.nan)
    with np.errstate(all="ignore"):
        gemm.product(np.float32, by_column, kind)(
            Panels(address(c), c[0].nbytes),
            Start(address(origin), vector, origin[0].nbytes),
            Operands(
                address(right), right[0].nbytes, address(left), left[0].nbytes, (depth + 1) // 2
            ),
            Epilogue(STORE, 0),
            gemm.Shape(width, height),
            0,
        )
    return from_panels(c, height, width)


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
        actual = multiply(kind, start, a, b, by_column)
        a, b, start = (m.astype(np.float64) for m in (to_bfloat16(a), to_bfloat16(b), start))
        size = abs(start) + abs(a) @ abs(b)
        error = abs(actual - (start + a @ b))
        assert (error <= 2 * rounding(depth, np.float32) * size).all()


def pairs_in_order(kind: PairProducts, start: Any, a: Any, b: Any) -> Any:
    """start + A B as the kind's instruction sums it: by 16 pairs, or one after the other.

    A product of two bfloat16 is a float32; subnormal numbers are not among these.
    """
    depth = round_up(len(b), 32 if kind == "tiles" else 2)
    whole = np.zeros((len(a), depth), np.float32), np.zeros((depth, b.shape[1]), np.float32)
    whole[0][:, : a.shape[1]], whole[1][: len(b)] = to_bfloat16(a), to_bfloat16(b)
    products = whole[0][:, :, None] * whole[1]
    low, high = products[:, ::2], products[:, 1::2]
    n_deep = depth // 2 if kind == "tiles" else 0
    total = start
    for k in range(0, n_deep, 16):
        first, second = np.zeros_like(start), np.zeros_like(start)
        for i in range(k, k + 16):
            first, second = first + low[:, i], second + high[:, i]
        total = total + (first + second)
    for k in range(n_deep, depth // 2):
        if kind == "matrices":
            total = sum_to_odd(total, sum_to_odd(low[:, k], high[:, k]))
        else:
            total = low[:, k] + (high[:, k] + total)
    return total


@each_kind
@each_reading
def test_sums_have_one_order_whatever_the_shape(
    kind: PairProducts, by_column: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    disguise(kind, monkeypatch)
    for depth in (7, 79):
        start, a, b = draw((47, 40), (47, depth), (depth, 40))
        expected = pairs_in_order(kind, start, a, b)
        for height in (1, 8, 47):
            for width in (17, 40):
                its = start[:height, :width], a[:height], b[:, :width]
                assert np.array_equal(multiply(kind, *its, by_column), expected[:height, :width])


@each_kind
@each_reading
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", [6, 34])
def test_numbers_that_are_not_finite_stay_in_their_row(
    kind: PairProducts, by_column: bool, bad: float, place: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    disguise(kind, monkeypatch)
    start, a, b = draw((21, 20), (21, 35), (35, 20))
    a[4, place] = bad
    actual = multiply(kind, start, a, b, by_column)
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
    large, special = np.float32(3.4e38), np.array([np.inf, -np.inf, np.nan, 0], np.float32)
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
        ("neoverse-v1", "+neon", True, "matrices"),
        ("apple-m2", "", True, "matrices"),
        ("apple-m1", "", True, "widened"),
    ],
)
def test_pairs_are_multiplied_by_what_the_processor_has(
    name: str, features: str, permits: bool, expected: str, monkeypatch: pytest.MonkeyPatch
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
    """An innermost loop: its instructions, and how many there are of each."""

    text: str
    n: Counter[str]


def loops_of(kind: PairProducts, by_column: bool, word: str) -> list[Loop]:
    """The innermost loops that have such an instruction."""
    texts = (loop for loop in innermost(_assembly(kind, by_column)) if word in loop)
    return [Loop(its, Counter(line.split()[0] for line in its.splitlines()[1:])) for its in texts]


@reads_machine_code
@each_reading
def test_a_loop_by_tiles_has_four_products_of_them(
    by_column: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    disguise("tiles", monkeypatch)
    loops = loops_of("tiles", by_column, "tdpbf16ps")
    # Two tiles of rows by two panels: each operand is loaded once for two products.
    largest = [its.n for its in loops if its.n["tdpbf16ps"] == its.n["tileloadd"] == 4]
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
def test_a_loop_by_bfmmla_has_twelve_of_them(
    by_column: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    disguise("matrices", monkeypatch)
    loops = loops_of("matrices", by_column, "bfmmla")
    largest = max(loops, key=lambda its: its.n["bfmmla"])
    # 4 rows x 12 columns; of three panels of B, and by column of A, two rows are woven.
    assert largest.n["bfmmla"] == 12
    assert largest.n["zip1"] == largest.n["zip2"] == (4 if by_column else 3)
    assert largest.n["ldr"] + 2 * largest.n["ldp"] == 8
    assert not any("[sp" in loop.text for loop in loops)
    assert "fmla\t" not in _assembly("matrices", by_column)


@reads_machine_code
@each_reading
def test_avx512_bf16_alone_uses_no_tile(by_column: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    disguise("lanes", monkeypatch)
    assert max(its.n["vdpbf16ps"] for its in loops_of("lanes", by_column, "vdpbf16ps")) == 16
    assert "tile" not in _assembly("lanes", by_column)


STEP = """
from fastmlp.compiler import target
target.permits_tiles = lambda: True
from fastmlp.network import spec
from backends.cpu.test_mixed_precision import check_step

spec.WIDE_INPUTS = spec.WIDE_OUTPUTS = 4
check_step((37, 20, 18, 3), 41, "relu", 41)
print(target.pair_products(), target.vector_bytes())
"""


@pytest.mark.parametrize("kind", ["tiles", "matrices"])
def test_a_step_of_training_is_that_of_rounded_operands(
    kind: PairProducts, python: Callable[..., str]
) -> None:
    """In plain Python, where a machine is no more than a name."""
    machine = MACHINES[kind]
    environment = {"NUMBA_CPU_NAME": machine.cpu, "NUMBA_CPU_FEATURES": machine.features}
    told = python(STEP, NUMBA_DISABLE_JIT="1", **environment).split()
    assert told == [kind, str(machine.n_bytes)]
