"""Denormal numbers: zero inside a driver, and outside as the caller had it."""

import threading
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numba
import numpy as np
import pytest
from conditions import only_compiled, shared
from panelled import assembly_for

from fastmlp import MLP, SGD
from fastmlp.backends.cpu import dispatch
from fastmlp.backends.cpu.threads import limits, worker_pool
from fastmlp.backends.cpu.threads.team import lead
from fastmlp.compiler import block_of, flush_denormals, restore_denormals, row
from fastmlp.training.history import Status

each_dtype = pytest.mark.parametrize("dtype", [np.float32, np.float64])
JOB = np.dtype((np.record, [(n, np.int64) for n in ("team", "n_parts", "block", "n", "address")]))


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
    """Make the block that squares numbers: where they are 1e-20 or 1e-160, into denormals."""

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
def test_a_product_that_would_be_denormal_is_zero_in_a_driver(dtype: Any) -> None:
    block = block_of(multiply, dtype)
    numbers = np.full(75, ROOT[dtype], dtype)
    block(numbers.ctypes.data, 0, 75, 0)
    assert (numbers > 0).all()  # by itself, a block has the caller's mode
    numbers[:] = ROOT[dtype]
    job = np.array([(0, 1, block.address, 75, numbers.ctypes.data)], JOB)
    block_of(lead, np.int64)(0, 1, block_of(drive, dtype).address, job.ctypes.data)
    assert not numbers.any()


@only_compiled
@each_dtype
def test_a_denormal_argument_is_zero_in_a_driver(dtype: Any) -> None:
    numbers = np.full(75, np.finfo(dtype).smallest_subnormal, dtype)
    job = np.array([(0, 1, block_of(double, dtype).address, 75, numbers.ctypes.data)], JOB)
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
@pytest.mark.parametrize("long", [False, True], ids=["python threads", "parallel region"])
def test_every_thread_of_a_team_flushes_and_goes_back(dtype: Any, long: bool) -> None:
    if long and not limits.parallel_is_safe():
        pytest.skip("no parallel region can be opened here")
    block, driver = block_of(multiply, dtype), block_of(drive, dtype)
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
@each_dtype
def test_a_flush_inside_a_flush_goes_back_to_the_flush(dtype: Any) -> None:
    product = twice(np.full(5, ROOT[dtype], dtype))
    assert (product != 0).tolist() == [True, False, False, False, True]


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


def interrupted(net: MLP) -> None:
    def interrupt(report: Any) -> None:
        raise KeyboardInterrupt

    with pytest.warns(UserWarning, match="interrupted"):
        history = net.fit(*data(), epochs=5, callbacks=interrupt)
    assert history.status is Status.INTERRUPTED


def diverged(net: MLP) -> None:
    net.optimizer = SGD(1e30)
    with pytest.warns(RuntimeWarning, match="diverged"), np.errstate(all="ignore"):
        history = net.fit(*data(), epochs=5)
    assert history.status is Status.DIVERGED


def fails_in_a_callback(net: MLP) -> None:
    def fail(report: Any) -> None:
        assert denormals_are_kept()  # a callback is the caller's code
        raise RuntimeError("no more")

    with pytest.raises(RuntimeError, match="no more"):
        net.fit(*data(), epochs=5, callbacks=fail)


def refused(net: MLP) -> None:
    with pytest.raises(ValueError, match="finite"):
        net.predict(np.full((1, 3), np.nan))


VERBS: dict[str, Callable[[MLP], Any]] = {
    "fit": lambda net: net.fit(*data(), epochs=2),
    "predict": lambda net: net.predict(data()[0]),
    "predict one row": lambda net: [net.predict(data(1)[0]) for _ in range(2)],
    "predict_raw": lambda net: net.predict_raw(data()[0]),
    "loss_and_gradient": lambda net: net.loss_and_gradient(*data()),
    "apply_gradient": lambda net: net.apply_gradient(np.ones(net.parameters.size)),
    "interrupted": interrupted,
    "diverged": diverged,
    "callback": fails_in_a_callback,
    "wrong rows": refused,
}


@each_dtype
@pytest.mark.parametrize("team", [False, True], ids=["alone", "team"])
@pytest.mark.parametrize("verb", VERBS)
def test_the_mode_of_the_caller_is_as_before(
    dtype: Any, team: bool, verb: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dispatch, "pays", lambda work, n_threads: team and n_threads > 1)
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
def test_arm_switches_its_mode_without_inline_assembly(monkeypatch: pytest.MonkeyPatch) -> None:
    """LLVM ends the process where it meets any: Numba starts no assembler for it."""

    def switch(address: int) -> None:
        mode = flush_denormals()
        row(address, 1, np.float32)[0] *= np.float32(0.5)
        restore_denormals(mode)

    loop: Any = switch
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    text = assembly_for(loop, "aarch64-linux-gnu", "generic", "+neon").upper()
    assert "MRS" in text
    assert text.count("MSR") == 2
    assert "//APP" not in text
