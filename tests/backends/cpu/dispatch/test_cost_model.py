"""The cost model: a team pays if it saves more than launching and joining cost."""

import time
from itertools import pairwise
from typing import Any

import pytest
from conditions import only_compiled

from fastmlp.backends.cpu.dispatch import cost_model
from fastmlp.backends.cpu.dispatch.cost_model import Costs, Work
from fastmlp.backends.cpu.threads import limits, worker_pool
from fastmlp.backends.cpu.tuning import RATE, SECONDS_VALID, WORTH_COMPILING

QUICK = Costs(launch=10e-6, join=0.3e-6, speedup=1.9)


@pytest.fixture
def costs(monkeypatch: pytest.MonkeyPatch) -> dict[int, Costs | None]:
    """The costs that a measurement would find."""
    known: dict[int, Costs | None] = {2: QUICK}
    monkeypatch.setattr(cost_model, "_recent", lambda n_threads: known[n_threads])
    monkeypatch.setitem(cost_model._work, "seconds", 1.0)
    return known


@only_compiled
def test_a_team_pays_from_some_work_a_join(costs: dict[int, Costs | None]) -> None:
    # A join costs 0.3 us, and 20 of them must be saved: 1.5 MFLOP.
    assert not cost_model.pays(Work(1_000_000 * 2000, 2000), 2)
    assert cost_model.pays(Work(2_000_000 * 2000, 2000), 2)


@only_compiled
def test_what_is_fetched_counts_by_how_far_cores_are(costs: dict[int, Costs | None]) -> None:
    # 8.3 us a step, of which a team of near cores, with 1 us of joins, has to fetch 12 us' worth.
    work = Work(1_000_000 * 2000, 4 * 2000, 12e-6 * 2000)
    assert not cost_model.pays(work, 2)
    costs[2] = QUICK._replace(join=0.15e-6)
    assert cost_model.pays(work, 2)
    costs[2] = QUICK._replace(join=0.9e-6)
    assert not cost_model.pays(work._replace(fetched=6e-6 * 2000), 2)


@only_compiled
def test_one_short_call_pays_the_launch(costs: dict[int, Costs | None]) -> None:
    assert not cost_model.pays(Work(200_000, 1), 2)
    assert cost_model.pays(Work(5_000_000, 1), 2)


@only_compiled
@pytest.mark.parametrize(
    "slow", [QUICK._replace(join=60e-6), QUICK._replace(speedup=1.0), QUICK._replace(launch=5e-1)]
)
def test_a_busy_machine_works_alone(slow: Costs, costs: dict[int, Costs | None]) -> None:
    work = Work(3_000_000 * 1000, 1000)
    assert cost_model.pays(work, 2)
    costs[2] = slow
    assert not cost_model.pays(work, 2)


@only_compiled
def test_a_process_of_little_work_compiles_no_team(
    costs: dict[int, Costs | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(cost_model._work, "seconds", 0.0)
    calls = [cost_model.pays(Work(WORTH_COMPILING * RATE / 4, 10), 2) for _ in range(6)]
    assert calls == [False] * 4 + [True] * 2


def test_no_work_is_not_shared() -> None:
    assert not cost_model.pays(Work(0, 0), 2)


def test_one_thread_is_no_team(costs: dict[int, Costs | None]) -> None:
    assert not cost_model.pays(Work(1e12, 1), 1)


@only_compiled
def test_while_another_thread_measures_a_call_is_serial(costs: dict[int, Costs | None]) -> None:
    costs[2] = None
    assert not cost_model.pays(Work(1e12, 1), 2)


@only_compiled
@pytest.mark.skipif(limits.thread_limit() < 2, reason="on one CPU there are no workers")
def test_a_measurement_is_one_of_seconds() -> None:
    launched, join, speedup = cost_model.measure(2)
    assert 0 < launched < 1
    assert 0 <= join < 1
    assert 1 <= speedup <= 2


@only_compiled
def test_costs_are_measured_once_in_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    measured: list[int] = []
    now = [100.0]
    monkeypatch.setattr(cost_model, "_known", {})

    def measure(n: int) -> Any:
        measured.append(n)
        return QUICK

    monkeypatch.setattr(cost_model, "measure", measure)
    monkeypatch.setattr(cost_model, "_seconds", lambda *_: 0.0)
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    for when in (100, 101, 104.9, 106, 107):
        now[0] = when
        assert cost_model._recent(2) == QUICK
    assert measured == [2, 2]


@only_compiled
def test_a_drill_that_found_no_second_core_is_done_again_soon_and_then_less_often(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    measured: list[float] = []
    now, found = [100.0], [QUICK._replace(speedup=1.0)]
    monkeypatch.setattr(cost_model, "_known", {})

    def measure(n: int) -> Any:
        measured.append(now[0])
        return found[0]

    monkeypatch.setattr(cost_model, "measure", measure)
    monkeypatch.setattr(cost_model, "_seconds", lambda *_: 0.0)
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    for step in range(400):
        now[0] = 100 + step / 16
        cost_model._recent(2)
    gaps = [b - a for a, b in pairwise(measured)]
    assert gaps[:5] == [0.25, 0.5, 1.0, 2.0, 4.0]
    assert set(gaps[5:]) == {SECONDS_VALID}
    found[0] = QUICK
    now[0] += SECONDS_VALID
    assert cost_model._recent(2) == QUICK


@only_compiled
def test_a_drill_after_a_pause_is_doubted_no_longer_than_the_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    measured: list[float] = []
    now, poor = [100.0], QUICK._replace(speedup=1.0)
    monkeypatch.setattr(cost_model, "_known", {})

    def measure(n: int) -> Any:
        measured.append(now[0])
        return poor

    monkeypatch.setattr(cost_model, "measure", measure)
    monkeypatch.setattr(cost_model, "_seconds", lambda *_: 0.0)
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    for turn in (100, 110, 120):
        for step in range(6):
            now[0] = turn + step / 16
            cost_model._recent(2)
    assert measured == [100, 100.25, 110, 110.25, 120, 120.25]


@pytest.mark.parametrize(("answers", "expected"), [([True], 1), ([False, False, True], 3)])
def test_a_drill_waits_until_helpers_are_awake(
    monkeypatch: pytest.MonkeyPatch, answers: list[bool], expected: int
) -> None:
    left = [*answers, False]
    monkeypatch.setattr(worker_pool, "run", lambda driver, job, n: left.pop(0))
    cost_model._wake(2, time.perf_counter() + 60)
    assert len(answers) + 1 - len(left) == expected


def test_a_drill_waits_for_helpers_that_never_come_no_longer_than_it_may(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls: list[int] = []

    def run(driver: Any, job: Any, n: int) -> bool:
        calls.append(n)
        return False

    monkeypatch.setattr(worker_pool, "run", run)
    cost_model._wake(2, 0.0)
    assert calls == [2]
