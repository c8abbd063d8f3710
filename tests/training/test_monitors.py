"""Monitored fits that are interrupted, time limits, and rows that are split off."""

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
