"""Elementary functions, compiled: errors, bits,
vectors; and denormal numbers, flushed.
"""

import re
import threading
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numba
import numpy as np
import pytest
from conditions import only_compiled, shared
from panelled import assembly_for
from scipy import special

from fastmlp import MLP
from fastmlp.backends.cpu import dispatch, limits, worker_pool
from fastmlp.backends.cpu.kernels import elementwise
from fastmlp.backends.cpu.team import lead
from fastmlp.compiler import block_of, cache, call, flush_denormals, restore_denormals
from fastmlp.compiler import elementary as compiled
from fastmlp.compiler.blocks import Block
from fastmlp.compiler.memory import row
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
    ((narrow, wide),) = re.findall(
        r"Largest error: ([\d.]+) ulp in float32, ([\d.]+) in", words
    )
    return float(narrow if dtype == np.float32 else wide)


def block_of_function(name: str, dtype: Any) -> Block:
    if (name, dtype) not in _blocks:
        loop = elementwise.link_loop(dtype, getattr(elementary, name), by_row=False)
        _blocks[name, dtype] = Block(loop, None)
    return _blocks[name, dtype]


def evaluate(name: str, x: Any) -> Any:
    y = np.empty_like(x)
    block = block_of_function(name, x.dtype.type)
    invoke(block.address, (x.ctypes.data, y.ctypes.data, 0, x.size, 1))
    return y


def wide_erf(x: Any) -> Any:
    """Kummer's series: 2 / sqrt(pi) exp(-x^2)
    sum_n 2^n x^(2n+1) / (2n+1)!!, no term below 0.
    """
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
            "logistic": lambda x: (
                np.where(x < 0, np.exp(-abs(x)), 1) / (1 + np.exp(-abs(x)))
            ),
            "softplus": lambda x: np.maximum(x, 0) + np.log1p(np.exp(-abs(x))),
        }
        return (own.get(name) or getattr(np, name))(x)


def errors(y: Any, true: Any) -> Any:
    """Units in the last place between y and the true values;
    infinity for a wrong special value.
    """
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
    # Denormals, infinities and NaNs among them.
    # With --soak at each, which takes two minutes.
    step = 1 if soak else 4099
    for start in range(0, 1 << 32, step << 18):
        bits = np.arange(
            start, min(start + (step << 18), 1 << 32), step, dtype=np.uint64
        )
        x = bits.astype(np.uint32).view(np.float32)
        assert errors(evaluate(name, x), reference(name, x)).max() <= stated(
            name, np.float32
        )


@extended
@each_function
def test_error_of_float64(name: str, rng: np.random.Generator) -> None:
    x = draws(np.float64, rng)
    assert errors(evaluate(name, x), reference(name, x)).max() <= stated(
        name, np.float64
    )


@each_function
@each_dtype
def test_special_values_are_those_of_numpy(
    name: str, dtype: Any, rng: np.random.Generator
) -> None:
    kind = np.finfo(dtype)
    corners = [
        0.0,
        1.0,
        np.inf,
        kind.max,
        kind.tiny,
        kind.smallest_subnormal,
        1 + kind.eps,
    ]
    x = np.array(
        [sign * corner for corner in corners for sign in (1, -1)] + [np.nan], dtype
    )
    y, true = evaluate(name, x), reference(name, x)
    assert errors(y, true).max() <= stated(name, dtype)
    known = ~np.isnan(true)
    assert (np.signbit(y) == np.signbit(true))[known].all()
    x = rng.normal(0, 3, 75).astype(dtype)
    one_by_one = np.concatenate([evaluate(name, x[i : i + 1]) for i in range(x.size)])
    for start in range(0, 40, 3):
        for stop in range(start + 1, x.size + 1, 5):
            part = evaluate(name, x[start:stop])
            assert np.array_equal(part, one_by_one[start:stop], equal_nan=True)


def test_integers_are_taken_as_before() -> None:
    assert numba.njit(lambda x: elementary.exp(x))(1) == pytest.approx(np.e, rel=1e-15)


ADAPTIVE = sorted(set(OPTIMIZERS) - {"sgd"})


