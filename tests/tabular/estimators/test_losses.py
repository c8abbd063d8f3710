"""Losses of TabularMLPRegressor, and monotonic_cst: what is learned, checked, kept and exported."""

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pandas as pd
import pytest
from sklearn.base import clone
from sklearn.dummy import DummyRegressor
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.linear_model import LinearRegression
from sklearn.metrics import (
    mean_absolute_error,
    mean_pinball_loss,
    mean_squared_error,
    mean_tweedie_deviance,
)
from small_models import FEW, drawn, regressor, reloaded
from threadpoolctl import threadpool_limits

from fastmlp import TabularMLPClassifier, TabularMLPRegressor, jit, load, save, to_onnx
from fastmlp.compiler.jit import INTERPRETED
from fastmlp.tabular import RisingSmoothClip
from fastmlp.tabular.outputs import NumberLoss, outputs_of

pytestmark = pytest.mark.skipif(INTERPRETED, reason="NUMBA_DISABLE_JIT is set: too slow")
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


rng = np.random.default_rng(0)
N = 300
FRAME = pd.DataFrame(
    {
        "town": rng.choice(["Bern", "Basel", "Chur"], N),
        "income": np.where(rng.random(N) < 0.1, np.nan, rng.lognormal(3, 1, N)),
        "age": rng.integers(18, 90, N).astype(float),
        "debts": rng.normal(size=N),
    }
)
# Against the constraints.
RISING = -np.nan_to_num(np.log(FRAME["income"])) + np.sin(FRAME["age"] / 9) + FRAME["debts"]
CONSTRAINTS = {"income": 1, "debts": -1}


def is_ordered(model: Any) -> bool:
    for name, sign in CONSTRAINTS.items():
        for place in (0, 7):
            n = 4000
            rows = FRAME.iloc[[place] * n].copy()
            # A quarter of the steps are of one unit in the last place of float32.
            near = np.arange(n // 4) * np.spacing(np.float32(20.0)) + 20
            rows[name] = np.sort(np.concatenate([near, rng.lognormal(2, 2, n // 2), -near]))
            if hasattr(model, "classes_"):
                values = model.predict_proba(rows)[:, 1]
            else:
                values = model.predict(rows)
            if (sign * np.diff(values) < 0).any():
                return False
    return True


@pytest.mark.slow
def test_predictions_are_ordered(tmp_path: Path) -> None:
    few = {**FEW, "n_members": 5, "max_members": 5, "cv": 2}
    model = TabularMLPRegressor(**few, monotonic_cst=CONSTRAINTS).fit(FRAME, RISING)
    assert is_ordered(model)
    free = TabularMLPRegressor(**few).fit(FRAME, RISING)
    assert not is_ordered(free)
    path = tmp_path / "model"
    save(model, path)
    np.testing.assert_array_equal(load(path).predict(FRAME), model.predict(FRAME))
    assert load(path).monotonic_cst == CONSTRAINTS
    session = onnxruntime.InferenceSession(to_onnx(model).SerializeToString())
    columns = {
        name: FRAME[[name]].to_numpy(object if name == "town" else np.float32) for name in FRAME
    }
    (values,) = session.run(None, columns)
    np.testing.assert_allclose(values[:, 0], model.predict(FRAME), rtol=1e-4, atol=1e-5)


def test_classes_and_places() -> None:
    labels = np.where(np.median(RISING) < RISING, "yes", "no")
    named = TabularMLPClassifier(**FEW, cv=2, monotonic_cst=CONSTRAINTS).fit(FRAME, labels)
    placed = TabularMLPClassifier(**FEW, cv=2, monotonic_cst=[0, 1, 0, -1]).fit(FRAME, labels)
    assert is_ordered(named)
    np.testing.assert_array_equal(named.predict_proba(FRAME), placed.predict_proba(FRAME))


@pytest.mark.slow
def test_extra_members_have_the_constraints() -> None:
    trees = HistGradientBoostingRegressor(max_iter=5, random_state=0)
    model = TabularMLPRegressor(
        **FEW, cv=2, monotonic_cst=CONSTRAINTS, extra_members=[trees], ensemble="mean"
    )
    with threadpool_limits(1, user_api="openmp"):
        model.fit(FRAME, RISING)
    ((_, fitted),) = model.extra_members_
    assert fitted.monotonic_cst == [1, 0, -1, 0]
    assert trees.monotonic_cst is None
    assert is_ordered(model)


def test_the_scaled_numbers_keep_their_order() -> None:
    X = rng.normal(size=(50, 1))
    encoder = RisingSmoothClip().fit(X)
    for start in (1e-6, 0.3, 1.7, 5.0, 300.0):
        near = start + np.arange(20_000) * np.spacing(np.float32(start)) / 2
        for sign in (1, -1):
            steps = np.diff(encoder.transform(sign * near[:, None])[:, 0])
            assert (sign * steps >= 0).all()
    clipped = encoder.transform([[0.0], [np.nan], [1e300], [-1e300]])[:, 0]
    assert clipped[1:].tolist() == [0.0, 3.0, -3.0]


def test_what_has_no_order_is_refused() -> None:
    with pytest.raises(ValueError, match="monotonic_cst is for two classes, got 3"):
        TabularMLPClassifier(**FEW, monotonic_cst=CONSTRAINTS).fit(FRAME, np.arange(N) % 3)
    line = LinearRegression()
    with pytest.raises(ValueError, match="LinearRegression does not take it"):
        TabularMLPRegressor(**FEW, monotonic_cst=CONSTRAINTS, extra_members=[line]).fit(
            FRAME, RISING
        )
    dated = FRAME.assign(day=pd.Timestamp("2020-01-01") + pd.to_timedelta(np.arange(N), "D"))
    with pytest.raises(ValueError, match="'day' holds dates or times"):
        TabularMLPRegressor(**FEW, monotonic_cst={"day": 1}).fit(dated, RISING)
