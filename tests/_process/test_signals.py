"""Handlers of signals run after a call, whatever it computes;
warnings point at the user's line.
"""

import math
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numba
import numpy as np
import pytest

from fastmlp import MLP
from fastmlp._process import collect_warnings, locks, raise_warnings, warn
from fastmlp.backends.cpu import dispatch, team, tuning, worker_pool
from fastmlp.backends.cpu.dispatch import Work
from fastmlp.compiler import Block

pytestmark = pytest.mark.skipif(
    bool(numba.config.DISABLE_JIT), reason="sizes that take plain Python hours"
)

FIRST, SECOND = signal.SIGINT, signal.SIGTERM


@pytest.fixture
def heard() -> Iterator[list[int]]:
    numbers: list[int] = []
    before = {it: signal.getsignal(it) for it in (FIRST, SECOND)}
    for number in before:
        signal.signal(number, lambda it, frame: numbers.append(it))
    yield numbers
    for number, handler in before.items():
        signal.signal(number, handler)


def handlers() -> list[Any]:
    return [signal.getsignal(it) for it in locks.SIGNALS]


def test_handlers_run_at_the_end_of_the_outermost_stretch(heard: list[int]) -> None:
    before = handlers()
    with locks.deferred():
        signal.raise_signal(SECOND)
        signal.raise_signal(FIRST)
        signal.raise_signal(SECOND)
        assert heard == []
    assert heard == [SECOND, FIRST]
    assert handlers() == before
    with locks.deferred():
        with locks.deferred():
            signal.raise_signal(FIRST)
        assert heard == [SECOND, FIRST]
    assert heard == [SECOND, FIRST, FIRST]


@pytest.mark.usefixtures("heard")
def test_every_handler_runs_though_one_raises() -> None:
    def fail(number: int, frame: Any) -> None:
        assert frame is not None
        raise LookupError(number)

    def with_both() -> None:
        with locks.deferred():
            signal.raise_signal(FIRST)
            signal.raise_signal(SECOND)

    signal.signal(FIRST, fail)
    signal.signal(SECOND, fail)
    before = handlers()
    with pytest.raises(LookupError) as raise_warnings:
        with_both()
    assert raise_warnings.value.args == (SECOND,)
    assert isinstance(raise_warnings.value.__context__, LookupError)
    assert handlers() == before


def test_an_error_of_the_stretch_comes_through(heard: list[int]) -> None:
    def fail() -> None:
        with locks.deferred():
            signal.raise_signal(FIRST)
            raise LookupError

    with pytest.raises(LookupError):
        fail()
    assert heard == [FIRST]


def test_what_is_ignored_or_set_inside_stays(heard: list[int]) -> None:
    signal.signal(FIRST, signal.SIG_IGN)
    with locks.deferred():
        assert signal.getsignal(FIRST) is signal.SIG_IGN
        signal.raise_signal(FIRST)
    assert heard == []
    with locks.deferred():
        signal.signal(FIRST, signal.SIG_IGN)
    assert signal.getsignal(FIRST) is signal.SIG_IGN


def test_other_threads_change_nothing(heard: list[int]) -> None:
    before, seen = handlers(), []

    def enter() -> None:
        with locks.deferred():
            seen.append(handlers())

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert seen == [before]


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_child_forked_by_another_thread_hears_signals(heard: list[int]) -> None:
    codes = []

    def fork() -> None:
        process = os.fork()
        if process == 0:
            signal.raise_signal(FIRST)
            alone = heard == [FIRST]
            with locks.deferred():
                signal.raise_signal(FIRST)
                alone = alone and heard == [FIRST]
            os._exit(not (alone and heard == [FIRST, FIRST]))
        codes.append(os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]))

    with locks.deferred():
        thread = threading.Thread(target=fork)
        thread.start()
        thread.join()
    assert codes == [0]


def test_signals_at_any_step_of_it_are_all_heard(heard: list[int]) -> None:
    """A thread sends them as fast as it can:
    none may find the handlers half replaced.
    """
    before = handlers()
    done = threading.Event()

    def send() -> None:
        while not done.is_set():
            os.kill(os.getpid(), FIRST)

    thread = threading.Thread(target=send)
    thread.start()
    for _ in range(300):
        with locks.deferred():
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
            with locks.deferred():
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


