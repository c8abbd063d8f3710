"""Losses of the estimators beside scikit-learn's,
smoothed labels, and second-order solvers.
"""

import pickle
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
    return np.exp(Y) if name in ("gamma", "tweedie") else Y


@each
def test_predictions_are_those_of_a_net_with_the_weights_and_the_loss(
    name: str,
) -> None:
    settings, loss, n_outputs = SETTINGS[name]
    model = regressor(**settings).fit(X, targets(name))
    net = MLP((3, 8, n_outputs), loss=loss, dtype="float64")
    for i, (coef, bias) in enumerate(zip(model.coefs_, model.intercepts_, strict=True)):
        net.weights[i][:] = coef
        net.biases[i][:] = bias
    expected = net.predict(X)
    if name == "gaussian_nll":
        mean, deviation = model.predict(X, return_std=True)
        np.testing.assert_array_equal(np.column_stack([mean, deviation]), expected)
        np.testing.assert_array_equal(model.predict(X), mean)
    else:
        np.testing.assert_array_equal(
            model.predict(X).reshape(expected.shape), expected
        )
    np.testing.assert_array_equal(model.net_.predict(X), expected)
    np.testing.assert_array_equal(model.predict(X[:1]), model.predict(X)[:1])
    assert model.n_outputs_ == n_outputs
    assert model.out_activation_ == (net._network.loss.link or "identity")


@each
def test_lbfgs_and_early_stopping_and_a_further_fit(name: str) -> None:
    settings = SETTINGS[name][0]
    y = targets(name)
    worst = regressor(**settings).fit(X, y).score(X, y)
    assert (
        regressor(solver="lbfgs", max_iter=100, **settings).fit(X, y).score(X, y)
        > worst
    )
    model = regressor(early_stopping=True, **settings).fit(
        X, y, X_val=X[:20], y_val=y[:20]
    )
    assert model.best_validation_score_ == pytest.approx(
        model.score(X[:20], y[:20]), rel=1e-9
    )
    further = regressor(**settings).partial_fit(X, y).partial_fit(X, y)
    assert further.t_ == 2 * len(X)


@pytest.mark.parametrize("levels", [0.9, LEVELS])
def test_the_score_of_quantiles_is_the_negative_pinball_loss(levels: Any) -> None:
    model = regressor(loss=Quantile(levels)).fit(X, Y)
    columns = model.predict(X).reshape(len(X), -1).T
    weight = RNG.uniform(0.5, 2, size=len(X))
    each_level = zip(np.ravel(levels), columns, strict=True)
    losses = [
        mean_pinball_loss(Y, p, alpha=q, sample_weight=weight) for q, p in each_level
    ]
    assert model.score(X, Y, weight) == pytest.approx(-np.mean(losses), rel=1e-12)


def test_quantiles_are_in_order_and_losses_go_into_searches() -> None:
    model = regressor(loss=Quantile(LEVELS), max_iter=300, learning_rate_init=0.01)
    predicted = model.fit(X, Y).predict(X)
    assert (np.diff(predicted, axis=1) >= 0).all()
    np.testing.assert_allclose((Y[:, None] < predicted).mean(axis=0), LEVELS, atol=0.08)
    model = regressor(loss=Quantile(LEVELS))
    assert (cross_val_score(model, X, Y, cv=3) < 0).all()
    search = MLPSearchCV(model, {"alpha": [0.0, 1.0]}, cv=3).fit(X, Y)
    assert search.best_score_ < 0
    normal = regressor(loss="gaussian_nll").fit(X, Y)
    assert normal.score(X, Y) == pytest.approx(
        r2_score(Y, normal.predict(X)), rel=1e-12
    )


RNG = np.random.default_rng(0)
WAVE_X = RNG.uniform(-1, 1, (80, 2))
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
    kind = MLPRegressor if targets in ("one", "two") else MLPClassifier
    chosen = {
        "max_iter": 5,
        "tol": 0.0,
        "random_state": 0,
        "activation": "tanh",
        **settings,
    }
    return kind(hidden_layer_sizes=(6,), solver=solver, **chosen)


@pytest.mark.parametrize("solver", SOLVERS, ids=str)
@pytest.mark.parametrize("targets", TARGETS)
def test_it_is_the_fit_of_its_net(targets: str, solver: Any, tmp_path: Any) -> None:
    model = model_of(targets, solver, max_iter=1, alpha=0.1).fit(
        WAVE_X, TARGETS[targets]
    )
    net = model.net_
    start = net.parameters.copy()
    _ = model.set_params(max_iter=6, warm_start=True)
    labels = TARGETS[targets].astype(float)
    history = net.fit(WAVE_X, labels if targets != "classes" else CLASSES, epochs=4)
    assert len(history.loss) == 4
    assert history.loss == sorted(history.loss, reverse=True)
    assert (net.parameters != start).any()
    again = model_of(targets, solver, max_iter=5, alpha=0.1).fit(
        WAVE_X, TARGETS[targets]
    )
    assert again.n_iter_ == len(again.loss_curve_) == 5
    assert again.loss_ == again.loss_curve_[-1]
    if solver == "lm":
        assert (again.net_.parameters == net.parameters).all()
    save(again, tmp_path / "model.safetensors")
    for copy in (
        pickle.loads(pickle.dumps(again)),
        load(tmp_path / "model.safetensors"),
    ):
        assert (copy.predict(WAVE_X) == again.predict(WAVE_X)).all()


def test_it_reaches_more_digits_than_lbfgs_and_ends_by_tol() -> None:
    settings = {"max_iter": 200, "alpha": 0.0}
    lm, lbfgs = (
        model_of("one", solver, **settings).fit(WAVE_X, WAVE)
        for solver in ("lm", "lbfgs")
    )
    assert lm.loss_ < lbfgs.loss_ / 3
    assert model_of("one", tol=1e-2, max_iter=200).fit(WAVE_X, WAVE).n_iter_ < 200
    with pytest.warns(ConvergenceWarning, match="Maximum iterations"):
        model_of("one", max_iter=2).fit(WAVE_X, WAVE)


def test_what_it_does_not_take() -> None:
    assert not hasattr(model_of("one"), "partial_fit")
    assert not hasattr(model_of("classes", LevenbergMarquardt()), "partial_fit")
    with pytest.raises(ValueError, match="the loss is inf before the first step"):
        model_of("one", activation="identity").fit(1e200 * WAVE_X, WAVE)
    model = regressor(max_iter=2, tol=1e9).fit(X, Y)
    with pytest.raises(
        ValueError, match="return_std=True needs loss='gaussian_nll', got loss='sq"
    ):
        model.predict(X, return_std=True)
