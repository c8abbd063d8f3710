"""MLPSearchCV finds what scikit-learn's searches find, and comes back from a file."""

import os
import pickle
import threading
import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pandas as pd
import pytest
from fitting import needs_compiler, peak_of, unconverged
from scipy.stats import loguniform, uniform
from sklearn import config_context, neural_network
from sklearn.base import clone
from sklearn.exceptions import FitFailedWarning, NotFittedError
from sklearn.experimental import enable_halving_search_cv  # noqa: F401
from sklearn.metrics import accuracy_score, make_scorer
from sklearn.model_selection import (
    GridSearchCV,
    GroupKFold,
    HalvingGridSearchCV,
    HalvingRandomSearchCV,
    KFold,
    RandomizedSearchCV,
)
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils import estimator_checks
from small_models import reloaded

import fastmlp
from fastmlp import FileError, MLPClassifier, MLPRegressor, MLPSearchCV
from fastmlp._process import task_pool
from fastmlp.estimators import search
from fastmlp.serialization import files

pytestmark = [
    unconverged,
    pytest.mark.filterwarnings("ignore:Got `batch_size`"),
    needs_compiler,
]
N = 90
X = np.random.default_rng(0).normal(size=(N, 4))
REAL = X[:, 0] * X[:, 1]
LABELS = np.array(["no", "maybe", "yes"])[np.digitize(REAL, [-0.5, 0.5])]
SETTINGS: dict[str, Any] = {"max_iter": 8, "random_state": 0, "batch_size": 16}
OURS = MLPClassifier((6,), learning_rate_init=0.02, **SETTINGS)
THEIRS = neural_network.MLPClassifier((6,), learning_rate_init=0.02, **SETTINGS)
GRID = {"alpha": [1e-4, 1.0], "hidden_layer_sizes": [(3,), (8, 4)]}
DRAWN = {"alpha": loguniform(1e-4, 1), "hidden_layer_sizes": [(3,), (8,)]}


def assert_same(ours: Any, theirs: Any, *, exact: bool = True) -> None:
    assert list(ours.cv_results_) == list(theirs.cv_results_)
    for name, expected in theirs.cv_results_.items():
        values = ours.cv_results_[name]
        if name.endswith("_time"):
            assert (values > 0).all()
        elif name == "params" or name.startswith("param_"):
            assert list(values) == list(expected)
        elif exact:
            assert np.array_equal(values, expected, equal_nan=True), name
        else:
            np.testing.assert_allclose(values, expected, rtol=1e-9, atol=1e-12)
    assert ours.best_params_ == theirs.best_params_
    assert ours.best_index_ == theirs.best_index_
    assert ours.n_splits_ == theirs.n_splits_
    assert ours.multimetric_ == theirs.multimetric_


@pytest.mark.slow
@pytest.mark.few(3)
@pytest.mark.parametrize("n_jobs", [1, 2, 3])
@pytest.mark.parametrize("theirs", [OURS, THEIRS])
def test_a_grid_is_that_of_grid_search(theirs: Any, n_jobs: int) -> None:
    options: dict[str, Any] = {"cv": 3, "return_train_score": True}
    search = MLPSearchCV(OURS, GRID, n_jobs=n_jobs, **options).fit(X, LABELS)
    expected = GridSearchCV(theirs, GRID, **options).fit(X, LABELS)
    assert_same(search, expected, exact=theirs is OURS)
    assert search.best_score_ == expected.best_score_
    assert np.array_equal(search.predict(X), expected.predict(X))
    assert search.score(X, LABELS) == expected.score(X, LABELS)
    assert list(search.classes_) == list(expected.classes_)
    assert search.n_features_in_ == 4
    if theirs is OURS:
        coefs = expected.best_estimator_.coefs_
        for ours, other in zip(search.best_estimator_.coefs_, coefs, strict=True):
            assert np.array_equal(ours, other)


def test_draws_are_those_of_randomized_search() -> None:
    options: dict[str, Any] = {"n_iter": 4, "cv": 3, "random_state": 7}
    search = MLPSearchCV(OURS, param_distributions=DRAWN, n_jobs=2, **options)
    expected = RandomizedSearchCV(OURS, DRAWN, **options)
    assert_same(search.fit(X, LABELS), expected.fit(X, LABELS))


def test_numbers_that_are_objects_are_taken() -> None:
    model = MLPRegressor(hidden_layer_sizes=(3,), **SETTINGS)
    objects = REAL.astype(object)
    grid = {"alpha": [1e-4, 1.0]}
    search = MLPSearchCV(model, grid, cv=2).fit(X, objects)
    assert_same(search, GridSearchCV(model, grid, cv=2).fit(X, objects))


