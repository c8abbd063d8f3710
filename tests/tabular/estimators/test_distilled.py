"""One net that learns what an ensemble predicts."""

from typing import Any

import numpy as np
import pandas as pd
import pytest
from small_models import FEW, drawn, labels, regressor, reloaded, table_of

from fastmlp import TabularMLPClassifier, TabularMLPRegressor, jit, to_c
from fastmlp.compiler.jit import INTERPRETED
from fastmlp.tabular import boosted_trees, fitting
from fastmlp.tabular.outputs import Scorer
from fastmlp.tabular.schema import Values

pytestmark = [
    pytest.mark.skipif(INTERPRETED, reason="NUMBA_DISABLE_JIT is set: too slow"),
    pytest.mark.filterwarnings("ignore:.*columns left out|.*above the ensemble"),
]

X, Y = drawn()
LABELS = labels()
# One row at many ages.
AGES = pd.concat([X[:1]] * 50).assign(age=np.linspace(0, 120, 50))


@pytest.fixture(autouse=True)
def few_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(boosted_trees, "ROUNDS", 6)
    monkeypatch.setattr(fitting, "FEWEST_DRAWN", 600)


def outputs(model: Any, frame: pd.DataFrame) -> Any:
    """Probabilities of classes, or numbers."""
    return getattr(model, "predict_proba", model.predict)(frame)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_one_net_learns_what_an_ensemble_predicts(seed: int) -> None:
    frame, y, task = table_of(seed, 150)
    kind: Any = TabularMLPClassifier
    if task == "regression":
        kind = TabularMLPRegressor
    model = kind(n_members=3, max_iter=20, cv=2, random_state=seed).fit(frame, y)
    small = model.distilled(frame)
    assert type(small) is type(model)
    assert len(small.members_) == 1
    assert small.get_params() == model.get_params()
    result = outputs(small, frame)
    expected = outputs(model, frame)
    away = np.sqrt(np.mean((result - expected) ** 2))
    assert away < 0.5 * expected.std() + 0.02
    report = small.training_["distilled"]
    assert report["loss"] == -small.validation_score_
    assert report["ensemble_loss"] == pytest.approx(-_score(model, frame, y), rel=1e-6)
    assert f"loss {report['loss']:.4g}" in small.summary()
    again = model.set_params(n_jobs=1).distilled(frame)
    assert np.array_equal(outputs(again, frame), result)


def test_a_net_that_loses_too_much_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fitting, "ABOVE", -1.0)
    monkeypatch.setattr(fitting, "LAYERS", ((1,), (16,)))
    with pytest.warns(
        UserWarning, match=r"loss is -?\d+\.\d% above the ensemble's on 24 rows"
    ):
        small = regressor().distilled(X, Y)
    assert small.members_[0].net.layer_sizes[1] > 1
    assert small.training_["distilled"]["loss"] == -small.validation_score_


@pytest.mark.slow
@pytest.mark.parametrize("case", ["number", "three classes", "rising"])
def test_one_net_learns_what_trees_alone_predict(case: str) -> None:
    settings: dict[str, Any] = {**FEW, "max_iter": 1, "trees": True, "ensemble": "best"}
    kind: Any = TabularMLPRegressor
    y = Y
    if case == "three classes":
        kind = TabularMLPClassifier
        y = LABELS
    elif case == "rising":
        settings["monotonic_cst"] = {"age": 1}
    model = kind(**settings).fit(X, y, X_val=X, y_val=y)
    assert not model.members_
    small = model.distilled(X)
    assert [*small.weights_] == [1.0]
    result = outputs(small, X).ravel()
    expected = outputs(model, X).ravel()
    assert np.corrcoef(result, expected)[0, 1] > 0.9
    if case == "rising":
        assert (np.diff(small.predict(AGES)) >= 0).all()


MANY: dict[str, Any] = {**FEW, "max_iter": 30, "cv": 3}


def in_groups() -> tuple[Any, Any, Any]:
    """Rows, numbers and groups; rows of a group are alike.

    With others of it in training errors are much smaller.
    """
    g = np.random.default_rng(0)
    groups = np.repeat(np.arange(30), 6)
    rows = g.normal(size=(30, 3))[groups] + 0.01 * g.normal(size=(180, 3))
    y = g.normal(size=30)[groups] + 0.1 * g.normal(size=180)
    return rows, y, groups


