"""Losses of TabularMLPRegressor: what is learned, scored, checked and exported."""

from typing import Any

import numpy as np
import pytest
from model_files import reloaded
from sklearn.base import clone
from sklearn.dummy import DummyRegressor
from sklearn.metrics import (
    mean_absolute_error,
    mean_pinball_loss,
    mean_squared_error,
    mean_tweedie_deviance,
)
from small_tables import FEW, drawn, regressor

from fastmlp import TabularMLPRegressor, jit
from fastmlp.compiler.jit import INTERPRETED
from fastmlp.tabular.pack.outputs import NumberLoss, outputs_of

X, Y = drawn()
POSITIVE = np.exp(Y / 2)
LOSSES: dict[str, tuple[Any, dict[str, Any]]] = {
    "squared_error": (mean_squared_error, {}),
    "absolute_error": (mean_absolute_error, {}),
    "quantile": (mean_pinball_loss, {"alpha": 0.8}),
    "poisson": (mean_tweedie_deviance, {"power": 1}),
    "gamma": (mean_tweedie_deviance, {"power": 2}),
    "tweedie": (mean_tweedie_deviance, {"power": 1.3}),
}
SETTINGS: dict[str, float] = {"quantile": 0.8, "tweedie": 1.3}


@pytest.mark.parametrize("name", LOSSES)
def test_losses_are_those_of_scikit_learn(name: Any, rng: np.random.Generator) -> None:
    metric, settings = LOSSES[name]
    y, predictions, weight = rng.gamma(2, size=(3, 50))
    if name in ("poisson", "tweedie"):
        y[::5] = 0
    loss = NumberLoss(name, SETTINGS.get(name, 0.5))
    for w in (None, weight):
        expected = metric(y, predictions, sample_weight=w, **settings)
        assert -loss.score(y, predictions, w) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("name", LOSSES)
def test_nets_begin_with_the_best_constant(name: Any) -> None:
    y = np.random.default_rng(0).gamma(1.5, size=400)
    loss = NumberLoss(name, SETTINGS.get(name, 0.5))
    outputs = outputs_of("regression", y, None, 0, loss)
    raw = np.zeros((1, 1)) if loss.power is None else np.ones((1, 1))
    constant = outputs.predictions(raw)[0]
    own = loss.score(y, np.full(400, constant), None)
    assert all(own >= loss.score(y, np.full(400, constant * k), None) for k in (0.9, 1.1))


@pytest.mark.skipif(INTERPRETED, reason="NUMBA_DISABLE_JIT is set: too slow")
@pytest.mark.parametrize("name", [*LOSSES][1:])
def test_models_of_other_losses(name: Any, tmp_path: Any) -> None:
    metric, settings = LOSSES[name]
    own_settings: Any = {"quantile": {"quantile": 0.8}, "tweedie": {"power": 1.3}}
    setting = own_settings.get(name, {})
    model = clone(TabularMLPRegressor(**{**FEW, "max_iter": 30}, loss=name, **setting))
    model.fit(X, POSITIVE, X_val=X[::2], y_val=POSITIVE[::2])
    predictions = model.predict(X)
    own = metric(POSITIVE[::2], predictions[::2], **settings)
    assert model.validation_score_ == pytest.approx(-own, rel=1e-5)
    constant = DummyRegressor(strategy="quantile", quantile=0.8 if name == "quantile" else 0.5)
    assert own < 0.8 * metric(POSITIVE, constant.fit(X, POSITIVE).predict(X), **settings)
    assert model.feature_importances_.argmax() in (0, 1)
    loaded = reloaded(model, tmp_path / "m.safetensors")
    assert np.array_equal(loaded.predict(X), predictions)
    assert loaded.get_params() == model.get_params()
    again = clone(model).set_params(n_jobs=1).fit(X, POSITIVE, X_val=X[::2], y_val=POSITIVE[::2])
    assert np.array_equal(again.predict(X), predictions)
    out = np.empty((120, 1))
    jit.predict(jit.compiled(model), model.codes(X), out)
    assert np.array_equal(out[:, 0], predictions)
    if name in ("quantile", "absolute_error"):
        share = (predictions > POSITIVE).mean()
        assert abs(share - setting.get("quantile", 0.5)) < 0.15
    else:
        assert (predictions > 0).all()


@pytest.mark.skipif(INTERPRETED, reason="NUMBA_DISABLE_JIT is set: too slow")
def test_the_default_is_as_before() -> None:
    model = TabularMLPRegressor(**FEW, cv=2, loss="squared_error", quantile=0.3, power=1.2)
    assert np.array_equal(model.fit(X, Y).predict(X), regressor().predict(X))


def test_a_score_of_classes_is_refused() -> None:
    with pytest.raises(ValueError, match=r"Regressor.fit: scoring='roc_auc' of numbers failed: "):
        TabularMLPRegressor(**FEW, scoring="roc_auc").fit(X, POSITIVE)


def test_a_row_without_weight_may_have_any_target() -> None:
    weight = np.arange(120) > 0
    model = TabularMLPRegressor(**FEW, loss="gamma", cv=2)
    y = np.where(weight, POSITIVE, -1.0)
    assert (model.fit(X, y, sample_weight=weight).predict(X) > 0).all()


@pytest.mark.parametrize("size", [1e300, 3e150, 1e-151, 1e-300])
def test_targets_that_are_too_far_for_squares(size: float) -> None:
    X, y = drawn()
    with pytest.raises(ValueError, match=r"fit: y has numbers up to .*: divide them by \de[+-]\d+"):
        TabularMLPRegressor(**FEW).fit(X, y / y.max() * size)