OF_ROWS = {"cv": 3, "random_state": 1, "factor": 2, "resource": "n_samples"}
OF_EPOCHS = {
    **OF_ROWS,
    "resource": "max_iter",
    "max_resources": 8,
    "min_resources": 2,
}
each_resource = pytest.mark.parametrize(
    "options", [OF_ROWS, OF_EPOCHS], ids=["rows", "epochs"]
)


@pytest.mark.slow
@each_resource
def test_halving_of_a_grid_is_that_of_scikit_learn(options: dict[str, Any]) -> None:
    grid = {"alpha": [1e-4, 1e-2, 1.0], "hidden_layer_sizes": [(3,), (8,)]}
    search: Any = MLPSearchCV(OURS, grid, halving=True, n_jobs=2, **options)
    expected = HalvingGridSearchCV(OURS, grid, return_train_score=False, **options)
    assert_same(search.fit(X, LABELS), expected.fit(X, LABELS))
    assert search.n_candidates_ == expected.n_candidates_
    assert search.n_resources_ == expected.n_resources_
    assert len(search.n_candidates_) > 1


@pytest.mark.slow
@each_resource
def test_halving_of_draws_is_that_of_scikit_learn(options: dict[str, Any]) -> None:
    ours: dict[str, Any] = {"param_distributions": DRAWN, "n_iter": 4, "halving": True}
    search = MLPSearchCV(OURS, **ours, **options)
    theirs: dict[str, Any] = {"min_resources": "exhaust", "n_candidates": 4, **options}
    expected = HalvingRandomSearchCV(OURS, DRAWN, return_train_score=False, **theirs)
    assert_same(search.fit(X, LABELS), expected.fit(X, LABELS))


def several(estimator: Any, X: Any, y: Any) -> dict[str, float]:
    return {
        "right": estimator.score(X, y),
        "units": float(-len(estimator.coefs_[0][0])),
    }


@pytest.mark.parametrize(
    "options",
    [
        {"scoring": "balanced_accuracy"},
        {"scoring": ["accuracy", "f1_macro"], "refit": "f1_macro"},
        {"scoring": ["accuracy", "f1_macro"], "refit": False},
        {"scoring": several, "refit": "units"},
        {"refit": False},
        {"refit": lambda results: int(np.argmin(results["mean_test_score"]))},
        {
            "scoring": make_scorer(accuracy_score),
            "cv": KFold(4, shuffle=True, random_state=3),
        },
        {"cv": [(np.arange(60), np.arange(60, N)), (np.arange(30, N), np.arange(30))]},
    ],
)
def test_options_are_those_of_grid_search(options: dict[str, Any]) -> None:
    options = {"cv": 3, **options}
    search = MLPSearchCV(OURS, GRID, n_jobs=2, **options)
    expected = GridSearchCV(OURS, GRID, **options)
    search.fit(X, LABELS)
    expected.fit(X, LABELS)
    assert list(search.cv_results_) == list(expected.cv_results_)
    assert hasattr(search, "best_estimator_") == hasattr(expected, "best_estimator_")
    assert hasattr(search, "predict") == hasattr(expected, "predict")
    if options.get("refit", True):
        assert_same(search, expected)


def test_a_pipeline_is_searched_on_a_frame() -> None:
    frame = pd.DataFrame(X, columns=list("abcd"))
    regressor = MLPRegressor(hidden_layer_sizes=(5,), **SETTINGS)
    pipe = make_pipeline(StandardScaler(), regressor)
    grid = {
        "mlpregressor__alpha": [0.0, 1.0],
        "standardscaler__with_mean": [True, False],
    }
    search = MLPSearchCV(pipe, grid, cv=3, n_jobs=2).fit(frame, REAL)
    assert_same(search, GridSearchCV(pipe, grid, cv=3).fit(frame, REAL))
    assert isinstance(search.best_estimator_, Pipeline)
    assert list(search.feature_names_in_) == list("abcd")


SAMPLE_WEIGHT = np.linspace(0.1, 2, N)


@pytest.mark.slow
def test_groups_go_to_the_folds() -> None:
    search = MLPSearchCV(OURS, GRID, cv=GroupKFold(3), n_jobs=2)
    expected = GridSearchCV(OURS, GRID, cv=GroupKFold(3))
    content: dict[str, Any] = {
        "groups": np.arange(N) // 10,
        "sample_weight": SAMPLE_WEIGHT,
    }
    search.fit(X, LABELS, **content)
    assert_same(search, expected.fit(X, LABELS, **content))


