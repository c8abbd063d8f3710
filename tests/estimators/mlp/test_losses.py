"""Losses of the estimators beside scikit-learn's,
smoothed labels, and second-order solvers.
"""

import pickle
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fitting import unconverged
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import mean_pinball_loss, r2_score
from sklearn.model_selection import cross_val_score

from fastmlp import (
    LBFGS,
    MLP,
    LevenbergMarquardt,
    MLPClassifier,
    MLPRegressor,
    MLPSearchCV,
    Quantile,
    Tweedie,
    load,
    save,
)

pytestmark = unconverged
RNG = np.random.default_rng(0)
X = RNG.normal(size=(120, 3))
Y = X[:, 0] + RNG.normal(scale=0.3, size=120)
LEVELS = [0.1, 0.5, 0.9]


def own(prediction: Any, target: Any) -> tuple[Any, Any]:
    error = prediction - target
    return error * error * error * error, 4 * error * error * error


SETTINGS: dict[str, tuple[dict[str, Any], Any, int]] = {
    "gamma": ({"loss": "gamma"}, "gamma", 1),
    "tweedie": ({"loss": Tweedie(1.3)}, Tweedie(1.3), 1),
    "quantile": ({"loss": Quantile(0.9)}, Quantile(0.9), 1),
    "quantiles": ({"loss": Quantile(LEVELS)}, Quantile(LEVELS), 3),
    "gaussian_nll": ({"loss": "gaussian_nll"}, "gaussian_nll", 2),
    "huber": ({"loss": "huber"}, "huber", 1),
    "mae of two": ({"loss": "mae"}, "mae", 2),
    "own": ({"loss": own}, own, 1),
}
each = pytest.mark.parametrize("name", SETTINGS)


def regressor(**settings: Any) -> MLPRegressor:
    small = {"hidden_layer_sizes": (8,), "random_state": 0, "max_iter": 5, "tol": 0.0}
    return MLPRegressor(**{**small, "n_iter_no_change": 10, "alpha": 0, **settings})


def targets(name: str) -> Any:
    if name == "mae of two":
        return X[:, :2]
    if name in ("gamma", "tweedie"):
        return np.exp(Y)
    return Y


@cache
def fitted(name: str) -> MLPRegressor:
    settings, _, _ = SETTINGS[name]
    return regressor(**settings).fit(X, targets(name))


@cache
def net_of(name: str) -> MLP:
    """A net of the loss with the weights of the model."""
    _, loss, n_outputs = SETTINGS[name]
    model = fitted(name)
    net = MLP((3, 8, n_outputs), loss=loss, dtype="float64")
    for i, (coef, bias) in enumerate(zip(model.coefs_, model.intercepts_, strict=True)):
        net.weights[i][:] = coef
        net.biases[i][:] = bias
    return net


@each
def test_predictions_are_those_of_a_net_of_the_loss(name: str) -> None:
    model = fitted(name)
    result = model.predict(X)
    expected = net_of(name).predict(X)
    if name == "gaussian_nll":
        mean, deviation = model.predict(X, return_std=True)
        np.testing.assert_array_equal(mean, result)
        result = np.column_stack([mean, deviation])
    np.testing.assert_array_equal(result.reshape(expected.shape), expected)
    np.testing.assert_array_equal(model.net_.predict(X), expected)


@each
def test_a_row_has_the_bits_of_the_table(name: str) -> None:
    model = fitted(name)
    np.testing.assert_array_equal(model.predict(X[:1]), model.predict(X)[:1])


@each
def test_outputs_are_those_of_the_loss(name: str) -> None:
    model = fitted(name)
    assert model.n_outputs_ == SETTINGS[name][2]
    assert model.out_activation_ == (net_of(name)._network.loss.link or "identity")


@each
def test_lbfgs_descends_by_the_loss(name: str) -> None:
    settings, _, _ = SETTINGS[name]
    y = targets(name)
    model = regressor(solver="lbfgs", max_iter=100, **settings).fit(X, y)
    assert model.score(X, y) > fitted(name).score(X, y)


@each
def test_early_stopping_is_by_the_score_of_the_loss(name: str) -> None:
    settings, _, _ = SETTINGS[name]
    y = targets(name)
    model = regressor(early_stopping=True, **settings)
    model.fit(X, y, X_val=X[:20], y_val=y[:20])
    score = model.score(X[:20], y[:20])
    assert model.best_validation_score_ == pytest.approx(score, rel=1e-9)


@each
def test_partial_fit_takes_the_loss(name: str) -> None:
    settings, _, _ = SETTINGS[name]
    y = targets(name)
    further = regressor(**settings).partial_fit(X, y).partial_fit(X, y)
    assert further.t_ == 2 * len(X)


@pytest.mark.parametrize("levels", [0.9, LEVELS])
def test_the_score_of_quantiles_is_the_negative_pinball_loss(levels: Any) -> None:
    model = regressor(loss=Quantile(levels)).fit(X, Y)
    columns = model.predict(X).reshape(len(X), -1).T
    weight = RNG.uniform(0.5, 2, size=len(X))
    losses = []
    for level, column in zip(np.ravel(levels), columns, strict=True):
        loss = mean_pinball_loss(Y, column, alpha=level, sample_weight=weight)
        losses.append(loss)
    assert model.score(X, Y, weight) == pytest.approx(-np.mean(losses), rel=1e-12)


