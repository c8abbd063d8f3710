"""Warnings of estimators: at the user's line, and matched by the filters for scikit-learn's."""

import warnings
from collections.abc import Callable
from typing import Any

import joblib
import numpy as np
import pytest
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from fastmlp import MLPClassifier, MLPEnsembleRegressor, MLPRegressor, MLPSearchCV

X = np.random.default_rng(0).normal(size=(40, 3))
Y = X[:, 0]
SHORT = MLPRegressor(hidden_layer_sizes=(4,), max_iter=2, random_state=0)
GRID = {"alpha": [0.0, 1.0]}
FITS: dict[str, Callable[[], Any]] = {
    "fit": lambda: SHORT.fit(X, Y),
    "classifier": lambda: MLPClassifier((4,), max_iter=2).fit(X, Y > 0),
    "pipeline": lambda: make_pipeline(StandardScaler(), SHORT).fit(X, Y),
    "ensemble": lambda: MLPEnsembleRegressor(n_members=2, max_iter=2).fit(X, Y),
    "search": lambda: MLPSearchCV(SHORT, GRID, cv=2).fit(X, Y),
    "grid search": lambda: GridSearchCV(SHORT, GRID, cv=2).fit(X, Y),
    "cross validation": lambda: cross_val_score(SHORT, X, Y, cv=2),
}


@pytest.mark.parametrize("name", FITS)
def test_they_point_at_the_users_line(name: str) -> None:
    fit = FITS[name]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fit()
    assert {warning.category for warning in caught} == {ConvergenceWarning}
    places = {(warning.filename, warning.lineno) for warning in caught}
    assert places == {(__file__, fit.__code__.co_firstlineno)}


@pytest.mark.parametrize("module", ["sklearn", "sklearn.neural_network._multilayer_perceptron"])
@pytest.mark.parametrize("name", FITS)
def test_filters_for_those_of_scikit_learn_match(name: str, module: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", category=ConvergenceWarning, module=module)
        FITS[name]()


def test_a_thread_of_joblib_warns_as_well() -> None:
    with (
        pytest.warns(ConvergenceWarning, match="Maximum iterations"),
        joblib.parallel_config("threading", n_jobs=2),
    ):
        FITS["cross validation"]()
