"""Fits that end but hardly learn warn, with the remedy; others do not."""

import warnings
from typing import Any

import numpy as np
import pytest

from fastmlp import (
    MLP,
    SGD,
    Adam,
    Blocks,
    EarlyStopping,
    LevenbergMarquardt,
    fit_many,
)

RNG = np.random.default_rng(0)
X = RNG.normal(size=(64, 3))
Y = X[:, 0] * X[:, 1]
CODES = np.eye(3)[np.arange(64) % 3]
STANDARDISE = "standardise it, (y - y.mean(axis=0)) / y.std(axis=0)"


def net(n_outputs: int = 1, **settings: Any) -> MLP:
    return MLP((3, 8, n_outputs), seed=0, **settings)


def warned(model: MLP, y: Any, **options: Any) -> list[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model.fit(X, y, **{"epochs": 3, **options})
    return [f"{each.category.__name__}: {each.message}" for each in caught]


@pytest.mark.parametrize(
    ("y", "column"),
    [
        (Y * 1e12, "y"),
        (Y + 1e6, "y"),
        (Y * 1e-6 + 1, "y"),
        (np.full(64, 1e12), "y"),
        (np.column_stack([Y, Y + 3e6]), "column 1 of y"),
    ],
)
def test_targets_far_from_zero_or_large(y: Any, column: str) -> None:
    model = net(y.ndim, dtype="float64")
    (message,) = warned(model, y)
    assert message.startswith(f"UserWarning: {column} has mean ")
    assert message.endswith(f", which a net hardly learns: {STANDARDISE}")


def test_one_hot_rows_with_mse() -> None:
    (message,) = warned(net(3), CODES)
    assert message == (
        "UserWarning: rows of y are one-hot, and the loss is 'mse': classes have "
        "loss='cross_entropy', which predicts probabilities"
    )


def test_a_loss_that_explodes() -> None:
    """A step of rate 1.5 doubles the error of a net of one weight."""
    model = MLP((3, 1), seed=0, optimizer=SGD(1.5), dtype="float64")
    rows = np.zeros((64, 3))
    rows[:, 0] = 1.0
    with pytest.warns(
        RuntimeWarning, match=r"^the loss rose from .* to .*: try a small"
    ):
        model.fit(rows, rows[:, 0], epochs=30, batch_size=64)


def test_an_epoch_that_is_kept_did_not_explode() -> None:
    model = MLP((1, 1), seed=0, optimizer=SGD(1.5), dtype="float64")
    history = model.fit(
        np.ones((8, 1)),
        np.ones(8),
        epochs=30,
        batch_size=8,
        early_stopping=EarlyStopping("loss", patience=None),
    )
    assert history.best_epoch == 0


@pytest.mark.parametrize(
    ("settings", "y"),
    [
        ({}, Y),
        ({}, np.ones(64)),
        ({}, 1e5 * Y + 2e5),
        ({}, 1e3 + Y),
        ({"loss": "poisson"}, np.full(64, 1e7)),
        ({"loss": "cross_entropy", "n_outputs": 3}, CODES),
        ({"n_outputs": 3}, CODES[:3].repeat(22, axis=0)[:64] * [1, 1, 2]),
        ({"n_outputs": 2}, np.column_stack([Y, X[:, 2]])),
        ({"optimizer": LevenbergMarquardt()}, Y * 1e12),
    ],
)
def test_other_fits_do_not_warn(settings: dict[str, Any], y: Any) -> None:
    assert warned(net(**settings), y) == []


def test_a_single_step_is_not_judged() -> None:
    assert warned(net(), Y * 1e12, epochs=1, batch_size=64) == []


def test_blocks_of_a_large_target_warn() -> None:
    source = Blocks.from_arrays(X, Y * 1e12, rows=8)
    with pytest.warns(UserWarning, match="^y has mean"):
        net().fit(source, epochs=2, batch_size=8)


def test_a_large_target_of_many_nets_warns() -> None:
    with pytest.warns(UserWarning, match=r"^fit_many: nets\[0\]: y has mean"):
        fit_many([net(optimizer=Adam(0.01))], X, Y * 1e12, epochs=2)
