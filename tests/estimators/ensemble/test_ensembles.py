"""Ensembles: their members are estimators with seeds; means, spreads and entropies of them."""

import pickle
import warnings
from typing import Any

import numpy as np
import pandas as pd
import pytest
from fitting import needs_compiler, unconverged
from memory_use import peak_of
from pairs import same
from scipy.sparse import csr_array
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils import check_random_state
from sklearn.utils.estimator_checks import parametrize_with_checks

from fastmlp import MLPClassifier, MLPEnsembleClassifier, MLPEnsembleRegressor, MLPRegressor

pytestmark = unconverged
N = 40
X = np.random.default_rng(0).normal(size=(N, 3))
REAL = X[:, 0] * X[:, 1]
CLASSES = np.array(["no", "maybe", "yes"])[np.digitize(REAL, [-0.5, 0.5])]
BINARY = REAL > 0
LABELS = np.column_stack([X[:, 0] > 0, X[:, 1] > 0, X[:, 2] > 1]).astype(int)
WEIGHT = np.random.default_rng(1).uniform(0.5, 2, N)
SETTINGS: dict[str, Any] = {"hidden_layer_sizes": (4,), "max_iter": 3, "batch_size": 10}
TASKS: list[Any] = [
    (MLPEnsembleClassifier, MLPClassifier, CLASSES),
    (MLPEnsembleClassifier, MLPClassifier, BINARY),
    (MLPEnsembleClassifier, MLPClassifier, LABELS),
    (MLPEnsembleRegressor, MLPRegressor, REAL),
    (MLPEnsembleRegressor, MLPRegressor, np.column_stack([REAL, X[:, 2]])),
]
each_task = pytest.mark.parametrize(("kind", "member", "y"), TASKS)


def ensemble(kind: Any, **more: Any) -> Any:
    return kind(**SETTINGS, **{"n_members": 3, "random_state": 0, **more})


@each_task
@pytest.mark.parametrize("weight", [None, WEIGHT])
@pytest.mark.parametrize("bootstrap", [False, True])
def test_members_are_estimators_with_seeds(
    kind: Any, member: Any, y: Any, weight: Any, bootstrap: bool
) -> None:
    fitted = ensemble(kind, bootstrap=bootstrap, n_jobs=2).fit(X, y, sample_weight=weight)
    random = check_random_state(0)
    assert len(fitted.estimators_) == 3
    for item in fitted.estimators_:
        seed = random.randint(np.iinfo(np.int32).max)
        rows = random.randint(N, size=N) if bootstrap else np.arange(N)
        weights = None if weight is None else weight[rows]
        own = member(**SETTINGS, random_state=seed).fit(X[rows], y[rows], sample_weight=weights)
        assert type(item) is member
        assert same(item, own)
    assert not same(*fitted.estimators_[:2])


def test_a_regressors_mean_and_spread() -> None:
    fitted = ensemble(MLPEnsembleRegressor).fit(X, REAL)
    predictions = np.stack([member.predict(X) for member in fitted.estimators_])
    np.testing.assert_allclose(fitted.predict(X), predictions.mean(0), rtol=1e-12)
    np.testing.assert_allclose(fitted.predict_std(X), predictions.std(0), rtol=1e-12)
    assert fitted.predict_std(X).min() > 0
    one = ensemble(MLPEnsembleRegressor, n_members=1).fit(X, REAL)
    assert not one.predict_std(X).any()


@pytest.mark.parametrize("y", [CLASSES, BINARY, LABELS])
def test_a_classifiers_mean_spread_and_entropy(y: Any) -> None:
    fitted = ensemble(MLPEnsembleClassifier).fit(X, y)
    each = np.stack([member.predict_proba(X) for member in fitted.estimators_])
    mean = each.mean(0)
    np.testing.assert_allclose(fitted.predict_proba(X), mean, rtol=1e-12)
    np.testing.assert_allclose(fitted.predict_log_proba(X), np.log(mean), rtol=1e-9)
    np.testing.assert_allclose(fitted.predict_std(X), each.std(0), rtol=1e-9, atol=1e-15)
    entropy = -(mean * np.log(mean)).sum(1)
    if y is LABELS:
        entropy -= ((1 - mean) * np.log(1 - mean)).sum(1)
        assert np.array_equal(fitted.predict(X), mean > 0.5)
    else:
        assert np.array_equal(fitted.predict(X), fitted.classes_[mean.argmax(1)])
        assert entropy.max() < np.log(len(fitted.classes_)) + 1e-12
    np.testing.assert_allclose(fitted.predictive_entropy(X), entropy, rtol=1e-9)


