"""`prange` loops: translated for a team,
compiled by Numba and uncompiled they write the same.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from conditions import only_compiled

from fastmlp.backends.cpu import worker_pool
from fastmlp.backends.cpu.team import JOINED
from fastmlp.compiler import njit, pause, prange, thread_number
from fastmlp.compiler.blocks import NativeCode
from fastmlp.compiler.by_numba import compile_block as compiled_by_numba
from fastmlp.compiler.jit import Unsupported
from fastmlp.compiler.memory import (
    Record,
    fetch_add,
    load_acquire,
    record_at,
    records_at,
    row,
)

pytestmark = only_compiled
N = 37
FACTOR = 0.25
# Rounds of waiting for another thread, of about 0.5 us: ten seconds and more.
LONGEST = 1 << 25


class Job(Record):
    """The record of the drivers below.

    team: address of the team's record, or 0
    out: address of float64 numbers
    n: how many of them
    scale: a factor
    n_parts: written by the pool, not read here
    """

    team: int
    out: int
    n: int
    scale: float
    n_parts: int


class Point(Record):
    count: int
    mass: float


@njit(parallel=True)
def captures(team: Any, numbers: Any, jobs: Any) -> None:
    n = jobs[0].n
    scalar = np.float64
    start = n * 0.5
    pair = (n - 1, jobs[0].scale)
    for i in prange(n):
        last, factor = pair
        numbers[i] = start + i * jobs[0].scale - last * factor * FACTOR + scalar(i % 3)


@njit(parallel=True)
def with_inner_loops(team: Any, numbers: Any, jobs: Any) -> None:
    n = jobs[0].n
    for i in prange(n):
        numbers[i] = i
    for i in prange(n):
        total = 0.0
        for k in range(i):
            if k == 5:
                break
            total += numbers[i] * k
        if i % 2 == 0:
            continue
        numbers[i] = total


@njit(parallel=True)
def with_records(team: Any, numbers: Any, jobs: Any) -> None:
    out = jobs[0].out
    n = jobs[0].n // 2
    points = records_at(out, n, Point)
    for i in prange(n):
        point = record_at(out + i * 16, Point)
        point.count = 4 * i
        points[i].mass = point.count * jobs[0].scale


@njit(parallel=True)
def captures_a_record(team: Any, numbers: Any, jobs: Any) -> None:
    job = jobs[0]
    own = row(job.out, job.n, np.float64)
    for i in prange(job.n):
        own[i] = i * job.scale


def driver(kernel: Any) -> Callable[[Any], None]:
    def run_kernel(address: Any) -> None:
        job = record_at(address, Job)
        kernel(job.team, row(job.out, job.n, np.float64), records_at(address, 1, Job))

    return run_kernel


def made_job(out: np.ndarray[Any, Any]) -> Any:
    return np.array([(0, out.ctypes.data, len(out), 0.75, 1)], Job.dtype)


def uncompiled(kernel: Any) -> list[float]:
    out = np.zeros(N)
    driver(getattr(kernel, "source", kernel))(made_job(out).ctypes.data)
    return out.tolist()


def kernels(*some: Any) -> Any:
    return pytest.mark.parametrize(
        "kernel", some, ids=lambda kernel: getattr(kernel, "source", kernel).__name__
    )


@kernels(captures, with_inner_loops, with_records, captures_a_record)
@pytest.mark.parametrize("n_threads", [1, 2])
def test_a_team_writes_what_range_writes(kernel: Any, n_threads: int) -> None:
    """1 is no team; of two the second comes while the first works, or not at all."""
    code = NativeCode(driver(kernel), None, light=True)  # type: ignore[arg-type]
    for _ in range(20):
        out = np.zeros(N)
        worker_pool.run(code, made_job(out), n_threads)  # type: ignore[arg-type]
        assert out.tolist() == uncompiled(kernel)


@pytest.mark.slow
@pytest.mark.few(3)
@kernels(captures, with_inner_loops, with_records)
@pytest.mark.parametrize("team", [0, 1])
def test_numba_compiles_the_same_text_to_the_same_bits(kernel: Any, team: int) -> None:
    """Any team but 0 stands for Numba's threads."""
    out = np.zeros(N)
    job = made_job(out)
    job["team"] = team
    compiled_by_numba(driver(kernel), None).ctypes(job.ctypes.data)
    assert out.tolist() == uncompiled(kernel)
    # Also after a `continue` the caller's denormals are kept.
    assert np.float64(1e-300) * np.float64(1e-20) != 0


