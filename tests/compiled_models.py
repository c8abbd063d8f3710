"""Functions of a user's that predict, compiled once for all tests, and models of tables."""

from functools import cache
from typing import Any

import numpy as np
from numba import njit, prange
from small_models import FEW

from fastmlp import TabularMLPClassifier, jit


@njit(nogil=True)
def predict(handle: Any, x: Any, out: Any) -> None:
    jit.predict(handle, x, out)


@njit
def value(handle: Any, x: Any) -> float:
    return jit.value(handle, x)


@njit(parallel=True)
def predict_shared(handle: Any, x: Any, out: Any) -> None:
    for r in prange(len(x)):
        jit.predict(handle, x[r], out[r])


@cache
def digits(n_classes: int) -> Any:
    """A model and its rows; the probabilities of 8 classes and more NumPy sums in another order."""
    X = np.random.default_rng(0).normal(size=(200, 3))
    y = (X[:, 0] * 9).astype(int) % n_classes
    return TabularMLPClassifier(**FEW).fit(X, y, X_val=X, y_val=y), X


def expected_of(model: Any, X: Any) -> Any:
    """Probabilities of classes, or predicted numbers, shape (n_rows, n_outputs), of few rows at a
    time."""
    predict = getattr(model, "predict_proba", model.predict)
    predictions = np.concatenate([predict(X[k : k + 100]) for k in range(0, len(X), 100)])
    return predictions.reshape(len(predictions), -1)
