"""Losses in scikit-learn's form, uncompiled: against scikit-learn's own functions."""

from typing import Any

import numpy as np
import pytest
from sklearn.neural_network._base import ACTIVATIONS, LOSS_FUNCTIONS

from fastmlp.rules.sklearn_losses import SKLEARN_LOSSES

LINKS = {None: "identity", "exp": "exp", "sigmoid": "logistic", "softmax": "softmax"}
each_loss = pytest.mark.parametrize("name", SKLEARN_LOSSES)


def draw(name: str, scale: float, dtype: Any) -> tuple[Any, Any]:
    """Raw outputs, shape (20, 4), and targets."""
    rng = np.random.default_rng(0)
    raw = rng.normal(scale=scale, size=(20, 4)).astype(dtype)
    targets = {
        "squared_error": rng.normal(size=(20, 4)),
        "poisson": rng.poisson(2.0, size=(20, 4)),
        "binary_log_loss": rng.integers(0, 2, size=(20, 4)),
        "log_loss": rng.integers(0, 4, size=(20, 1)),
    }
    return raw, targets[name].astype(dtype)


def evaluate(name: str, raw: Any, targets: Any) -> tuple[Any, Any]:
    """Values, shape (n_rows,), and slopes."""
    loss, slopes, values = SKLEARN_LOSSES[name], np.empty_like(raw), np.empty(len(raw))
    if loss.by_row:
        loss.rule(raw, targets, slopes, values)
        return values, slopes
    pairs = np.array(
        [
            [loss.rule(*pair) for pair in zip(*rows, strict=True)]
            for rows in zip(raw, targets, strict=True)
        ]
    )
    assert loss.over_outputs == "sum"
    return pairs[..., 0].sum(axis=1), pairs[..., 1]


@each_loss
@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float32, 2e-6), (np.float64, 1e-13)])
@pytest.mark.parametrize("scale", [1.0, 30.0])
def test_value_and_slope_are_those_of_scikit_learn(
    name: str, scale: float, dtype: Any, tolerance: float
) -> None:
    raw, targets = draw(name, 1.0 if name == "poisson" else scale, dtype)
    prediction = raw.copy()
    ACTIVATIONS[LINKS[SKLEARN_LOSSES[name].link]](prediction)
    expected = np.eye(4, dtype=dtype)[targets[:, 0].astype(int)] if name == "log_loss" else targets
    values, slopes = evaluate(name, raw, targets)
    by_row = [
        LOSS_FUNCTIONS[name](t[None], p[None]) for t, p in zip(expected, prediction, strict=True)
    ]
    np.testing.assert_allclose(values, by_row, rtol=tolerance, atol=tolerance)
    np.testing.assert_allclose(slopes, prediction - expected, rtol=tolerance, atol=tolerance)
    assert slopes.dtype == dtype


def test_a_negative_count_has_no_loss() -> None:
    with np.errstate(invalid="ignore"):
        values, slopes = evaluate("poisson", np.zeros((1, 1)), np.array([[-1.0]]))
    assert np.isnan(values).all()
    assert slopes == 2
