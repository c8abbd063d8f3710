"""The compiled elementary functions: their error over the whole range, their bits, their code."""

import re
from collections.abc import Callable
from typing import Any

import numba
import numpy as np
import pytest
from conditions import only_compiled
from scipy import special

from fastmlp.backends.cpu.kernels import elementwise
from fastmlp.compiler import block_of, call
from fastmlp.compiler import elementary as compiled
from fastmlp.compiler.blocks import Block
from fastmlp.rules import elementary, updates
from fastmlp.rules.optimizers import OPTIMIZERS

pytestmark = only_compiled
# Where a function bends, vanishes, overflows or changes its formula.
SCALES = (1e-300, 1e-20, 1e-8, 1e-3, 0.1, 0.5, 1, 2, 4, 8, 20, 40, 90, 750)
N_POINTS = 1 << 14


NAMES = [function.__name__ for function in elementary.FUNCTIONS]
each_function = pytest.mark.parametrize("name", NAMES)
each_dtype = pytest.mark.parametrize("dtype", [np.float32, np.float64])
extended = pytest.mark.skipif(
    np.finfo(np.longdouble).nmant < 63, reason="the reference needs 80-bit numbers"
)


@numba.njit
def invoke(address: Any, arguments: Any) -> None:
    call(address, arguments)


_blocks: dict[Any, Block] = {}


def stated(name: str, dtype: Any) -> float:
    if name == "sqrt":  # an instruction
        return 0.5
    words = getattr(compiled, f"_{name}").__doc__
    ((narrow, wide),) = re.findall(r"Largest error: ([\d.]+) ulp in float32, ([\d.]+) in", words)
    return float(narrow if dtype == np.float32 else wide)


def block_of_function(name: str, dtype: Any) -> Block:
    if (name, dtype) not in _blocks:
        loop = elementwise.link_loop(dtype, getattr(elementary, name), by_row=False)
        _blocks[name, dtype] = Block(loop, None)
    return _blocks[name, dtype]


def evaluate(name: str, x: Any) -> Any:
    y = np.empty_like(x)
    block = block_of_function(name, x.dtype.type)
    invoke(block.address, (x.ctypes.data, y.ctypes.data, x.size, 1))
    return y


def wide_erf(x: Any) -> Any:
    """Kummer's series: 2 / sqrt(pi) exp(-x^2) sum_n 2^n x^(2n+1) / (2n+1)!!, no term below 0."""
    size = np.minimum(abs(x), 7)
    term = total = size
    for n in range(1, 160):
        term = term * (2 * size * size / (2 * n + 1))
        total = total + term
    two_over_root_pi = np.longdouble("1.128379167095512573896158903121545172")
    return np.copysign(two_over_root_pi * np.exp(-size * size) * total, x)


def reference(name: str, x: Any) -> Any:
    """The true values: in float64 for float32, in 80 bits for float64."""
    narrow = x.dtype == np.float32
    with np.errstate(all="ignore"):
        x = x.astype(np.float64 if narrow else np.longdouble)
        own: dict[str, Callable[[Any], Any]] = {
            "erf": special.erf if narrow else wide_erf,
            "logistic": lambda x: np.where(x < 0, np.exp(-abs(x)), 1) / (1 + np.exp(-abs(x))),
            "softplus": lambda x: np.maximum(x, 0) + np.log1p(np.exp(-abs(x))),
        }
        return (own.get(name) or getattr(np, name))(x)


def errors(y: Any, true: Any) -> Any:
    """Units in the last place between y and the true values; infinity for a wrong special value."""
    kind = np.finfo(y.dtype)
    with np.errstate(all="ignore"):
        rounded = true.astype(y.dtype)
        size = np.where(np.isfinite(rounded) & (true != 0), abs(true), 1)
        exponent = np.maximum(np.frexp(size)[1] - 1, kind.minexp)
        error = abs(y.astype(true.dtype) - true) / np.ldexp(
            true.dtype.type(1), exponent - kind.nmant
        )
    special_value = ~np.isfinite(rounded) | ~np.isfinite(y)
    same = (y == rounded) | (np.isnan(y) & np.isnan(rounded))
    return np.where(special_value, np.where(same, 0, np.inf), error)


def draws(dtype: Any, rng: np.random.Generator) -> Any:
    bits = rng.integers(0, 1 << 64, 4 * N_POINTS, dtype=np.uint64).view(np.float64)
    with np.errstate(all="ignore"):
        near = [rng.uniform(-scale, scale, N_POINTS) for scale in SCALES]
        near += [
            rng.uniform(low, high, N_POINTS)
            for low, high in ((0.6, 1.5), (-746, -700), (-104, -86))
        ]
        return np.concatenate([bits, *near]).astype(dtype)


