"""Losses against scikit-learn's functions, and linear nets against its linear models."""

from typing import Any

import numpy as np
import pytest
from loss_cases import CASES, constants_of
from scipy.optimize import minimize
from sklearn import _loss
from sklearn.linear_model import GammaRegressor, TweedieRegressor
from sklearn.neural_network._base import ACTIVATIONS, LOSS_FUNCTIONS

from fastmlp import MLP, Quantile, Tweedie
from fastmlp.rules.loss_settings import Smoothed
from fastmlp.rules.losses import LOSSES
from fastmlp.rules.sklearn_losses import SKLEARN_LOSSES

RAW = np.array([0, 1e-3, -1e-3, 1, -1, 30, -30])
PEERS: dict[str, tuple[Any, Any]] = {
    "gamma": (LOSSES["gamma"], _loss.HalfGammaLoss()),
    **{
        f"tweedie {power}": (Tweedie(power).loss, _loss.HalfTweedieLoss(power=power))
        for power in (1.0, 1.1, 1.5, 1.99, 2.0)
    },
    **{
        f"quantile {level}": (Quantile(level).loss, _loss.PinballLoss(quantile=level))
        for level in (0.05, 0.5, 0.9)
    },
}


@pytest.mark.parametrize("target", [0.3, 1.0, 7.0])
@pytest.mark.parametrize("name", PEERS)
def test_value_and_slope_are_scikit_learns(name: str, target: float) -> None:
    loss, peer = PEERS[name]
    y = np.full(len(RAW), target)
    pairs = [loss.rule(np.float64(z), np.float64(target), *loss.constants) for z in RAW]
    values, slopes = np.array(pairs).T
    constant = peer.constant_to_optimal_zero(y) if "tweedie" in name or name == "gamma" else 0
    scale = np.maximum(1, abs(values))
    expected = peer.loss(y, RAW) + constant
    np.testing.assert_allclose(values / scale, expected / scale, atol=1e-12)
    # scikit-learn's slope at a perfect prediction of a quantile is one of the two sides.
    kink = (target == RAW) & name.startswith("quantile")
    np.testing.assert_allclose(slopes[~kink], peer.gradient(y, RAW)[~kink], rtol=1e-12, atol=1e-12)


def test_focal_losses_without_focus_are_the_cross_entropies() -> None:
    rng = np.random.default_rng(0)
    raw, y = rng.normal(scale=5, size=(20, 4)), rng.integers(4, size=(20, 1)).astype(float)
    found = []
    for name, more in (("focal", (0.0,)), ("cross_entropy", ())):
        slopes, values = np.empty_like(raw), np.empty(20)
        LOSSES[name].rule(raw, y, slopes, values, *more)
        found.append((slopes, values))
    np.testing.assert_allclose(found[0][0], found[1][0], rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(found[0][1], found[1][1], rtol=1e-12, atol=1e-14)
    for z in RAW:
        for target in (0.0, 0.3, 1.0):
            pair = np.float64(z), np.float64(target)
            np.testing.assert_allclose(
                LOSSES["binary_focal"].rule(*pair, 0.0),
                LOSSES["binary_cross_entropy"].rule(*pair),
                rtol=1e-12,
                atol=1e-14,
            )


def test_smoothed_labels_are_soft_targets() -> None:
    """As PyTorch's and Keras' label_smoothing: (1 - s) y + s / n."""
    rng = np.random.default_rng(0)
    X, labels = rng.normal(size=(30, 3)), rng.integers(4, size=30)
    smooth = MLP((3, 5, 4), loss="cross_entropy", label_smoothing=0.2, dtype="float64", seed=0)
    plain = MLP((3, 5, 4), loss="cross_entropy", dtype="float64", seed=0)
    value, slopes = smooth.loss_and_gradient(X, labels)
    expected, gradient = plain.loss_and_gradient(X, 0.8 * np.eye(4)[labels] + 0.05)
    assert value == pytest.approx(expected, rel=1e-13)
    np.testing.assert_allclose(slopes, gradient, rtol=1e-10, atol=1e-14)
    assert smooth._network.loss == Smoothed("cross_entropy", 0.2).loss


def test_a_gaussian_below_the_least_variance_goes_on_as_a_line() -> None:
    rule, y = CASES["gaussian_nll"].rule, np.array([[0.3]])
    ends, middle = np.array([-20.0, -16.0]), -18.0
    values = []
    for s in (*ends, middle):
        raw, slopes, value = np.array([[0.5, s]]), np.empty((1, 2)), np.empty(1)
        rule(raw, y, slopes, value)
        values.append(value[0])
    assert values[2] == pytest.approx((values[0] + values[1]) / 2, rel=1e-12)


@pytest.mark.parametrize(
    ("loss", "peer"),
    [
        ("gamma", GammaRegressor(alpha=0, tol=1e-9, max_iter=10_000)),
        (Tweedie(1.5), TweedieRegressor(power=1.5, alpha=0, link="log", tol=1e-9, max_iter=10_000)),
    ],
    ids=str,
)
def test_a_linear_net_reaches_the_objective_of_a_linear_model(loss: Any, peer: Any) -> None:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(200, 3))
    y = rng.gamma(2.0, np.exp(X @ [0.3, -0.2, 0.5]) / 2)
    net = MLP((3, 1), loss=loss, dtype="float64", initializer="zeros")

    def objective(flat: Any) -> Any:
        net.parameters[:] = flat
        return net.loss_and_gradient(X, y)

    found = minimize(objective, np.zeros(4), jac=True, method="L-BFGS-B", options={"ftol": 1e-15})
    theirs = peer.fit(X, y)
    expected, _ = objective(np.append(theirs.coef_, theirs.intercept_))
    assert found.fun == pytest.approx(expected, abs=1e-6)


def test_constants_are_of_the_nets_dtype() -> None:
    (levels,) = constants_of("three quantiles", "float32")
    assert {type(level) for level in levels} == {np.float32}


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
