"""monotonic_cst of the estimators: what `MLP` does with it, by position or by name."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from fitting import unconverged
from sklearn.base import clone

from fastmlp import (
    MLPClassifier,
    MLPRegressor,
    MLPSearchCV,
    load,
    save,
    to_onnx,
)

rng = np.random.default_rng(0)
X = rng.uniform(-2, 2, (200, 3))
Y = -X[:, 0] + np.sin(2 * X[:, 1]) + rng.normal(size=200)
LABELS = np.where(Y > 0, "yes", "no")
SIGNS = [1, 0, -1]
FEW: dict[str, Any] = {"hidden_layer_sizes": (8, 6), "random_state": 0, "max_iter": 5}
pytestmark = unconverged


def is_ordered(model: Any) -> bool:
    grid = np.sort(rng.uniform(-5, 5, 300))
    for j, sign in enumerate(SIGNS):
        for row in X[:4]:
            rows = np.repeat(row[None], 300, axis=0)
            rows[:, j] = grid
            if hasattr(model, "classes_"):
                values = model.predict_proba(rows)[:, 1]
            else:
                values = model.predict(rows)
            if sign and (sign * np.diff(values) < 0).any():
                return False
    return True


@pytest.mark.parametrize("solver", ["adam", "sgd", "lbfgs", "rmsprop"])
@pytest.mark.parametrize("kind", [MLPRegressor, MLPClassifier])
def test_fits_are_monotone(kind: Any, solver: str) -> None:
    y = Y if kind is MLPRegressor else LABELS
    model = kind(**FEW, solver=solver, monotonic_cst=SIGNS)
    assert is_ordered(model.fit(X, y))
    assert is_ordered(clone(model).fit(X, y))
    if solver != "lbfgs":
        assert is_ordered(model.partial_fit(X[:20], y[:20]))
    assert model.net_.monotonic_cst == (1, 0, -1)


def test_columns_by_name() -> None:
    frame = pd.DataFrame(X, columns=[*"abc"])
    named = MLPRegressor(**FEW, monotonic_cst={"c": -1, "a": 1}).fit(frame, Y)
    placed = MLPRegressor(**FEW, monotonic_cst=SIGNS).fit(X, Y)
    np.testing.assert_array_equal(named.coefs_[0], placed.coefs_[0])
    with pytest.raises(ValueError, match="unknown column in monotonic_cst 'A', did you mean 'a'"):
        MLPRegressor(**FEW, monotonic_cst={"A": 1}).fit(frame, Y)
    with pytest.raises(ValueError, match="those of X have no names: pass a frame"):
        MLPRegressor(**FEW, monotonic_cst={"a": 1}).fit(X, Y)


def test_searches_files_and_exports_keep_it(tmp_path: Path) -> None:
    search = MLPSearchCV(MLPRegressor(**FEW), {"monotonic_cst": [SIGNS, None]}, cv=2).fit(X, Y)
    assert {bool(row["monotonic_cst"]) for row in search.cv_results_["params"]} == {True, False}
    model = MLPRegressor(**FEW, monotonic_cst=SIGNS).fit(X, Y)
    save(model, tmp_path / "model")
    loaded = load(tmp_path / "model")
    assert loaded.monotonic_cst == SIGNS
    assert is_ordered(loaded)
    assert to_onnx(model)


def test_several_classes_are_refused() -> None:
    with pytest.raises(ValueError, match="the link 'softmax' do not"):
        MLPClassifier(monotonic_cst=SIGNS).fit(X, np.digitize(Y, [-1, 1]))
