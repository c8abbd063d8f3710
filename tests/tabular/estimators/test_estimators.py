"""The models of tables: what they take, learn and say; scikit-learn's checks."""

import pickle
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.calibration import CalibratedClassifierCV
from sklearn.metrics import (
    f1_score,
    get_scorer,
    log_loss,
    make_scorer,
    mean_absolute_error,
    r2_score,
    roc_auc_score,
)
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor
from sklearn.utils.estimator_checks import parametrize_with_checks
from small_models import FEW, classifier, drawn, labels, regressor, reloaded

from fastmlp import EarlyStopping, TabularMLPClassifier, TabularMLPRegressor
from fastmlp.compiler.jit import INTERPRETED
from fastmlp.tabular import boosted_trees, conformal
from fastmlp.tabular.settings import PRESETS

pytestmark = pytest.mark.skipif(
    INTERPRETED, reason="NUMBA_DISABLE_JIT is set: too slow"
)

X, Y = drawn()
LABELS = labels()


def test_probabilities_are_a_distribution() -> None:
    model = classifier()
    p = model.predict_proba(X)
    assert p.shape == (120, 3)
    np.testing.assert_allclose(p.sum(axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(np.exp(model.predict_log_proba(X)), p, atol=1e-12)


def test_labels_are_the_most_probable_classes() -> None:
    model = classifier()
    places = model.predict_proba(X).argmax(axis=1)
    assert (model.predict(X) == model.classes_[places]).all()
    assert model.score(X, LABELS) > 0.6


def test_the_validation_score_is_that_of_the_held_out_rows() -> None:
    model = classifier()
    loss = log_loss(LABELS[::3], model.predict_proba(X[::3]))
    assert model.validation_score_ == pytest.approx(-loss, rel=1e-5)


def test_names_of_features_are_those_of_the_table() -> None:
    model = classifier()
    assert model.feature_names_in_.tolist() == list(X.columns)
    assert model.n_features_in_ == 4


def test_numbers_are_in_the_range_of_targets() -> None:
    model = regressor()
    result = model.predict(X)
    assert model.score(X, Y) > 0.5
    assert Y.min() <= result.min() <= result.max() <= Y.max()


def test_a_spread_is_the_weighted_one_of_the_members() -> None:
    model = regressor()
    result = model.predict(X)
    each = list(model._each(model.schema_.read(X)))
    weights = np.array([weight for weight, _ in each])
    members = np.stack([one for _, one in each])
    np.testing.assert_allclose(np.average(members, axis=0, weights=weights), result)
    variance = np.average((members - result) ** 2, axis=0, weights=weights)
    np.testing.assert_allclose(model.predict_std(X), np.sqrt(variance))


def test_intervals_hold_the_numbers() -> None:
    model = regressor()
    result = model.predict(X)
    low, high = model.predict_interval(X, coverage=0.9).T
    assert ((low < result) & (result < high)).all()
    # Each row was held out from half of the nets;
    # the other half makes the intervals safe.
    assert ((low <= Y) & (high >= Y)).mean() > 0.85
    assert (model.predict_interval(X, 0.5)[:, 0] > low).all()


@pytest.fixture(scope="module")
def weighted() -> tuple[Any, Any]:
    """A regressor whose rows have weights, of which a quarter are 0; and the weights."""
    weight = np.where(np.arange(120) % 4 == 0, 0.0, 3.0)
    model = TabularMLPRegressor(**FEW, cv=2)
    return model.fit(X, Y, sample_weight=weight), weight


def test_rows_of_weight_0_are_left_out(weighted: tuple[Any, Any]) -> None:
    model, weight = weighted
    keep = weight > 0
    other = TabularMLPRegressor(**FEW, cv=2)
    other.fit(X[keep], Y[keep], sample_weight=weight[keep])
    assert (model.predict(X) == other.predict(X)).all()


def test_heavy_rows_draw_predictions_to_them(weighted: tuple[Any, Any]) -> None:
    model, _ = weighted
    heavy = TabularMLPRegressor(**FEW, cv=2)
    heavy.fit(X, Y, sample_weight=1 + 9.0 * (Y > 4))
    assert heavy.predict(X).mean() > model.predict(X).mean()


@pytest.mark.parametrize("cv", [None, 2])
def test_a_class_of_one_row_has_a_probability(cv: int | None) -> None:
    y = LABELS.copy()
    y[7] = "unique"
    model = TabularMLPClassifier(**FEW, cv=cv).fit(X, y)
    assert model.predict_proba(X).shape == (120, 4)
    assert np.isfinite(model.predict_log_proba(X)).all()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "y", "scoring"),
    [
        (TabularMLPClassifier, LABELS, "balanced_accuracy"),
        (TabularMLPClassifier, LABELS, "accuracy"),
        (TabularMLPRegressor, Y, "explained_variance"),
        (TabularMLPRegressor, Y, "neg_mean_absolute_error"),
    ],
    ids=["balanced", "accuracy", "variance", "absolute error"],
)
def test_scores_choose_the_ensemble(kind: Any, y: Any, scoring: str) -> None:
    model = kind(**FEW, scoring=scoring).fit(X, y, X_val=X[::2], y_val=y[::2])
    expected = get_scorer(scoring)(model, X[::2], y[::2])
    assert model.validation_score_ == pytest.approx(expected)