@njit(parallel=True)
def meets(team: Any, words: Any) -> None:
    threads = row(words + 8, 2, np.int64)
    for i in prange(2):
        spins = 0
        fetch_add(words, 1)
        while load_acquire(words) < 2 and spins < LONGEST:
            pause()
            spins += 1
        threads[i] = thread_number()


def run_meeting(address: Any) -> None:
    job = record_at(address, Job)
    spins = 0
    while load_acquire(job.team + JOINED) < 2 and spins < LONGEST:
        pause()
        spins += 1
    meets(job.team, job.out)


def test_two_threads_run_iterations_at_once_and_have_numbers() -> None:
    words = np.zeros(3, np.int64)
    code = NativeCode(run_meeting, None, light=True)  # type: ignore[arg-type]
    worker_pool.run(code, made_job(words), 2)  # type: ignore[arg-type]
    assert words.tolist() == [2, 0, 1]


def test_outside_a_loop_the_thread_is_0() -> None:
    def ask(out: Any) -> None:
        row(out, 1, np.int64)[0] = thread_number()

    words = np.ones(1, np.int64)
    NativeCode(ask, None, light=True).entry(words.ctypes.data)  # type: ignore[arg-type]
    assert words[0] == 0
    assert thread_number() == 0


def refused() -> dict[str, tuple[Callable[..., None], str, int]]:
    """Kernels that the translator refuses, what it says,
    and in which line of the function.
    """

    def assigns(team: Any, out: Any) -> None:
        total = 0
        for i in prange(4):
            total += i
        row(out, 1, np.int64)[0] = total

    def returns(team: Any, out: Any) -> None:
        for i in prange(4):
            if i == out:
                return

    def breaks(team: Any, out: Any) -> None:
        for i in prange(4):
            if i == out:
                break

    def has_limits(team: Any, out: Any) -> None:
        for i in prange(1, 4):
            row(out, 4, np.int64)[i] = i

    def has_no_team(out: Any) -> None:
        for i in prange(4):
            row(out, 4, np.int64)[i] = i

    def has_no_value_after_if(out: Any) -> None:
        if out > 0:
            x = 1
        row(out, 1, np.int64)[0] = x

    def has_no_value_after_prange(team: Any, out: Any) -> None:
        for i in prange(4):
            x = i
        row(out, 1, np.int64)[0] = x

    def has_a_negative_index(out: Any) -> None:
        numbers = row(out, 4, np.int64)
        numbers[-1] = 1

    def has_a_slice(out: Any) -> None:
        row(out, 2, np.float64)[1:] = 1.0

    def has_two_types(out: Any) -> None:
        n = 1
        if out:
            n = 1.5  # type: ignore[assignment]
        row(out, 1, np.float64)[0] = n

    def has_a_name_of_nothing(out: Any) -> None:
        row(out, 1, np.float64)[0] = nothing_of_that_name  # type: ignore[name-defined] # noqa: F821

    return {
        "assigns": (assigns, "'total', a name of outside", 2),
        "returns": (returns, "a prange loop returns", 1),
        "breaks": (breaks, "a prange loop breaks", 1),
        "has limits": (has_limits, "prange takes one number", 1),
        "has no team": (has_no_team, "an argument `team`", 1),
        "no value after if": (has_no_value_after_if, "'x' may have no value here", 3),
        "no value after prange": (
            has_no_value_after_prange,
            "'x' may have no value here",
            3,
        ),
        "negative index": (has_a_negative_index, "index", 2),
        "slice": (has_a_slice, "", 1),
        "two types": (has_two_types, "another type of n", 3),
        "name of nothing": (has_a_name_of_nothing, "", 1),
    }


@pytest.mark.parametrize("name", refused())
def test_what_is_refused_is_told_with_its_line(name: str) -> None:
    function, words, line = refused()[name]
    code = function.__code__
    with pytest.raises(Unsupported) as refusal:
        NativeCode(function, None, light=True)  # type: ignore[arg-type]
    assert words in str(refusal.value)
    assert str(refusal.value).endswith(
        f"{code.co_filename}:{code.co_firstlineno + line}"
    )


def test_a_name_with_a_value_on_every_way_is_understood() -> None:
    def chooses(out: Any, n: Any) -> None:
        if n > 2:
            x = 1
        elif n > 1:
            return
        else:
            x = 2
        row(out, 1, np.int64)[0] = x

    words = np.zeros(1, np.int64)
    code = NativeCode(chooses, None, light=True)  # type: ignore[arg-type]
    results = []
    for n in (3, 2, 1):
        words[0] = 0
        code.entry(words.ctypes.data, n)
        results.append(int(words[0]))
    assert results == [1, 0, 2]
