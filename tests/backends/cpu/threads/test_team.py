"""A team does every part once, whoever joins;
workers spin at mailboxes or are woken.
"""

import ctypes
import itertools
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numba
import numpy as np
import pytest
from conditions import Drill, only_compiled
from fitting import in_threads
from hypothesis import given, settings
from hypothesis import strategies as st

from fastmlp.backends.cpu import limits, worker_pool
from fastmlp.backends.cpu.team import (
    GENERATION,
    JOINED,
    LEFT,
    LINE,
    MOST_THREADS,
    PART_LINES,
    POSTED,
    STOPPED,
    WOKEN,
    enter,
    make_team,
)
from fastmlp.backends.cpu.worker_pool import ASLEEP, WAITING, WorkerPool, launch
from fastmlp.compiler import COMPILER, block_of, pause
from fastmlp.compiler.memory import fetch_add, load_acquire, row

pytestmark = pytest.mark.skipif(
    COMPILER == "numba",
    reason="kernels that Numba compiles have Numba's threads, not a team",
)


# In a process of its own, where a deadlock is a TimeoutExpired:
# threads and workers that must join.
ITEMS = """
import signal, sys, threading, time
from conditions import Drill
from fastmlp.backends.cpu import worker_pool

def do_items(n_threads, n_joined):
    joined = 0
    for n, pieces in ((2, 1), (3, 1), (7, 1), (64, 1), (7, 3), (64, 2), (300, 4)):
        drill = Drill(n, 10_000 // pieces, n_joined)
        worker_pool.run(drill.driver, drill.job, n_threads, pieces)
        assert drill.exact, (n, drill.memory)
        joined += drill.calls > drill.n_loops
    print(n_threads, joined)

for n_threads in (1, 2, 3, 4):
    do_items(n_threads, 2)

# Calls that end before a helper comes.
for n_loops in (0, 1, 2, 3) * 100:
    drill = Drill(8, n_loops)
    worker_pool.run(drill.driver, drill.job, 3)
    assert drill.exact

# An interrupt is delivered when the call is done.
drill, after = Drill(64, 200_000), Drill(8, 1000)
if sys.platform != "win32":  # where raise_signal does not interrupt a sleep
    threading.Timer(0.01, signal.raise_signal, [signal.SIGINT]).start()
    try:
        worker_pool.run(drill.driver, drill.job, 2)
        time.sleep(5)
        raise AssertionError("no interrupt")
    except KeyboardInterrupt:
        assert drill.exact
worker_pool.run(after.driver, after.job, 2)
assert after.exact
"""


@pytest.mark.slow
@only_compiled
def test_every_item_is_done_once(python: Callable[..., str]) -> None:
    lines = python(ITEMS, NUMBA_NUM_THREADS="4").splitlines()
    joined = [tuple(map(int, line.split())) for line in lines]
    assert [n_threads for n_threads, _ in joined] == [1, 2, 3, 4]
    for n_threads, n_loops in joined:
        if n_threads == 1 or limits.thread_limit() > 1:
            assert (n_loops > 0) == (n_threads > 1)  # else no worker was tested


