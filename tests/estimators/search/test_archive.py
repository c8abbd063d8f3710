"""Files of searches: settings, results and the best estimator come back, and nothing else does."""

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from fitting import needs_compiler, unconverged
from memory_use import peak_of
from model_files import reloaded
from scipy.stats import uniform
from search.test_search_cv import GRID, LABELS, OURS, REAL, SETTINGS, X
from sklearn.exceptions import NotFittedError
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import fastmlp
from fastmlp import FileError, MLPRegressor, MLPSearchCV
from fastmlp.serialization import safetensors_file

pytestmark = [unconverged, pytest.mark.filterwarnings("ignore:Got `batch_size`"), needs_compiler]
REGRESSOR = MLPRegressor(hidden_layer_sizes=(6,), **SETTINGS)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "search.safetensors"


SEARCHES: list[Any] = [
    (OURS, {"param_grid": GRID, "return_train_score": True}, LABELS),
    (OURS, {"param_grid": [{"alpha": [0.1]}, {"solver": ["sgd"], "tol": np.ones(1)}]}, LABELS),
    (OURS, {"param_distributions": {"alpha": [0.1, 1.0]}, "n_iter": 2, "random_state": 3}, LABELS),
    (OURS, {"param_grid": GRID, "halving": True, "factor": 2, "random_state": 0}, LABELS),
    (OURS, {"param_grid": GRID, "scoring": ["accuracy", "f1_macro"], "refit": False}, LABELS),
    (OURS, {"param_grid": GRID, "scoring": "balanced_accuracy"}, LABELS),
    (REGRESSOR, {"param_grid": {"hidden_layer_sizes": [(3,), (4, 2)]}}, REAL),
]


@pytest.mark.parametrize(("estimator", "options", "y"), SEARCHES)
def test_everything_comes_back(estimator: Any, options: Any, y: Any, path: Path) -> None:
    model = MLPSearchCV(estimator, cv=3, **options).fit(X, y)
    other = reloaded(model, path)
    assert type(other) is MLPSearchCV
    mine, content = ({name for name in vars(each) if name[0] != "_"} for each in (model, other))
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
    for name in set(vars(model)) & {"best_index_", "best_score_", "best_params_", "n_splits_"}:
        assert getattr(other, name) == getattr(model, name)
        assert type(getattr(other, name)) in (type(getattr(model, name)), int, float)
    if options.get("refit", True):
        assert np.array_equal(other.predict(X), model.predict(X))
        assert other.score(X, y) == model.score(X, y)
        assert other.best_estimator_.loss_curve_ == model.best_estimator_.loss_curve_
        assert other.n_features_in_ == 4
    again = other.fit(X, y)
    assert np.array_equal(
        *(m.cv_results_[next(n for n in m.cv_results_ if "mean_test" in n)] for m in (again, model))
    )


def test_names_of_features_and_threads(path: Path) -> None:
    frame = pd.DataFrame(X, columns=list("abcd"))
    model = MLPSearchCV(OURS, GRID, cv=3).fit(frame, LABELS)
    other = reloaded(model, path, n_threads=1)
    assert list(other.feature_names_in_) == list("abcd")
    assert other.n_jobs == other.best_estimator_.n_jobs == 1
    assert np.array_equal(other.predict(frame), model.predict(frame))


def test_what_no_file_has_is_refused(path: Path) -> None:
    with pytest.raises(NotFittedError):
        fastmlp.save(MLPSearchCV(OURS, GRID), path)
    pipe = make_pipeline(StandardScaler(), OURS)
    model = MLPSearchCV(pipe, {"mlpclassifier__alpha": [0.1]}, cv=3).fit(X, LABELS)
    with pytest.raises(ValueError, match="a search of Pipeline cannot be written"):
        fastmlp.save(model, path)
    drawn = {"alpha": uniform(0, 1)}
    model = MLPSearchCV(OURS, param_distributions=drawn, n_iter=1, cv=3).fit(X, LABELS)
    with pytest.raises(ValueError, match="cannot be written to a file"):
        fastmlp.save(model, path)
    assert not path.exists()


def lies() -> list[Any]:
    def no_estimator(header: Any, arrays: Any) -> None:
        header["searched"] = "MLPSearchCV"

    def another_best(header: Any, arrays: Any) -> None:
        header["best"]["kind"] = "MLPRegressor"

    def another_estimator(header: Any, arrays: Any) -> None:
        header.update(searched="MLPRegressor", estimator={})

    def code(header: Any, arrays: Any) -> None:
        header["attributes"]["fit"] = 1

    def settings(header: Any, arrays: Any) -> None:
        header["parameters"]["halving"] = "yes"

    def candidates(header: Any, arrays: Any) -> None:
        header["results"]["params"].pop()

    def no_candidates(header: Any, arrays: Any) -> None:
        header["results"]["params"] = 3

    def numbers(header: Any, arrays: Any) -> None:
        arrays["results.mean_test_score"] = np.zeros(2)

    def objects(header: Any, arrays: Any) -> None:
        header["results"]["names"][0][1] = "object"

    def index(header: Any, arrays: Any) -> None:
        header["attributes"]["best_index_"] = 99

    def many_names(header: Any, arrays: Any) -> None:
        each = {"dict": [[f"n{i}", i] for i in range(3000)]}
        header["results"]["params"] = [each] + [{"dict": []}] * 3000

    def a_long_text(header: Any, arrays: Any) -> None:
        texts = ["x" * 10**6, *["y"] * 9]
        header["results"]["params"] = [{"dict": [["alpha", text]]} for text in texts]

    def the_same_name(header: Any, arrays: Any) -> None:
        header["results"]["names"] *= 2

    return [
        many_names, a_long_text, the_same_name, no_estimator, another_best, another_estimator,
        code, settings, candidates, no_candidates, numbers, objects, index,
    ]  # fmt: skip


@cache
def search() -> MLPSearchCV:
    return MLPSearchCV(OURS, GRID, cv=3).fit(X, LABELS)


@pytest.mark.parametrize("lie", lies(), ids=lambda lie: lie.__name__)
def test_a_lying_header_is_refused(lie: Any, path: Path) -> None:
    fastmlp.save(search(), path)
    content = safetensors_file.read(path)
    lie(content.header, content.arrays)
    safetensors_file.write(path, content)

    def load() -> None:
        with pytest.raises(FileError):
            fastmlp.load(path)

    assert peak_of(load) < 10e6
