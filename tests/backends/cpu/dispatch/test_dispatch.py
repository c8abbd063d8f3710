"""The number of threads of a call: the cost model,
timings, pieces; launches, layers and forks.
"""

import os
import time
from collections.abc import Callable
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import numba
import numpy as np
import pytest
from conditions import only_compiled
from nets import Net

from fastmlp import MLP
from fastmlp._process import task_pool
from fastmlp.backends.cpu import dispatch, limits, worker_pool
from fastmlp.backends.cpu.dispatch import Autotuner, Costs, Work, pieces_of
from fastmlp.backends.cpu.engine import Engine
from fastmlp.backends.cpu.tuning import (
    FLOP_RATE,
    LONG_RETRY,
    MOST_PIECES,
    PIECE_FLOPS,
    RETRY,
    SECONDS_VALID,
    WORTH_COMPILING,
)


def choices(
    tuner: Autotuner, n_calls: int, alone: float, together: float
) -> list[bool]:
    chosen = []
    for _ in range(n_calls):
        team = tuner.wants_team()
        tuner.record(team, 10, together if team else alone)
        chosen.append(team)
    return chosen


def test_both_are_tried_before_one_is_chosen() -> None:
    tuner = Autotuner()
    assert tuner.wants_team()
    tuner.record(True, 1, 100.0)
    assert choices(tuner, 3, alone=2.0, together=1.0) == [True, False, True]


@pytest.mark.parametrize("team", [True, False])
def test_the_faster_one_runs_but_for_trials(team: bool) -> None:
    alone, together = (2.0, 1.0) if team else (1.0, 2.0)
    chosen = choices(Autotuner(), 1000, alone, together)
    assert 0 < chosen[10:].count(not team) <= 15


def test_the_choice_follows_when_the_other_becomes_faster() -> None:
    tuner = Autotuner()
    choices(tuner, 100, alone=2.0, together=1.0)
    assert choices(tuner, 100, alone=2.0, together=5.0)[-10:] == [False] * 10
    assert choices(tuner, 150, alone=2.0, together=1.0)[-10:] == [True] * 10


def test_the_slower_one_is_tried_less_often_from_trial_to_trial() -> None:
    tuner = Autotuner()
    trials = [
        i for i, team in enumerate(choices(tuner, 100 * RETRY, 2.0, 1.0)) if not team
    ]
    gaps = [b - a for a, b in pairwise(trials)]
    assert gaps == sorted(gaps)
    assert gaps[-1] >= 4 * gaps[0]


def test_a_slower_team_of_long_calls_is_tried_within_a_second() -> None:
    """Another library's threads spin for a minute; after it a team is faster."""
    tuner = Autotuner()
    choices(tuner, 6_000, alone=0.01, together=0.025)
    assert True in choices(tuner, LONG_RETRY, alone=0.01, together=0.006)
    choices(tuner, 100_000, alone=1e-6, together=2e-6)
    assert True not in choices(tuner, LONG_RETRY, alone=1e-6, together=2e-6)


def test_one_slow_call_does_not_change_the_choice() -> None:
    tuner = Autotuner()
    choices(tuner, 200, alone=2.0, together=1.0)
    choices(tuner, 1, alone=2.0, together=9.0)
    assert choices(tuner, 10, alone=2.0, together=1.0) == [True] * 10


def test_calls_of_unlike_lengths_are_compared_by_their_work() -> None:
    tuner = Autotuner()
    tuner.record(True, 1, 9.0)
    tuner.record(True, 1_000, 1.0)
    tuner.record(False, 10, 0.02)
    assert tuner.wants_team()


def test_a_call_that_woke_its_helpers_counts_only_if_the_next_one_does_too() -> None:
    tuner = Autotuner()
    choices(tuner, 100, alone=2.0, together=1.0)
    for _ in range(20):  # calls that come one by one, and others in a row
        tuner.record(True, 10, 9.0, awake=False)
        assert choices(tuner, 1, alone=2.0, together=1.0)
    assert choices(tuner, 10, alone=2.0, together=1.0).count(True) >= 9
    for _ in range(20):
        tuner.record(True, 10, 9.0, awake=False)
    assert not tuner.wants_team()


