"""EarlyStopping, ReduceLROnPlateau, keep_best and time limits:
beside Keras' formulas, and at every ending; and rows that are split off.
"""

import os
import signal
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from datetime import timedelta
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastmlp import (
    MLP,
    SGD,
    Adam,
    Cosine,
    EarlyStopping,
    History,
    ReduceLROnPlateau,
    Report,
    Status,
    fit_many,
)
from fastmlp.training import request
from fastmlp.training.options import FitOptions
from fastmlp.training.stopping import EpochWatch

random = np.random.default_rng(0)
X = random.uniform(-1, 1, (80, 3))
Y = X[:, 0] * X[:, 1] + 0.3 * random.normal(size=80)
SPLIT: Any = {"validation_split": 0.25, "batch_size": 8}
CURVES = {
    "falling": 1 / np.arange(1.0, 41),
    "noisy": 1 / np.arange(1.0, 41) + 0.1 * random.normal(size=40),
    "u-shaped": (np.arange(40) - 12.3) ** 2 / 400,
    "flat": np.full(40, 0.5),
    "steps": np.repeat([0.9, 0.7, 0.72, 0.6, 0.61, 0.62, 0.5, 0.5], 5),
    "random": random.uniform(size=40),
}
each_curve = pytest.mark.parametrize("curve", CURVES)


def make(**settings: Any) -> MLP:
    return MLP(
        (3, 16, 1),
        **{"seed": 0, "initializer": "he_uniform", "optimizer": Adam(0.01), **settings},
    )


def keras_stopping(
    losses: Sequence[float], patience: int, min_delta: float, start: int
) -> tuple[int, int | None]:
    """Keras' EarlyStopping of losses:
    the number of epochs done, and the epoch restored.
    """
    best = np.inf
    best_epoch = None
    wait = 0
    for epoch, loss in enumerate(losses):
        if epoch < start:
            continue
        wait += 1
        if loss + min_delta < best:
            best = loss
            best_epoch = epoch
            wait = 0
        elif wait >= patience and epoch > 0:
            return epoch + 1, best_epoch
    return len(losses), best_epoch


def keras_rates(
    losses: Sequence[float],
    rate: float,
    *,
    factor: float,
    patience: int,
    min_delta: float,
    cooldown: int,
    min_lr: float,
) -> list[float]:
    """Keras' ReduceLROnPlateau of losses: the rate of each epoch."""
    best = np.inf
    wait = 0
    left = 0
    rates = []
    for loss in losses:
        rates.append(rate)
        if left > 0:
            left = left - 1
            wait = 0
        if loss < best - min_delta:
            best, wait = loss, 0
        elif left == 0:
            wait += 1
            if wait >= patience and rate > min_lr:
                rate = max(rate * factor, min_lr)
                left = cooldown
                wait = 0
    return rates


def follow(losses: Sequence[float], *settings: Any, rate: float = 0.1) -> History:
    watch = EpochWatch(*settings)
    history = History()
    rates = watch.scaled(lambda steps: np.full(len(steps), rate))
    for epoch, loss in enumerate(losses):
        history.loss.append(0.0)
        history.validation_loss.append(loss)
        history.learning_rate += rates(np.array([epoch])).tolist()
        if watch.take(history, np.array([epoch])):
            break
    if watch.best is not None:
        assert watch.best == [history.best_epoch]
    return history


@each_curve
@pytest.mark.parametrize(
    ("patience", "min_delta", "start"),
    list(product([0, 1, 3, 10], [0.0, 0.01], [0, 5])),
)
def test_it_stops_at_keras_epochs(
    curve: str, patience: int, min_delta: float, start: int
) -> None:
    settings = EarlyStopping(
        patience=patience, min_delta=min_delta, start_from_epoch=start, mode="min"
    )
    losses = CURVES[curve].tolist()
    history = follow(losses, settings, None)
    expected = keras_stopping(losses, patience, min_delta, start)
    assert (len(history.loss), history.best_epoch) == expected
    # The same of scores, of which higher is better.
    scores = [-loss for loss in losses]
    history = follow(scores, EarlyStopping(**{**vars(settings), "mode": "max"}), None)
    assert (len(history.loss), history.best_epoch) == expected


@pytest.mark.few(12)
@each_curve
@pytest.mark.parametrize(
    ("patience", "min_delta", "cooldown", "min_lr"),
    list(product([0, 1, 3], [0.0, 1e-4, 0.01], [0, 2], [0.0, 0.02])),
)
def test_rates_fall_at_keras_epochs(
    curve: str, patience: int, min_delta: float, cooldown: int, min_lr: float
) -> None:
    settings: Any = {
        "factor": 0.5,
        "patience": patience,
        "min_delta": min_delta,
        "cooldown": cooldown,
        "min_lr": min_lr,
    }
    plateau = ReduceLROnPlateau(**settings, mode="min")
    history = follow(CURVES[curve].tolist(), None, plateau)
    expected = keras_rates(CURVES[curve].tolist(), 0.1, **settings)
    np.testing.assert_allclose(history.learning_rate, expected, rtol=1e-14)


