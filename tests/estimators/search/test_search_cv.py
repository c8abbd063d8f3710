"""MLPSearchCV finds what scikit-learn's searches find, and comes back from a file."""

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
        if name.endswith("_time"):
            assert (ours.cv_results_[name] > 0).all()
        elif name == "params" or name.startswith("param_"):
            assert list(ours.cv_results_[name]) == list(expected)
        elif exact:
            assert np.array_equal(ours.cv_results_[name], expected, equal_nan=True), (
                name
            )
        else:
            np.testing.assert_allclose(
                ours.cv_results_[name], expected, rtol=1e-9, atol=1e-12
            )
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
        pairs = zip(
            search.best_estimator_.coefs_, expected.best_estimator_.coefs_, strict=True
        )
        assert all(np.array_equal(*pair) for pair in pairs)


def test_draws_and_numbers_of_objects_are_as_in_scikit_learn() -> None:
    options: dict[str, Any] = {"n_iter": 4, "cv": 3, "random_state": 7}
    search = MLPSearchCV(OURS, param_distributions=DRAWN, n_jobs=2, **options).fit(
        X, LABELS
    )
    assert_same(search, RandomizedSearchCV(OURS, DRAWN, **options).fit(X, LABELS))
    model = MLPRegressor(hidden_layer_sizes=(3,), **SETTINGS)
    objects = REAL.astype(object)
    grid = {"alpha": [1e-4, 1.0]}
    search = MLPSearchCV(model, grid, cv=2).fit(X, objects)
    assert_same(search, GridSearchCV(model, grid, cv=2).fit(X, objects))


@pytest.mark.slow
@pytest.mark.parametrize("resource", ["n_samples", "max_iter"])
def test_halving_is_that_of_halving_searches(resource: str) -> None:
    options: dict[str, Any] = {
        "cv": 3,
        "random_state": 1,
        "factor": 2,
        "resource": resource,
    }
    if resource == "max_iter":
        options |= {"max_resources": 8, "min_resources": 2}
    grid = {"alpha": [1e-4, 1e-2, 1.0], "hidden_layer_sizes": [(3,), (8,)]}
    search: Any = MLPSearchCV(OURS, grid, halving=True, n_jobs=2, **options).fit(
        X, LABELS
    )
    expected = HalvingGridSearchCV(OURS, grid, return_train_score=False, **options).fit(
        X, LABELS
    )
    assert_same(search, expected)
    assert search.n_candidates_ == expected.n_candidates_
    assert search.n_resources_ == expected.n_resources_
    assert len(search.n_candidates_) > 1
    drawn = MLPSearchCV(
        OURS, param_distributions=DRAWN, n_iter=4, halving=True, **options
    )
    options = {"min_resources": "exhaust", "n_candidates": 4} | options
    options["return_train_score"] = False
    assert_same(
        drawn.fit(X, LABELS),
        HalvingRandomSearchCV(OURS, DRAWN, **options).fit(X, LABELS),
    )


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
def test_scoring_refit_and_folds(options: dict[str, Any]) -> None:
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


def test_pipelines_frames_and_regressors() -> None:
    frame = pd.DataFrame(X, columns=list("abcd"))
    pipe = make_pipeline(
        StandardScaler(), MLPRegressor(hidden_layer_sizes=(5,), **SETTINGS)
    )
    grid = {
        "mlpregressor__alpha": [0.0, 1.0],
        "standardscaler__with_mean": [True, False],
    }
    search = MLPSearchCV(pipe, grid, cv=3, n_jobs=2).fit(frame, REAL)
    assert_same(search, GridSearchCV(pipe, grid, cv=3).fit(frame, REAL))
    assert isinstance(search.best_estimator_, Pipeline)
    assert list(search.feature_names_in_) == list("abcd")


@pytest.mark.slow
def test_groups_and_weights_go_where_they_belong() -> None:
    groups = np.arange(N) // 10
    weight = np.linspace(0.1, 2, N)
    search = MLPSearchCV(OURS, GRID, cv=GroupKFold(3), n_jobs=2)
    expected = GridSearchCV(OURS, GRID, cv=GroupKFold(3))
    content: dict[str, Any] = {"groups": groups, "sample_weight": weight}
    assert_same(search.fit(X, LABELS, **content), expected.fit(X, LABELS, **content))
    with config_context(enable_metadata_routing=True):
        asking = (
            clone(OURS)
            .set_fit_request(sample_weight=True)
            .set_score_request(sample_weight=True)
        )
        search = MLPSearchCV(asking, GRID, cv=3)
        expected = GridSearchCV(asking, GRID, cv=3)
        content = {"sample_weight": weight}
        assert_same(
            search.fit(X, LABELS, **content), expected.fit(X, LABELS, **content)
        )


