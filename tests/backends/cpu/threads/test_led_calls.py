"""Led calls: workers that spin join predictions of any size,
and nobody waits for others.
"""

import copy
import ctypes
import os
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from conditions import always_led, only_compiled
from fitting import in_threads

from fastmlp import MLP, NetGroup
from fastmlp._process import locks
from fastmlp.backends.cpu import dispatch, limits, tuning, worker_pool
from fastmlp.backends.cpu.dispatch import LedCalls
from fastmlp.backends.cpu.plan.records import fields_of
from fastmlp.backends.cpu.team import GENERATION, JOINED, LEFT, POSTED, STOPPED
from fastmlp.backends.cpu.worker_pool import (
    ALONE,
    ASLEEP,
    LATE,
    LEFT_ASLEEP,
    SLEPT,
    TAKEN,
    WAITING,
    WHOLE,
    WOKEN_ONCE,
    WRITTEN,
    WorkerPool,
)
from fastmlp.compiler import COMPILER
from fastmlp.compiler.memory import fetch_add

pytestmark = [
    only_compiled,
    pytest.mark.skipif(COMPILER == "numba", reason="Numba's threads are not a team"),
]
ACTIVATIONS = ("relu", "tanh", "softplus", "identity")
LOSSES = ("mse", "cross_entropy", "binary_cross_entropy")