def test_losses_that_are_not_finite_or_of_training() -> None:
    losses = [np.nan, -np.inf, 1.0, np.nan, np.inf, 2.0]
    history = follow(losses, EarlyStopping(patience=3, mode="min"), None)
    assert (len(history.loss), history.best_epoch) == (6, 2)
    history = follow([np.nan] * 6, EarlyStopping(patience=3, mode="min"), None)
    assert (len(history.loss), history.best_epoch) == (3, None)
    settings = EarlyStopping("loss", patience=2, min_delta=0.01)
    history = make().fit(X, Y, epochs=300, early_stopping=settings)
    assert history.status is Status.STOPPED_EARLY
    assert len(history.loss) - 1 - int(history.best_epoch or 0) == 2
    assert history.validation_loss == []


# --- in a fit ---


def test_a_number_of_epochs_is_patience() -> None:
    nets = [make() for _ in range(3)]
    whole = make().fit(X, Y, epochs=300, **SPLIT)
    histories = [
        nets[0].fit(X, Y, epochs=300, early_stopping=10, **SPLIT),
        nets[1].fit(X, Y, epochs=300, early_stopping=EarlyStopping(), **SPLIT),
        nets[2].fit(X, Y, epochs=300, callbacks=[EarlyStopping()], **SPLIT),
    ]
    for net, history in zip(nets, histories, strict=True):
        n = len(history.loss)
        assert history.status is Status.STOPPED_EARLY
        assert history.validation_loss == whole.validation_loss[:n]
        assert n < 300
        assert history.best_epoch == n - 11 == int(np.argmin(history.validation_loss))
        assert net.parameters.tobytes() == nets[0].parameters.tobytes()


def test_the_net_is_that_of_the_best_epoch() -> None:
    best = make()
    kept = make()
    last = make()
    history = kept.fit(X, Y, epochs=120, keep_best=True, **SPLIT)
    assert history.best_epoch is not None
    best.fit(X, Y, epochs=history.best_epoch + 1, **SPLIT)
    assert kept.parameters.tobytes() == best.parameters.tobytes()
    assert (history.status, len(history.loss)) == (Status.COMPLETED, 120)
    assert kept.n_steps == 120 * 8
    not_restored = EarlyStopping(patience=5, restore_best_weights=False)
    history = last.fit(X, Y, epochs=120, early_stopping=not_restored, **SPLIT)
    same = make()
    same.fit(X, Y, epochs=len(history.loss), **SPLIT)
    assert last.parameters.tobytes() == same.parameters.tobytes()
    kept_too = make()
    best = make()
    values = kept_too.fit(
        X, Y, epochs=120, early_stopping=not_restored, keep_best=True, **SPLIT
    )
    assert values.loss == history.loss
    best.fit(X, Y, epochs=int(values.best_epoch or 0) + 1, **SPLIT)
    assert kept_too.parameters.tobytes() == best.parameters.tobytes()


def raising(report: Report) -> None:
    raise LookupError


@pytest.mark.parametrize(
    ("ending", "status", "words"),
    [
        (raising, None, ""),
        (
            lambda _: os.kill(os.getpid(), signal.SIGINT),
            Status.INTERRUPTED,
            "interrupted in epoch",
        ),
        (
            lambda report: report.net.weights[1].fill(1e30),
            Status.DIVERGED,
            "diverged in epoch",
        ),
        (Report.stop, Status.STOPPED, ""),
        (lambda report: None, Status.COMPLETED, ""),
    ],
)
def test_the_best_epoch_is_restored_at_every_ending_and_a_warning_names_it(
    ending: Callable[[Report], None], status: Status | None, words: str
) -> None:
    net = make()
    best = make()
    histories = []

    def last(report: Report) -> None:
        histories.append(report.history)
        if report.epoch == 60:
            ending(report)

    settings: Any = {"epochs": 80, "keep_best": True, "callbacks": last, **SPLIT}
    expected: Any = nullcontext()
    if words:
        words += " .*the net has the parameters of epoch .*, the best"
        expected = pytest.warns((UserWarning, RuntimeWarning), match=words)
    elif status is None:
        expected = pytest.raises(LookupError)
    with expected as caught:
        assert net.fit(X, Y, **settings).status is status
    epoch = int(histories[0].best_epoch or 0)
    if words:
        # Epochs are counted from 1 in sentences.
        assert f"epoch {epoch + 1}, the best" in str(caught[0].message)
    assert 0 < epoch < len(histories) - 1
    best.fit(X, Y, epochs=epoch + 1, **SPLIT)
    assert net.parameters.tobytes() == best.parameters.tobytes()