@pytest.fixture
def compiled_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of which a wheel has other forms:
    those with what an optimizer clips and averages.
    """
    monkeypatch.setattr(cache, "PREBUILT", "0")


def update_ir(name: str, dtype: Any) -> str:
    optimizer = OPTIMIZERS[name]()
    n = optimizer.coefficients(1, np.ones(1)).shape[1]
    options = {
        "n_coefficients": n,
        "n_moments": updates.N_MOMENTS.get(optimizer.rule, 2),
    }
    block_of(
        elementwise.update_loop, dtype, optimizer.rule, **options
    )  # tells Numba of the rule
    block = Block(elementwise.update_loop(dtype, optimizer.rule, **options), None)
    return str(block._code.inspect_llvm())


@pytest.mark.usefixtures("compiled_here")
@each_dtype
@pytest.mark.parametrize("name", ADAPTIVE)
def test_every_optimizer_that_divides_does_so_in_vectors_and_exactly(
    name: str, dtype: Any
) -> None:
    # With an estimate of 1 / b the vectors of a loop and its remainder differ in the
    # last bits.
    text = update_ir(name, dtype)
    assert re.search(r"fdiv <\d+ x (float|double)>", text)
    assert "arcp" not in text


@pytest.mark.usefixtures("compiled_here")
@each_dtype
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_update_is_of_its_numbers_alone(
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
        block(
            *[place + r * alone.strides[0] for r in range(4)],
            0,
            0,
            constants.ctypes.data,
            1,
        )
    assert np.array_equal(whole, alone)


@pytest.mark.usefixtures("compiled_here")
def test_descent_divides_by_nothing() -> None:
    assert "fdiv" not in update_ir("sgd", np.float32)


JOB = np.dtype(
    (np.record, [(n, np.int64) for n in ("team", "n_parts", "block", "n", "address")])
)


def denormals_are_kept() -> bool:
    small = np.finfo(np.float32).smallest_subnormal
    made = np.float32(1e-38) * np.float32(1e-2) != 0 and 1e-300 * float("1e-20") != 0
    read = small * np.float32(2.0**30) * np.float32(2.0**100) != 0
    in_arrays = (np.full(64, 1e-38, np.float32) * np.full(64, 1e-2, np.float32)).all()
    return bool(made and read and in_arrays)


@pytest.fixture(autouse=True)
def _the_mode_is_as_before() -> Iterator[None]:
    """Every test of this file, whatever it does, leaves the mode as it was."""
    assert denormals_are_kept()
    yield
    assert denormals_are_kept()


def multiply(scalar: Any) -> Any:
    """Make the block that squares numbers:
    where they are 1e-20 or 1e-160, into denormals.
    """

    def square_all(address: Any, first: Any, last: Any, part: Any) -> None:
        numbers = row(address, last, scalar)
        for i in range(first, last):
            numbers[i] *= numbers[i]

    return square_all


def drive(scalar: Any) -> Any:
    def drive_job(address: Any) -> None:
        job = row(address, 1, JOB)[0]
        shared(job.team, job.block, job.n, job.address)

    return drive_job


ROOT = {np.float32: 1e-20, np.float64: 1e-160}


@only_compiled
@each_dtype
def test_denormals_are_zero_in_a_driver_and_flushes_nest(dtype: Any) -> None:
    numbers = np.full(75, np.finfo(dtype).smallest_subnormal, dtype)
    job = np.array(
        [(0, 1, block_of(double, dtype).address, 75, numbers.ctypes.data)], JOB
    )
    block_of(lead, np.int64)(0, 1, block_of(drive, dtype).address, job.ctypes.data)
    assert not numbers.any()
    product = twice(np.full(5, ROOT[dtype], dtype))
    assert (product != 0).tolist() == [True, False, False, False, True]
    block = block_of(multiply, dtype)
    numbers = np.full(75, ROOT[dtype], dtype)
    block(numbers.ctypes.data, 0, 75, 0)
    assert (numbers > 0).all()  # by itself, a block has the caller's mode
    numbers[:] = ROOT[dtype]
    job = np.array([(0, 1, block.address, 75, numbers.ctypes.data)], JOB)
    block_of(lead, np.int64)(0, 1, block_of(drive, dtype).address, job.ctypes.data)
    assert not numbers.any()


def double(scalar: Any) -> Any:
    factor = scalar(2.0**100)

    def double_all(address: Any, first: Any, last: Any, part: Any) -> None:
        numbers = row(address, last, scalar)
        for i in range(first, last):
            numbers[i] *= factor

    return double_all


@only_compiled
@each_dtype
@pytest.mark.parametrize(
    "long", [False, True], ids=["python threads", "parallel region"]
)
def test_every_thread_of_a_team_flushes_and_goes_back(dtype: Any, long: bool) -> None:
    if long and not limits.parallel_is_safe():
        pytest.skip("no parallel region can be opened here")
    block = block_of(multiply, dtype)
    driver = block_of(drive, dtype)
    for _ in range(20):
        numbers = np.full(10_000, ROOT[dtype], dtype)
        job = np.array([(0, 1, block.address, numbers.size, numbers.ctypes.data)], JOB)
        worker_pool.run(driver, job, 2, long)
        assert not numbers.any()
    assert denormals_are_kept()


@numba.njit
def twice(numbers: Any) -> Any:
    product = numbers.copy()
    product[0] = numbers[0] * numbers[1]
    outer = flush_denormals()
    product[1] = numbers[0] * numbers[1]
    inner = flush_denormals()
    product[2] = numbers[0] * numbers[1]
    restore_denormals(inner)
    product[3] = numbers[0] * numbers[1]
    restore_denormals(outer)
    product[4] = numbers[0] * numbers[1]
    return product


@only_compiled
def test_a_caller_who_flushes_by_himself_still_does_afterwards() -> None:
    net = MLP((3, 4, 1), seed=0)
    x = np.ones((9, 3), np.float32)
    net.predict(x)
    mode = np.zeros(1, np.int64)
    switch_on(mode)
    try:
        net.predict(x)
        net.predict(x[:1])
        flushed = not denormals_are_kept()
    finally:
        switch_back(mode)
    assert flushed


@numba.njit
def switch_on(mode: Any) -> None:
    mode[0] = flush_denormals()


@numba.njit
def switch_back(mode: Any) -> None:
    restore_denormals(mode[0])


def data(n_rows: int = 40) -> tuple[Any, Any]:
    rng = np.random.default_rng(0)
    return rng.normal(size=(n_rows, 3)).astype(np.float32), rng.normal(size=(n_rows, 1))


def fails_in_a_callback(net: MLP) -> None:
    def fail(report: Any) -> None:
        assert denormals_are_kept()  # a callback is the caller's code
        raise RuntimeError("no more")

    with pytest.raises(RuntimeError, match="no more"):
        net.fit(*data(), epochs=5, callbacks=fail)


VERBS: dict[str, Callable[[MLP], Any]] = {
    "fit": lambda net: net.fit(*data(), epochs=2),
    "predict": lambda net: net.predict(data()[0]),
    "predict one row": lambda net: [net.predict(data(1)[0]) for _ in range(2)],
    "predict_raw": lambda net: net.predict_raw(data()[0]),
    "loss_and_gradient": lambda net: net.loss_and_gradient(*data()),
    "apply_gradient": lambda net: net.apply_gradient(np.ones(net.parameters.size)),
    "callback": fails_in_a_callback,
}


@each_dtype
@pytest.mark.parametrize("team", [False, True], ids=["alone", "team"])
@pytest.mark.parametrize("verb", VERBS)
def test_the_mode_is_as_before(
    dtype: Any, team: bool, verb: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        dispatch, "pays", lambda work, n_threads: team and n_threads > 1
    )
    net = MLP((3, 4, 1), activation="tanh", dtype=dtype, seed=0)
    VERBS[verb](net)
    assert denormals_are_kept()


@only_compiled
@each_dtype
def test_predictions_too_small_are_zero_for_few_rows_and_for_many(dtype: Any) -> None:
    net = MLP((1, 1), dtype=dtype)
    net.parameters[:] = ROOT[dtype], 0
    x = np.full((9, 1), ROOT[dtype], dtype)
    assert net.parameters[0] * x[0, 0] > 0
    assert not net.predict(x).any()
    for _ in range(2):  # the second time by what predicts few rows
        assert not net.predict(x[:2]).any()


def test_other_threads_keep_their_mode_while_this_one_trains() -> None:
    kept: list[bool] = []
    stop = threading.Event()

    def watch() -> None:
        while not stop.is_set():
            kept.append(denormals_are_kept())
        kept.append(denormals_are_kept())

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        with warnings.catch_warnings():
            MLP((3, 4, 1), seed=0).fit(*data(), epochs=20)
    finally:
        stop.set()
        thread.join()
    assert all(kept)


@only_compiled
def test_arm_switches_its_mode_without_inline_assembly() -> None:
    """LLVM ends the process where it meets any: Numba starts no assembler for it."""

    def switch(address: int) -> None:
        mode = flush_denormals()
        row(address, 1, np.float32)[0] *= np.float32(0.5)
        restore_denormals(mode)

    loop: Any = switch
    text = assembly_for(loop, "aarch64-linux-gnu", "generic", "+neon").upper()
    assert "MRS" in text
    assert text.count("MSR") == 2
    assert "//APP" not in text