@pytest.mark.filterwarnings("ignore:One or more of the test scores are non-finite")
def test_fits_that_fail_get_the_error_score() -> None:
    grid = {"learning_rate_init": [0.01, 1e300], "solver": ["sgd"]}
    before = threading.active_count()
    with pytest.warns(FitFailedWarning, match="3 fits failed"):
        search = MLPSearchCV(OURS, grid, cv=3, n_jobs=2).fit(X, LABELS)
    assert list(np.isnan(search.cv_results_["mean_test_score"])) == [False, True]
    with pytest.raises(ValueError, match="non-finite"):
        MLPSearchCV(OURS, grid, cv=3, n_jobs=2, error_score="raise").fit(X, LABELS)
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


def test_it_is_an_estimator() -> None:
    search = MLPSearchCV(OURS, GRID, cv=2, halving=False)
    with pytest.raises(NotFittedError):
        search.predict(X)
    assert (
        clone(search).get_params(deep=False).keys()
        == search.get_params(deep=False).keys()
    )
    pipe = make_pipeline(StandardScaler(), search).fit(X, LABELS)
    again = pickle.loads(pickle.dumps(pipe))
    assert np.array_equal(again.predict(X), pipe.predict(X))
    assert search.fit(X, LABELS).fit(X[:60], LABELS[:60]).n_splits_ == 2


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.FitFailedWarning")
@pytest.mark.parametrize("base", [MLPClassifier, MLPRegressor])
@pytest.mark.parametrize(
    "check", ["check_dont_overwrite_parameters", "check_dtype_object"]
)
def test_scikit_learns_checks_of_a_fit(check: str, base: Any) -> None:
    model = base(hidden_layer_sizes=(3,), max_iter=2, random_state=0)
    getattr(estimator_checks, check)(
        "search", MLPSearchCV(model, {"alpha": [1e-4, 1.0]}, cv=2)
    )


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


def test_costs_of_pipelines_and_of_strangers() -> None:
    def cost(estimator: Any, **parameters: Any) -> float:
        named = {"parameters": parameters, "train": np.arange(50), "test": None}
        call = joblib.parallel.BatchedCalls(
            [(None, (estimator, X, REAL), named)], (None, 1)
        )
        return search.cost_of(call)

    pipe = make_pipeline(StandardScaler(), OURS)
    assert cost(OURS) == cost(pipe) == cost(make_pipeline(pipe))
    assert cost(pipe, mlpclassifier__max_iter=80) > cost(pipe)
    assert cost(OURS, hidden_layer_sizes="wide") == cost(StandardScaler()) == 1
    assert search.cost_of(lambda: None) == 1


def test_fits_have_one_thread_and_x_is_not_copied_to_processes() -> None:
    seen: set[tuple[int | None, int]] = set()

    def score(estimator: Any, X: Any, y: Any) -> float:
        import os

        seen.add((task_pool.threads_of_task(), os.getpid()))
        return 0.0

    import os

    MLPSearchCV(OURS, GRID, cv=3, n_jobs=2, scoring=score).fit(X, LABELS)
    assert {process for _, process in seen} == {os.getpid()}
    assert {share for share, _ in seen} <= {1, 2}


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


@pytest.mark.parametrize(("estimator", "options", "y"), SEARCHES)
def test_everything_comes_back(
    estimator: Any, options: Any, y: Any, path: Path
) -> None:
    model = MLPSearchCV(estimator, cv=3, **options).fit(X, y)
    other = reloaded(model, path)
    assert type(other) is MLPSearchCV
    mine, content = (
        {name for name in vars(each) if name[0] != "_"} for each in (model, other)
    )
    assert mine == content
    assert list(other.cv_results_) == list(model.cv_results_)
    for name, values in model.cv_results_.items():
        read = other.cv_results_[name]
        assert type(read) is type(values)
        if name == "params":
            assert read == values
        else:
            assert read.dtype == values.dtype
            assert list(read) == list(values)
    for name in set(vars(model)) & {
        "best_index_",
        "best_score_",
        "best_params_",
        "n_splits_",
    }:
        assert getattr(other, name) == getattr(model, name)
        assert type(getattr(other, name)) in (type(getattr(model, name)), int, float)
    if options.get("refit", True):
        assert np.array_equal(other.predict(X), model.predict(X))
        assert other.score(X, y) == model.score(X, y)
        assert other.best_estimator_.loss_curve_ == model.best_estimator_.loss_curve_
        assert other.n_features_in_ == 4
    again = other.fit(X, y)
    assert np.array_equal(
        *(
            m.cv_results_[next(n for n in m.cv_results_ if "mean_test" in n)]
            for m in (again, model)
        )
    )


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


def test_what_no_file_has_is_refused(path: Path) -> None:
    pipe = make_pipeline(StandardScaler(), OURS)
    model = MLPSearchCV(pipe, {"mlpclassifier__alpha": [0.1]}, cv=3).fit(X, LABELS)
    with pytest.raises(ValueError, match="a search of Pipeline cannot be written"):
        fastmlp.save(model, path)
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
