"""One net and many threads: whole parameters of some step, and one fit at a time."""

import copy
import os
import pickle
import threading
from typing import Any

import numpy as np
import pytest

from fastmlp import MLP, Custom, Status
from fastmlp._process.locks import NetLock, publish
from fastmlp.compiler.jit import INTERPRETED
from fastmlp.model import core_of

WIDTH = 20_000
# Of nets that are copied: uncompiled, a step of the wide one takes half a second.
COPIED = 50 if INTERPRETED else WIDTH


def count_up(w: Any, g: Any, m: Any, v: Any, rate: Any) -> Any:
    """One more with every step: all parameters are equal, and tell their step."""
    return w + type(w)(1), m, v


def counter(width: int = WIDTH) -> MLP:
    """A net whose prediction for rows of ones is its number of steps, times its parameters."""
    return MLP((width, 1), optimizer=Custom(count_up), initializer="zeros", dtype="float64")


@pytest.mark.skipif(INTERPRETED, reason="uncompiled, a call does not hold the GIL to its end")
@pytest.mark.parametrize("n_rows", [1, 7], ids=["few rows", "many rows"])
def test_predictions_beside_a_fit_see_whole_parameters_of_some_step(n_rows: int) -> None:
    net, x = counter(), np.ones((n_rows, WIDTH))
    seen: set[float] = set()
    done = threading.Event()

    def predict() -> None:
        while not done.is_set():
            seen.update(net.predict(x).ravel().tolist())

    net.predict(x)
    threads = [threading.Thread(target=predict) for _ in range(2)]
    for thread in threads:
        thread.start()
    # A callback has the parameters stored after every epoch.
    history = net.fit(x, np.zeros(n_rows), epochs=300, callbacks=lambda report: None)
    done.set()
    for thread in threads:
        thread.join()
    assert history.status is Status.COMPLETED
    assert {value % (WIDTH + 1) for value in seen} == {0.0}
    assert len(seen) > 1
    assert net.predict(x).ravel().tolist() == [300 * (WIDTH + 1)] * n_rows


def test_without_callbacks_predictions_beside_a_fit_are_those_from_before_it() -> None:
    net, x = counter(3), np.ones((5, 3))
    lock = core_of(net).state.lock
    started, seen = threading.Event(), []

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
    net, x, y = counter(3), np.ones((5, 3)), np.zeros(5)

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
def test_a_copy_shares_nothing_and_goes_on_as_the_net_does(make_copy: Any) -> None:
    x, y = np.random.default_rng(0).normal(size=(2, 40, 3))
    net = MLP((3, 5, 3), seed=0)
    net.fit(x, y, epochs=2)
    other = make_copy(net)
    other.weights[0] = 0.0
    assert net.weights[0].any()
    other = make_copy(net)
    for each in (net, other):
        each.fit(x, y, epochs=2)
    assert np.array_equal(net.parameters, other.parameters)
    assert other.n_steps == net.n_steps > 0


@each_copy
def test_a_copy_made_beside_a_fit_has_whole_parameters_and_no_state_of_it(make_copy: Any) -> None:
    net, x = counter(COPIED), np.ones((1, COPIED))
    copies: list[MLP] = []
    epochs, made, done = threading.Event(), threading.Event(), threading.Event()

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


def test_a_fit_that_failed_leaves_the_net_free() -> None:
    net, x = counter(3), np.ones((5, 3))

    def fail(report: Any) -> None:
        raise LookupError

    with pytest.raises(LookupError):
        net.fit(x, np.zeros(5), callbacks=fail)
    net.fit(x, np.zeros(5), epochs=1)
    net.apply_gradient(np.zeros(4))


def taken_from_elsewhere(lock: NetLock) -> bool:
    """Whether another thread finds the parameters locked."""
    found: list[bool] = []

    def look() -> None:
        free = lock.parameters.acquire(blocking=False)
        found.append(not free)
        if free:
            lock.parameters.release()

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    return found[0]


# Each predicts in a handler that a signal calls while its thread holds a lock: it must not wait for
# itself.
HANDLER = """
import signal
import numpy as np
from fastmlp import MLP
from fastmlp.backends.cpu.threads import limits
from fastmlp.model import core_of
net = MLP((5, 17, 3), seed=0, n_threads=2)
x = np.random.default_rng(0).normal(size=(3000, 5)).astype(np.float32)
expected, answers = net.predict(x), []
signal.signal(signal.SIGINT, lambda *_: answers.append(net.predict(x)))
with {lock}:
    signal.raise_signal(signal.SIGINT)
    assert np.array_equal(net.predict(x), expected)
assert [np.array_equal(answer, expected) for answer in answers] == [True]
"""


@pytest.mark.parametrize("lock", ["core_of(net).state.lock.parameters", "limits._lock"])
def test_a_signals_handler_may_predict_while_its_thread_holds_a_lock(
    lock: str, python: Any
) -> None:
    python(HANDLER.format(lock=lock))


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


@pytest.mark.parametrize("make_copy", [copy.deepcopy, lambda g: pickle.loads(pickle.dumps(g))])
def test_a_copy_is_open(make_copy: Any) -> None:
    lock = NetLock()
    with lock.training("the original"), lock.parameters:
        other = make_copy(lock)
        with other.training("the copy"), other.parameters:
            assert other is not lock


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_publish_copies(dtype: str) -> None:
    values, target = np.arange(5, dtype=dtype), np.zeros(5, dtype)
    publish(values[1:3], target[2:4])
    assert target.tolist() == [0, 0, 1, 2, 0]