def test_quantiles_are_in_order() -> None:
    model = regressor(loss=Quantile(LEVELS), max_iter=300, learning_rate_init=0.01)
    predicted = model.fit(X, Y).predict(X)
    assert (np.diff(predicted, axis=1) >= 0).all()
    shares = (Y[:, None] < predicted).mean(axis=0)
    np.testing.assert_allclose(shares, LEVELS, atol=0.08)


def test_quantiles_are_cross_validated() -> None:
    model = regressor(loss=Quantile(LEVELS))
    assert (cross_val_score(model, X, Y, cv=3) < 0).all()


def test_a_search_is_by_the_score_of_quantiles() -> None:
    model = regressor(loss=Quantile(LEVELS))
    search = MLPSearchCV(model, {"alpha": [0.0, 1.0]}, cv=3).fit(X, Y)
    assert search.best_score_ < 0


def test_the_score_of_a_mean_with_its_deviation_is_r2() -> None:
    model = fitted("gaussian_nll")
    expected = r2_score(Y, model.predict(X))
    assert model.score(X, Y) == pytest.approx(expected, rel=1e-12)


WAVE_X = np.random.default_rng(0).uniform(-1, 1, (80, 2))
WAVE = np.sin(3 * WAVE_X[:, 0]) * WAVE_X[:, 1]
CLASSES = np.digitize(WAVE, [-0.2, 0.2])
TARGETS: dict[str, Any] = {
    "one": WAVE,
    "two": np.column_stack([WAVE, WAVE**2]),
    "classes": CLASSES,
    "binary": CLASSES > 0,
    "labels": np.column_stack([CLASSES > 0, CLASSES > 1]),
}
SOLVERS: list[Any] = ["lm", LevenbergMarquardt(1e-2), LBFGS()]


def model_of(targets: str, solver: Any = "lm", **settings: Any) -> Any:
    kind: Any = MLPClassifier
    if targets in ("one", "two"):
        kind = MLPRegressor
    chosen = {
        "max_iter": 5,
        "tol": 0.0,
        "random_state": 0,
        "activation": "tanh",
        **settings,
    }
    return kind(hidden_layer_sizes=(6,), solver=solver, **chosen)


def trained(targets: str, solver: Any, max_iter: int) -> Any:
    model = model_of(targets, solver, max_iter=max_iter, alpha=0.1)
    return model.fit(WAVE_X, TARGETS[targets])


each_solver = pytest.mark.parametrize("solver", SOLVERS, ids=str)
each_target = pytest.mark.parametrize("targets", TARGETS)


@each_solver
@each_target
def test_its_net_goes_on_from_its_weights(targets: str, solver: Any) -> None:
    net = trained(targets, solver, 1).net_
    start = net.parameters.copy()
    y = TARGETS[targets]
    if targets != "classes":
        y = y.astype(float)
    history = net.fit(WAVE_X, y, epochs=4)
    assert len(history.loss) == 4
    assert history.loss == sorted(history.loss, reverse=True)
    assert (net.parameters != start).any()
    if solver == "lm":
        whole = trained(targets, solver, 5)
        assert (whole.net_.parameters == net.parameters).all()


@each_solver
@each_target
def test_its_curve_has_a_loss_for_each_iteration(targets: str, solver: Any) -> None:
    model = trained(targets, solver, 5)
    assert model.n_iter_ == len(model.loss_curve_) == 5
    assert model.loss_ == model.loss_curve_[-1]


@each_solver
@each_target
def test_its_copies_have_the_bits(targets: str, solver: Any, tmp_path: Path) -> None:
    model = trained(targets, solver, 5)
    expected = model.predict(WAVE_X)
    save(model, tmp_path / "model.safetensors")
    loaded = load(tmp_path / "model.safetensors")
    assert (loaded.predict(WAVE_X) == expected).all()
    copy = pickle.loads(pickle.dumps(model))
    assert (copy.predict(WAVE_X) == expected).all()


def test_it_reaches_more_digits_than_lbfgs() -> None:
    settings = {"max_iter": 200, "alpha": 0.0}
    lm = model_of("one", "lm", **settings).fit(WAVE_X, WAVE)
    lbfgs = model_of("one", "lbfgs", **settings).fit(WAVE_X, WAVE)
    assert lm.loss_ < lbfgs.loss_ / 3


def test_it_ends_by_tol() -> None:
    assert model_of("one", tol=1e-2, max_iter=200).fit(WAVE_X, WAVE).n_iter_ < 200


def test_it_warns_where_it_has_not_ended() -> None:
    with pytest.warns(ConvergenceWarning, match="Maximum iterations"):
        model_of("one", max_iter=2).fit(WAVE_X, WAVE)


def test_it_has_no_partial_fit() -> None:
    assert not hasattr(model_of("one"), "partial_fit")
    assert not hasattr(model_of("classes", LevenbergMarquardt()), "partial_fit")


def test_a_loss_that_is_not_finite_is_refused() -> None:
    with pytest.raises(ValueError, match="the loss is inf before the first step"):
        model_of("one", activation="identity").fit(1e200 * WAVE_X, WAVE)


def test_deviations_need_their_loss() -> None:
    model = regressor(max_iter=2, tol=1e9).fit(X, Y)
    words = "return_std=True needs loss='gaussian_nll', got loss='sq"
    with pytest.raises(ValueError, match=words):
        model.predict(X, return_std=True)
