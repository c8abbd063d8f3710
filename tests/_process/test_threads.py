"""Many threads: whole parameters, one fit at a time,
and a pool with its order and its end.
"""

import copy
import os
import pickle
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest

from fastmlp import MLP, Custom, Status
from fastmlp._process import task_pool, warn
from fastmlp._process.locks import NetLock
from fastmlp._process.task_pool import Pool, Stopped, Task
from fastmlp.compiler.jit import INTERPRETED
from fastmlp.model import core_of

WIDTH = 20_000
# Of nets that are copied: uncompiled, a step of the wide one takes half a second.
COPIED = 50 if INTERPRETED else WIDTH


def count_up(w: Any, g: Any, m: Any, v: Any, rate: Any) -> Any:
    """One more with every step: all parameters are equal, and tell their step."""
    return w + type(w)(1), m, v


def counter(width: int = WIDTH) -> MLP:
    return MLP(
        (width, 1), optimizer=Custom(count_up), initializer="zeros", dtype="float64"
    )


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:the loss rose")
@pytest.mark.skipif(
    INTERPRETED, reason="uncompiled, a call does not hold the GIL to its end"
)
@pytest.mark.parametrize("n_rows", [1, 7], ids=["few rows", "many rows"])
def test_predictions_beside_a_fit_see_whole_parameters_of_some_step(
    n_rows: int,
) -> None:
    net = counter()
    x = np.ones((n_rows, WIDTH))
    n_steps = 60
    seen: set[float] = set()
    done = threading.Event()

    def predict() -> None:
        while not done.is_set():
            seen.update(net.predict(x).ravel().tolist())

    net.predict(x)
    threads = [threading.Thread(target=predict) for _ in range(2)]
    # Threads that wait for the GIL take it after 0.1 ms, not after 5.
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-4)
    for thread in threads:
        thread.start()
    # A callback has the parameters stored after every epoch.
    history = net.fit(
        x, np.zeros(n_rows), epochs=n_steps, callbacks=lambda report: None
    )
    done.set()
    for thread in threads:
        thread.join()
    sys.setswitchinterval(interval)
    assert history.status is Status.COMPLETED
    assert {value % (WIDTH + 1) for value in seen} == {0.0}
    assert len(seen) > 1
    assert net.predict(x).ravel().tolist() == [n_steps * (WIDTH + 1)] * n_rows


@pytest.mark.slow
def test_without_callbacks_predictions_beside_a_fit_are_those_from_before_it() -> None:
    net = counter(3)
    x = np.ones((5, 3))
    lock = core_of(net).state.lock
    started = threading.Event()
    seen = []

    def watch() -> None:
        started.wait()
        while lock.owner is not None:
            seen.append(net.predict(x)[0, 0])

    thread = threading.Thread(target=watch)
    thread.start()
    with lock.training("a test"):
        started.set()
        while len(seen) < 3:
            pass
    thread.join()
    assert set(seen) == {0.0}


def refused(call: Any) -> None:
    with pytest.raises(RuntimeError, match="a fit of this net is running"):
        call()


def test_a_second_fit_at_a_time_is_refused() -> None:
    net = counter(3)
    x = np.ones((5, 3))
    y = np.zeros(5)

    def again(report: Any) -> None:
        refused(lambda: net.fit(x, y))
        refused(lambda: net.apply_gradient(np.zeros(4)))
        thread = threading.Thread(target=refused, args=(lambda: net.fit(x, y),))
        thread.start()
        thread.join()
        copy.deepcopy(net).fit(x, y, epochs=1)

    net.fit(x, y, epochs=2, callbacks=again)
    assert net.n_steps == 2
    assert net.fit(x, y, epochs=1).status is Status.COMPLETED


each_copy = pytest.mark.parametrize(
    "make_copy",
    [copy.copy, copy.deepcopy, lambda net: pickle.loads(pickle.dumps(net))],
    ids=["copy", "deepcopy", "pickle"],
)


@each_copy
@pytest.mark.filterwarnings("ignore:the loss rose")
def test_a_copy_made_beside_a_fit_has_whole_parameters_and_no_state_of_it(
    make_copy: Any,
) -> None:
    net = counter(COPIED)
    x = np.ones((1, COPIED))
    copies: list[MLP] = []
    epochs = threading.Event()
    made = threading.Event()
    done = threading.Event()

    def copy_it() -> None:
        epochs.wait()
        while not done.is_set():
            copies.append(make_copy(net))
            made.set()

    def wait_for_one(report: Any) -> None:
        epochs.set()
        made.wait()

    thread = threading.Thread(target=copy_it)
    thread.start()
    try:
        net.fit(x, np.zeros(1), epochs=20, callbacks=wait_for_one)
    finally:
        epochs.set()
        done.set()
        thread.join()
    beside = [each for each in copies if core_of(each).state.slots() is None]
    assert beside
    assert all(each.n_steps == 0 for each in beside)
    assert all(len(set(each.parameters.tolist())) == 1 for each in copies)
    beside[0].fit(x, np.zeros(1), epochs=1)
    assert beside[0].n_steps == 1


def taken_from_elsewhere(lock: NetLock) -> bool:
    results: list[bool] = []

    def look() -> None:
        free = lock.parameters.acquire(blocking=False)
        results.append(not free)
        if free:
            lock.parameters.release()

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    return results[0]


