"""Handlers of signals run after the call under way, whatever it computes, and nothing is lost."""

import math
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numba
import numpy as np
import pytest

from fastmlp import MLP
from fastmlp.backends.cpu import dispatch, tuning, worker_pool
from fastmlp.backends.cpu.dispatch import Work

pytestmark = pytest.mark.skipif(
    bool(numba.config.DISABLE_JIT), reason="sizes that take plain Python hours"
)
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
    """The calls of compiled code that have begun, with their operations; SIGTERM in the fifth.

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

    def begin(self, work: Work) -> None:
        self.flops.append(work.flops)
        if len(self.flops) == 5:
            self._fifth.set()

    def _send(self) -> None:
        # A call lets other threads run while it is under way.
        self._fifth.wait()
        self.sent = len(self.flops)
        os.kill(os.getpid(), signal.SIGTERM)

    def interrupt(self, work: Callable[[], Any]) -> None:
        """Compile first: LLVM hears nothing for a second at a time."""
        worker_pool.compile_all()
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
    record, threads_for = Calls(), dispatch.threads_for

    def counted(work: Work, *arguments: Any) -> dispatch.Threads:
        record.begin(work)
        return threads_for(work, *arguments)

    def handle(*_: object) -> None:
        record.heard = len(record.flops)
        raise Ended

    monkeypatch.setattr(dispatch, "threads_for", counted)
    before, interval = signal.signal(signal.SIGTERM, handle), sys.getswitchinterval()
    # Else the main thread may go on between the count and the signal, on a busy machine.
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
def test_a_handler_runs_after_the_call_under_way(
    work: Callable[[], Any], most_flops: float, calls: Calls
) -> None:
    calls.interrupt(work)
    # A call may begin between the count and the signal.
    assert 5 <= calls.sent <= calls.heard <= calls.sent + 1
    assert max(calls.flops) <= most_flops


def test_a_handler_that_raises_leaves_a_checkpoint(calls: Calls, tmp_path: Path) -> None:
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
def test_ctrl_c_while_the_first_fit_loads_llvm_ends_the_fit(
    call: str, python: Callable[..., str]
) -> None:
    python(WHILE_LLVM_LOADS, call, FASTMLP_CACHE="0", FASTMLP_PREBUILT="0")
