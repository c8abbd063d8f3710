"""What looks at a fit: through checkpoints, and with arguments that are checked at once."""

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastmlp import (
    MLP,
    Adam,
    EarlyStopping,
    History,
    ReduceLROnPlateau,
    Status,
    fit_many,
)
from fastmlp.training import request

random = np.random.default_rng(0)
X = random.uniform(-1, 1, (80, 3))
Y = X[:, 0] * X[:, 1] + 0.3 * random.normal(size=80)
WEIGHTS = random.integers(0, 3, 80).astype(float)


def worst(targets: Any, predictions: Any) -> float:
    return float(np.abs(targets - predictions).max())


SETTINGS: dict[str, Any] = {
    "epochs": 200,
    "batch_size": 8,
    "validation_split": 0.25,
    "metrics": {"worst": worst, "mae": "mae"},
    "callbacks": [
        EarlyStopping(patience=20),
        ReduceLROnPlateau(0.5, patience=4, cooldown=2, min_lr=1e-4, monitor="worst", mode="min"),
    ],
}


def make(**settings: Any) -> MLP:
    return MLP((3, 16, 1), **{"seed": 0, "optimizer": Adam(0.004), **settings})


def fit(net: MLP, **options: Any) -> History:
    return net.fit(X, Y, **{**SETTINGS, **options})


def with_callback(callback: Callable[..., Any]) -> list[Any]:
    return [*SETTINGS["callbacks"], callback]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run.safetensors"


@pytest.fixture(scope="module")
def whole() -> tuple[MLP, History]:
    """A fit that never ended before its time."""
    net = make()
    return net, fit(net)


def assert_same(net: MLP, history: History, whole: tuple[MLP, History]) -> None:
    other, expected = whole
    for name in ("loss", "validation_loss", "learning_rate", "metrics", "status", "best_epoch"):
        assert getattr(history, name) == getattr(expected, name)
    assert net.parameters.tobytes() == other.parameters.tobytes()
    assert net.n_steps == other.n_steps


def test_the_fit_has_stopped_and_its_rate_has_fallen(whole: tuple[MLP, History]) -> None:
    history = whole[1]
    assert history.status is Status.STOPPED_EARLY
    assert len(set(history.learning_rate)) > 3
    assert 20 < len(history.loss) < 200


# --- checkpoints ---


def test_a_fit_that_is_interrupted_has_its_best_epoch_and_goes_on_from_its_last(
    path: Path, whole: tuple[MLP, History]
) -> None:
    def end(report: Any) -> None:
        if report.epoch == len(whole[1].loss) - 2:
            raise KeyboardInterrupt

    broken, net = make(), make()
    with pytest.warns(UserWarning, match="fit interrupted .* the best"):
        history = fit(broken, checkpoint=path, callbacks=with_callback(end))
    assert history.best_epoch == whole[1].best_epoch
    assert broken.parameters.tobytes() == whole[0].parameters.tobytes()
    assert MLP.load(path).parameters.tobytes() != whole[0].parameters.tobytes()
    assert_same(net, fit(net, checkpoint=path, resume=True), whole)


# --- time ---


class Clock:
    """A clock that a callback advances by a second an epoch."""

    def __init__(self) -> None:
        self.now = 0.0

    def perf_counter(self) -> float:
        return self.now

    def __call__(self, report: Any) -> None:
        self.now += 1


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    result = Clock()
    monkeypatch.setattr(request, "time", result)
    return result


@pytest.mark.parametrize("limit", [2.5, timedelta(seconds=3)])
def test_a_fit_ends_after_the_epoch_in_which_its_time_is_up(limit: Any, clock: Clock) -> None:
    net, same = make(), make()
    history = net.fit(X, Y, epochs=9, time_limit=limit, callbacks=clock)
    assert (history.status, len(history.loss)) == (Status.OUT_OF_TIME, 3)
    same.fit(X, Y, epochs=3)
    assert net.parameters.tobytes() == same.parameters.tobytes()
    # An epoch is done, whatever the limit; a fit whose epochs are done is complete.
    options: dict[str, Any] = {"callbacks": clock, "time_limit": 1e-9}
    assert len(make().fit(X, Y, epochs=9, **options).loss) == 1
    assert make().fit(X, Y, epochs=1, **options).status is Status.COMPLETED


def test_windows_of_many_epochs_end_in_time() -> None:
    history = make().fit(X, Y, epochs=10**9, time_limit=0.02)
    assert history.status is Status.OUT_OF_TIME
    assert history.seconds >= 0.02


def test_the_time_of_a_fit_that_goes_on_counts_in_all(path: Path, clock: Clock) -> None:
    whole = make()
    ticking: dict[str, Any] = {**SETTINGS, "callbacks": [*SETTINGS["callbacks"], clock]}
    options = {**ticking, "epochs": 12, "checkpoint": path, "resume": True}
    limits, lengths = (4, 4, 7, None), (4, 4, 7, 12)
    for limit, length in zip(limits, lengths, strict=True):
        net = make()
        history = net.fit(X, Y, **options, time_limit=limit)
        assert len(history.loss) == length
        assert history.status is (Status.OUT_OF_TIME if limit else Status.COMPLETED)
    assert_same(net, history, (whole, whole.fit(X, Y, **{**ticking, "epochs": 12})))