def width(model: Any, rows: Any) -> float:
    return float(np.diff(model.predict_interval(rows, 0.8)).mean())


@pytest.mark.slow
def test_intervals_of_one_net_are_those_of_rows_that_no_net_has_seen() -> None:
    rows, y, groups = in_groups()
    model = TabularMLPRegressor(**MANY).fit(rows, y, groups=groups)
    small = model.distilled(rows)
    assert width(small, rows) > 0.9 * width(model, rows)
    assert width(small.distilled(rows), rows) > 0.9 * width(model, rows)
    with pytest.raises(ValueError, match="there were 180; train on more rows, or use"):
        small.predict_interval(rows, 0.995)


@pytest.mark.slow
def test_sets_of_one_net_are_those_of_rows_that_no_net_has_seen() -> None:
    rows, y, groups = in_groups()
    model = TabularMLPClassifier(**MANY, refit=True).fit(rows, y > 0, groups=groups)
    size = model.predict_set(rows, 0.8).sum()
    assert model.distilled(rows).predict_set(rows, 0.8).sum() > 0.9 * size


@pytest.mark.slow
@pytest.mark.parametrize("loss", ["quantile", "gamma"])
def test_one_net_of_another_loss_keeps_its_order(loss: Any) -> None:
    y = np.exp(Y / 2)
    settings: dict[str, Any] = {
        **FEW,
        "loss": loss,
        "quantile": 0.8,
        "monotonic_cst": {"age": 1},
    }
    model = TabularMLPRegressor(**settings, cv=2).fit(X, y)
    small = model.distilled(X, y, hidden_layer_sizes=16)
    assert small.members_[0].net.layer_sizes[1:] == (16, 1)
    result = small.predict(X)
    expected = model.predict(X)
    assert np.corrcoef(result, expected)[0, 1] > 0.9
    # A quantile is not missed on one side.
    assert abs(np.mean(result - expected)) < 0.1 * expected.std()
    assert (np.diff(small.predict(AGES)) >= 0).all()


def test_drawn_rows_are_of_near_rows() -> None:
    rng = np.random.default_rng(0)
    # Two groups far from each other; the last two numbers are parts of one date.
    group = rng.integers(2, size=500)
    parts = np.outer(group, [1.0, -1.0]) + np.arange(500)[:, None] / 1e4
    numbers = np.column_stack([10 * group + rng.random(500), parts])
    codes = np.column_stack([group, rng.integers(-1, 9, 500)])
    values = Values(numbers, codes.astype(np.int32))
    columns = np.array([0, 1, 1]), np.array([2, 3])
    drawn_rows = [*fitting.drawn(values, columns, 5000, np.random.default_rng(0))]
    assert [len(part.codes) for part in drawn_rows] == [4096, 904]
    rows = Values(*map(np.concatenate, zip(*drawn_rows, strict=True)))
    assert rows.codes.dtype == np.int32
    assert np.isin(rows.numbers[:, 0], numbers[:, 0]).all()
    assert np.mean((rows.numbers[:, 0] > 5) == rows.codes[:, 0]) > 0.99
    pairs = {tuple(pair) for pair in numbers[:, 1:].tolist()}
    assert all(tuple(pair) in pairs for pair in rows.numbers[:, 1:].tolist())
    own = {tuple(row) for row in np.hstack(values).tolist()}
    assert sum(tuple(row) not in own for row in np.hstack(rows).tolist()) > 2500


def test_a_model_from_a_file_takes_targets(tmp_path: Any) -> None:
    loaded = reloaded(regressor(), tmp_path / "m.safetensors")
    small = loaded.distilled(X, Y)
    assert len(small.pack_.residuals) == 24
    assert small.feature_importances_.shape == (4,)
    out = np.empty((len(X), 1))
    jit.predict(jit.compiled(small), small.codes(X), out)
    assert np.array_equal(out[:, 0], small.predict(X))
    assert "predict" in to_c(small)


def _score(model: Any, frame: pd.DataFrame, y: Any) -> float:
    places = y
    if model.pack_.task != "regression":
        places = np.searchsorted(model.classes_, y)
    scorer = Scorer(model.pack_.task, places)
    return scorer.score_of(outputs(model, frame))
