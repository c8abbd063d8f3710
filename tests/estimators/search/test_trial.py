"""Trials that share what they can give the results of fits that share nothing."""

import warnings
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest
from fitting import needs_compiler, unconverged
from memory_use import peak_of
from scipy.sparse import csr_array
from search.test_search_cv import GRID, LABELS, OURS, REAL, SETTINGS, X, assert_same
from sklearn import config_context
from sklearn.exceptions import FitFailedWarning
from sklearn.model_selection import GridSearchCV, KFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from fastmlp import MLPClassifier, MLPRegressor, MLPSearchCV
from fastmlp.estimators.search import trial

pytestmark = [unconverged, pytest.mark.filterwarnings("ignore:Got `batch_size`"), needs_compiler]
SEVERAL = np.stack([REAL > 0, X[:, 1] > 0, X[:, 2] > 0.5], axis=1).astype(int)
RARE = np.where(np.arange(len(X)) < 2, "rare", np.where(REAL > 0, "yes", "no"))
REGRESSOR = MLPRegressor(hidden_layer_sizes=(6,), **SETTINGS)


def classifier(**more: Any) -> Any:
    return MLPClassifier((6,), **SETTINGS | more)


@pytest.fixture
def shared(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The folds of the fits that share their data."""
    seen: list[Any] = []
    fit = trial.Trials._try

    def watched(self: Any, fold: Any, *arguments: Any, **named: Any) -> Any:
        seen.append(fold)
        return fit(self, fold, *arguments, **named)

    monkeypatch.setattr(trial.Trials, "_try", watched)
    return seen


@pytest.mark.parametrize("n_jobs", [1, 2])
@pytest.mark.parametrize(
    ("estimator", "data", "y"),
    [
        (OURS, X, LABELS),
        (OURS, X.astype(np.float32), REAL > 0),
        (OURS, X.tolist(), LABELS.tolist()),
        (OURS, pd.DataFrame(X, columns=list("abcd")), pd.Series(LABELS, np.arange(len(X)) + 7)),
        (OURS, pl.DataFrame({name: X[:, i] for i, name in enumerate("abcd")}), LABELS),
        (OURS, X, SEVERAL),
        (OURS, X, RARE),
        (classifier(class_weight="balanced"), X, LABELS),
        (classifier(early_stopping=True, n_iter_no_change=2), X, LABELS),
        (classifier(solver="lbfgs"), X, LABELS),
        (classifier(solver="sgd", shuffle=False, learning_rate="adaptive"), X, LABELS),
        (classifier(scoring="loss", early_stopping=True), X, LABELS),
        (REGRESSOR, X, REAL),
        (REGRESSOR, X, np.stack([REAL, X[:, 0]], axis=1)),
        (REGRESSOR, X.astype(np.float32), REAL),
        (REGRESSOR, np.asfortranarray(X), REAL.astype(np.float32)),
    ],
)
def test_shared_data_give_what_copies_give(
    estimator: Any, data: Any, y: Any, n_jobs: int, shared: list[Any]
) -> None:
    options: dict[str, Any] = {"cv": KFold(3), "return_train_score": True}
    search = MLPSearchCV(estimator, GRID, n_jobs=n_jobs, **options).fit(data, y)
    assert len(shared) == 12
    assert len({id(fold.X) for fold in shared}) == 1
    assert_same(search, GridSearchCV(estimator, GRID, **options).fit(data, y))
    assert np.array_equal(search.predict(data), search.best_estimator_.predict(data))


def test_x_is_there_once(shared: list[Any]) -> None:
    whole = np.ascontiguousarray(X)
    MLPSearchCV(OURS, GRID, cv=3, refit=False).fit(whole, LABELS)
    assert all(np.shares_memory(fold.X, whole) for fold in shared)
    assert len({id(fold) for fold in shared}) == 3


@pytest.mark.parametrize("settings", [{}, {"early_stopping": True}, {"solver": "lbfgs"}], ids=str)
def test_neither_folds_nor_fits_nor_scores_take_copies_of_x(settings: Any, shared: Any) -> None:
    rows = np.random.default_rng(0).normal(size=(20_000, 64))
    y = rows[:, 0] * rows[:, 1]
    estimator = MLPRegressor(hidden_layer_sizes=(4,), max_iter=2, random_state=0, **settings)
    # One at a time: of two, what each needs now and then came to 0.62 of X.
    search = MLPSearchCV(estimator, {"alpha": [0.0, 1.0]}, cv=3, n_jobs=1, refit=False)
    search.fit(rows[:2000], y[:2000])  # compiles
    assert peak_of(lambda: search.fit(rows, y)) < 0.6 * rows.nbytes
    assert len(shared) == 12


def test_rows_are_scored_some_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = GridSearchCV(OURS, GRID, cv=3, return_train_score=True).fit(X, LABELS)
    monkeypatch.setattr(trial, "AT_ONCE", 7)
    assert_same(MLPSearchCV(OURS, GRID, cv=3, return_train_score=True).fit(X, LABELS), expected)


def test_folds_of_more_rows_than_there_are(shared: list[Any]) -> None:
    twice = np.concatenate([np.arange(60)] * 2)
    folds = [(twice, np.arange(60, len(X))), (twice + 30, np.arange(30))]
    search = MLPSearchCV(OURS, GRID, cv=folds).fit(X, LABELS)
    assert_same(search, GridSearchCV(OURS, GRID, cv=folds).fit(X, LABELS))
    assert len(shared) == 8


def test_a_fold_without_a_label_counts_it_as_wrong(shared: list[Any]) -> None:
    MLPSearchCV(OURS, GRID, cv=KFold(3), refit=False).fit(X, RARE)
    assert {fold.targets is None for fold in shared} == {True, False}


@pytest.mark.parametrize("scoring", ["neg_log_loss", ["accuracy", "f1_macro"], lambda *_: 0.5])
def test_other_scorers_get_the_estimator_and_the_rows(scoring: Any, shared: list[Any]) -> None:
    frame = pd.DataFrame(X, columns=list("abcd"))
    options: dict[str, Any] = {"cv": 3, "scoring": scoring, "refit": False}
    search = MLPSearchCV(OURS, GRID, n_jobs=2, **options).fit(frame, LABELS)
    expected = GridSearchCV(OURS, GRID, **options).fit(frame, LABELS)
    assert shared
    for name, values in expected.cv_results_.items():
        if "score" in name and not name.endswith("time"):
            assert np.array_equal(search.cv_results_[name], values)


@pytest.mark.parametrize(
    ("options", "message", "data"),
    [
        ({"verbose": 2}, {}, X),
        ({}, {"sample_weight": np.ones(len(X))}, X),
        ({}, {}, csr_array(X)),
    ],
)
def test_what_trials_do_not_know_is_left_to_scikit_learn(
    options: Any, message: Any, data: Any, shared: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    search = MLPSearchCV(OURS, GRID, cv=3, **options).fit(data, LABELS, **message)
    expected = GridSearchCV(OURS, GRID, cv=3).fit(data, LABELS, **message)
    assert not shared
    assert_same(search, expected)
    assert ("[CV] END" in capsys.readouterr().out) == bool(options)


@pytest.mark.filterwarnings("ignore:One or more of the test scores are non-finite")
@pytest.mark.parametrize("scoring", [None, ["accuracy", "f1_macro"]])
def test_parameters_that_no_fit_takes(scoring: Any, shared: list[Any]) -> None:
    options: dict[str, Any] = {"cv": 3, "scoring": scoring, "refit": False, "error_score": -1.0}
    options |= {"return_train_score": True}
    grid = {"alpha": [1e-3, -1.0]}
    with pytest.warns(FitFailedWarning, match=r"3 fits failed.*\n(.*\n)*.*'alpha' parameter"):
        search = MLPSearchCV(OURS, grid, **options).fit(X, LABELS)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = GridSearchCV(OURS, grid, **options).fit(X, LABELS)
    assert len(shared) == 6
    assert search.cv_results_.keys() == expected.cv_results_.keys()
    for name, values in expected.cv_results_.items():
        if name.startswith(("mean_test", "split", "rank", "mean_train")):
            assert np.array_equal(search.cv_results_[name], values)


def test_a_loss_that_is_not_known_is_refused_in_the_words_of_fit() -> None:
    search = MLPSearchCV(MLPRegressor((8,)), GRID, cv=3, error_score="raise")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"MLPRegressor\(hidden_layer_sizes=\(8,\)\)"):
        search.fit(X, REAL)


@pytest.mark.parametrize(
    ("data", "message"), [(np.where(np.arange(4) == 3, np.nan, X), "NaN"), (X[:, :0], "0 feature")]
)
def test_data_that_no_fit_takes_are_refused_in_its_words(
    data: Any, message: str, shared: list[Any]
) -> None:
    with pytest.raises(ValueError, match=message):
        MLPSearchCV(OURS, GRID, cv=3, error_score="raise").fit(data, LABELS)
    assert not shared


@pytest.mark.filterwarnings("ignore:One or more of the t")
@pytest.mark.filterwarnings("ignore:Scoring failed")
def test_numbers_that_are_strings_have_no_score_for_no_prediction_takes_them(
    shared: list[Any],
) -> None:
    search = MLPSearchCV(OURS, GRID, cv=3, refit=False).fit(X.astype(str), LABELS)
    assert np.isnan(search.cv_results_["mean_test_score"]).all()
    assert not shared


@pytest.mark.filterwarnings("ignore:One or more of the t")
@pytest.mark.filterwarnings("ignore:Scoring failed")
def test_sparse_targets_of_a_regressor_have_no_score_as_in_scikit_learn(shared: list[Any]) -> None:
    sparse = csr_array(np.stack([REAL, X[:, 0]], axis=1))
    search = MLPSearchCV(REGRESSOR, GRID, cv=3, refit=False).fit(X, sparse)
    expected = GridSearchCV(REGRESSOR, GRID, cv=3, refit=False).fit(X, sparse)
    scores = [it.cv_results_["mean_test_score"] for it in (search, expected)]
    assert np.isnan(scores).all()
    assert not shared


def test_parameters_are_not_checked_where_scikit_learn_is_told_so(shared: list[Any]) -> None:
    grid = {"alpha": [1e-3, -1.0]}
    with config_context(skip_parameter_validation=True):
        search = MLPSearchCV(OURS, grid, cv=3).fit(X, LABELS)
        assert_same(search, GridSearchCV(OURS, grid, cv=3).fit(X, LABELS))
    assert len(shared) == 6
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()


@pytest.mark.filterwarnings("ignore:One or more of the test scores are non-finite")
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.FitFailedWarning")
@pytest.mark.parametrize("whole", [True, False])
def test_a_warning_that_is_an_error_fails_its_fit(whole: bool) -> None:
    steady = classifier(tol=10.0, n_iter_no_change=1)
    estimator = steady if whole else make_pipeline(StandardScaler(), steady)
    name = "max_iter" if whole else "mlpclassifier__max_iter"
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="Stochastic Optimizer: Max")
        search = MLPSearchCV(estimator, {name: [2, 50]}, cv=3).fit(X, LABELS)
        expected = GridSearchCV(estimator, {name: [2, 50]}, cv=3).fit(X, LABELS)
    scores = search.cv_results_["mean_test_score"]
    assert list(np.isnan(scores)) == [True, False]
    assert np.array_equal(scores, expected.cv_results_["mean_test_score"], equal_nan=True)
    assert search.best_params_ == expected.best_params_