@pytest.mark.slow
def test_weights_go_where_they_are_asked_for() -> None:
    with config_context(enable_metadata_routing=True):
        asking = clone(OURS).set_fit_request(sample_weight=True)
        asking.set_score_request(sample_weight=True)
        search = MLPSearchCV(asking, GRID, cv=3)
        expected = GridSearchCV(asking, GRID, cv=3)
        search.fit(X, LABELS, sample_weight=SAMPLE_WEIGHT)
        assert_same(search, expected.fit(X, LABELS, sample_weight=SAMPLE_WEIGHT))


FAILING = {"learning_rate_init": [0.01, 1e300], "solver": ["sgd"]}


@pytest.mark.filterwarnings("ignore:One or more of the test scores are non-finite")
def test_fits_that_fail_get_the_error_score() -> None:
    search = MLPSearchCV(OURS, FAILING, cv=3, n_jobs=2)
    with pytest.warns(FitFailedWarning, match="3 fits failed"):
        search.fit(X, LABELS)
    assert list(np.isnan(search.cv_results_["mean_test_score"])) == [False, True]


def test_a_fit_that_fails_may_end_the_search() -> None:
    before = threading.active_count()
    search = MLPSearchCV(OURS, FAILING, cv=3, n_jobs=2, error_score="raise")
    with pytest.raises(ValueError, match="non-finite"):
        search.fit(X, LABELS)
    assert threading.active_count() <= before


@pytest.mark.timeout(60)
@pytest.mark.parametrize("whole", [True, False])
def test_an_exit_in_a_fit_leaves_the_search(whole: bool) -> None:
    def leave(estimator: Any, X: Any, y: Any) -> float:
        raise SystemExit(3)

    estimator = OURS if whole else make_pipeline(StandardScaler(), OURS)
    before = threading.active_count()
    with pytest.raises(SystemExit):
        MLPSearchCV(estimator, {}, cv=3, n_jobs=2, scoring=leave).fit(X, LABELS)
    assert threading.active_count() == before


def test_a_search_without_a_fit_predicts_nothing() -> None:
    with pytest.raises(NotFittedError):
        MLPSearchCV(OURS, GRID).predict(X)


def test_a_clone_has_the_parameters() -> None:
    search = MLPSearchCV(OURS, GRID, cv=2, halving=False)
    expected = search.get_params(deep=False).keys()
    assert clone(search).get_params(deep=False).keys() == expected


def test_a_pickle_of_a_pipeline_has_the_search() -> None:
    pipe = make_pipeline(StandardScaler(), MLPSearchCV(OURS, GRID, cv=2))
    pipe.fit(X, LABELS)
    again = pickle.loads(pickle.dumps(pipe))
    assert np.array_equal(again.predict(X), pipe.predict(X))


def test_a_search_may_be_fitted_again() -> None:
    search = MLPSearchCV(OURS, GRID, cv=2).fit(X, LABELS)
    assert search.fit(X[:60], LABELS[:60]).n_splits_ == 2


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.FitFailedWarning")
@pytest.mark.parametrize("base", [MLPClassifier, MLPRegressor])
@pytest.mark.parametrize(
    "check", ["check_dont_overwrite_parameters", "check_dtype_object"]
)
def test_scikit_learns_checks_of_a_fit(check: str, base: Any) -> None:
    model = base(hidden_layer_sizes=(3,), max_iter=2, random_state=0)
    search = MLPSearchCV(model, {"alpha": [1e-4, 1.0]}, cv=2)
    getattr(estimator_checks, check)("search", search)


def test_the_costly_fits_begin_first() -> None:
    begun: list[int] = []

    class Watched(MLPClassifier):
        hidden_layer_sizes: Any

        def fit(self, X: Any, y: Any = None, *arguments: Any, **more: Any) -> Any:
            begun.append(self.hidden_layer_sizes[0])
            return super().fit(X, y, *arguments, **more)

    grid = {"hidden_layer_sizes": [(2,), (60,), (20,)]}
    MLPSearchCV(Watched(**SETTINGS), grid, cv=2, n_jobs=1, refit=False).fit(X, LABELS)
    assert begun == [60, 60, 20, 20, 2, 2]


def cost(estimator: Any, **parameters: Any) -> float:
    named = {"parameters": parameters, "train": np.arange(50), "test": None}
    calls = [(None, (estimator, X, REAL), named)]
    return search.cost_of(joblib.parallel.BatchedCalls(calls, (None, 1)))


