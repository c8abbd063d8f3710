"""Checkpoints: a fit that ended early, in whatever way,
goes on to the bits of one that did not.
"""

import os
import signal
import sys
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fitting import Cut, cut_after

from fastmlp import (
    EMA,
    MLP,
    SGD,
    SWA,
    Adam,
    Cosine,
    EarlyStopping,
    FileError,
    History,
    ReduceLROnPlateau,
    ScheduleFreeAdamW,
    Status,
)
from fastmlp.compiler.jit import INTERPRETED
from fastmlp.rules.optimizers import OPTIMIZERS
from fastmlp.serialization import files
from fastmlp.training import loop

pytestmark = pytest.mark.skipif(INTERPRETED, reason="hundreds of fits in plain Python")
X = np.random.default_rng(0).uniform(-1, 1, (51, 3))
Y = np.sin(3 * X[:, 0]) + X[:, 1]
EPOCHS = 12


def make(trainable: Any = True, **settings: Any) -> MLP:
    chosen = {"seed": 0, "optimizer": "adam", "initializer": "glorot_uniform"}
    net = MLP((3, 8, 1), activation="tanh", **{**chosen, **settings})
    net.trainable = trainable
    return net


def fit(net: MLP, **options: Any) -> History:
    return net.fit(X, Y, **{"epochs": EPOCHS, "batch_size": 10, **options})


def cut(net: MLP, epoch: int, path: Path, **options: Any) -> None:
    """A fit that writes checkpoints and ends after an epoch."""
    with pytest.raises(Cut):
        fit(net, checkpoint=path, **with_callbacks(options, cut_after(epoch)))


def kill_at(epoch: int, number: int) -> Any:
    def callback(report: Any) -> None:
        if report.epoch == epoch:
            os.kill(os.getpid(), number)

    return callback


@pytest.fixture
def short_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "CALL_SECONDS", 1e-9)


def assert_same(history: History, net: MLP, other_history: History, other: MLP) -> None:
    for name in (
        "loss",
        "validation_loss",
        "learning_rate",
        "metrics",
        "status",
        "best_epoch",
    ):
        assert getattr(history, name) == getattr(other_history, name)
    assert net.parameters.tobytes() == other.parameters.tobytes()
    assert net.n_steps == other.n_steps
    # And what comes after: the generator and the optimizer's state.
    assert fit(net, epochs=2).loss == fit(other, epochs=2).loss


def worst(targets: Any, predictions: Any) -> float:
    return float(np.abs(targets - predictions).max())


# Of a fit that is looked at. It does not end in `EPOCHS`.
MONITORED: dict[str, Any] = {
    "validation_split": 0.25,
    "metrics": {"worst": worst, "mae": "mae"},
    "callbacks": [
        EarlyStopping(patience=20),
        ReduceLROnPlateau(0.5, patience=1, min_lr=1e-4, monitor="worst", mode="min"),
    ],
}
DROPPED: dict[str, Any] = {"dropout": 0.3, "input_dropout": 0.1, "input_noise": 0.1}
AVERAGED: dict[str, Any] = {
    "EMA": Adam(0.01, average=EMA(0.9)),
    "SWA": SGD(0.05, average=SWA(0.5)),
    "clipped EMA": SGD(0.05, momentum=0.9, average=EMA(0.8), clipvalue=0.5),
}
# By name the settings of a net, and options of its fit.
FITS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    **{
        name: (
            {"optimizer": kind(0.01 if name == "schedulefreeadamw" else Cosine(0.01))},
            {},
        )
        for name, kind in OPTIMIZERS.items()
    },
    "clipnorm": ({"optimizer": Adam(Cosine(0.01), clipnorm=0.1)}, {}),
    "global_clipnorm": ({"optimizer": Adam(Cosine(0.01), global_clipnorm=0.1)}, {}),
    **{name: ({"optimizer": optimizer}, {}) for name, optimizer in AVERAGED.items()},
    **{
        f"{name}, dropout and keep_best": (
            {
                "optimizer": replace(optimizer, clipvalue=None, global_clipnorm=0.5),
                **DROPPED,
            },
            {"validation_data": (X, Y), "keep_best": True},
        )
        for name, optimizer in {
            **AVERAGED,
            "schedule free": ScheduleFreeAdamW(0.01),
        }.items()
    },
    "monitored": ({"optimizer": Adam(0.004)}, MONITORED),
}


def with_callbacks(options: dict[str, Any], *more: Any) -> dict[str, Any]:
    return {**options, "callbacks": [*options.get("callbacks", []), *more]}