@pytest.mark.parametrize(
    ("flops", "n_joins", "n_threads", "expected"),
    [
        (0, 0, 2, 1),
        (2 * PIECE_FLOPS, 1, 2, 1),  # a part of one piece's work
        (4 * PIECE_FLOPS, 1, 2, 2),
        (4 * PIECE_FLOPS, 2, 2, 1),
        (4 * PIECE_FLOPS, 1, 4, 1),
        (6 * PIECE_FLOPS, 0, 2, 3),  # predictions never join
        (1e15, 10, 2, MOST_PIECES),
    ],
)
def test_only_long_parts_are_cut(
    flops: float, n_joins: int, n_threads: int, expected: int
) -> None:
    assert pieces_of(Work(flops, n_joins), n_threads) == expected


def test_another_dtype_has_its_tuner(
    monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator
) -> None:
    # 13-32-32-1 at 64 rows is faster on one thread in float32, and on two in float64.
    tuners: dict[Any, Autotuner] = {}
    monkeypatch.setattr(
        dispatch, "tuner_for", lambda kind: tuners.setdefault(kind, Autotuner())
    )
    for dtype in ("float32", "float64", "float32"):
        net = Net((3, 5, 2), dtype=dtype)
        Engine(net.network, 2).loss(*net.draw(rng, 20))
    assert len(tuners) == 2


QUICK = Costs(launch=10e-6, join=0.3e-6, speedup=1.9)


@pytest.fixture
def costs(monkeypatch: pytest.MonkeyPatch) -> dict[int, Costs | None]:
    """The costs that a measurement would find."""
    known: dict[int, Costs | None] = {2: QUICK}
    monkeypatch.setattr(dispatch, "_recent", lambda n_threads: known[n_threads])
    monkeypatch.setitem(dispatch._work, "seconds", 1.0)
    return known


@only_compiled
def test_a_team_pays_from_some_work_by_how_far_cores_are(
    costs: dict[int, Costs | None],
) -> None:
    # A join costs 0.3 us, and 20 of them must be saved: 1.5 MFLOP.
    assert not dispatch.pays(Work(1_000_000 * 2000, 2000), 2)
    assert dispatch.pays(Work(2_000_000 * 2000, 2000), 2)
    # 8.3 us a step, of which a team of near cores,
    # with 1 us of joins, has to fetch 12 us' worth.
    work = Work(1_000_000 * 2000, 4 * 2000, 12e-6 * 2000)
    assert not dispatch.pays(work, 2)
    costs[2] = QUICK._replace(join=0.15e-6)
    assert dispatch.pays(work, 2)
    costs[2] = QUICK._replace(join=0.9e-6)
    assert not dispatch.pays(work._replace(fetched=6e-6 * 2000), 2)
    costs[2] = QUICK
    assert not dispatch.pays(Work(200_000, 1), 2)
    assert dispatch.pays(Work(5_000_000, 1), 2)


@only_compiled
@pytest.mark.parametrize(
    "slow",
    [
        QUICK._replace(join=60e-6),
        QUICK._replace(speedup=1.0),
        QUICK._replace(launch=5e-1),
    ],
)
def test_a_busy_machine_works_alone(
    slow: Costs, costs: dict[int, Costs | None]
) -> None:
    work = Work(3_000_000 * 1000, 1000)
    assert dispatch.pays(work, 2)
    costs[2] = slow
    assert not dispatch.pays(work, 2)


