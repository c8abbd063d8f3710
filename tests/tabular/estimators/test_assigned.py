"""Estimators take attributes as scikit-learn's do: a parameter acts at the next fit."""

from typing import Any

import numpy as np
import pytest
from sklearn.base import clone

from fastmlp import (
    MLP,
    Adam,
    MLPClassifier,
    MLPRegressor,
    MLPSearchCV,
    TabularMLPClassifier,
    TabularMLPRegressor,
)
from fastmlp.compiler.jit import INTERPRETED

pytestmark = [
    pytest.mark.skipif(INTERPRETED, reason="NUMBA_DISABLE_JIT is set: too slow"),
    pytest.mark.filterwarnings("ignore:Stochastic Optimizer"),
]
X = np.random.default_rng(0).normal(size=(60, 3))
REAL = X[:, 0] * X[:, 1]
LABELS = (X[:, 0] > 0).astype(int)


def as_estimator(**settings: Any) -> Any:
    return MLP((3, 4, 1)).as_estimator(**{"epochs": 3, **settings})


def table_of(kind: Any, **settings: Any) -> Any:
    return kind(**{"n_members": 1, "max_iter": 2, **settings})


def search(**settings: Any) -> Any:
    model = MLPRegressor(hidden_layer_sizes=(4,), max_iter=3, random_state=0)
    return MLPSearchCV(model, **{"param_grid": {"alpha": [0.1]}, "cv": 2, **settings})


CASES = [
    (lambda **own: MLPRegressor(**{"max_iter": 3, **own}), "alpha", 10.0),
    (lambda **own: MLPRegressor(**{"max_iter": 3, **own}), "loss", "mae"),
    (lambda **own: MLPRegressor(**{"max_iter": 3, **own}), "hidden_layer_sizes", (5,)),
    (lambda **own: MLPClassifier(**{"max_iter": 3, **own}), "learning_rate_init", 0.1),
    (lambda **own: MLPClassifier(**{"max_iter": 3, **own}), "dropout", 0.5),
    (as_estimator, "loss", "mae"),
    (as_estimator, "l2", 10.0),
    (as_estimator, "layer_sizes", (3, 5, 1)),
    (as_estimator, "optimizer", Adam(0.1)),
    (as_estimator, "epochs", 5),
    (lambda **own: table_of(TabularMLPRegressor, **own), "loss", "absolute_error"),
    (lambda **own: table_of(TabularMLPRegressor, **own), "max_iter", 4),
    (lambda **own: table_of(TabularMLPClassifier, **own), "class_weight", "balanced"),
    (search, "param_grid", {"alpha": [100.0]}),
]


def fitted(model: Any) -> bytes:
    of_classes = "Classifier" in type(model).__name__
    y = LABELS if of_classes else REAL
    model.fit(X, y)
    predicted: Any = model.predict_proba(X) if of_classes else model.predict(X)
    return np.asarray(predicted).tobytes()


@pytest.mark.parametrize(("make", "name", "value"), CASES)
def test_a_parameter_that_is_assigned_acts_at_the_next_fit(
    make: Any, name: str, value: Any
) -> None:
    if make is search:
        seed = {}
    else:
        seed = {"random_state": 0}
    model = make(**seed)
    before = fitted(model)
    setattr(model, name, value)
    after = fitted(model)
    assert after != before
    assert after == fitted(make(**seed, **{name: value}))


@pytest.mark.parametrize("make", [as_estimator, MLPRegressor, TabularMLPRegressor])
def test_other_attributes_are_the_users(make: Any) -> None:
    model = make()
    model.note = "kept"
    assert model.note == "kept"
    assert not hasattr(clone(model), "note")