@each_function
def test_error_of_float32_over_all_bit_patterns(name: str, soak: bool) -> None:
    # Denormals, infinities and NaNs among them. With --soak at each, which takes two minutes.
    step = 1 if soak else 4099
    for start in range(0, 1 << 32, step << 18):
        bits = np.arange(start, min(start + (step << 18), 1 << 32), step, dtype=np.uint64)
        x = bits.astype(np.uint32).view(np.float32)
        assert errors(evaluate(name, x), reference(name, x)).max() <= stated(name, np.float32)


@extended
@each_function
def test_error_of_float64(name: str, rng: np.random.Generator) -> None:
    x = draws(np.float64, rng)
    assert errors(evaluate(name, x), reference(name, x)).max() <= stated(name, np.float64)


@each_function
@each_dtype
def test_special_values_are_those_of_numpy(name: str, dtype: Any) -> None:
    kind = np.finfo(dtype)
    corners = [0.0, 1.0, np.inf, kind.max, kind.tiny, kind.smallest_subnormal, 1 + kind.eps]
    x = np.array([sign * corner for corner in corners for sign in (1, -1)] + [np.nan], dtype)
    y, true = evaluate(name, x), reference(name, x)
    assert errors(y, true).max() <= stated(name, dtype)
    known = ~np.isnan(true)
    assert (np.signbit(y) == np.signbit(true))[known].all()


@each_dtype
def test_small_results_of_exp_lose_digits_one_by_one(dtype: Any) -> None:
    kind = np.finfo(dtype)
    x = np.linspace(np.log(kind.smallest_subnormal.astype(float)) + 1, np.log(kind.tiny), 999)
    for name in ("exp", "logistic", "softplus"):
        y = evaluate(name, x.astype(dtype))
        assert (y > 0).all()
        assert (np.diff(y) >= 0).all()


@each_function
@each_dtype
def test_bits_depend_on_the_number_alone(name: str, dtype: Any, rng: np.random.Generator) -> None:
    x = rng.normal(0, 3, 75).astype(dtype)
    one_by_one = np.concatenate([evaluate(name, x[i : i + 1]) for i in range(x.size)])
    for start in range(0, 40, 3):
        for stop in range(start + 1, x.size + 1, 5):
            part = evaluate(name, x[start:stop])
            assert np.array_equal(part, one_by_one[start:stop], equal_nan=True)


@each_function
def test_float32_is_never_widened(name: str) -> None:
    text = str(block_of_function(name, np.float32)._code.inspect_llvm())
    assert "float" in text
    assert "double" not in text
    assert "fpext" not in text


@each_function
@each_dtype
def test_the_loop_is_vectorised(name: str, dtype: Any) -> None:
    word = {np.float32: "float", np.float64: "double"}[dtype]
    text = str(block_of_function(name, dtype)._code.inspect_llvm())
    assert re.search(rf"store <\d+ x {word}>", text)


def test_integers_are_taken_as_before() -> None:
    assert numba.njit(lambda x: elementary.exp(x))(1) == pytest.approx(np.e, rel=1e-15)


ADAPTIVE = sorted(set(OPTIMIZERS) - {"sgd"})


def update_ir(name: str, dtype: Any) -> str:
    optimizer = OPTIMIZERS[name]()
    n = optimizer.coefficients(1, np.ones(1)).shape[1]
    options = {"n_coefficients": n, "n_moments": updates.N_MOMENTS.get(optimizer.rule, 2)}
    block_of(elementwise.update_loop, dtype, optimizer.rule, **options)  # tells Numba of the rule
    block = Block(elementwise.update_loop(dtype, optimizer.rule, **options), None)
    return str(block._code.inspect_llvm())


@each_dtype
@pytest.mark.parametrize("name", ADAPTIVE)
def test_every_optimizer_that_divides_does_so_in_vectors_and_exactly(name: str, dtype: Any) -> None:
    # With an estimate of 1 / b the vectors of a loop and its remainder differ in the last bits.
    text = update_ir(name, dtype)
    assert re.search(r"fdiv <\d+ x (float|double)>", text)
    assert "arcp" not in text


@each_dtype
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_update_does_not_depend_on_the_numbers_beside(
    name: str, dtype: Any, rng: np.random.Generator
) -> None:
    optimizer = OPTIMIZERS[name]()
    constants = optimizer.coefficients(3, np.array([0.01])).astype(dtype)
    options = {
        "n_coefficients": constants.shape[1],
        "n_moments": updates.N_MOMENTS.get(optimizer.rule, 2),
    }
    block = block_of(elementwise.update_loop, dtype, optimizer.rule, **options)
    whole = rng.uniform(0.1, 1, (4, 101)).astype(dtype)
    alone = whole.copy()
    block(*[row.ctypes.data for row in whole], 0, 0, constants.ctypes.data, 101)
    for i in range(101):
        place = alone.ctypes.data + i * alone.itemsize
        block(*[place + r * alone.strides[0] for r in range(4)], 0, 0, constants.ctypes.data, 1)
    assert np.array_equal(whole, alone)


def test_descent_divides_by_nothing() -> None:
    assert "fdiv" not in update_ir("sgd", np.float32)
