"""The pool: order, shares, errors, tasks that come late, and its end."""

import signal
import threading
import time
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from fastmlp._process import task_pool
from fastmlp._process.task_pool import Pool, Stopped, Task
from fastmlp._process.warnings import warn


def square(i: int) -> int:
    return i * i


def test_outcomes_come_in_the_order_given() -> None:
    tasks = [Task(i % 3, partial(square, i)) for i in range(10)]
    outcomes = Pool(3).run(tasks)
    assert [outcome.result for outcome in outcomes if outcome] == [i * i for i in range(10)]


def test_no_tasks_and_more_threads_than_tasks() -> None:
    assert Pool(2).run([]) == []
    assert Pool(50).run([Task(1, threading.active_count)])[0] is not None


def test_warnings_are_collected_by_task_and_thread() -> None:
    def work(i: int) -> None:
        warn(f"from {i}", UserWarning)
        warn(f"at {i}", RuntimeWarning)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        outcomes = Pool(2).run([Task(1, partial(work, i)) for i in range(4)])
    for i, outcome in enumerate(outcomes):
        assert outcome is not None
        assert outcome.warnings == [(f"from {i}", UserWarning), (f"at {i}", RuntimeWarning)]


def test_an_error_ends_the_others_and_is_raised_with_a_note() -> None:
    ended: list[str] = []

    def endless() -> None:
        try:
            while True:
                task_pool.check()
                time.sleep(0.001)
        except Stopped:
            ended.append("stopped")
            raise

    def fail() -> None:
        raise LookupError("no such thing")

    waiting = [Task(0, lambda: ended.append("never"))]
    with pytest.raises(LookupError, match="no such thing") as caught:
        Pool(2).run([Task(2, endless), Task(1, fail), *waiting], "fit")
    assert caught.value.__notes__ == ["in fit 1"]
    assert ended == ["stopped"]


def test_a_pool_in_a_task_ends_with_it() -> None:
    begun, ended = threading.Event(), list[str]()

    def endless() -> None:
        begun.set()
        limit = time.monotonic() + 10
        while time.monotonic() < limit:
            task_pool.check()
            time.sleep(0.001)
        ended.append("by itself")

    def inner() -> None:
        Pool(2).run([Task(1, endless), Task(1, endless)])
        ended.append("inner")

    def fail() -> None:
        begun.wait(10)
        raise LookupError

    with pytest.raises(LookupError):
        Pool(2).run([Task(1, inner), Task(1, fail)])
    assert not ended


def test_tasks_that_wait_in_a_pool_that_is_to_end_begin_and_can_say_so() -> None:
    told: list[str] = []

    def tell(release: threading.Event) -> None:
        try:
            release.wait(10)
            task_pool.check()
        except Stopped:
            told.append("stopped")

    def inner() -> None:
        crew, release = Pool(1), threading.Event()
        crew.begin([Task(1, lambda: tell(release)) for _ in range(3)])
        failed.wait(10)
        limit = time.monotonic() + 10
        while not crew.stopping and time.monotonic() < limit:
            time.sleep(0.001)
        release.set()
        while crew._waiting and time.monotonic() < limit:
            time.sleep(0.001)
        crew.end()

    def fail() -> None:
        failed.set()
        raise LookupError

    failed = threading.Event()
    with pytest.raises(LookupError):
        Pool(2).run([Task(1, inner), Task(1, fail)])
    assert told == ["stopped"] * 3


def test_an_exit_in_the_caller_ends_all_threads() -> None:
    crew = Pool(2)

    def endless() -> None:
        while True:
            task_pool.check()
            time.sleep(0.001)

    def leave() -> None:
        raise SystemExit(3)

    crew._wait = leave  # type: ignore[method-assign]
    before = threading.active_count()
    with pytest.raises(SystemExit):
        crew.run([Task(1, endless), Task(1, endless)])
    assert threading.active_count() == before
    assert not crew.interrupted


def test_interruption_leaves_no_outcome_of_what_had_not_begun() -> None:
    crew = Pool(1)

    def interrupt() -> None:
        raise KeyboardInterrupt

    release = threading.Event()
    crew._wait = interrupt  # type: ignore[method-assign]
    threading.Timer(0.05, release.set).start()
    outcomes = crew.run([Task(2, lambda: release.wait(10)), Task(1, lambda: 1)])
    assert crew.interrupted
    assert outcomes[1] is None


def test_a_task_may_add_another() -> None:
    crew, done = Pool(2), []

    def count(n: int) -> None:
        done.append(n)
        if n:
            crew.add(Task(1, lambda: count(n - 1)))

    crew.run([Task(1, lambda: count(3))])
    assert done == [3, 2, 1, 0]
    assert len(crew.outcomes) == 4


def test_outside_of_a_pool_nothing_is_shared_nor_ended() -> None:
    task_pool.check()
    assert task_pool.share() is None
    with task_pool.turn(), task_pool.turn():
        pass


def test_turns_are_taken_one_by_one() -> None:
    inside: list[int] = []
    most: list[int] = []

    def take(i: int) -> Any:
        with task_pool.turn():
            inside.append(i)
            most.append(len(inside))
            time.sleep(0.001)
            inside.remove(i)

    Pool(4).run([Task(1, partial(take, i)) for i in range(8)])
    assert set(most) == {1}


def limited(n_threads: int) -> Callable[[threading.Thread], None]:
    """Return a `Thread.start` for a process of so many threads beside its first one."""
    start, begun = threading.Thread.start, list[threading.Thread]()

    def start_one(thread: threading.Thread) -> None:
        if len(begun) == n_threads:
            raise RuntimeError("can't start new thread")
        begun.append(thread)
        start(thread)

    return start_one


@pytest.mark.parametrize("n_threads", [0, 1, 2])
def test_the_caller_does_the_work_of_threads_that_cannot_be_started(
    n_threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(threading.Thread, "start", limited(n_threads))
    pool, here = Pool(4), list[bool]()

    def task(i: int) -> int:
        here.append(threading.current_thread() is threading.main_thread())
        return i * i

    tasks = [Task(1.0, partial(task, i), apart=i == 5) for i in range(6)]
    outcomes = pool.run(tasks)
    assert [outcome.result for outcome in outcomes if outcome] == [0, 1, 4, 9, 16, 25]
    assert not pool.interrupted
    assert pool._running == 0
    assert n_threads > 0 or all(here)
    assert task_pool.share() is None


def test_ctrl_c_in_the_callers_own_task_ends_the_call(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threading.Thread, "start", limited(0))
    handler, done = signal.getsignal(signal.SIGINT), []

    def task() -> None:
        done.append(1)
        signal.raise_signal(signal.SIGINT)
        task_pool.check()
        done.append(2)

    pool = Pool(2)
    assert pool.run([Task(1.0, task)] * 3) == [None] * 3
    assert pool.interrupted
    assert done == [1]
    assert signal.getsignal(signal.SIGINT) is handler
    other = Pool(2)
    with pytest.raises(KeyboardInterrupt):
        other.begin([Task(1.0, task)])