def test_a_fit_after_one_that_stops_early_keeps_no_epoch() -> None:
    seen: list[int | None] = []
    net = make()
    settings: Any = {"epochs": 30, "early_stopping": 30, **SPLIT}
    net.fit(
        X,
        Y,
        callbacks=lambda report: seen.append(report.history.best_epoch),
        **settings,
    )
    assert seen[:2] == [0, 1]
    assert net.fit(X, Y, epochs=2).status is Status.COMPLETED
    assert net.n_steps == 30 * 8 + 2 * 3


def test_a_fit_without_a_monitor_keeps_no_epoch() -> None:
    assert EpochWatch(None, None).best is None
    assert not FitOptions().look_at_epochs
    history = make().fit(X, Y, epochs=2)
    assert history.best_epoch is None
    assert history.metrics == {}
    assert "best" not in repr(history)


# --- plateaus in a fit ---


def test_a_plateau_lowers_the_rates_of_a_schedule() -> None:
    schedule = Cosine(0.02)
    reduce = ReduceLROnPlateau(0.5, patience=1, monitor="loss", min_delta=10.0)
    net = make(optimizer=SGD(schedule))
    history = net.fit(X, Y, epochs=6, batch_size=80, callbacks=reduce)
    # The first epoch is the best; each one after it lowers the rate.
    expected = schedule(np.arange(6), 6) * 0.5 ** np.array([0, 0, 1, 2, 3, 4])
    np.testing.assert_allclose(history.learning_rate, expected, rtol=1e-12)


def test_lowered_rates_train_as_set_by_hand() -> None:
    lowered = make(optimizer=SGD(0.1))
    by_hand = make(optimizer=SGD(0.1))
    reduce = ReduceLROnPlateau(
        0.25, patience=2, monitor="loss", min_delta=10.0, min_lr=0.01
    )
    history = lowered.fit(X, Y, epochs=8, callbacks=reduce)
    rates = [0.1, 0.1, 0.1, 0.025, 0.025, 0.01, 0.01, 0.01]
    assert history.learning_rate == pytest.approx(rates, rel=1e-14)
    for rate in rates:
        by_hand.optimizer = SGD(rate)
        by_hand.fit(X, Y, epochs=1)
    np.testing.assert_allclose(lowered.parameters, by_hand.parameters, rtol=1e-6)


# --- many nets ---


def test_a_split_of_many_nets_is_that_of_their_rows() -> None:
    rows = np.arange(79, -1, -2)
    together = make()
    own = make()
    settings: Any = {"epochs": 40, "keep_best": True, **SPLIT}
    (history,) = fit_many([together], X, Y, rows=rows, **settings)
    assert history.loss == own.fit(X[rows], Y[rows], **settings).loss
    assert together.parameters.tobytes() == own.parameters.tobytes()


# --- time ---


class Clock:
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
def test_a_fit_ends_after_the_epoch_in_which_its_time_is_up(
    limit: Any, clock: Clock
) -> None:
    net = make()
    same = make()
    history = net.fit(X, Y, epochs=9, time_limit=limit, callbacks=clock)
    assert (history.status, len(history.loss)) == (Status.OUT_OF_TIME, 3)
    same.fit(X, Y, epochs=3)
    assert net.parameters.tobytes() == same.parameters.tobytes()
    # An epoch is done, whatever the limit; a fit whose epochs are done is complete.
    options: dict[str, Any] = {"callbacks": clock, "time_limit": 1e-9}
    assert len(make().fit(X, Y, epochs=9, **options).loss) == 1
    assert make().fit(X, Y, epochs=1, **options).status is Status.COMPLETED


def test_time_ends_a_fit() -> None:
    history = make().fit(X, Y, epochs=10**9, time_limit=0.02)
    assert history.status is Status.OUT_OF_TIME
    assert history.seconds >= 0.02


def test_time_ends_each_of_many_nets() -> None:
    histories = fit_many(
        [make(seed=k) for k in range(3)], X, Y, epochs=10**9, time_limit=0.05
    )
    assert [history.status for history in histories] == [Status.OUT_OF_TIME] * 3
    assert all(history.loss for history in histories)


def test_the_time_of_a_fit_that_goes_on_counts_in_all(
    tmp_path: Path, clock: Clock
) -> None:
    whole = make()
    for limit, length in ((4, 4), (4, 4), (7, 7), (None, 12)):
        net = make()
        options = dict[str, Any](checkpoint=tmp_path / "run", resume=True)
        history = net.fit(X, Y, epochs=12, time_limit=limit, callbacks=clock, **options)
        assert len(history.loss) == length
        assert history.status is (Status.OUT_OF_TIME if limit else Status.COMPLETED)
    assert history.loss == whole.fit(X, Y, epochs=12).loss
    assert net.parameters.tobytes() == whole.parameters.tobytes()


# --- the split ---


@pytest.mark.parametrize("weighted", [False, True])
def test_a_split_holds_out_the_last_rows(weighted: bool) -> None:
    if weighted:
        weight = random.integers(0, 3, 80).astype(float)
    else:
        weight = None
    parts = [None if weight is None else weight[s] for s in (slice(60), slice(60, 80))]
    split = make()
    by_hand = make()
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