@pytest.mark.slow
@pytest.mark.parametrize("cv", [None, 2])
def test_members_of_scikit_learn(cv: int | None) -> None:
    trees = DecisionTreeRegressor(max_depth=3, random_state=0)
    model = TabularMLPRegressor(**FEW, extra_members=[("trees", trees)], cv=cv)
    model.fit(X, Y)
    assert model.weights_.sum() == pytest.approx(1)
    assert [name for name, _ in model.extra_members_] == ["trees"]
    assert np.isfinite(model.predict_std(X)).all()
    assert "trees" in model.summary()


def test_classifiers_of_scikit_learn_are_members() -> None:
    several = [DecisionTreeClassifier(max_depth=3)]
    chosen = TabularMLPClassifier(**FEW, extra_members=several).fit(X, LABELS)
    assert chosen.predict_proba(X).shape == (120, 3)


def test_a_leaderboard_is_in_the_order_of_scores() -> None:
    model = classifier()
    board = model.leaderboard_
    assert board["weight"].sum() == pytest.approx(1)
    assert board["validation_score"].is_monotonic_decreasing
    assert (model.n_iter_ >= 1).all()


def test_a_summary_counts_the_nets() -> None:
    model = classifier()
    summary = model.summary().replace("1 net of", "1 nets of")
    assert f"{len(model.members_)} nets of 2" in summary


def test_a_model_is_shown_as_a_table() -> None:
    assert "<table" in classifier()._repr_html_()
    assert "not fitted" in TabularMLPClassifier()._repr_html_()


def test_new_categories_are_answered() -> None:
    rows = X[:3].assign(town="Rome", income=np.nan)
    assert np.isfinite(classifier().predict_proba(rows)).all()


def test_no_rows_have_no_labels() -> None:
    assert classifier().predict(X[:0]).shape == (0,)


@pytest.mark.parametrize("of", [regressor, classifier])
def test_importances_go_with_pickles_but_not_with_files(
    of: Any, tmp_path: Path
) -> None:
    model = of()
    result = model.feature_importances_
    assert result.shape == (4,)
    copy = pickle.loads(pickle.dumps(model))
    assert (copy.feature_importances_ == result).all()
    loaded = reloaded(model, tmp_path / "m.safetensors")
    with pytest.raises(AttributeError, match="which a file does not hold: use sklearn"):
        _ = loaded.feature_importances_


def test_importances_are_those_of_the_columns_in_use() -> None:
    result = regressor().feature_importances_
    assert result.argmax() in (0, 1)
    assert result[2] < result.max() / 3


def test_a_column_that_is_left_out_has_no_importance() -> None:
    dropped = X.assign(constant=1.0)
    with pytest.warns(UserWarning, match="left out: 'constant' has one value only"):
        model = TabularMLPRegressor(**FEW, cv=2).fit(dropped, Y)
    assert model.feature_importances_[4] == 0
    assert (model.feature_importances_ == model.feature_importances_).all()


def small() -> TabularMLPClassifier:
    return TabularMLPClassifier(**{**FEW, "max_iter": 2}, cv=2)


def test_a_pipeline_ends_in_one() -> None:
    pipeline = make_pipeline(FunctionTransformer(), small()).fit(X, LABELS)
    assert pipeline.predict(X).shape == (120,)


@pytest.mark.slow
def test_a_search_tries_their_settings() -> None:
    search = GridSearchCV(small(), {"n_members": [1, 2]}, cv=2).fit(X, LABELS)
    assert len(search.cv_results_["params"]) == 2


@pytest.mark.slow
def test_probabilities_may_be_calibrated() -> None:
    calibrated = CalibratedClassifierCV(small(), cv=2).fit(X, LABELS)
    assert calibrated.predict_proba(X).shape == (120, 3)