def test_each_net_of_many_has_its_time() -> None:
    histories = fit_many([make(seed=k) for k in range(3)], X, Y, epochs=10**9, time_limit=0.05)
    assert [history.status for history in histories] == [Status.OUT_OF_TIME] * 3
    assert all(history.loss for history in histories)


# --- the split ---


@pytest.mark.parametrize("weighted", [False, True])
def test_a_split_holds_out_the_last_rows(weighted: bool) -> None:
    weight = WEIGHTS if weighted else None
    parts = [None if weight is None else weight[s] for s in (slice(60), slice(60, 80))]
    split, by_hand = make(), make()
    history = split.fit(X, Y, epochs=5, sample_weight=weight, validation_split=0.25)
    expected = by_hand.fit(
        X[:60],
        Y[:60],
        epochs=5,
        sample_weight=parts[0],
        validation_data=(X[60:], Y[60:], parts[1]),
    )
    assert history.loss == expected.loss
    assert history.validation_loss == pytest.approx(expected.validation_loss, rel=1e-6)
    assert split.parameters.tobytes() == by_hand.parameters.tobytes()


ROWS = np.random.default_rng(0).uniform(-1, 1, (80, 3))
TARGETS = ROWS[:, 0] * ROWS[:, 1]


def small_net() -> MLP:
    return MLP((3, 16, 1), seed=0)


GIVEN: list[tuple[dict[str, Any], type, str]] = [
    ({"early_stopping": True}, TypeError, "early_stopping must be a number of .* got True; try"),
    ({"early_stopping": 2.5}, TypeError, "early_stopping must be a number of epochs or EarlyS"),
    ({"early_stopping": -1}, ValueError, "early_stopping must be 0 or more epochs, got -1"),
    ({"keep_best": 1}, TypeError, "keep_best must be True or False"),
    ({"time_limit": 0}, ValueError, "time_limit must be seconds above 0, or a datetime.timedelta"),
    ({"time_limit": timedelta(-1)}, ValueError, "time_limit must be seconds above 0"),
    ({"time_limit": "1 h"}, TypeError, "time_limit must be seconds above 0"),
    ({"validation_split": 0.0}, ValueError, r"validation_split must be a number in \(0, 1\)"),
    ({"validation_split": 20}, ValueError, r"validation_split must be a number in \(0, 1\)"),
    ({"validation_split": 0.999}, ValueError, "0.999 of 80 rows leaves 0 to train on and 80"),
    (
        {"sample_weight": np.arange(80) < 50, "validation_split": 0.25},
        ValueError,
        "sample_weight must not be 0 in all rows of a part of the split",
    ),
    ({"callbacks": EarlyStopping}, TypeError, r"has the class EarlyStopping: EarlyStopping\(...\)"),
    (
        {"callbacks": [EarlyStopping()], "early_stopping": 3, "validation_split": 0.5},
        ValueError,
        "got 2 EarlyStopping, at most one is possible",
    ),
    ({"early_stopping": EarlyStopping("val_loss")}, ValueError, "did you mean 'validation_loss'"),
    (
        {"callbacks": ReduceLROnPlateau(monitor="auc"), "validation_split": 0.5},
        ValueError,
        "ReduceLROnPlateau: unknown monitor 'auc'; known: loss, validation_loss",
    ),
    (
        {
            "early_stopping": EarlyStopping("worst"),
            "metrics": {"worst": worst},
            "validation_split": 0.5,
        },
        ValueError,
        "early_stopping: monitor='worst' needs mode='max' if higher is better, else mode='min'",
    ),
    ({"callbacks": [3, EarlyStopping("loss")]}, TypeError, "callbacks must be functions"),
]


@pytest.mark.parametrize(("options", "error", "words"), GIVEN)
def test_arguments_are_checked(options: dict[str, Any], error: type, words: str) -> None:
    nets = [small_net(), small_net()]
    before = nets[0].parameters.copy()
    with pytest.raises(error, match=f"MLP.fit: .*{words}"):
        nets[0].fit(ROWS, TARGETS, **options)
    with pytest.raises(error, match=rf"fit_many(: nets\[0\])?: .*{words}"):
        fit_many(nets, ROWS, TARGETS, **options)
    assert nets[0].parameters.tobytes() == before.tobytes()


@pytest.mark.parametrize("options", [{"early_stopping": 3}, {"keep_best": True}])
def test_validation_rows_are_needed(options: Any) -> None:
    words = "looks at validation rows: give validation_data=.*, or use EarlyStopping.monitor='loss'"
    with pytest.raises(ValueError, match=f"^MLP.fit: {next(iter(options))} {words}"):
        small_net().fit(ROWS, TARGETS, **options)
    with pytest.raises(ValueError, match=r"fit_many: .*give validation_rows= or validation_split="):
        fit_many([small_net()], ROWS, TARGETS, **options)


def test_validation_rows_are_given_once() -> None:
    with pytest.raises(ValueError, match="give validation_data or validation_split, not both"):
        small_net().fit(ROWS, TARGETS, validation_data=(ROWS, TARGETS), validation_split=0.1)
    with pytest.raises(ValueError, match="give validation_rows or validation_split, not both"):
        fit_many([small_net()], ROWS, TARGETS, validation_rows=[1, 2], validation_split=0.1)