def test_a_sure_ensemble_has_no_entropy() -> None:
    fitted = ensemble(MLPEnsembleClassifier).fit(X, BINARY)
    for member in fitted.estimators_:
        member.intercepts_[-1][:] = 1e4
    assert np.array_equal(fitted.predictive_entropy(X), np.zeros(N))


def test_a_member_that_misses_a_class_gives_it_no_chance() -> None:
    y = np.array(["rare"] + ["often"] * 20 + ["other"] * 19)
    fitted = ensemble(MLPEnsembleClassifier, n_members=8, bootstrap=True).fit(X, y)
    several = [len(member.classes_) for member in fitted.estimators_]
    assert set(several) == {2, 3}
    member = fitted.estimators_[several.index(2)]
    each = fitted._probabilities(X)[several.index(2)]
    assert np.array_equal(each[:, [0, 1]], member.predict_proba(X))
    assert not each[:, 2].any()
    np.testing.assert_allclose(fitted.predict_proba(X).sum(1), 1)
    assert set(fitted.predict(X)) <= set(y)


def test_a_member_of_one_class_is_sure_of_it() -> None:
    y = np.array(["rare"] + ["often"] * (N - 1))
    fitted = ensemble(MLPEnsembleClassifier, n_members=6, bootstrap=True).fit(X, y)
    alone = [len(member.classes_) == 1 for member in fitted.estimators_]
    assert any(alone)
    assert np.array_equal(fitted._probabilities(X)[alone.index(True)], [[1.0, 0.0]] * N)


def test_float32_rows_stay_float32() -> None:
    narrow = X.astype(np.float32)
    assert ensemble(MLPEnsembleRegressor).fit(narrow, REAL).predict(narrow).dtype == np.float32
    fitted = ensemble(MLPEnsembleClassifier).fit(narrow, CLASSES)
    assert fitted.predict_proba(narrow).dtype == np.float32


def test_sparse_rows_and_frames() -> None:
    sparse, frame = csr_array(X), pd.DataFrame(X, columns=["a", "b", "c"])
    dense = ensemble(MLPEnsembleRegressor).fit(X, REAL)
    np.testing.assert_allclose(
        ensemble(MLPEnsembleRegressor).fit(sparse, REAL).predict(sparse), dense.predict(X)
    )
    framed = ensemble(MLPEnsembleRegressor).fit(frame, REAL)
    assert list(framed.feature_names_in_) == ["a", "b", "c"]
    assert np.array_equal(framed.predict(frame), dense.predict(X))


@each_task
def test_clone_pickle_pipeline_and_parameters(kind: Any, member: Any, y: Any) -> None:
    made = ensemble(kind, activation="tanh", alpha=0.1)
    assert clone(made).get_params() == made.get_params()
    assert set(made.get_params()) == (
        set(member().get_params()) - {"warm_start"}
        | {"n_members", "bootstrap", "client", "group_timeout"}
    )
    defaults, own = kind().get_params(), member().get_params()
    assert all(repr(defaults[k]) == repr(v) for k, v in own.items() if k in defaults)
    pipe = make_pipeline(StandardScaler(), made).fit(X, y)
    again = pickle.loads(pickle.dumps(pipe))
    assert np.array_equal(again.predict(X), pipe.predict(X))


@needs_compiler
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("settings", [{}, {"bootstrap": True}, {"early_stopping": True}], ids=str)
def test_x_is_in_memory_once_for_all_members(settings: dict[str, Any], order: Any) -> None:
    rows = np.asarray(np.random.default_rng(0).normal(size=(20_000, 64)), order=order)
    y = rows[:, 0] * rows[:, 1]
    made = ensemble(MLPEnsembleRegressor, n_members=4, n_jobs=2, **settings)
    made.set_params(batch_size=500).fit(rows[:2000], y[:2000])  # compiles
    # Rows that do not lie one after the other are copied, once.
    most = 0.5 + (order == "F")
    assert peak_of(lambda: made.fit(rows, y)) < most * rows.nbytes