def gathered(drill: Drill, limit: int, pieces: int = 1) -> np.ndarray:
    team = make_team(limit, pieces)
    drill.job["team"] = team.ctypes.data
    team[JOINED // 8] = 1
    return team


@pytest.mark.parametrize("pieces", [1, 4])
@pytest.mark.parametrize("n_joined", [1, 2, 3])
def test_a_helper_that_never_comes_or_sleeps_is_not_waited_for(
    n_joined: int, pieces: int
) -> None:
    """Its pieces are done by the others."""
    if numba.config.DISABLE_JIT and n_joined > 1:
        pytest.skip("interpreted, no team gathers")
    drill = Drill(60, 1000)
    team = gathered(drill, 4, pieces)
    team[JOINED // 8] = n_joined
    drill.driver(drill.job.ctypes.data)
    assert drill.exact
    assert drill.calls == 1000 * (n_joined * pieces if n_joined > 1 else 1)


def test_who_comes_late_or_too_many_leaves_at_once() -> None:
    drill = Drill(8, 3)
    team = gathered(drill, 2)
    drill.driver(drill.job.ctypes.data)
    team[GENERATION // 8] = STOPPED
    block_of(enter, np.int64)(
        team.ctypes.data, drill.driver.address, drill.job.ctypes.data
    )
    assert drill.exact
    team = make_team(2)
    team[JOINED // 8] = 2
    block_of(enter, np.int64)(team.ctypes.data, 0, 0)
    assert team[JOINED // 8] == 3


def stall(scalar: Any) -> Any:
    """Make the block of which item 0 waits until all but the last items of its piece
    are done.
    """

    def do_items(address: Any, first: Any, last: Any, part: Any) -> None:
        owners = row(address, 17, np.int64)
        spins = 0
        if first == 0:
            while load_acquire(address + 16 * 8) < 14 and spins < 1 << 31:
                pause()
                spins += 1
        for item in range(first, last):
            owners[item] = part
        fetch_add(address + 16 * 8, last - first)

    return do_items


@only_compiled
def test_pieces_of_a_thread_that_is_held_up_go_to_another() -> None:
    drill = Drill(16, 1)
    memory = np.zeros(17, np.int64)
    drill.job["block"] = block_of(stall, np.int64).address
    drill.job["address"] = memory.ctypes.data
    team = gathered(drill, 2, pieces=4)
    arguments = (team.ctypes.data, drill.driver.address, drill.job.ctypes.data)
    worker = threading.Thread(target=block_of(enter, np.int64), args=arguments)
    worker.start()
    while team[JOINED // 8] < 2:
        pass
    drill.driver(drill.job.ctypes.data)
    team[GENERATION // 8] = STOPPED
    worker.join(60)
    # The leader's own part is the first eight; it was held up in the first two of them.
    assert memory.tolist() == [0] * 2 + [1] * 14 + [16]


@only_compiled
def test_a_helper_that_comes_late_joins() -> None:
    drill = Drill(64, 300_000)
    team = gathered(drill, 2)
    address = drill.job.ctypes.data
    arguments = (team.ctypes.data, drill.driver.address, address)
    worker = threading.Timer(0.005, block_of(enter, np.int64), arguments)
    worker.start()
    drill.driver(address)
    team[GENERATION // 8] = STOPPED
    worker.join(60)
    assert not worker.is_alive()
    assert drill.exact
    assert drill.n_loops <= drill.calls < 2 * drill.n_loops


@settings(derandomize=True, deadline=None, max_examples=30)
@given(st.integers(0, 20), st.integers(0, 6), st.integers(1, 20))
def test_parts_and_pieces_cover_the_items(n: int, more: int, pieces: int) -> None:
    drill = Drill(n, 3)
    team = gathered(drill, 5, pieces)
    team[JOINED // 8] = 1 if numba.config.DISABLE_JIT else 1 + more
    drill.driver(drill.job.ctypes.data)
    assert drill.exact


def test_lines_of_a_team_and_a_job_alone() -> None:
    for limit in (2, 255, 300):
        team = make_team(limit)
        assert team.ctypes.data % LINE == 0
        assert team.nbytes == PART_LINES + min(limit, 255) * LINE
        assert not team[: JOINED // 8 + 1].any()
    drill = Drill(5, 10)
    drill.job["team"] = 1
    worker_pool.run(drill.driver, drill.job, 1)
    assert drill.job["team"] == 0
    assert (drill.exact, drill.calls) == (True, 10)


@pytest.mark.skipif(not numba.config.DISABLE_JIT, reason="compiled, a team gathers")
def test_interpreted_a_call_is_alone() -> None:
    drill = Drill(8, 10)
    worker_pool.run(drill.driver, drill.job, 2)
    assert drill.job["team"] == 0
    assert (drill.exact, drill.calls) == (True, 10)


@only_compiled
def test_a_pool_keeps_its_threads() -> None:
    pool = worker_pool.WorkerPool()
    before = threading.active_count()
    for _ in itertools.repeat(None, 20):
        drill = Drill(8, 100)
        team = make_team(3)
        drill.job["team"] = team.ctypes.data
        pool.run(drill.driver, drill.job.ctypes.data, team, 3)
        assert drill.exact
    assert threading.active_count() == before + 2


FOR_EVER = 1 << 60


@pytest.fixture
def pool() -> Iterator[WorkerPool]:
    pool = WorkerPool(FOR_EVER)
    yield pool
    pool._mailboxes.fields["spins"][:] = 0


def lead(pool: WorkerPool, n: int = 2, **options: bool) -> tuple[Any, bool]:
    """Have a pool do a drill; return the team's record,
    and whether workers were awake.
    """
    drill = Drill(8, 3)
    team = make_team(n)
    drill.job["team"] = team.ctypes.data
    awake = pool.run(drill.driver, drill.job.ctypes.data, team, n, **options)
    assert drill.exact
    return team, awake


def states(pool: WorkerPool, n: int) -> list[int]:
    return pool._mailboxes.fields["state"][:n].tolist()


def soon(condition: Callable[[], bool]) -> bool:
    """True if it comes true within the time that a busy machine may take."""
    end = time.monotonic() + 60
    while not condition() and time.monotonic() < end:
        time.sleep(0.001)
    return condition()


@only_compiled
def test_sleeping_workers_are_woken_and_spinning_ones_are_called(
    pool: WorkerPool,
) -> None:
    lead(pool)
    spins = pool._mailboxes.fields["spins"]
    for state in (WAITING, ASLEEP, WAITING):
        spins[:] = FOR_EVER if state == WAITING else 0
        assert soon(lambda state=state: states(pool, 1) == [state])  # type: ignore[misc]
        spins[:] = FOR_EVER
        team, awake = lead(pool)
        assert (awake, team[POSTED // 8]) == (state == WAITING, 1)


@only_compiled
def test_a_sleeping_worker_comes_to_a_caller_that_holds_the_gil(
    pool: WorkerPool,
) -> None:
    pool._mailboxes.fields["spins"][:] = 0
    lead(pool)
    assert soon(lambda: states(pool, 1) == [ASLEEP])
    drill = Drill(8, 1000, n_joined=2)
    team = make_team(2)
    team[JOINED // 8], drill.job["team"] = 1, team.ctypes.data
    arguments = 2, team.ctypes.data, drill.driver.address, drill.job.ctypes.data, 0
    held = ctypes.PYFUNCTYPE(None, *[ctypes.c_int64] * 7)(
        worker_pool.block(launch).address
    )
    held(*pool.boxes(1), *arguments)
    team[GENERATION // 8] = STOPPED
    assert drill.exact
    assert team[JOINED // 8] == 2
    assert soon(lambda: bool(team[LEFT // 8] == 1))


@only_compiled
def test_spinning_and_sleeping_workers_make_one_team(pool: WorkerPool) -> None:
    lead(pool)
    assert soon(lambda: states(pool, 1) == [WAITING])
    pool._mailboxes.fields["spins"][1] = 0
    lead(pool, 3)
    assert soon(lambda: states(pool, 2) == [WAITING, ASLEEP])
    team, awake = lead(pool, 3, patient=False)
    assert (awake, team[POSTED // 8], team[WOKEN // 8]) == (False, 2, 1)
    pool._mailboxes.fields["spins"][1] = FOR_EVER
    lead(pool, 3)
    assert soon(lambda: states(pool, 2) == [WAITING] * 2)
    team, awake = lead(pool, 3, patient=False)
    assert (awake, team[POSTED // 8], team[WOKEN // 8]) == (True, 2, 0)


@only_compiled
def test_a_team_is_kept_until_its_helpers_have_left(pool: WorkerPool) -> None:
    lead(pool)
    assert soon(lambda: states(pool, 1) == [WAITING])
    team, _ = lead(pool)
    assert soon(lambda: bool(team[LEFT // 8] == 1))
    place = team.ctypes.data
    assert set(pool._teams) <= {place}
    assert soon(lambda: states(pool, 1) == [WAITING])
    lead(pool)
    assert place not in pool._teams
    assert len(pool._teams) <= 1


@only_compiled
def test_a_team_serves_one_call_after_the_other(pool: WorkerPool) -> None:
    addresses: list[int] = []
    wrong: list[int] = []

    def work() -> None:
        for n_loops in (1, 2, 3) * 60:
            drill = Drill(8, n_loops)
            team = pool.team(2, 1)
            addresses.append(team.ctypes.data)
            drill.job["team"] = team.ctypes.data
            pool.run(drill.driver, drill.job.ctypes.data, team, 2)
            if not drill.exact:
                wrong.append(n_loops)

    lead(pool)
    assert soon(lambda: states(pool, 1) == [WAITING])
    work()
    assert len(set(addresses)) < len(addresses)
    in_threads(lambda i: work(), 4)
    assert not wrong


@only_compiled
def test_no_worker_spins_for_long() -> None:
    pool = WorkerPool(spins=0)
    for _ in range(20):
        lead(pool)
    assert soon(lambda: states(pool, 1) == [ASLEEP])


@pytest.mark.parametrize("patient", [False, True])
@only_compiled
def test_a_sleeping_worker_is_not_awaited(
    patient: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    pool = WorkerPool(FOR_EVER)
    for _ in range(3):
        team, awake = lead(pool, patient=patient)
        assert (awake, team[POSTED // 8], team[JOINED // 8]) == (False, 0, 1)
    assert not pool._teams


class Noting(WorkerPool):
    """A pool that notes which mailboxes its workers take, and has none of them help."""

    def __init__(self) -> None:
        super().__init__()
        self.taken: list[int] = []

    def _work(self, number: int) -> None:
        self.taken.append(number)


@only_compiled
def test_calls_that_start_helpers_at_once_give_each_a_mailbox() -> None:
    for _ in range(20):
        pool = Noting()
        in_threads(lambda i, pool=pool: pool._grow(3), 4)  # type: ignore[misc]
        assert soon(lambda pool=pool: len(pool.taken) >= pool._size)  # type: ignore[misc]
        assert sorted(pool.taken) == [0, 1, 2]


@only_compiled
def test_an_interrupt_while_a_helper_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    pool = Noting()
    start = threading.Thread.start

    def interrupted(thread: threading.Thread) -> None:
        start(thread)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", interrupted)
        with pytest.raises(KeyboardInterrupt):
            pool._grow(1)
    pool._grow(1)
    assert soon(lambda: len(pool.taken) == 2)
    assert sorted(pool.taken) == [0, 1]


@only_compiled
def test_a_team_has_no_more_helpers_than_mailboxes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    wanted: list[int] = []

    class Noted(WorkerPool):
        def run(
            self, driver: Any, job: int, team: Any, n: int, *, patient: bool = True
        ) -> bool:
            wanted.append(n)
            return True

    monkeypatch.setattr(worker_pool, "pool", Noted)
    drill = Drill(8, 3)
    worker_pool.run(drill.driver, drill.job, 2 * MOST_THREADS)
    assert wanted == [MOST_THREADS]
