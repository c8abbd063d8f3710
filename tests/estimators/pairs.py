"""scikit-learn's estimators and ours, side by side:
the same call, then everything compared.
"""

import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest
import sklearn
from sklearn import neural_network

import fastmlp

LIBRARIES = (neural_network, fastmlp)
BEFORE_1_9 = tuple(map(int, sklearn.__version__.split(".")[:2])) < (1, 9)
N_ROWS = 53
X = np.random.default_rng(0).standard_normal((N_ROWS, 6))
LABELS = np.where(X[:, 0] > 0, "yes", "no")
REAL = X[:, 0] * X[:, 1]
WEIGHTS = np.random.default_rng(1).uniform(0.1, 3, N_ROWS)
NAMES = {"C": "MLPClassifier", "R": "MLPRegressor"}
NUMBERS = (
    "n_iter_",
    "t_",
    "n_layers_",
    "n_outputs_",
    "out_activation_",
    "n_features_in_",
)


class Task(NamedTuple):
    """A kind of target: which estimator it takes, its targets and its settings."""

    name: str
    y: Any
    settings: dict[str, Any]


TASKS = {
    "binary": Task("MLPClassifier", LABELS, {}),
    "multiclass": Task("MLPClassifier", np.digitize(X[:, 0], [-0.5, 0.5]) * 10, {}),
    "multilabel": Task("MLPClassifier", (X[:, :3] > 0.2).astype(int), {}),
    "regression": Task("MLPRegressor", np.sin(X[:, 0]) + X[:, 1], {}),
    "several outputs": Task("MLPRegressor", X[:, :3] ** 2, {}),
    "poisson": Task(
        "MLPRegressor",
        np.random.default_rng(2).poisson(2.0, N_ROWS),
        {"loss": "poisson"},
    ),
}


def both(name: str, **settings: Any) -> tuple[Any, Any]:
    """Return scikit-learn's estimator and ours."""
    theirs, ours = (getattr(library, name)(**settings) for library in LIBRARIES)
    return theirs, ours


def text_of(error: Exception) -> str:
    """An error's text; of numbers as labels,
    the beginning: scikit-learn prints all of y.
    """
    text = str(error)
    return text[:18] if text.startswith("Unknown label type") else text


def outcome(call: Callable[[], Any]) -> tuple[Any, list[tuple[str, str]], Any]:
    """Return what a call returns, its warnings, and its error's type and text.

    Warnings of NumPy's arithmetic are left out: kernels have none.
    So is ours of early stopping that keeps the first epoch: scikit-learn has none.
    """
    result = error = None
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            result = call()
        except Exception as raised:
            error = (type(raised).__name__, text_of(raised))
    if BEFORE_1_9 and error and error[0] == "TypeError" and "'isnan'" in error[1]:
        pytest.skip("scikit-learn before 1.9 cannot stop early where labels are text")
    message = [
        w
        for w in caught
        if w.category is not RuntimeWarning
        and "parameters of the first epoch" not in str(w.message)
    ]
    return result, [(w.category.__name__, str(w.message)) for w in message], error


def parameters_of(model: Any) -> list[Any]:
    return [*model.coefs_, *model.intercepts_]


def same(one: Any, other: Any) -> bool:
    """Return True if two estimators have the same bits of weights and biases."""
    pairs = zip(parameters_of(one), parameters_of(other), strict=True)
    return all(a.tobytes() == b.tobytes() for a, b in pairs)


def numbers_of(model: Any) -> dict[str, Any]:
    """All that a training leaves behind, as arrays."""
    curves = (
        "loss_curve_",
        "validation_scores_",
        "best_loss_",
        "best_validation_score_",
        "loss_",
    )
    results = {name: getattr(model, name, None) for name in curves}
    parameters = {f"parameter {i}": part for i, part in enumerate(parameters_of(model))}
    return {
        name: np.asarray(value, np.float64)
        for name, value in {**results, **parameters}.items()
        if value is not None
    }


def distance(one: dict[str, Any], other: dict[str, Any]) -> float:
    """Return the largest difference, relative to each array's largest number."""
    assert one.keys() == other.keys()
    gaps = []
    for name, expected in one.items():
        assert other[name].shape == expected.shape, name
        assert np.array_equal(np.isfinite(other[name]), np.isfinite(expected)), name
        finite = np.isfinite(expected)
        scale = np.abs(expected[finite]).max(initial=1e-300)
        gaps.append(np.abs(expected - other[name])[finite].max(initial=0.0) / scale)
    return float(max(gaps))


def assert_same_books(theirs: Any, ours: Any) -> None:
    """The attributes that are equal to the bit."""
    for name in NUMBERS:
        assert getattr(ours, name) == getattr(theirs, name), name
    if hasattr(theirs, "classes_"):
        assert np.array_equal(ours.classes_, theirs.classes_)
        assert ours.classes_.dtype == theirs.classes_.dtype
    for mine, other in zip(parameters_of(ours), parameters_of(theirs), strict=True):
        assert mine.shape == other.shape
        assert mine.flags.c_contiguous