def test_the_cost_of_a_pipeline_is_that_of_its_net() -> None:
    pipe = make_pipeline(StandardScaler(), OURS)
    assert cost(OURS) == cost(pipe) == cost(make_pipeline(pipe))
    assert cost(pipe, mlpclassifier__max_iter=80) > cost(pipe)


def test_the_cost_of_an_unknown_call_is_1() -> None:
    assert cost(OURS, hidden_layer_sizes="wide") == 1
    assert cost(StandardScaler()) == 1
    assert search.cost_of(lambda: None) == 1


def in_fits(ask: Callable[[], Any]) -> set[Any]:
    """The answers of a function that each fit's scoring calls."""
    seen: set[Any] = set()

    def score(estimator: Any, X: Any, y: Any) -> float:
        seen.add(ask())
        return 0.0

    MLPSearchCV(OURS, GRID, cv=3, n_jobs=2, scoring=score).fit(X, LABELS)
    return seen


def test_fits_run_in_this_process() -> None:
    assert in_fits(os.getpid) == {os.getpid()}


def test_fits_share_the_threads() -> None:
    assert in_fits(task_pool.threads_of_task) <= {1, 2}


def test_warnings_are_the_callers() -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        filters = list(warnings.filters)
        MLPSearchCV(OURS, GRID, cv=3, n_jobs=2, refit=False).fit(X, LABELS)
        assert warnings.filters == filters
    assert len(caught) == 12
    assert all("Maximum iterations" in str(warning.message) for warning in caught)


INTERRUPTED = """
import os, signal, threading, time, warnings
import numpy as np
from fastmlp import MLPClassifier, MLPSearchCV
warnings.simplefilter("ignore")
X = np.random.default_rng(0).normal(size=(400, 4))
y = X[:, 0] > 0
MLPSearchCV(MLPClassifier((4,), max_iter=2), {"alpha": [0]}, cv=2, n_jobs=2).fit(X, y)
endless = {"max_iter": 10**7, "batch_size": 1, "n_iter_no_change": 10**7}
net, grid = MLPClassifier((64,), **endless), {"alpha": [0, 1, 2, 3]}
sent = []
def send():
    sent.append(time.monotonic())
    os.kill(os.getpid(), signal.SIGINT)
threading.Timer(0.4, send).start()
try:
    MLPSearchCV(net, grid, cv=3, n_jobs=2).fit(X, y)
except KeyboardInterrupt:
    print(time.monotonic() - sent[0] < 20, threading.active_count())
"""


@pytest.mark.slow
def test_ctrl_c_ends_a_search(python: Callable[..., str]) -> None:
    assert python(INTERRUPTED) == "True 1\n"


def test_a_bar_counts_the_fits_of_halving(capfd: pytest.CaptureFixture[str]) -> None:
    search = MLPSearchCV(OURS, GRID, cv=3, halving=True, random_state=0)
    search.fit(X, LABELS, progress=True)
    n_fits = 3 * len(search.cv_results_["params"])
    assert f"{n_fits}/{n_fits}" in capfd.readouterr().err


REGRESSOR = MLPRegressor(hidden_layer_sizes=(6,), **SETTINGS)
SEARCHES: list[Any] = [
    (OURS, {"param_grid": GRID, "return_train_score": True}, LABELS),
    (
        OURS,
        {"param_grid": [{"alpha": [0.1]}, {"solver": ["sgd"], "tol": np.ones(1)}]},
        LABELS,
    ),
    (
        OURS,
        {"param_distributions": {"alpha": [0.1, 1.0]}, "n_iter": 2, "random_state": 3},
        LABELS,
    ),
    (
        OURS,
        {"param_grid": GRID, "halving": True, "factor": 2, "random_state": 0},
        LABELS,
    ),
    (
        OURS,
        {"param_grid": GRID, "scoring": ["accuracy", "f1_macro"], "refit": False},
        LABELS,
    ),
    (OURS, {"param_grid": GRID, "scoring": "balanced_accuracy"}, LABELS),
    (REGRESSOR, {"param_grid": {"hidden_layer_sizes": [(3,), (4, 2)]}}, REAL),
]


OF_THE_BEST = {"best_index_", "best_score_", "best_params_", "n_splits_"}


def public(search: MLPSearchCV) -> set[str]:
    return {name for name in vars(search) if name[0] != "_"}


