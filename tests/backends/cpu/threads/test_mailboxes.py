"""Workers that spin at mailboxes: which are called there, which are woken, which teams are kept."""

import threading
import time
from collections.abc import Callable, Iterator
from queue import SimpleQueue
from typing import Any

import pytest
from conditions import only_compiled
from drills import Drill

from fastmlp.backends.cpu.threads import worker_pool
from fastmlp.backends.cpu.threads.team import JOINED, LEFT, LINE, MOST, POSTED, make_team
from fastmlp.backends.cpu.threads.worker_pool import EMPTY, WAITING, WorkerPool

FOR_EVER = 1 << 60


@pytest.fixture
def pool() -> Iterator[WorkerPool]:
    """A pool whose workers wait in their boxes until they are told to leave them."""
    pool = WorkerPool(FOR_EVER)
    yield pool
    pool._mailboxes.queue[0] = 1


def lead(pool: WorkerPool, n: int = 2, **options: bool) -> tuple[Any, bool]:
    """Have a pool do a drill; return the team's record, and whether workers were awake."""
    drill, team = Drill(8, 3), make_team(n)
    drill.job["team"] = team.ctypes.data
    awake = pool.run(drill.driver, drill.job.ctypes.data, team, n, **options)
    assert drill.exact
    return team, awake


def states(pool: WorkerPool, n: int) -> list[int]:
    words, boxes = LINE // 8, pool._mailboxes
    lines = boxes._memory[(boxes.first - boxes._memory.ctypes.data) // 8 :]
    return [int(state) for state in lines[: n * words : words]]


def soon(condition: Callable[[], bool]) -> bool:
    """Whether it comes true within the time that a busy machine may take."""
    end = time.monotonic() + 60
    while not condition() and time.monotonic() < end:
        time.sleep(0.001)
    return condition()


@only_compiled
def test_sleeping_workers_are_woken_and_spinning_ones_are_called(pool: WorkerPool) -> None:
    team, awake = lead(pool)
    assert (awake, team[POSTED // 8]) == (False, 0)
    for _ in range(3):
        assert soon(lambda: states(pool, 1) == [WAITING])
        team, awake = lead(pool)
        assert (awake, team[POSTED // 8]) == (True, 1)


@only_compiled
def test_spinning_and_sleeping_workers_make_one_team(pool: WorkerPool) -> None:
    lead(pool)
    assert soon(lambda: states(pool, 1) == [WAITING])
    team, awake = lead(pool, 3)
    assert (awake, team[POSTED // 8]) == (False, 1)

    def both_wait() -> bool:
        # A worker that leaves its mailbox for a queued call may take it before one wakes.
        if states(pool, 2) != [WAITING] * 2:
            lead(pool, 3)
        return states(pool, 2) == [WAITING] * 2

    assert soon(both_wait)
    team, awake = lead(pool, 3, patient=False)
    assert (awake, team[POSTED // 8]) == (True, 2)


class LateCalls(SimpleQueue[Any]):
    """Calls that a worker takes when the leader has counted them, and has not said so yet."""

    def __init__(self) -> None:
        super().__init__()
        self.counted, self.taken = threading.Event(), threading.Event()

    def get(self, block: bool = True, timeout: float | None = None) -> Any:
        assert self.counted.wait(60)
        call = super().get(block, timeout)
        self.taken.set()
        return call

    def qsize(self) -> int:
        size = super().qsize()
        if threading.current_thread() is threading.main_thread():
            self.counted.set()
            assert self.taken.wait(60)
            time.sleep(0.05)  # in which a worker that may would count, too
        return size


@only_compiled
def test_a_call_that_is_taken_while_it_is_counted_keeps_no_worker_from_its_mailbox(
    pool: WorkerPool,
) -> None:
    pool._calls = LateCalls()
    lead(pool)
    assert soon(lambda: pool._mailboxes.queue[0] == 0)
    assert soon(lambda: states(pool, 1) == [WAITING])


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
def test_a_queued_call_ends_the_wait(pool: WorkerPool) -> None:
    lead(pool)
    assert soon(lambda: states(pool, 1) == [WAITING])
    pool._mailboxes.queue[0] = 1
    assert soon(lambda: states(pool, 1) == [EMPTY])
    team, awake = lead(pool)
    assert (awake, team[POSTED // 8]) == (False, 0)


@only_compiled
def test_no_worker_spins_for_long() -> None:
    pool = WorkerPool(spins=0)
    for _ in range(20):
        lead(pool)
    assert soon(lambda: pool._calls.empty() and states(pool, 1) == [EMPTY])


@pytest.mark.parametrize("patient", [False, True])
@only_compiled
def test_a_worker_that_never_wakes_is_not_waited_for(
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
        pool, together = Noting(), threading.Barrier(4)

        def grow(pool: Noting = pool, together: threading.Barrier = together) -> None:
            together.wait()
            pool._grow(3)

        threads = [threading.Thread(target=grow) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert soon(lambda pool=pool: len(pool.taken) >= pool._size)  # type: ignore[misc]
        assert sorted(pool.taken) == [0, 1, 2]


@only_compiled
def test_an_interrupt_while_a_helper_starts_leaves_its_mailbox_to_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pool, start = Noting(), threading.Thread.start

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
def test_a_team_has_no_more_helpers_than_there_are_mailboxes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    wanted: list[int] = []

    class Noted(WorkerPool):
        def run(self, driver: Any, job: int, team: Any, n: int, *, patient: bool = True) -> bool:
            wanted.append(n)
            return True

    monkeypatch.setattr(worker_pool, "_pool", Noted)
    drill = Drill(8, 3)
    worker_pool.run(drill.driver, drill.job, 2 * MOST)
    assert wanted == [MOST]