@only_compiled
def test_a_process_of_little_work_compiles_no_team(
    costs: dict[int, Costs | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(dispatch._work, "seconds", 0.0)
    calls = [
        dispatch.pays(Work(WORTH_COMPILING * FLOP_RATE / 4, 10), 2) for _ in range(6)
    ]
    assert calls == [False] * 4 + [True] * 2


@only_compiled
def test_while_another_thread_measures_a_call_is_serial(
    costs: dict[int, Costs | None],
) -> None:
    costs[2] = None
    assert not dispatch.pays(Work(1e12, 1), 2)


@only_compiled
@pytest.mark.skipif(limits.thread_limit() < 2, reason="on one CPU there are no workers")
def test_a_measurement_is_one_of_seconds() -> None:
    launched, join, speedup = dispatch.measure(2)
    assert 0 < launched < 1
    assert 0 <= join < 1
    assert 1 <= speedup <= 2


class Drills:
    def __init__(self) -> None:
        self.now, self.costs, self.dates = 100.0, QUICK, list[float]()

    def measure(self, n: int) -> Costs:
        assert n == 2
        self.dates.append(self.now)
        return self.costs

    def costs_at(self, now: float) -> Any:
        self.now = now
        return dispatch._recent(2)


@pytest.fixture
def drills(monkeypatch: pytest.MonkeyPatch) -> Drills:
    drills = Drills()
    monkeypatch.setattr(dispatch, "_known", {})
    monkeypatch.setattr(dispatch, "measure", drills.measure)
    monkeypatch.setattr(dispatch, "_seconds", lambda *_: 0.0)
    monkeypatch.setattr(time, "monotonic", lambda: drills.now)
    return drills


@only_compiled
def test_costs_are_measured_once_in_a_while(drills: Drills) -> None:
    assert {drills.costs_at(now) for now in (100, 101, 104.9, 106, 107)} == {QUICK}
    assert drills.dates == [100, 106]


@only_compiled
def test_a_drill_without_a_second_core_is_done_again_soon_then_less_often(
    drills: Drills,
) -> None:
    drills.costs = QUICK._replace(speedup=1.0)
    for step in range(400):
        drills.costs_at(100 + step / 16)
    gaps = [b - a for a, b in pairwise(drills.dates)]
    assert gaps[:5] == [0.25, 0.5, 1.0, 2.0, 4.0]
    assert set(gaps[5:]) == {SECONDS_VALID}
    drills.costs = QUICK
    assert drills.costs_at(drills.now + SECONDS_VALID) == QUICK


@only_compiled
def test_a_drill_after_a_pause_is_doubted_no_longer_than_the_first(
    drills: Drills,
) -> None:
    drills.costs = QUICK._replace(speedup=1.0)
    for turn in (100, 110, 120):
        for step in range(6):
            drills.costs_at(turn + step / 16)
    assert drills.dates == [100, 100.25, 110, 110.25, 120, 120.25]


@pytest.mark.parametrize(
    ("answers", "expected"), [([True], 1), ([False, False, True], 3)]
)
def test_a_drill_waits_until_helpers_are_awake(
    monkeypatch: pytest.MonkeyPatch, answers: list[bool], expected: int
) -> None:
    left = [*answers, False]
    monkeypatch.setattr(worker_pool, "run", lambda driver, job, n: left.pop(0))
    dispatch._wake(2, time.perf_counter() + 60)
    assert len(answers) + 1 - len(left) == expected


def test_a_drill_waits_for_absent_helpers_for_a_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls: list[int] = []

    def run(driver: Any, job: Any, n: int) -> bool:
        calls.append(n)
        return False

    monkeypatch.setattr(worker_pool, "run", run)
    dispatch._wake(2, 0.0)
    assert calls == [2]


def test_a_call_in_a_pool_that_stops_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """So that Ctrl-C ends the fits of all threads, not the main thread's alone."""
    net = MLP((2, 3, 1), seed=0)
    rows = np.ones((4, 2))
    expected = net.loss_and_gradient(rows, rows[:, :1])[0]
    with monkeypatch.context() as patch:
        patch.setattr(
            task_pool._here, "pool", SimpleNamespace(stopping=True), raising=False
        )
        with pytest.raises(task_pool.Stopped):
            net.loss_and_gradient(rows, rows[:, :1])
    assert net.loss_and_gradient(rows, rows[:, :1])[0] == expected


FORK_BESIDE_A_LAUNCH = """
import os, signal, threading
import numba
from numba.np.ufunc import parallel
from fastmlp.backends.cpu import limits

held, done = threading.Event(), threading.Event()

def hold():
    with parallel._backend_init_thread_lock:
        held.set()
        done.wait()

thread = threading.Thread(target=hold)
thread.start()
held.wait()
child = os.fork()
if child == 0:
    signal.alarm(20)
    with limits.threads(1):
        os._exit(int(limits.parallel_is_safe()))
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
done.set()
thread.join()
print(limits._state["forked"])
"""

LAYER_IN_USE = """
import os
import numba
from fastmlp.backends.cpu import limits

def n_tasks():
    return len(os.listdir("/proc/self/task")) if os.path.isdir("/proc/self/task") else 0

tasks = n_tasks()
foreseen, safe = limits.threading_layer(), limits.parallel_is_safe()
assert n_tasks() == tasks
try:
    numba.threading_layer()
except ValueError:
    numba.set_num_threads(1)
    print(safe, foreseen, limits.threading_layer(), numba.threading_layer())
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="none is told here")
def test_the_thread_limit_obeys_the_affinity(python: Callable[..., str]) -> None:
    script = "import os; os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:1]); "
    script += (
        "from fastmlp.backends.cpu import limits; limits._cgroup_cpus = lambda: 8; "
    )
    assert python(script + "print(limits.thread_limit())") == "1\n"


@pytest.mark.parametrize(
    ("cpus", "n", "limit"),
    [(8, 1, 1), (8, 3, 3), (0, 3, 1), (1, 3, 1), (1 << 16, 3, 3)],
)
def test_the_thread_limit_obeys_numba_and_control_groups(
    cpus: int, n: int, limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "_cgroup_cpus", lambda: cpus)
    monkeypatch.setattr(numba.config, "NUMBA_NUM_THREADS", n)
    assert limits.thread_limit() == limit


def test_an_engine_takes_no_more_threads_than_the_limit() -> None:
    assert Engine(Net().network).n_threads == limits.thread_limit()
    assert Engine(Net().network, 10**6).n_threads == limits.thread_limit()
    assert Engine(Net().network, 1).n_threads == 1


def test_a_call_leaves_alone_the_threads_of_other_calls(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(limits, "thread_limit", lambda: 4)
    with (
        limits.reserved(3) as first,
        limits.reserved(3) as second,
        limits.reserved(3) as third,
    ):
        assert (first, second, third) == (3, 1, 1)
    with limits.reserved(4) as again:
        assert again == 4


def test_threads_are_given_and_put_back_after_an_exception() -> None:
    with pytest.raises(KeyboardInterrupt), limits.reserved(limits.thread_limit()):
        raise KeyboardInterrupt
    with limits.reserved(limits.thread_limit()) as n:
        assert n == limits.thread_limit()
    before = numba.get_num_threads()
    inside = list[int]()

    def interrupted() -> None:
        inside.append(numba.get_num_threads())
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), limits.threads(1):
        interrupted()
    assert (inside, numba.get_num_threads()) == ([1], before)


class InterruptedLock:
    """A lock as which an interrupt comes the n-th time that it is taken:
    before or after.
    """

    def __init__(self, n: int, *, before: bool) -> None:
        self._n = n
        self._before = before

    def __enter__(self) -> None:
        self._n -= 1
        if self._n == 0 and self._before:
            raise KeyboardInterrupt

    def __exit__(self, *_: object) -> None:
        if self._n == 0 and not self._before:
            self._n = -1
            raise KeyboardInterrupt


@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize("n", [1, 2])
def test_threads_are_given_back_after_an_interrupt_on_the_way_in_or_out(
    n: int, before: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    busy = limits.busy.reserved
    monkeypatch.setattr(limits, "_lock", InterruptedLock(n, before=before))
    try:
        with limits.reserved(1):
            assert limits.busy.reserved == busy + 1
    except KeyboardInterrupt:
        pass
    else:
        pytest.fail("no interrupt came")
    assert limits.busy.reserved == busy


@pytest.mark.slow
@pytest.mark.parametrize("wanted", ["default", "workqueue", "forksafe", "threadsafe"])
def test_the_layer_is_foreseen_and_none_is_started(
    wanted: str, python: Callable[..., str]
) -> None:
    if wanted == "threadsafe" and limits.threading_layer() == "workqueue":
        pytest.skip("neither OpenMP nor TBB is installed")
    safe, *layers = python(LAYER_IN_USE, NUMBA_THREADING_LAYER=wanted).split()
    assert layers == [layers[0]] * 3
    assert layers[0] in limits.POOLS
    assert safe == str(layers[0] != "workqueue")


@pytest.mark.slow
@only_compiled
@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
def test_a_fork_while_numba_starts_its_threads_does_not_hang(
    python: Callable[..., str],
) -> None:
    assert python(FORK_BESIDE_A_LAUNCH).split() == ["0", "False"]