@pytest.mark.parametrize(("estimator", "options", "y"), SEARCHES)
def test_everything_comes_back(
    estimator: Any, options: Any, y: Any, path: Path
) -> None:
    model = MLPSearchCV(estimator, cv=3, **options).fit(X, y)
    other = reloaded(model, path)
    assert type(other) is MLPSearchCV
    assert public(other) == public(model)
    assert list(other.cv_results_) == list(model.cv_results_)
    for name, values in model.cv_results_.items():
        read = other.cv_results_[name]
        assert type(read) is type(values)
        if name == "params":
            assert read == values
        else:
            assert read.dtype == values.dtype
            assert list(read) == list(values)
    for name in public(model) & OF_THE_BEST:
        value = getattr(model, name)
        read = getattr(other, name)
        assert read == value
        assert type(read) in (type(value), int, float)
    if options.get("refit", True):
        assert np.array_equal(other.predict(X), model.predict(X))
        assert other.score(X, y) == model.score(X, y)
        assert other.best_estimator_.loss_curve_ == model.best_estimator_.loss_curve_
        assert other.n_features_in_ == 4
    (name, *_) = [name for name in model.cv_results_ if "mean_test" in name]
    expected = model.cv_results_[name]
    assert np.array_equal(other.fit(X, y).cv_results_[name], expected)


def test_a_file_keeps_the_names_of_features(path: Path) -> None:
    frame = pd.DataFrame(X, columns=list("abcd"))
    model = MLPSearchCV(OURS, GRID, cv=3).fit(frame, LABELS)
    other = reloaded(model, path)
    assert list(other.feature_names_in_) == list("abcd")
    assert np.array_equal(other.predict(frame), model.predict(frame))


def test_load_sets_the_threads_of_a_search(path: Path) -> None:
    model = MLPSearchCV(OURS, GRID, cv=3).fit(X, LABELS)
    other = reloaded(model, path, n_threads=1)
    assert other.n_jobs == other.best_estimator_.n_jobs == 1


def test_a_search_of_a_pipeline_has_no_file(path: Path) -> None:
    pipe = make_pipeline(StandardScaler(), OURS)
    model = MLPSearchCV(pipe, {"mlpclassifier__alpha": [0.1]}, cv=3).fit(X, LABELS)
    with pytest.raises(ValueError, match="a search of Pipeline cannot be written"):
        fastmlp.save(model, path)
    assert not path.exists()


def test_a_search_by_distributions_has_no_file(path: Path) -> None:
    drawn = {"alpha": uniform(0, 1)}
    model = MLPSearchCV(OURS, param_distributions=drawn, n_iter=1, cv=3).fit(X, LABELS)
    with pytest.raises(ValueError, match="cannot be written to a file"):
        fastmlp.save(model, path)
    assert not path.exists()


def results(**changed: Any) -> Callable[[Any, Any], Any]:
    return lambda header, arrays: header["results"].update(changed)


LIES: dict[str, Callable[[Any, Any], Any]] = {
    "no estimator": lambda header, arrays: header.update(searched="MLPSearchCV"),
    "another best": lambda header, arrays: header["best"].update(kind="MLPRegressor"),
    "another estimator": lambda header, arrays: header.update(
        searched="MLPRegressor", estimator={}
    ),
    "code": lambda header, arrays: header["attributes"].update(fit=1),
    "settings": lambda header, arrays: header["parameters"].update(halving="yes"),
    "candidates": lambda header, arrays: header["results"]["params"].pop(),
    "no candidates": results(params=3),
    "numbers": lambda header, arrays: arrays.update(
        {"results.mean_test_score": np.zeros(2)}
    ),
    "objects": lambda header, arrays: header["results"]["names"][0].__setitem__(
        1, "object"
    ),
    "index": lambda header, arrays: header["attributes"].update(best_index_=99),
    "many names": results(
        params=[{"dict": [[f"n{i}", i] for i in range(3000)]}, *[{"dict": []}] * 3000]
    ),
    "a long text": results(
        params=[{"dict": [["alpha", text]]} for text in ["x" * 10**6, *["y"] * 9]]
    ),
    "the same name": lambda header, arrays: header["results"]["names"].extend(
        header["results"]["names"][:]
    ),
}


@cache
def small_search() -> MLPSearchCV:
    return MLPSearchCV(OURS, GRID, cv=3).fit(X, LABELS)


@pytest.mark.parametrize("lie", LIES)
def test_a_lying_header_is_refused(lie: str, path: Path) -> None:
    fastmlp.save(small_search(), path)
    content = files.read(path)
    LIES[lie](content.header, content.arrays)
    files.write(path, content)

    def load() -> None:
        with pytest.raises(FileError):
            fastmlp.load(path)

    assert peak_of(load) < 10e6