@pytest.fixture
def statuses(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Have all predictions led; the statuses of calls that Python decides on."""
    always_led(monkeypatch)
    seen: list[int] = []
    counts = LedCalls._counts

    def noted(self: LedCalls, status: int, now: float) -> bool:
        seen.append(status)
        return counts(self, status, now)

    monkeypatch.setattr(LedCalls, "_counts", noted)
    return seen


def until_whole(call: Callable[[], Any], statuses: list[int]) -> bool:
    """Call until a worker was there from the start; False if none comes in a minute."""
    end = time.monotonic() + 60
    while WHOLE not in statuses and time.monotonic() < end:
        call()
    return WHOLE in statuses


def drawn_sizes(rng: Any) -> tuple[int, ...]:
    hidden = rng.integers(5, 400, size=rng.integers(1, 4))
    return (int(rng.integers(1, 300)), *map(int, hidden), int(rng.integers(1, 60)))


@pytest.mark.parametrize("seed", range(8))
def test_a_team_has_the_bits_of_one_thread(seed: int, statuses: list[int]) -> None:
    """Nets in lanes and in tiles, numbers of rows that change from call to call."""
    rng = np.random.default_rng(seed)
    sizes = (300, 400, 30) if seed == 0 else drawn_sizes(rng)
    options: dict[str, Any] = {
        "activation": ACTIVATIONS[seed % len(ACTIVATIONS)],
        "loss": LOSSES[seed % len(LOSSES)],
        "dtype": ("float32", "float64")[seed // 4],
    }
    alone = MLP(sizes, seed=seed, n_threads=1, **options)
    led = MLP(sizes, seed=seed, n_threads=2, **options)
    for n_rows in rng.permutation([1, 2, 3, 5, 8, 16, 17, 31, 64, 127, 129, 300, 999]):
        x = rng.normal(size=(n_rows, sizes[0])).astype(led.dtype)
        expected = alone.predict(x)
        for _ in range(2):
            assert np.array_equal(led.predict(x), expected)
    assert until_whole(lambda: led.predict(x), statuses)


@pytest.mark.parametrize("has_gil", [True, False])
def test_threads_that_predict_one_net(
    has_gil: bool, statuses: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locks, "HAS_GIL", has_gil)
    sizes = (100, 400, 100, 20)
    net = MLP(sizes, seed=0, n_threads=2)
    rng = np.random.default_rng(0)
    rows = [rng.normal(size=(n, 100)).astype("f4") for n in (1, 2, 9, 64, 200)]
    expected = [MLP(sizes, seed=0, n_threads=1).predict(x) for x in rows]
    wrong: list[int] = []

    def predict(i: int) -> None:
        for k in range(60):
            which = (i + k) % len(rows)
            if not np.array_equal(net.predict(rows[which]), expected[which]):
                wrong.append(which)

    in_threads(predict, 3)
    assert not wrong
    assert (limits.busy.reserved, limits.busy.leading) == (0, 0)


def test_a_call_whose_turn_another_thread_took_predicts(
    statuses: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the decision and its call others may have taken all calls decided."""
    net = MLP((5, 17, 3), seed=0, n_threads=2)
    x = np.ones((40, 5), "f4")
    expected = MLP((5, 17, 3), seed=0, n_threads=1).predict(x)
    timed = LedCalls.timed
    n_taken = [0]

    def taken(self: LedCalls, flops: int, call: Callable[[], Any]) -> Any:
        def late() -> Any:
            if n_taken[0] < 3:
                n_taken[0] += 1
                self._next_calls[flops.bit_length()]["left"] = 0
            return call()

        return timed(self, flops, late)

    monkeypatch.setattr(LedCalls, "timed", taken)
    for _ in range(50):
        out = np.full((40, 3), np.nan, np.float32)
        np.testing.assert_array_equal(net.predict(x, out), expected)
    assert n_taken == [3]


def test_nets_of_a_group_are_led(statuses: list[int]) -> None:
    nets = [MLP((30, 200, 3), seed=seed, n_threads=1) for seed in range(5)]
    X = np.random.default_rng(0).normal(size=(40, 30)).astype("f4")
    expected = np.stack([net.predict(X) for net in nets])
    group = NetGroup(nets, n_threads=2)
    assert until_whole(lambda: group.predict(X), statuses)
    for _ in range(5):
        assert np.array_equal(group.predict(X), expected)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_leads_workers_of_its_own(statuses: list[int]) -> None:
    net = MLP((50, 400, 100, 3), seed=0, n_threads=2)
    X = np.ones((9, 50), "f4")
    expected = net.predict(X)
    net.predict(X)
    child = os.fork()
    if child == 0:
        try:
            statuses.clear()
            whole = until_whole(lambda: net.predict(X), statuses)
            os._exit(0 if whole and np.array_equal(net.predict(X), expected) else 1)
        finally:
            os._exit(2)
    assert os.waitpid(child, 0)[1] == 0


class Led:
    """A lead of one call, on a pool whose one worker does not exist."""

    def __init__(self, spins: int = 10) -> None:
        self.pool = WorkerPool()
        self.job = np.zeros(1, worker_pool.JobTeam.dtype)
        self.state = self.pool._mailboxes.fields["state"]
        self.team = self.pool.lend(2, 1, self)
        self.ahead = np.zeros(1, worker_pool.NextCalls.dtype)
        self.ahead[0] = (1, 2, LEFT_ASLEEP)
        self.lead = np.zeros(1, worker_pool.Lead.dtype)
        busy = ctypes.addressof(limits.busy)
        place = self.job.ctypes.data
        first = self.pool._mailboxes.first
        team = self.team.ctypes.data
        self.lead[0] = (place, team, first, 1, busy, 2, spins, -1)

    def __call__(self) -> int:
        """Count the calls of a driver; return the status."""
        block = worker_pool.block(worker_pool.lead_call)
        driver = worker_pool.block(add_one)
        self.done = np.zeros(1, np.int64)
        block.entry(
            self.lead.ctypes.data,
            self.ahead.ctypes.data,
            driver.address,
            self.done.ctypes.data,
        )
        assert self.done[0] == 1
        return int(self.lead[0]["status"])


def add_one(scalar: Any) -> Callable[[int], None]:
    def add(address: int) -> None:
        fetch_add(address, 1)

    return add


def test_a_post_that_no_worker_claims_is_taken_back() -> None:
    led = Led()
    led.state[0] = WAITING
    for _ in range(3):
        assert led() == LATE
        assert led.state[0] == WAITING
        assert led.team[POSTED // 8] == led.team[LEFT // 8] == 1
        assert led.team[GENERATION // 8] == STOPPED
        assert led.job[0]["team"] == 0


def test_a_post_of_another_leader_is_left_alone() -> None:
    led = Led()
    for state in (WRITTEN, TAKEN):
        led.state[0] = state
        led.pool._mailboxes.fields["team"][0] = 64
        assert led() == ALONE
        assert led.state[0] == state


def test_a_worker_that_sleeps_is_woken_where_that_is_asked_for() -> None:
    led = Led()
    led.pool._mailboxes.add(0)
    for sleepers, status, left in (
        (LEFT_ASLEEP, SLEPT, ASLEEP),
        (WOKEN_ONCE, LATE, WAITING),
    ):
        led.state[0] = ASLEEP
        led.ahead[0]["sleepers"] = sleepers
        assert led() == status
        assert led.state[0] == left
        assert led.ahead[0]["sleepers"] == LEFT_ASLEEP


def test_a_team_that_a_worker_has_not_left_is_not_renewed() -> None:
    led = Led()
    led.state[0] = WAITING
    led.team[POSTED // 8] = 1
    led.team[JOINED // 8] = 2
    assert led() == ALONE
    assert (led.team[JOINED // 8], led.state[0]) == (2, WAITING)


def test_threads_that_others_use_are_not_led() -> None:
    led = Led()
    led.state[0] = WAITING
    with limits.reserved(1):
        assert led() == ALONE
        limits.busy.leading += 1
        assert limits.free_threads(2) == 1
        limits.busy.leading -= 1
    assert led() == LATE


def test_a_team_goes_to_another_holder_when_its_own_has_gone() -> None:
    pool, holder = WorkerPool(), SimpleHolder()
    team = pool.lend(2, 1, holder)
    other = pool.lend(2, 1, pool)
    assert other is not team
    del holder
    assert pool.lend(2, 1, pool) is team


class SimpleHolder:
    """An object that a team may be lent to."""


@pytest.fixture
def decided(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Decisions about calls whose statuses a test sets:
    times by team, and the calls ahead.
    """
    always_led(monkeypatch)
    monkeypatch.setattr(tuning, "PATIENT_SECONDS", 1.0)
    job = np.zeros(1, worker_pool.JobTeam.dtype)
    calls = LedCalls(object(), 2, fields_of(job))
    recorded: list[bool] = []
    tuner = SimpleNamespace(
        wants_team=lambda: True,
        is_known=lambda: True,
        record=lambda team, work, seconds: recorded.append(team),
    )
    monkeypatch.setattr(dispatch, "tuner_for", lambda kind: tuner)
    ahead: Any = calls._next_calls[(1 << 20).bit_length()]

    def decide(status: int) -> Any:
        ahead["left"] = ahead["sleepers"] = 0
        recorded.clear()

        def call() -> None:
            calls._fields["status"] = status

        calls.timed(1 << 20, call)
        return recorded[:], ahead["left"], ahead["sleepers"]

    decide.job = job  # type: ignore[attr-defined]
    decide.tuner = tuner  # type: ignore[attr-defined]
    return decide


def test_late_workers_are_not_timed_before_they_may_have_a_core(
    decided: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    decided(WHOLE)
    assert decided(WHOLE) == ([True], tuning.LED_CALLS, LEFT_ASLEEP)
    monkeypatch.setattr(tuning, "WAKING", 9e9)
    assert decided(LATE)[0] == []
    assert decided(ALONE)[0] == []
    assert decided(LATE)[0] == []
    monkeypatch.setattr(tuning, "WAKING", -1.0)
    assert decided(LATE)[0] == [True]


def test_a_short_call_after_one_of_the_other_way_is_not_timed(decided: Any) -> None:
    """Its weights lie in the other core's cache."""
    assert decided(WHOLE)[0] == []
    assert decided(WHOLE)[0] == [True]
    decided.tuner.wants_team = lambda: False
    assert decided(ALONE)[0] == []
    assert decided(ALONE)[0] == [False]


def test_a_long_call_after_one_of_the_other_way_is_timed(
    decided: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tuning, "PATIENT_SECONDS", 0.0)
    assert decided(WHOLE)[0] == [True]


def test_calls_that_follow_each_other_closely_wake_workers(
    decided: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tuning, "AWAKE_SECONDS", 9e9)
    assert decided(SLEPT) == ([], 0, WOKEN_ONCE)
    monkeypatch.setattr(tuning, "AWAKE_SECONDS", 0.0)
    assert decided(SLEPT) == ([], tuning.LED_CALLS, LEFT_ASLEEP)
    assert decided(SLEPT) == ([], 0, LEFT_ASLEEP)


def test_one_thread_starts_no_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    always_led(monkeypatch)
    monkeypatch.setattr(worker_pool, "pool", None)
    net = MLP((50, 400, 3), seed=0, n_threads=1)
    X = np.ones((300, 50), "f4")
    for n_rows in (1, 4, 300):
        for _ in range(3):
            net.predict(X[:n_rows])
    NetGroup([net, copy.copy(net)], n_threads=1).predict(X)
    net.fit(X, X[:, :3], epochs=1)


def test_an_idle_process_burns_no_core(statuses: list[int]) -> None:
    net = MLP((50, 400, 100, 3), seed=0, n_threads=2)
    X = np.ones((40, 50), "f4")
    for _ in range(5):
        net.predict(X)
    states = worker_pool.pool()._mailboxes.fields["state"][:1]
    end = time.monotonic() + 60
    while states[0] != ASLEEP and time.monotonic() < end:
        time.sleep(0.001)
    assert states[0] == ASLEEP
    before = time.process_time()
    time.sleep(0.3)
    assert time.process_time() - before < 0.1