def test_a_time_limit_leaves_one_net() -> None:
    model = TabularMLPClassifier(
        n_members=6, time_limit=1e-3, trees=False, random_state=0, n_jobs=2
    )
    words = r"fit: \d+ of 30 nets were trained within time_limit=0.001, \d+ of"
    with pytest.warns(match=words):
        model.fit(X, LABELS)
    assert len(model.members_) >= 1


def test_a_score_that_fails_says_why() -> None:
    model = TabularMLPClassifier(**{**FEW, "max_iter": 1}, scoring="precision")
    words = r"Classifier.fit: scoring='precision' of 3 classes failed: T"
    with pytest.raises(ValueError, match=words):
        model.fit(X, LABELS)


def away(y: Any, predictions: Any, sample_weight: Any) -> float:
    return float(np.average(np.abs(y - predictions), weights=sample_weight))


HIGH = LABELS == "top"


@pytest.mark.parametrize(
    ("y", "metrics", "name", "mode", "expected"),
    [
        (1e3 + 50 * Y, "r2", "r2", None, r2_score),
        (1e3 + 50 * Y, [away], "away", "min", mean_absolute_error),
        (
            LABELS,
            {"score": "neg_log_loss"},
            "score",
            None,
            lambda y, p: -log_loss(y, p / p.sum(axis=1)[:, None]),
        ),
        (
            HIGH,
            [roc_auc_score],
            "roc_auc_score",
            "max",
            lambda y, p: roc_auc_score(y, p[:, 1]),
        ),
        (
            HIGH,
            make_scorer(f1_score),
            "f1_score",
            None,
            lambda y, p: f1_score(y, p[:, 1] > 0.5),
        ),
    ],
)
def test_nets_end_by_a_metric(
    y: Any, metrics: Any, name: str, mode: Any, expected: Any
) -> None:
    """A metric is in the table's units,
    and a net is that of the metric's best epoch.
    """
    kind: Any = TabularMLPClassifier
    if y.dtype == float:
        kind = TabularMLPRegressor
    sign = -1 if mode == "min" else 1
    stopping = EarlyStopping(name, patience=2, mode=mode)
    histories: list[Any] = []
    model = kind(n_members=3, max_iter=20, random_state=0, ensemble="mean")
    model.set_params(metrics=metrics, early_stopping=stopping)

    def keep(report: Any) -> None:
        histories.append(report.history)

    model.fit(X, y, X_val=X[::2], y_val=y[::2], callbacks=keep)
    of_nets = {tuple(history.loss): history for history in histories}
    for member, predictions in model.pack_.each(model.schema_.read(X[::2])):
        history = of_nets[tuple(member.curve[:, 0])]
        values = sign * np.array(history.metrics[name])
        assert values.max() == pytest.approx(sign * expected(y[::2], predictions), 1e-5)
        assert member.epoch - 1 == history.best_epoch == np.argmax(values)
        assert len(history.loss) in (20, member.epoch + 2)
        curves = model.learning_curves_.values()
        assert history.metrics in [curve.metrics for curve in curves]


def test_nets_end_by_scoring_where_that_is_asked_for() -> None:
    model = TabularMLPClassifier(
        n_members=3, max_iter=20, random_state=0, scoring="roc_auc"
    )
    model.set_params(early_stopping=True).fit(X, HIGH, X_val=X[::2], y_val=HIGH[::2])
    curves = model.learning_curves_.values()
    for member, curve in zip(model.members_, curves, strict=True):
        assert member.epoch - 1 == np.argmax(curve.metrics["scoring"])
    for member, predictions in model.pack_.each(model.schema_.read(X[::2])):
        expected = roc_auc_score(HIGH[::2], predictions[:, 1])
        assert member.curve[:, 2].max() == pytest.approx(expected, 1e-6)
    assert not model.set_params(scoring=None).fit(X, HIGH).training_.get("metrics")


@pytest.mark.parametrize(
    ("metrics", "words"),
    [
        ({"bad": lambda y, p: 1 / 0}, r"metrics\['bad'\] failed: division by zero"),
        (
            make_scorer(f1_score, pos_label=7),
            r"metrics\['f1_score'\] failed: pos_label=7",
        ),
        (
            ["accuracy", "accuracy"],
            "metrics has 'accuracy' twice; give a dict of names",
        ),
        (
            [partial(log_loss, normalize=False)],
            r"partial\(.* has no name: give {'name': function}",
        ),
        ("mae", "metrics: 'mae' is no score, did you mean 'neg_mean_absolute_error'"),
        (
            {"loss": "accuracy"},
            "the name of a metric must be a str, not 'epoch', 'loss'",
        ),
    ],
)
def test_faults_of_metrics(metrics: Any, words: str) -> None:
    model = TabularMLPClassifier(n_members=1, max_iter=1, metrics=metrics)
    with pytest.raises(ValueError, match=rf"TabularMLPClassifier.fit: .*{words}"):
        model.fit(X, HIGH, X_val=X, y_val=HIGH)