def edit(report: Any) -> None:
    if report.epoch == 2:
        report.net.parameters[0] = 0.5


@pytest.mark.few(12)
@pytest.mark.parametrize("name", FITS)
@pytest.mark.parametrize("epoch", [0, 3, EPOCHS - 1])
def test_a_resumed_fit_has_the_bits_of_a_whole_one(
    name: str, epoch: int, path: Path
) -> None:
    settings, options = FITS[name]
    whole, broken, resumed = (make(**{"l2": 0.1, **settings}) for _ in range(3))
    options = with_callbacks(options, edit)
    expected = fit(whole, **options)
    cut(broken, epoch, path, **options)
    assert len(files.read(path).arrays["loss"]) == epoch
    history = fit(resumed, checkpoint=path, resume=True, **options)
    assert_same(history, resumed, expected, whole)


def test_a_net_of_another_seed_resumes_with_the_masks_of_the_checkpoint(
    path: Path,
) -> None:
    whole = make(**DROPPED)
    expected = fit(whole)
    cut(make(**DROPPED), 3, path)
    resumed = make(seed=1, **DROPPED)
    history = fit(resumed, checkpoint=path, resume=True)
    assert_same(history, resumed, expected, whole)


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("every", [1, 3, timedelta(0), timedelta(hours=1)], ids=str)
@pytest.mark.usefixtures("short_calls")
def test_neither_how_often_nor_the_pace_changes_a_bit(
    every: Any, shuffle: bool, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"shuffle": shuffle, "validation_data": (X[:9], Y[:9])}
    whole, broken, resumed = (make() for _ in range(3))
    cut(broken, 7, path, checkpoint_every=every, **options)
    monkeypatch.undo()
    history = fit(
        resumed, checkpoint=path, checkpoint_every=every, resume=True, **options
    )
    assert_same(history, resumed, fit(whole, **options), whole)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"checkpoint_every": 5}, [0, 5, 10, 12]),
        ({}, [0, EPOCHS]),
        ({"checkpoint_every": timedelta(0)}, [*range(EPOCHS + 1)]),
    ],
)
def test_checkpoints_come_after_so_many_epochs_or_so_long(
    options: Any, expected: list[int], path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[int] = []
    monkeypatch.setattr(
        files, "write", lambda _, it: written.append(it.arrays["loss"].size)
    )
    fit(make(), checkpoint=path, callbacks=lambda report: None, **options)
    assert written == expected


@pytest.mark.parametrize("options", [{}, MONITORED], ids=["plain", "monitored"])
def test_a_chain_of_ends_is_no_more_than_one(
    options: dict[str, Any], path: Path
) -> None:
    whole = make()
    expected = fit(whole, **options)
    for epoch in range(EPOCHS):
        cut(make(), epoch, path, resume=True, **options)
    net = make()
    assert_same(fit(net, checkpoint=path, resume=True, **options), net, expected, whole)


def test_a_fit_that_stops_early_goes_on_from_its_last_epoch(path: Path) -> None:
    options = {**MONITORED, "epochs": 200}
    whole, broken, net = (make(optimizer=Adam(0.004)) for _ in range(3))
    expected = fit(whole, **options)
    assert expected.status is Status.STOPPED_EARLY
    assert 20 < len(expected.loss) < 200
    interrupted = with_callbacks(
        options, kill_at(len(expected.loss) - 2, signal.SIGINT)
    )
    with pytest.warns(UserWarning, match="fit interrupted .* the best"):
        history = fit(broken, checkpoint=path, **interrupted)
    assert history.best_epoch == expected.best_epoch
    assert broken.parameters.tobytes() == whole.parameters.tobytes()
    assert MLP.load(path).parameters.tobytes() != whole.parameters.tobytes()
    assert_same(fit(net, checkpoint=path, resume=True, **options), net, expected, whole)


def test_a_net_that_was_trained_before_is_resumed_with_its_schedule(path: Path) -> None:
    nets = [make(optimizer=Adam(Cosine(0.01))) for _ in range(2)]
    for net in nets:
        fit(net, epochs=3)
    expected = fit(nets[0])
    cut(nets[1], 6, path)
    resumed = make(optimizer=Adam(Cosine(0.01)))
    assert_same(fit(resumed, checkpoint=path, resume=True), resumed, expected, nets[0])


def test_without_a_seed_the_resumed_fit_is_that_of_the_file(path: Path) -> None:
    cut(make(seed=None), 0, path)
    start = MLP.load(path)
    history = fit(make(seed=None), checkpoint=path, resume=True)
    assert history.loss == fit(start).loss


@pytest.mark.parametrize(
    "status", [Status.COMPLETED, Status.STOPPED, Status.STOPPED_EARLY]
)
def test_a_fit_that_is_done_is_not_done_again(status: Status, path: Path) -> None:
    def stop(report: Any) -> None:
        if status is Status.STOPPED and report.epoch == 4:
            report.stop()

    net = make()
    again = make()
    epochs = list[int]()
    soon = EarlyStopping("loss", patience=1, min_delta=9.0)
    options = {
        "checkpoint": path,
        "early_stopping": soon if "EARLY" in status.name else None,
    }
    history = fit(net, callbacks=stop, **options)
    assert history.status is status
    second = fit(
        again, resume=True, callbacks=lambda r: epochs.append(r.epoch), **options
    )
    assert not epochs
    assert_same(second, again, history, net)


def test_callbacks_count_on_from_a_checkpoint_that_is_a_model(path: Path) -> None:
    cut(make(), 5, path)
    epochs: list[int] = []
    fit(
        make(), checkpoint=path, resume=True, callbacks=lambda r: epochs.append(r.epoch)
    )
    assert epochs == list(range(5, EPOCHS))
    net = make()
    fit(net, checkpoint=path)
    assert MLP.load(path).predict(X).tobytes() == net.predict(X).tobytes()
    assert MLP.load(path).n_steps == net.n_steps


CHANGES: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "epochs": ({}, {"epochs": 13}, "its epochs is 12, here it is 13"),
    "batch size": ({}, {"batch_size": 11}, "its batch_size is 10, here it is 11"),
    "shuffle": ({}, {"shuffle": False}, "its shuffle is True"),
    "weights": ({}, {"sample_weight": np.ones(51)}, "its data is"),
    "rows": ({}, {"validation_split": 0.5}, "its n_rows is 38, here it is 25"),
    "optimizer": ({"optimizer": "sgd"}, {}, "its optimizer is {'name': 'adam'"),
    "rate": ({"optimizer": Adam(0.5)}, {}, "'learning_rate': 0.001"),
    "activation": (
        {"output_activation": "relu"},
        {},
        "its output_activation is 'identity'",
    ),
    "penalty": ({"l2": 0.1}, {}, "its penalties is"),
    "dtype": ({"dtype": "float64"}, {}, "its dtype is 'float32'"),
    **{name: ({name: 0.0}, {}, f"its {name} is") for name in DROPPED},
    "layer rates": ({"layer_rates": [1, 2]}, {}, "its layer_rates is"),
    "frozen": ({"trainable": [False, True]}, {}, "its trainable is"),
    "patience": (
        {},
        {"callbacks": [EarlyStopping(patience=21)]},
        "its early_stopping is {'mon",
    ),
    "no stopping": ({}, {"callbacks": ()}, "its early_stopping is .* here it is None"),
    "no plateau": (
        {},
        {"callbacks": MONITORED["callbacks"][:1]},
        "its reduce_lr_on_plateau is",
    ),
    "metrics": (
        {},
        {"metrics": {"worst": worst}},
        r"its metrics is \['worst', 'mae'\], here it is \['wor",
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_another_fit_is_not_resumed(change: str, path: Path) -> None:
    fit(make(**DROPPED), checkpoint=path, **MONITORED)
    settings, options, words = CHANGES[change]
    net = make(**{**DROPPED, **settings})
    before = net.parameters.copy()
    with pytest.raises(
        ValueError, match=f"a checkpoint of another fit: .*{words}"
    ) as caught:
        fit(net, checkpoint=path, resume=True, **{**MONITORED, **options})
    assert net.parameters.tobytes() == before.tobytes()
    assert not isinstance(caught.value, FileError)


def test_a_fit_without_early_stopping_is_not_resumed_with_it(path: Path) -> None:
    fit(make(), checkpoint=path)
    stopping: dict[str, Any] = {"early_stopping": EarlyStopping("loss")}
    with pytest.raises(
        ValueError, match=r"its early_stopping is None, here it is {'monitor'"
    ):
        fit(make(), checkpoint=path, resume=True, **stopping)


def test_a_fit_without_validation_data_is_not_resumed_with_it(path: Path) -> None:
    fit(make(), checkpoint=path)
    with pytest.raises(
        ValueError, match="it has no validation data, here there is val"
    ):
        fit(make(), checkpoint=path, resume=True, validation_data=(X, Y))


def test_other_validation_data_are_not_resumed(path: Path) -> None:
    options: dict[str, Any] = {"early_stopping": 20, "checkpoint": path}
    fit(make(), validation_data=(X[:9], Y[:9]), **options)
    with pytest.raises(ValueError, match="its validation_data is"):
        fit(make(), validation_data=(X[:9], Y[:9] + 1), resume=True, **options)


def test_other_data_are_not_resumed(path: Path) -> None:
    fit(make(), checkpoint=path)
    with pytest.raises(ValueError, match="its data is"):
        make().fit(
            X, Y + 1e-7, epochs=EPOCHS, batch_size=10, checkpoint=path, resume=True
        )


def test_a_fit_with_validation_data_is_not_resumed_without(path: Path) -> None:
    fit(make(), checkpoint=path, validation_data=(X, Y))
    with pytest.raises(
        ValueError, match="it has validation data, here there is no validation_data"
    ):
        fit(make(), checkpoint=path, resume=True)


SERIES = ["loss", "validation_loss", "learning_rate", "metrics.mae", "best_parameters"]


@pytest.mark.parametrize("name", SERIES)
def test_series_that_do_not_fit_each_other_are_a_file_error(
    name: str, path: Path
) -> None:
    fit(make(), checkpoint=path, **MONITORED)
    content = files.read(path)
    content.arrays[name] = content.arrays[name][1:]
    files.write(path, content)
    words = "must be one for each epoch" if name in SERIES[:3] else None
    with pytest.raises(FileError, match=words):
        fit(make(), checkpoint=path, resume=True, **MONITORED)


def test_a_model_file_is_no_checkpoint(path: Path) -> None:
    make().save(path, include_training_state=True)
    with pytest.raises(FileError, match="a model file, not a checkpoint"):
        fit(make(), checkpoint=path, resume=True)
    path.write_bytes(b"junk")
    with pytest.raises(FileError):
        fit(make(), checkpoint=path, resume=True)


def test_a_disk_that_fills_up_is_a_warning(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = files.write

    def fill(where: Any, content: Any) -> None:
        if 0 < len(content.arrays["loss"]) < 6:
            raise OSError(28, "No space left on device")
        write(where, content)

    monkeypatch.setattr(files, "write", fill)
    net = make()
    whole = make()
    with pytest.warns(
        RuntimeWarning, match="no checkpoint was written: .*No space"
    ) as caught:
        history = fit(net, checkpoint=path, checkpoint_every=3)
    assert caught[0].filename == __file__
    assert len(files.read(path).arrays["loss"]) == EPOCHS
    assert_same(history, net, fit(whole), whole)


def test_a_divergence_leaves_the_checkpoint_from_before_it(path: Path) -> None:
    def blow_up(report: Any) -> None:
        if report.epoch == 3:
            report.net.weights[1][:] = 1e30

    net = make(optimizer=SGD(1e-3))
    with pytest.warns(RuntimeWarning, match="diverged in epoch 5"):
        fit(net, checkpoint=path, callbacks=blow_up)
    assert len(files.read(path).arrays["loss"]) == 4
    assert np.isfinite(MLP.load(path).parameters).all()


@pytest.fixture
def terminating() -> Iterator[None]:
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.mark.usefixtures("terminating")
def test_sigterm_and_ctrl_c_leave_a_checkpoint(path: Path) -> None:
    whole = make()
    expected = fit(whole)
    broken = make()
    with pytest.raises(SystemExit):
        fit(broken, checkpoint=path, callbacks=kill_at(3, signal.SIGTERM))
    assert np.isfinite(broken.predict(X)).all()
    assert fit(broken, epochs=1).status is Status.COMPLETED
    assert len(files.read(path).arrays["loss"]) == 3
    with pytest.warns(UserWarning, match="interrupted in epoch 8"):
        fit(make(), checkpoint=path, resume=True, callbacks=kill_at(6, signal.SIGINT))
    assert len(files.read(path).arrays["loss"]) == 6
    net = make()
    assert_same(fit(net, checkpoint=path, resume=True), net, expected, whole)


@pytest.mark.usefixtures("short_calls")
def test_the_pace_changes_no_order_after_a_divergence(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    nets = [make(optimizer=SGD(1e30)) for _ in range(2)]
    for net in nets:
        with pytest.warns(RuntimeWarning, match="diverged"):
            fit(net)
        monkeypatch.undo()
        net.optimizer = Adam(0.01)
    assert fit(nets[0]).loss == fit(nets[1]).loss