SKLEARN = "sklearn.neural_network"
Call = Callable[[], None]


def called_from(modules: str, call: Call) -> Call:
    for module in reversed(modules.split()):
        names: dict[str, Any] = {"__name__": module, "inner": call}
        exec("def call():\n    inner()", names)
        call = names["call"]
    return call


def file_of_warning(call: Call) -> str:
    """Return the file of the one warning; another line of this one is wrong."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        call()
    (warning,) = caught
    line = file_of_warning.__code__.co_firstlineno + 4
    if warning.lineno not in (1, 2, line):
        return f"line {warning.lineno}"
    return warning.filename


@pytest.mark.parametrize("module", [None, SKLEARN])
@pytest.mark.parametrize(
    "modules",
    [
        "fastmlp.model",
        "fastmlp.estimators.mlp fastmlp.training.loop",
        "sklearn.pipeline sklearn.base fastmlp.model",
        "fastmlp.estimators sklearn.model_selection joblib.parallel sklearn.base "
        "fastmlp.model",
    ],
)
def test_it_points_at_the_users_line(modules: str, module: str | None) -> None:
    call = called_from(modules, partial(warn, "beware", UserWarning, module))
    assert file_of_warning(call) == __file__


def test_a_thread_without_a_line_of_the_users_points_at_the_caller() -> None:
    call = called_from(
        "joblib.parallel fastmlp.model", partial(warn, "beware", UserWarning)
    )

    def in_a_thread() -> None:
        thread = threading.Thread(target=call)
        thread.start()
        thread.join()

    assert file_of_warning(in_a_thread) == "<string>"


@pytest.mark.parametrize(("module", "seen"), [(None, __name__), (SKLEARN, SKLEARN)])
def test_filters_see_the_module(module: str | None, seen: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", module=seen)
        warn("beware", UserWarning, module)
        warnings.filterwarnings("error", module="another")
        warn("beware", UserWarning, module)
        warnings.filterwarnings("error", module=seen)
        with pytest.raises(UserWarning, match="beware"):
            warn("beware", UserWarning, module)


def test_a_line_warns_once_by_default() -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        for _ in range(3):
            warn("from this line", UserWarning, SKLEARN)
        warn("from this line", UserWarning, SKLEARN)
    assert len(caught) == 2


def test_filters_by_module_count_where_a_thread_raises_what_it_collects() -> None:
    with warnings.catch_warnings(), collect_warnings() as caught, raise_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", module="sklearn")
        warn("beware", UserWarning, SKLEARN)
        with pytest.raises(UserWarning, match="beware"):
            warn("beware", UserWarning)
        warnings.filterwarnings("error", module="sklearn")
        with pytest.raises(UserWarning, match="beware"):
            warn("beware", UserWarning, SKLEARN)
    assert caught == [("beware", UserWarning)]


X = np.random.default_rng(0).standard_normal((20_000, 64)).astype(np.float32)
Y = X[:, 0].copy()
MILLIONS = np.zeros((4_000_000, 4), np.float32)


def one_row_a_step() -> Any:
    MLP((64, 64, 1), seed=0).fit(X, Y, epochs=10**6, batch_size=1)


def all_rows_a_step() -> Any:
    MLP((64, 256, 1), seed=0).fit(X, Y, epochs=10**6, batch_size=len(X))


def with_checkpoints(path: Path) -> Any:
    MLP((64, 64, 1), seed=0).fit(X, Y, epochs=10**6, checkpoint=path)


def predictions() -> Any:
    net = MLP((4, 64, 64, 1), seed=0)
    while True:
        net.predict(MILLIONS)


def gradients() -> Any:
    net = MLP((64, 512, 512, 1), seed=0)
    while True:
        net.loss_and_gradient(X, Y)


class Ended(BaseException):
    """What the handler raises."""


class Calls:
    """The calls of compiled code that have begun,
    with their operations; SIGTERM in the fifth.

    Attributes
    ----------
    flops : of each call
    sent, heard : how many had begun at the signal, and when its handler ran
    """

    sent = heard = 0

    def __init__(self) -> None:
        self.flops: list[float] = []
        self._fifth = threading.Event()
        self._sender = threading.Thread(target=self._send, daemon=True)

    def begin(self, flops: float) -> None:
        self.flops.append(flops)
        if len(self.flops) == 5:
            self._fifth.set()

    def _send(self) -> None:
        # A call lets other threads run while it is under way.
        self._fifth.wait()
        self.sent = len(self.flops)
        os.kill(os.getpid(), signal.SIGTERM)

    def interrupt(self, work: Callable[[], Any]) -> None:
        """Compile first: LLVM hears nothing for a second at a time."""
        team.entry()
        for factory in (
            team.share_iterations,
            team.lead,
            worker_pool.launch,
            worker_pool.serve,
        ):
            worker_pool.block(factory)
        dispatch.calibration_driver()
        MLP((64, 64, 1), seed=0).fit(X, Y, epochs=1)
        # That fit may have set the event.
        self.flops.clear()
        self._fifth.clear()
        self._sender.start()
        with pytest.raises(Ended):
            work()
        self._sender.join()


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Iterator[Calls]:
    record = Calls()
    threads_for = dispatch.threads_for
    run = dispatch.LedCalls.run

    def counted(work: Work, *arguments: Any) -> dispatch.Threads:
        record.begin(work.flops)
        return threads_for(work, *arguments)

    def counted_run(
        led: dispatch.LedCalls, driver: Block, place: int, flops: int, *further: Any
    ) -> None:
        record.begin(flops)
        run(led, driver, place, flops, *further)

    def handle(*_: object) -> None:
        record.heard = len(record.flops)
        raise Ended

    monkeypatch.setattr(dispatch, "threads_for", counted)
    monkeypatch.setattr(dispatch.LedCalls, "run", counted_run)
    before = signal.signal(signal.SIGTERM, handle)
    interval = sys.getswitchinterval()
    # Else the main thread may go on between the count and the signal,
    # on a busy machine.
    sys.setswitchinterval(1)
    yield record
    sys.setswitchinterval(interval)
    signal.signal(signal.SIGTERM, before)


# Those of a call of a fit are as many as take 0.05 s: `loop.Pace`.
@pytest.mark.slow
@pytest.mark.parametrize(
    ("work", "most_flops"),
    [
        (one_row_a_step, math.inf),
        (all_rows_a_step, math.inf),
        (predictions, tuning.PREDICT_FLOPS),
        (gradients, tuning.CHUNK_FLOPS),
    ],
)
def test_a_handler_runs_after_it(
    work: Callable[[], Any], most_flops: float, calls: Calls
) -> None:
    calls.interrupt(work)
    # A call may begin between the count and the signal.
    assert 5 <= calls.sent <= calls.heard <= calls.sent + 1
    assert max(calls.flops) <= most_flops


def test_a_handler_that_raises_leaves_a_checkpoint(
    calls: Calls, tmp_path: Path
) -> None:
    path = tmp_path / "run.safetensors"
    calls.interrupt(lambda: with_checkpoints(path))
    assert 5 <= calls.sent <= calls.heard <= calls.sent + 1
    net = MLP.load(path)
    assert net.n_steps > 0
    assert np.isfinite(net.predict(X)).all()
    assert [each.name for each in tmp_path.iterdir()] == [path.name]
    assert sys.exception() is None


WHILE_LLVM_LOADS = """
import signal, sys, warnings
import numpy as np
from fastmlp import MLP, Status, fit_many

class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == "llvmlite.binding.module":
            signal.raise_signal(signal.SIGINT)

sys.meta_path.insert(0, Finder())
warnings.simplefilter("ignore")
X = np.ones((8, 3))
net = MLP((3, 4, 1), seed=0)
before = net.parameters.copy()
fit = lambda: fit_many([net], X, X[:, 0], epochs=1)[0] if sys.argv[1] == "many" else net.fit(
    X, X[:, 0], epochs=1)
history = fit()
assert history.status is Status.INTERRUPTED, history
assert history.loss == [] and (net.parameters == before).all() and "llvmlite" in sys.modules
assert fit().status is Status.COMPLETED
assert np.isfinite(net.predict(X[:1])).all() and (net.parameters != before).any()
"""


@pytest.mark.slow
@pytest.mark.parametrize("call", ["one", "many"])
def test_ctrl_c_while_llvm_is_loaded_ends_the_fit(
    call: str, python: Callable[..., str]
) -> None:
    python(WHILE_LLVM_LOADS, call, FASTMLP_CACHE="0", FASTMLP_PREBUILT="0")
