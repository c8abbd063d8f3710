"""Arguments of early stopping, plateaus, metrics, splits and times: bad ones are named at once."""

from datetime import timedelta
from typing import Any

import numpy as np
import pytest

from fastmlp import MLP, EarlyStopping, ReduceLROnPlateau, fit_many

X = np.random.default_rng(0).uniform(-1, 1, (80, 3))
Y = X[:, 0] * X[:, 1]


def make() -> MLP:
    return MLP((3, 16, 1), seed=0)


def worst(targets: Any, predictions: Any) -> float:
    return float(np.abs(targets - predictions).max())


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
    nets = [make(), make()]
    before = nets[0].parameters.copy()
    with pytest.raises(error, match=f"MLP.fit: .*{words}"):
        nets[0].fit(X, Y, **options)
    with pytest.raises(error, match=rf"fit_many(: nets\[0\])?: .*{words}"):
        fit_many(nets, X, Y, **options)
    assert nets[0].parameters.tobytes() == before.tobytes()


@pytest.mark.parametrize("options", [{"early_stopping": 3}, {"keep_best": True}])
def test_validation_rows_are_needed(options: Any) -> None:
    words = "looks at validation rows: give validation_data=.*, or use EarlyStopping.monitor='loss'"
    with pytest.raises(ValueError, match=f"^MLP.fit: {next(iter(options))} {words}"):
        make().fit(X, Y, **options)
    with pytest.raises(ValueError, match=r"fit_many: .*give validation_rows= or validation_split="):
        fit_many([make()], X, Y, **options)


def test_validation_rows_are_given_once() -> None:
    with pytest.raises(ValueError, match="give validation_data or validation_split, not both"):
        make().fit(X, Y, validation_data=(X, Y), validation_split=0.1)
    with pytest.raises(ValueError, match="give validation_rows or validation_split, not both"):
        fit_many([make()], X, Y, validation_rows=[1, 2], validation_split=0.1)


@pytest.mark.parametrize(
    ("kind", "settings", "error", "words"),
    [
        (EarlyStopping, {"monitor": 10}, TypeError, r"got 10; did you mean patience=10\?"),
        (EarlyStopping, {"patience": -1}, ValueError, "patience must be an integer of 0 or more"),
        (EarlyStopping, {"patience": 2.0}, TypeError, "patience must be an integer of 0 or more"),
        (EarlyStopping, {"patience": False}, TypeError, "patience must be an integer of 0"),
        (EarlyStopping, {"patience": 0.0}, TypeError, "patience must be an integer of 0"),
        (EarlyStopping, {"min_delta": -1}, ValueError, "min_delta must be a finite number of 0"),
        (EarlyStopping, {"mode": "auto"}, ValueError, "unknown mode 'auto': leave it out; known"),
        (EarlyStopping, {"mode": "maximize"}, ValueError, "did you mean 'max'"),
        (EarlyStopping, {"restore_best_weights": 1}, TypeError, "must be True or False"),
        (EarlyStopping, {"start_from_epoch": -2}, ValueError, "start_from_epoch must be an int"),
        (EarlyStopping, {"tol": 1e-4}, TypeError, "did you mean 'min_delta'"),
        (EarlyStopping, {"n_iter_no_change": 5}, TypeError, "did you mean 'patience'"),
        (ReduceLROnPlateau, {"factor": 1.0}, ValueError, r"factor must be a number in \(0, 1\)"),
        (ReduceLROnPlateau, {"factor": "loss"}, TypeError, r"factor must be a number in \(0, 1\)"),
        (ReduceLROnPlateau, {"cooldown": -1}, ValueError, "cooldown must be an integer of 0 or m"),
        (ReduceLROnPlateau, {"min_lr": -1.0}, ValueError, "min_lr must be a finite number of 0"),
        (ReduceLROnPlateau, {"eta_min": 0.1}, TypeError, "did you mean 'min_lr'"),
    ],
)
def test_settings_are_checked(kind: Any, settings: dict[str, Any], error: type, words: str) -> None:
    with pytest.raises(error, match=f"^{kind.__name__}: .*{words}"):
        kind(**settings)
