"""A feed's reading thread, and what it takes of the threads of the process."""

import threading
from typing import Any

import numpy as np
import pytest

from fastmlp import MLP, Blocks
from fastmlp.backends.cpu.dispatch import cost_model, dispatch
from fastmlp.backends.cpu.dispatch.cost_model import Work
from fastmlp.backends.cpu.threads import limits
from fastmlp.data import feed as feeding
from fastmlp.data.feed import Feed, feed_of
from fastmlp.data.rows import Reading
from fastmlp.model import core_of

WAIT_SECONDS = 20.0


class Source:
    """Blocks of 64 rows, of which reads wait from the fourth on."""

    block_sizes = (64,) * 12

    def __init__(self) -> None:
        self.n_read, self.free = 0, threading.Semaphore(3)

    def read(self, i: int) -> Any:
        assert self.free.acquire(timeout=WAIT_SECONDS)
        self.n_read += 1
        return np.zeros((64, 3)), np.zeros(64)


def feed(source: Any) -> Feed:
    network = core_of(MLP((3, 4, 1), seed=0)).engine.network
    found = feed_of(source, None, None, network, Reading(1, 4, True, 128), "MLP.fit")
    assert found is not None
    return found


@pytest.fixture
def four_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "thread_limit", lambda: 4)


@pytest.mark.usefixtures("four_threads")
@pytest.mark.parametrize("computes", [True, False])
def test_training_has_a_thread_less_while_a_buffer_is_read(
    computes: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feeding, "LEAST_SECONDS", -1.0 if computes else 1e9)
    monkeypatch.setattr(feeding, "COMPUTING", -1.0)
    source, less = Source(), 3 if computes else 4
    # Of the first buffer, and of the block after it.
    its = feed(source)
    assert limits.free_threads(4) == 4
    its.start(0)
    assert limits.free_threads(4) == less
    for _ in range(5):
        source.free.release(2)
        its.next()
        assert limits.free_threads(4) == (4 if its.ends else less)
    assert its.ends
    its.close()
    assert limits.free_threads(4) == 4


@pytest.mark.usefixtures("four_threads")
def test_the_thread_is_given_back_if_a_read_blocks_for_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(feeding, "LEAST_SECONDS", -1.0)
    monkeypatch.setattr(feeding, "COMPUTING", -1.0)
    monkeypatch.setattr(feeding, "END_SECONDS", 0.01)
    source = Source()
    its = feed(source)
    its.start(0)
    its.close()
    assert limits.free_threads(4) == 4
    source.free.release(20)
    its._reader._thread.join(WAIT_SECONDS)  # type: ignore[union-attr]


@pytest.mark.usefixtures("four_threads")
def test_a_call_beside_others_is_not_timed_as_a_team(monkeypatch: pytest.MonkeyPatch) -> None:
    """The autotuner would take one thread's time for a team's."""
    monkeypatch.setattr(cost_model, "pays", lambda work, n: n > 1)
    kind, work = ("a kind of its own",), Work(10**9, 1)
    alone = dispatch.threads_for(work, kind, 2)
    assert alone.n == 2
    with limits.reserved(3):
        beside = dispatch.threads_for(work, kind, 2)
    assert beside.n == 1
    assert beside.tuner is not alone.tuner


def test_bits_do_not_depend_on_the_threads_that_the_reading_takes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rng = np.random.default_rng(0)
    X = rng.standard_normal((4096, 20))
    source = Blocks.from_arrays(X, X[:, 0] * X[:, 1], rows=256)
    nets = []
    for seconds in (-1.0, 1e9):
        monkeypatch.setattr(feeding, "LEAST_SECONDS", seconds)
        net = MLP((20, 128, 64, 1), seed=0)
        net.fit(source, epochs=3, batch_size=64, buffer_rows=1024)
        nets.append(net.parameters.tobytes())
    assert nets[0] == nets[1]
