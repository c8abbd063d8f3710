"""The number of threads of a call: from timings that the test makes up, and pieces of work."""

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from nets import Net

from fastmlp.backends.cpu.dispatch import dispatch
from fastmlp.backends.cpu.dispatch.cost_model import Work
from fastmlp.backends.cpu.dispatch.dispatch import Autotuner, pieces_of, tuner_for
from fastmlp.backends.cpu.engine import Engine
from fastmlp.backends.cpu.tuning import MOST_PIECES, PIECE_FLOPS, RETRY


def choices(tuner: Autotuner, n_calls: int, alone: float, together: float) -> list[bool]:
    """The choices of the autotuner for these seconds of one thread and of a team."""
    chosen = []
    for _ in range(n_calls):
        team = tuner.wants_team()
        tuner.record(team, 10, together if team else alone)
        chosen.append(team)
    return chosen


def test_both_are_tried_and_the_first_call_of_a_team_does_not_count() -> None:
    tuner = Autotuner()
    assert tuner.wants_team()
    tuner.record(True, 1, 100.0)
    assert choices(tuner, 3, alone=2.0, together=1.0) == [True, False, True]


def test_the_faster_one_runs_but_for_a_trial_now_and_then() -> None:
    for team in (True, False):
        tuner = Autotuner()
        alone, together = (2.0, 1.0) if team else (1.0, 2.0)
        chosen = choices(tuner, 1000, alone, together)
        assert 0 < chosen[10:].count(not team) <= 10


def test_it_changes_over_when_another_process_takes_a_core_and_back() -> None:
    tuner = Autotuner()
    choices(tuner, 100, alone=2.0, together=1.0)
    assert choices(tuner, 100, alone=2.0, together=5.0)[-10:] == [False] * 10
    assert choices(tuner, 150, alone=2.0, together=1.0)[-10:] == [True] * 10


def test_the_slower_one_is_tried_less_and_less_often_while_nothing_changes() -> None:
    tuner = Autotuner()
    trials = [i for i, team in enumerate(choices(tuner, 100 * RETRY, 2.0, 1.0)) if not team]
    gaps = [b - a for a, b in pairwise(trials)]
    assert gaps == sorted(gaps)
    assert gaps[-1] >= 4 * gaps[0]


def test_a_call_without_work_teaches_nothing() -> None:
    tuner = Autotuner()
    tuner.record(False, 0, 1.0)
    assert choices(tuner, 3, alone=2.0, together=1.0) == [True, True, False]


def test_one_call_that_was_disturbed_changes_nothing() -> None:
    tuner = Autotuner()
    choices(tuner, 200, alone=2.0, together=1.0)
    choices(tuner, 1, alone=2.0, together=9.0)
    assert choices(tuner, 10, alone=2.0, together=1.0) == [True] * 10


def test_a_first_call_that_was_disturbed_is_soon_made_good() -> None:
    tuner = Autotuner()
    choices(tuner, 2, alone=2.0, together=9.0)
    assert choices(tuner, 20, alone=2.0, together=1.0)[8:].count(True) >= 10


def test_calls_of_unlike_lengths_are_compared_by_their_work() -> None:
    tuner = Autotuner()
    tuner.record(True, 1, 9.0)
    tuner.record(True, 1_000, 1.0)
    tuner.record(False, 10, 0.02)
    assert tuner.wants_team()


def test_jobs_of_a_kind_share_what_was_learnt() -> None:
    assert tuner_for(("a job", 1)) is tuner_for(("a job", 1))
    assert tuner_for(("a job", 1)) is not tuner_for(("a job", 2))


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
def test_only_long_parts_are_cut(flops: float, n_joins: int, n_threads: int, expected: int) -> None:
    assert pieces_of(Work(flops, n_joins), n_threads) == expected


def test_nets_of_another_dtype_have_tuners_of_their_own(
    monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator
) -> None:
    # 13-32-32-1 at 64 rows is faster on one thread in float32, and on two in float64.
    tuners: dict[Any, Autotuner] = {}
    monkeypatch.setattr(dispatch, "tuner_for", lambda kind: tuners.setdefault(kind, Autotuner()))
    for dtype in ("float32", "float64", "float32"):
        net = Net((3, 5, 2), dtype=dtype)
        Engine(net.network, 1).loss(*net.draw(rng, 20))
    assert len(tuners) == 2