def test_bootstrapped_rows_may_be_sparse_or_a_frame_and_weighted() -> None:
    settings: dict[str, Any] = {"bootstrap": True, "class_weight": "balanced"}
    sparse, frame = csr_array(X), pd.DataFrame(X, columns=["a", "b", "c"])
    dense = ensemble(MLPEnsembleClassifier, **settings).fit(X, CLASSES, WEIGHT)
    for rows in (sparse, sparse.tocsc(), frame):
        other = ensemble(MLPEnsembleClassifier, **settings).fit(rows, CLASSES, WEIGHT)
        np.testing.assert_allclose(other.predict_proba(rows), dense.predict_proba(X))
    random = check_random_state(0)
    seed, rows = random.randint(np.iinfo(np.int32).max), random.randint(N, size=N)
    own = MLPClassifier(**SETTINGS, class_weight="balanced", random_state=seed)
    assert same(dense.estimators_[0], own.fit(X[rows], CLASSES[rows], WEIGHT[rows]))


def test_warnings_come_from_the_caller_and_can_be_errors() -> None:
    made = ensemble(MLPEnsembleRegressor, n_jobs=2)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        made.fit(X, REAL)
    assert [warning.category for warning in caught] == [ConvergenceWarning] * 3
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ConvergenceWarning):
            made.fit(X, REAL)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n_members": 0}, "n_members"),
        ({"bootstrap": 1.5}, "bootstrap"),
        ({"alpha": -1}, "alpha"),
        ({"solver": "newton"}, "solver"),
        ({"hidden_layer_sizes": (0,)}, "hidden_layer_sizes must be > 0"),
        ({"hidden_layer_sizes": "wide"}, "hidden_layer_sizes"),
    ],
)
def test_bad_parameters(change: dict[str, Any], message: str) -> None:
    for kind, y in ((MLPEnsembleClassifier, CLASSES), (MLPEnsembleRegressor, REAL)):
        with pytest.raises(ValueError, match=message):
            kind(**{"n_members": 2, **SETTINGS, **change}).fit(X, y)


def test_an_error_in_a_member_names_it() -> None:
    with pytest.raises(ValueError, match="non-finite") as caught:
        ensemble(MLPEnsembleRegressor, solver="sgd", learning_rate_init=1e300, n_jobs=1).fit(
            X, REAL
        )
    assert caught.value.__notes__ == ["in member 0"]


@needs_compiler
def test_a_search_over_an_ensemble() -> None:
    search = GridSearchCV(ensemble(MLPEnsembleRegressor), {"alpha": [0, 1]}, cv=2).fit(X, REAL)
    assert len(search.cv_results_["params"]) == 2


@needs_compiler
@parametrize_with_checks(
    [
        MLPEnsembleClassifier((4,), n_members=2, max_iter=20, learning_rate_init=0.05),
        MLPEnsembleRegressor(hidden_layer_sizes=(4,), n_members=2, solver="lbfgs", max_iter=20),
    ]
)
@pytest.mark.filterwarnings("default")
def test_check(estimator: Any, check: Any) -> None:
    check(estimator)


@needs_compiler
def test_a_bar_counts_the_epochs_of_all_members(capfd: pytest.CaptureFixture[str]) -> None:
    model = ensemble(MLPEnsembleClassifier, bootstrap=True).fit(X, CLASSES, progress=True)
    printed = capfd.readouterr().err
    assert "9/9" in printed
    assert "3 of 3 nets" in printed
    plain = ensemble(MLPEnsembleClassifier, bootstrap=True).fit(X, CLASSES)
    assert all(map(same, model.estimators_, plain.estimators_))
    # Members that end early count as done.
    ensemble(MLPEnsembleRegressor, solver="lbfgs", tol=1e9).fit(X, REAL, progress=True)
    assert "9/9" in capfd.readouterr().err