@pytest.mark.parametrize("seed", range(4))
def test_targets_among_the_columns_are_warned_of(seed: int) -> None:
    g = np.random.default_rng(seed)
    y: Any = [Y, LABELS, g.integers(2, size=120), Y > 3][seed]
    column = pd.Series(y).astype([float, "category", object, object][seed])
    model: Any = TabularMLPClassifier() if seed else TabularMLPRegressor()
    model.set_params(n_members=1, max_iter=1, cv=2)
    with pytest.warns(
        UserWarning, match=r"fit: y is a column of X, 'copy': leave it out"
    ):
        model.fit(X.assign(copy=column), y)
    changed = column.copy()
    changed[7] = column[(column != column[7]).argmax()]
    model.fit(X.assign(copy=changed), y)


@pytest.mark.parametrize(
    "frame",
    [
        pd.DataFrame({"a": [1.0, 2.0, 3.0, 4.0] * 8, "b": [None] * 32}),
        pd.DataFrame(
            {
                "id": pd.Categorical([f"item {i % 16}" for i in range(32)]),
                "a": range(32),
            }
        ),
        pd.DataFrame(np.eye(32, 600)).rename(columns=str),
    ],
    ids=["empty column", "a level of two rows", "many columns"],
)
def test_odd_tables_are_learned(frame: pd.DataFrame) -> None:
    y = np.arange(32) % 2
    model = TabularMLPClassifier(**{**FEW, "max_iter": 2}, cv=2)
    if "id" in frame:
        model.fit(frame, y)
    else:
        with pytest.warns(UserWarning, match="columns left out: '"):
            model.fit(frame, y)
    assert np.isfinite(model.predict_proba(frame)).all()


def test_mixed_precision() -> None:
    plain = regressor()
    mixed = TabularMLPRegressor(**FEW, cv=2, compute_dtype="bfloat16")
    mixed.fit(X, Y)
    assert {member.net.compute_dtype for member in mixed.members_} == {"bfloat16"}
    assert {member.net.compute_dtype for member in plain.members_} == {None}
    result = mixed.predict(X)
    expected = plain.predict(X)
    assert not np.array_equal(result, expected)
    assert np.abs(result - expected).max() < 0.05 * np.ptp(Y)
    assert ", trained in bfloat16; validation score" in mixed.summary()
    assert "bfloat16" not in plain.summary()


LITTLE: dict[str, Any] = {"n_members": 2, "max_iter": 6, "random_state": 0}
EXPECTED_TO_FAIL = {
    # A row of weight 2 is not two rows: they would be in other batches, and in other
    # folds. Trees count rows in their leaves and draw them for their bins; scikit-learn
    # excepts its own as well.
    "check_sample_weight_equivalence_on_dense_data": "batches and folds are of rows"
}


def expected(estimator: Any) -> dict[str, str]:
    return EXPECTED_TO_FAIL


@pytest.fixture
def few_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(boosted_trees, "ROUNDS", 10)
    monkeypatch.setattr(
        conformal, "SIZE_SETTINGS", conformal.SIZE_SETTINGS._replace(epochs=5)
    )
    # A check asks for 1,000 epochs.
    monkeypatch.setitem(
        PRESETS, "balanced", PRESETS["balanced"]._replace(patience_share=0.0)
    )


@pytest.mark.slow
@pytest.mark.few(30)
@pytest.mark.usefixtures("few_rounds")
@pytest.mark.filterwarnings("default")
@parametrize_with_checks(
    [
        TabularMLPClassifier(**LITTLE, validation_fraction=0.3, cv=2),
        TabularMLPRegressor(**LITTLE, cv=2),
        TabularMLPClassifier(
            **{**LITTLE, "n_members": 1, "max_iter": 2}, cv=2, trees=True
        ),
        TabularMLPRegressor(**{**LITTLE, "n_members": 1}, cv=2, trees=True),
    ],
    expected_failed_checks=expected,
)
def test_check(estimator: Any, check: Any) -> None:
    check(estimator)
