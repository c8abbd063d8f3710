"""After the selection: nets trained on all rows, and learning curves."""

import pickle
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pytest
from model_files import reloaded
from sklearn.base import clone
from sklearn.tree import DecisionTreeRegressor
from small_tables import FEW, classifier, drawn, labels, regressor

from fastmlp import TabularMLPClassifier, TabularMLPRegressor
from fastmlp.compiler.jit import INTERPRETED
from fastmlp.plotting import plot_history

pytestmark = [
    pytest.mark.skipif(INTERPRETED, reason="NUMBA_DISABLE_JIT is set: too slow"),
    pytest.mark.filterwarnings("ignore:.*columns left out"),
]
X, Y = drawn()
LABELS = labels()


@pytest.mark.parametrize("classes", [True, False])
@pytest.mark.parametrize("divided", ["folds", "held out", "given"])
def test_all_rows_are_trained_on_after_the_selection(
    classes: bool, divided: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    make: Any = TabularMLPClassifier if classes else TabularMLPRegressor
    y, method = (LABELS, "predict_proba") if classes else (Y, "predict")
    monkeypatch.setattr("fastmlp.tabular.estimators.base.FEW_ROWS", 100)
    more: dict[str, Any] = {"X_val": X[90:], "y_val": y[90:]} if divided == "given" else {}
    rows = X[:90] if more else X
    weight = 1.0 + np.arange(len(rows)) % 3
    settings: dict[str, Any] = {**FEW, "cv": 3 if divided == "folds" else None}
    settings |= {"monotonic_cst": {"age": 1}} if not classes else {}
    more |= {"X": rows, "y": y[: len(rows)], "sample_weight": weight}
    plain, model = make(**settings).fit(**more), clone(make(**settings, refit=True)).fit(**more)
    numbers = sorted({member.recipe.number for member in plain.members_})
    assert sorted(member.recipe.number for member in model.members_) == numbers
    assert model.weights_.sum() == pytest.approx(1)
    assert model.validation_score_ == plain.validation_score_
    assert model.training_["rows"] == 120
    assert not np.array_equal(getattr(model, method)(X), getattr(plain, method)(X))
    assert model.score(X, y) > 0.4
    again = clone(model).set_params(n_jobs=1).fit(**more)
    loaded = reloaded(model, tmp_path / "m.safetensors")
    for other in (again, loaded, pickle.loads(pickle.dumps(model))):
        assert np.array_equal(getattr(other, method)(X), getattr(model, method)(X))
    assert loaded.refit is True


def test_other_members_see_all_rows_too() -> None:
    trees = DecisionTreeRegressor(max_depth=9, random_state=0)
    model = TabularMLPRegressor(**FEW, extra_members=[trees], refit=True)
    model.fit(X[:60], Y[:60], X_val=X[60:], y_val=Y[60:])
    assert model.weights_[-1] > 0
    assert model.extra_members_[0][1].tree_.n_node_samples[0] == 120


def test_no_time_limit_with_all_rows() -> None:
    with pytest.raises(ValueError, match=r"time_limit=9 may end them before: leave one of both"):
        TabularMLPRegressor(refit=True, time_limit=9).fit(X, Y)


def test_learning_curves(tmp_path: Any) -> None:
    for model in (regressor(), classifier()):
        curves = model.learning_curves_
        assert len(curves) == len(model.members_)
        for history, member in zip(curves.values(), model.members_, strict=True):
            assert len(history.loss) == len(history.validation_loss) == len(member.curve) > 0
            assert np.argmin(history.validation_loss) == history.best_epoch == member.epoch - 1
            assert history.seconds > 0
        total = sum(history.seconds for history in curves.values())
        assert model.leaderboard_["fit_seconds"].sum() == pytest.approx(total)
        loaded = reloaded(model, tmp_path / "m.safetensors")
        assert loaded.learning_curves_ == curves
        plot_history(curves)
        plt.close("all")
    names = [*regressor().learning_curves_]
    assert len(names) == 1 or any(name.endswith(", 2") for name in names)


def test_no_warm_start() -> None:
    with pytest.raises(TypeError, match="'warm_start': a fit begins anew"):
        TabularMLPRegressor(warm_start=True)  # type: ignore[call-arg]
