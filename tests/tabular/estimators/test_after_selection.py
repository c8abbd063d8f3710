"""After the selection: nets trained on all rows, learning curves, and one net for all."""

import time
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone
from sklearn.tree import DecisionTreeRegressor
from small_models import FEW, classifier, drawn, labels, regressor, reloaded, table_of

from fastmlp import TabularMLPClassifier, TabularMLPRegressor, jit, to_c
from fastmlp.compiler.jit import INTERPRETED
from fastmlp.plotting import plot_history
from fastmlp.tabular import distillation, extras
from fastmlp.tabular.fitting import NotRefitted, refitted_pack
from fastmlp.tabular.outputs import Scorer
from fastmlp.tabular.pack import Caller
from fastmlp.tabular.pool import TableRows
from fastmlp.tabular.schema import Values
from fastmlp.training.history import History, Status

pytestmark = [
    pytest.mark.skipif(INTERPRETED, reason="NUMBA_DISABLE_JIT is set: too slow"),
    pytest.mark.filterwarnings("ignore:.*columns left out|.*above the ensemble"),
]
X, Y = drawn()
LABELS = labels()


@pytest.fixture(autouse=True)
def few_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distillation, "LEAST", 600)


@pytest.mark.parametrize(
    ("classes", "divided"),
    [(True, "folds"), (False, "folds"), (True, "held out"), (False, "given")],
)
def test_all_rows_are_trained_on_after_the_selection(
    classes: bool, divided: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    make: Any = TabularMLPClassifier if classes else TabularMLPRegressor
    y, method = (LABELS, "predict_proba") if classes else (Y, "predict")
    monkeypatch.setattr("fastmlp.tabular.base.FEW_ROWS", 100)
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
    assert np.array_equal(getattr(again, method)(X), getattr(model, method)(X))


def test_other_members_see_all_rows_too() -> None:
    tree = DecisionTreeRegressor(max_depth=9, random_state=0)
    model = TabularMLPRegressor(**FEW, extra_members=[tree], refit=True)
    model.fit(X[:60], Y[:60], X_val=X[60:], y_val=Y[60:])
    assert model.weights_[-1] > 0
    assert model.extra_members_[0][1].tree_.n_node_samples[0] == 120


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_all_rows_within_a_time_limit(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """With time enough the fit is that without a limit, else that without a refit."""
    monkeypatch.setattr(extras, "ROUNDS", 6)
    g = np.random.default_rng(seed)
    make, y = ((TabularMLPClassifier, LABELS), (TabularMLPRegressor, Y))[int(g.integers(2))]
    given: dict[str, Any] = {"X_val": X[:40], "y_val": y[:40]} if g.random() < 0.5 else {}
    settings = {**FEW, "trees": bool(g.random() < 0.5), "cv": None if given else 2}
    plain, whole, limited = (
        make(**settings, **more).fit(X, y, **given)
        for more in ({}, {"refit": True}, {"refit": True, "time_limit": 1e6})
    )
    assert np.array_equal(limited.predict(X), whole.predict(X))
    assert limited.training_ == whole.training_
    assert len(limited.members_) < len(plain.members_) or given
    with pytest.MonkeyPatch.context() as patch:
        # The time ends between the selection and the refit.
        patch.setattr(Caller, "seconds", property(lambda caller: 1e9))
        with pytest.warns(match=r"fit: refit=True did not end within time_limit=1e\+06"):
            late = make(**settings, refit=True, time_limit=1e6).fit(X, y, **given)
    assert np.array_equal(late.predict(X), plain.predict(X))
    assert late.training_ == plain.training_


def test_a_refit_that_is_cut_short_leaves_the_selection() -> None:
    # A net of many epochs, for which a thousandth of a second does not suffice.
    model = TabularMLPRegressor(**FEW).fit(X, Y, X_val=X, y_val=Y)
    member = model.members_[0]._replace(epoch=1_000_000)
    model.pack_.members = (member,)
    rows = TableRows(model.schema_.read(X), Y)
    settings = model._settings()._replace(time_limit=0.05)
    for seconds_ago in (0.0, 0.05):
        caller = Caller("fit", time.perf_counter() - seconds_ago)
        with pytest.raises(NotRefitted, match=r"did not end within time_limit=0\.05: more"):
            refitted_pack(model.pack_, rows, 0, settings, 0, 1, caller)


@pytest.mark.parametrize("time_limit", [None, 1e6])
def test_ctrl_c_during_a_refit_leaves_the_selection(
    time_limit: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(nets: Any, *_: Any, **options: Any) -> list[History]:
        return [History(status=Status.INTERRUPTED) for _ in nets]

    plain = TabularMLPRegressor(**FEW).fit(X, Y, X_val=X[:40], y_val=Y[:40])
    monkeypatch.setattr("fastmlp.tabular.fitting.fit_many", interrupted)
    model = clone(plain).set_params(refit=True, time_limit=time_limit)
    with pytest.warns(UserWarning, match="refit") as caught:
        model.fit(X, Y, X_val=X[:40], y_val=Y[:40])
    messages = [str(warning.message) for warning in caught]
    words = "refit=True was interrupted: the ensemble is that of the selection"
    assert messages == [f"TabularMLPRegressor.fit: {words}"]
    assert np.array_equal(model.predict(X), plain.predict(X))
    assert model.training_ == plain.training_


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


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_one_net_learns_what_an_ensemble_predicts(seed: int) -> None:
    frame, y, task = table_of(seed, 150)
    kind: Any = TabularMLPRegressor if task == "regression" else TabularMLPClassifier
    model = kind(n_members=3, max_iter=20, cv=2, random_state=seed).fit(frame, y)
    small = model.distilled(frame)
    method = "predict" if task == "regression" else "predict_proba"
    assert type(small) is type(model)
    assert len(small.members_) == 1
    assert small.get_params() == model.get_params()
    report = small.training_["distilled"]
    away = getattr(small, method)(frame) - getattr(model, method)(frame)
    spread = getattr(model, method)(frame).std()
    assert np.sqrt(np.mean(away**2)) < 0.5 * spread + 0.02
    assert report["loss"] == -small.validation_score_
    assert report["ensemble_loss"] == pytest.approx(-_score(model, frame, y), rel=1e-6)
    assert f"loss {report['loss']:.4g}" in small.summary()
    again = model.set_params(n_jobs=1).distilled(frame)
    assert np.array_equal(getattr(again, method)(frame), getattr(small, method)(frame))


def test_a_net_that_loses_too_much_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distillation, "ABOVE", -1.0)
    monkeypatch.setattr(distillation, "LAYERS", ((1,), (16,)))
    with pytest.warns(UserWarning, match=r"loss is -?\d+\.\d% above the ensemble's on 24 rows"):
        small = regressor().distilled(X, Y)
    assert small.members_[0].net.layer_sizes[1] > 1
    assert small.training_["distilled"]["loss"] == -small.validation_score_


@pytest.mark.slow
@pytest.mark.parametrize("case", ["number", "three classes", "rising"])
def test_one_net_learns_what_trees_alone_predict(case: str) -> None:
    kind: Any = TabularMLPClassifier if case == "three classes" else TabularMLPRegressor
    y, signs = (LABELS if kind is TabularMLPClassifier else Y), {"age": 1}
    model = kind(
        **FEW, trees=True, ensemble="best", monotonic_cst=signs if case == "rising" else None
    )
    model.set_params(max_iter=1).fit(X, y, X_val=X, y_val=y)
    assert not model.members_
    small = model.distilled(X)
    assert [*small.weights_] == [1.0]
    method = "predict" if y is Y else "predict_proba"
    result, expected = (getattr(one, method)(X).ravel() for one in (small, model))
    assert np.corrcoef(result, expected)[0, 1] > 0.9
    if case == "rising":
        ages = pd.concat([X[:1]] * 50).assign(age=np.linspace(0, 120, 50))
        assert (np.diff(small.predict(ages)) >= 0).all()


@pytest.mark.slow
def test_promises_of_one_net_are_those_of_rows_that_no_net_has_seen() -> None:
    """Rows of a group are alike: with others of it in training errors are much smaller."""
    g = np.random.default_rng(0)
    groups = np.repeat(np.arange(30), 6)
    rows = g.normal(size=(30, 3))[groups] + 0.01 * g.normal(size=(180, 3))
    y = g.normal(size=30)[groups] + 0.1 * g.normal(size=180)
    many: dict[str, Any] = {**FEW, "max_iter": 30, "cv": 3}
    model = TabularMLPRegressor(**many).fit(rows, y, groups=groups)
    small = model.distilled(rows)
    width, *others = (
        np.diff(one.predict_interval(rows, 0.8)).mean()
        for one in (model, small, small.distilled(rows))
    )
    assert min(others) > 0.9 * width
    with pytest.raises(ValueError, match="there were 180; train on more rows, or use"):
        small.predict_interval(rows, 0.995)
    chosen = TabularMLPClassifier(**many, refit=True).fit(rows, y > 0, groups=groups)
    size, other = (one.predict_set(rows, 0.8).sum() for one in (chosen, chosen.distilled(rows)))
    assert other > 0.9 * size


@pytest.mark.slow
@pytest.mark.parametrize("loss", ["quantile", "gamma"])
def test_nets_of_other_losses_and_of_rising_columns(loss: Any) -> None:
    y = np.exp(Y / 2)
    settings: dict[str, Any] = {**FEW, "loss": loss, "quantile": 0.8, "monotonic_cst": {"age": 1}}
    model = TabularMLPRegressor(**settings, cv=2).fit(X, y)
    small = model.distilled(X, y, hidden_layer_sizes=16)
    assert small.members_[0].net.layer_sizes[1:] == (16, 1)
    result, expected = small.predict(X), model.predict(X)
    assert np.corrcoef(result, expected)[0, 1] > 0.9
    # A quantile is not missed on one side.
    assert abs(np.mean(result - expected)) < 0.1 * expected.std()
    ages = pd.concat([X[:1]] * 50).assign(age=np.linspace(0, 120, 50))
    assert (np.diff(small.predict(ages)) >= 0).all()


def test_drawn_rows_are_of_near_rows(rng: np.random.Generator) -> None:
    # Two groups far from each other; the last two numbers are parts of one date.
    group = rng.integers(2, size=500)
    numbers = np.stack([10 * group + rng.random(500), 1.0 * group, -1.0 * group], axis=1)
    numbers[:, 1:] += np.arange(500)[:, None] / 1e4
    values = Values(numbers, np.stack([group, rng.integers(-1, 9, 500)], 1).astype(np.int32))
    columns = np.array([0, 1, 1]), np.array([2, 3])
    drawn_rows = [*distillation.drawn(values, columns, 5000, np.random.default_rng(0))]
    assert [len(part.codes) for part in drawn_rows] == [4096, 904]
    rows = Values(*map(np.concatenate, zip(*drawn_rows, strict=True)))
    assert rows.codes.dtype == np.int32
    assert np.isin(rows.numbers[:, 0], numbers[:, 0]).all()
    assert np.mean((rows.numbers[:, 0] > 5) == rows.codes[:, 0]) > 0.99
    pairs = {tuple(pair) for pair in numbers[:, 1:].tolist()}
    assert all(tuple(pair) in pairs for pair in rows.numbers[:, 1:].tolist())
    own = {tuple(row) for row in np.hstack(values).tolist()}
    assert sum(tuple(row) not in own for row in np.hstack(rows).tolist()) > 2500


FAULTS: list[tuple[dict[str, Any], str]] = [
    ({"X": X[:1]}, "X must have 2 rows or more, got 1"),
    ({"X": X.drop(columns="age")}, "no column 'age'.* columns of the model: 'age', 'income', "),
    ({"X": X, "hidden_layer_sizes": (8, 0)}, r"hidden_layer_sizes\[1\] must be an integer of 1"),
    ({"X": X, "hidden_layer_sizes": "wide"}, r"hidden_layer_sizes\[0\] must be an integer of 1"),
    ({"X": X, "hidden": 8}, r"^TabularMLPClassifier.distilled: got an unexpected .* 'hidden'"),
    ({}, r"^TabularMLPClassifier.distilled: missing 1 required argument: 'X'"),
    ({"X": X, "y": ["low"] * 119 + ["hight"]}, "y has labels that the fit has not: 'hight'"),
    ({"X": X, "y": LABELS[:5]}, "inconsistent numbers of samples"),
    ({"X": X, "y": "sold"}, r"Classifier.distilled: y should be a 1d array, got .* shape \(\)"),
]


@pytest.mark.parametrize(("given", "words"), FAULTS)
def test_faults_of_distillation(given: dict[str, Any], words: str) -> None:
    with pytest.raises((TypeError, ValueError), match=words):
        classifier().distilled(**given)


def test_a_model_from_a_file_needs_targets(tmp_path: Any) -> None:
    loaded = reloaded(regressor(), tmp_path / "m.safetensors")
    with pytest.raises(ValueError, match=r"distilled: a model from a file holds no rows .* give y"):
        loaded.distilled(X)
    small = loaded.distilled(X, Y)
    assert len(small.pack_.residuals) == 24
    assert small.feature_importances_.shape == (4,)
    out = np.empty((len(X), 1))
    jit.predict(jit.compiled(small), small.codes(X), out)
    assert np.array_equal(out[:, 0], small.predict(X))
    assert "predict" in to_c(small)
    with pytest.raises(TypeError, match="'warm_start': a fit begins anew"):
        TabularMLPRegressor(warm_start=True)  # type: ignore[call-arg]


def _score(model: Any, frame: pd.DataFrame, y: Any) -> float:
    places = y if model.pack_.task == "regression" else np.searchsorted(model.classes_, y)
    scorer = Scorer(model.pack_.task, places)
    method = "predict" if model.pack_.task == "regression" else "predict_proba"
    return scorer.score_of(getattr(model, method)(frame))
