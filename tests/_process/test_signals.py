"""No handler runs inside, each runs after, and those of the user are as they were."""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from fastmlp._process import signals

FIRST, SECOND = signal.SIGINT, signal.SIGTERM


@pytest.fixture
def heard() -> Iterator[list[int]]:
    """The signals whose handlers ran."""
    numbers: list[int] = []
    before = {it: signal.getsignal(it) for it in (FIRST, SECOND)}
    for number in before:
        signal.signal(number, lambda it, frame: numbers.append(it))
    yield numbers
    for number, handler in before.items():
        signal.signal(number, handler)


def handlers() -> list[Any]:
    return [signal.getsignal(it) for it in signals.SIGNALS]


def test_handlers_run_at_the_end(heard: list[int]) -> None:
    before = handlers()
    with signals.deferred():
        signal.raise_signal(SECOND)
        signal.raise_signal(FIRST)
        signal.raise_signal(SECOND)
        assert heard == []
    assert heard == [SECOND, FIRST]
    assert handlers() == before


def test_inside_another_nothing_ends_early(heard: list[int]) -> None:
    with signals.deferred():
        with signals.deferred():
            signal.raise_signal(FIRST)
        assert heard == []
    assert heard == [FIRST]


@pytest.mark.usefixtures("heard")
def test_every_handler_runs_though_one_raises() -> None:
    def fail(number: int, frame: Any) -> None:
        assert frame is not None
        raise LookupError(number)

    def with_both() -> None:
        with signals.deferred():
            signal.raise_signal(FIRST)
            signal.raise_signal(SECOND)

    signal.signal(FIRST, fail)
    signal.signal(SECOND, fail)
    before = handlers()
    with pytest.raises(LookupError) as raised:
        with_both()
    assert raised.value.args == (SECOND,)
    assert isinstance(raised.value.__context__, LookupError)
    assert handlers() == before


def test_an_error_of_the_stretch_comes_through(heard: list[int]) -> None:
    def fail() -> None:
        with signals.deferred():
            signal.raise_signal(FIRST)
            raise LookupError

    with pytest.raises(LookupError):
        fail()
    assert heard == [FIRST]


def test_what_ignores_a_signal_is_left_alone(heard: list[int]) -> None:
    signal.signal(FIRST, signal.SIG_IGN)
    with signals.deferred():
        assert signal.getsignal(FIRST) is signal.SIG_IGN
        signal.raise_signal(FIRST)
    assert heard == []


def test_a_handler_that_is_set_inside_stays(heard: list[int]) -> None:
    with signals.deferred():
        signal.signal(FIRST, signal.SIG_IGN)
    assert signal.getsignal(FIRST) is signal.SIG_IGN


def test_other_threads_change_nothing(heard: list[int]) -> None:
    before, seen = handlers(), []

    def enter() -> None:
        with signals.deferred():
            seen.append(handlers())

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert seen == [before]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_child_forked_by_another_thread_hears_signals(heard: list[int]) -> None:
    codes = []

    def fork() -> None:
        process = os.fork()
        if process == 0:
            signal.raise_signal(FIRST)
            alone = heard == [FIRST]
            with signals.deferred():
                signal.raise_signal(FIRST)
                alone = alone and heard == [FIRST]
            os._exit(not (alone and heard == [FIRST, FIRST]))
        codes.append(os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]))

    with signals.deferred():
        thread = threading.Thread(target=fork)
        thread.start()
        thread.join()
    assert codes == [0]


def test_signals_at_any_step_of_it_are_all_heard(heard: list[int]) -> None:
    """A thread sends them as fast as it can: none may find the handlers half replaced."""
    before, done = handlers(), threading.Event()

    def send() -> None:
        while not done.is_set():
            os.kill(os.getpid(), FIRST)

    thread = threading.Thread(target=send)
    thread.start()
    for _ in range(300):
        with signals.deferred():
            n = len(heard)
            sum(range(50))
            assert len(heard) == n
    done.set()
    thread.join()
    assert heard
    assert handlers() == before


@pytest.mark.usefixtures("heard")
def test_ctrl_c_at_every_call_that_it_makes_is_heard_and_leaves_the_handlers() -> None:
    signal.signal(FIRST, signal.default_int_handler)
    before, moment, seen = handlers(), 0, 0

    def trace(*_: object) -> None:
        nonlocal seen
        seen += 1
        if seen == moment:
            sys.settrace(None)
            signal.raise_signal(FIRST)

    def enter_and_leave() -> None:
        tracer = sys.gettrace()
        sys.settrace(trace)
        try:
            with signals.deferred():
                pass
        finally:
            sys.settrace(tracer)

    enter_and_leave()
    for each in range(1, seen + 1):
        moment, seen = each, 0
        with pytest.raises(KeyboardInterrupt):
            enter_and_leave()
        assert handlers() == before
    assert moment > len(before)