# A handler that a signal calls while its thread holds a lock predicts:
# it must not wait for itself.
HANDLER = """
import signal
import numpy as np
from fastmlp import MLP
from fastmlp.backends.cpu import limits
from fastmlp.model import core_of
net = MLP((5, 17, 3), seed=0, n_threads=2)
x = np.random.default_rng(0).normal(size=(3000, 5)).astype(np.float32)
expected, answers = net.predict(x), []
signal.signal(signal.SIGINT, lambda *_: answers.append(net.predict(x)))
for lock in (core_of(net).state.lock.parameters, limits._lock):
    with lock:
        signal.raise_signal(signal.SIGINT)
        assert np.array_equal(net.predict(x), expected)
assert [np.array_equal(answer, expected) for answer in answers] == [True, True]
"""


@pytest.mark.slow
def test_a_signals_handler_may_predict_while_its_thread_holds_a_lock(
    python: Any,
) -> None:
    python(HANDLER)


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_finds_the_locks_open() -> None:
    lock = NetLock()
    with lock.training("the parent"), lock.parameters:
        process = os.fork()
        if process == 0:
            with lock.training("the child"), lock.parameters:
                os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == 0
        assert taken_from_elsewhere(lock)


@pytest.mark.parametrize(
    "make_copy", [copy.deepcopy, lambda g: pickle.loads(pickle.dumps(g))]
)
def test_a_copy_is_open(make_copy: Any) -> None:
    lock = NetLock()
    with lock.training("the original"), lock.parameters:
        other = make_copy(lock)
        with other.training("the copy"), other.parameters:
            assert other is not lock


def square(i: int) -> int:
    return i * i


def endless(begun: threading.Event | None = None) -> None:
    if begun is not None:
        begun.set()
    limit = time.monotonic() + 10
    while time.monotonic() < limit:
        task_pool.check()
        time.sleep(0.001)


def test_outcomes_come_in_order_and_tasks_may_add_others() -> None:
    tasks = [Task(i % 3, partial(square, i)) for i in range(10)]
    outcomes = Pool(3).run(tasks)
    assert [outcome.result for outcome in outcomes if outcome] == [
        i * i for i in range(10)
    ]
    crew = Pool(2)
    done = []

    def count(n: int) -> None:
        done.append(n)
        if n:
            crew.add(Task(1, lambda: count(n - 1)))

    crew.run([Task(1, lambda: count(3))])
    assert done == [3, 2, 1, 0]
    assert len(crew.outcomes) == 4


def test_warnings_are_collected_by_task_and_thread() -> None:
    def work(i: int) -> None:
        warn(f"from {i}", UserWarning)
        warn(f"at {i}", RuntimeWarning)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        outcomes = Pool(2).run([Task(1, partial(work, i)) for i in range(4)])
    for i, outcome in enumerate(outcomes):
        assert outcome is not None
        assert outcome.warnings == [
            (f"from {i}", UserWarning),
            (f"at {i}", RuntimeWarning),
        ]


def test_an_error_ends_the_others_and_is_raised_with_a_note() -> None:
    ended: list[str] = []

    def stopped() -> None:
        try:
            endless()
        except Stopped:
            ended.append("stopped")
            raise

    def fail() -> None:
        raise LookupError("no such thing")

    waiting = [Task(0, lambda: ended.append("never"))]
    with pytest.raises(LookupError, match="no such thing") as caught:
        Pool(2).run([Task(2, stopped), Task(1, fail), *waiting], "fit")
    assert caught.value.__notes__ == ["in fit 1"]
    assert ended == ["stopped"]


def test_a_pool_in_a_task_ends_with_it() -> None:
    begun = threading.Event()
    ended = list[str]()

    def inner() -> None:
        Pool(2).run([Task(1, partial(endless, begun))] * 2)
        ended.append("inner")

    def fail() -> None:
        begun.wait(10)
        raise LookupError

    with pytest.raises(LookupError):
        Pool(2).run([Task(1, inner), Task(1, fail)])
    assert not ended


def test_tasks_that_wait_in_a_pool_that_is_to_end_begin_and_can_say_so() -> None:
    reports: list[str] = []

    def tell(release: threading.Event) -> None:
        try:
            release.wait(10)
            task_pool.check()
        except Stopped:
            reports.append("stopped")

    def inner() -> None:
        crew = Pool(1)
        release = threading.Event()
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
    assert reports == ["stopped"] * 3


def test_an_exit_in_the_caller_ends_all_threads() -> None:
    crew = Pool(2)

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
    start = threading.Thread.start
    begun = list[threading.Thread]()

    def start_one(thread: threading.Thread) -> None:
        if len(begun) == n_threads:
            raise RuntimeError("can't start new thread")
        begun.append(thread)
        start(thread)

    return start_one


@pytest.mark.parametrize("n_threads", [0, 1, 2])
def test_the_caller_works_without_threads(
    n_threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(threading.Thread, "start", limited(n_threads))
    pool = Pool(4)
    here = list[bool]()

    def task(i: int) -> int:
        here.append(threading.current_thread() is threading.main_thread())
        return i * i

    tasks = [Task(1.0, partial(task, i), apart=i == 5) for i in range(6)]
    outcomes = pool.run(tasks)
    assert [outcome.result for outcome in outcomes if outcome] == [0, 1, 4, 9, 16, 25]
    assert not pool.interrupted
    assert pool._running == 0
    assert n_threads > 0 or all(here)
    assert task_pool.threads_of_task() is None


def test_ctrl_c_in_the_callers_own_task_ends_the_call(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(threading.Thread, "start", limited(0))
    handler = signal.getsignal(signal.SIGINT)
    done = []

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
