"""The choice between one thread and a team, from timings that the test makes up."""

from itertools import pairwise

from fastmlp.backends.cpu.dispatch.dispatch import Autotuner, tuner_for
from fastmlp.backends.cpu.tuning import RETRY


def choices(tuner: Autotuner, n_calls: int, alone: float, together: float) -> list[bool]:
    """What it chooses where a call takes so long on one thread, and so long with a team."""
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
