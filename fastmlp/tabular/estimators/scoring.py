"""What a selection maximises: scores by name, as scikit-learn has them, of predictions."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import get_scorer, get_scorer_names

from fastmlp.estimators.common import Scoring
from fastmlp.estimators.sklearn_bases import BaseEstimator, ClassifierMixin, RegressorMixin
from fastmlp.tabular.pack.scoring import Score, Task
from fastmlp.validation.suggestions import suggestion

Array = NDArray[Any]
# The score of a pack without another.
OWN = {"regression": "neg_root_mean_squared_error"}
OWN_OF_CLASSES = "neg_log_loss"


def score_of(scoring: Scoring | None, task: Task, classes: Array | None) -> Score | None:
    """Return a score of (y, predictions, weight), higher is better; None: the pack's own.

    Parameters
    ----------
    scoring : name, or function of (estimator, X, y), of scikit-learn's
    classes : (n_classes,) array of labels; None for numbers

    Raises
    ------
    ValueError
        If there is no score of that name.
    """
    if scoring is None or scoring == OWN.get(task, OWN_OF_CLASSES):
        return None
    if isinstance(scoring, str):
        if (quick := QUICK[classes is None].get(scoring)) is not None:
            return quick
        if scoring not in (known := get_scorer_names()):
            told = f"scoring: {scoring!r} is no score{suggestion(scoring, known)}"
            raise ValueError(f"{told} sklearn.metrics.get_scorer_names() has all")
    scorer = get_scorer(scoring)
    weighs = hasattr(scorer, "_score_func")
    answers = _Numbers() if classes is None else _Labels(classes)

    def score(y: Array, predictions: Array, weight: Array | None) -> float:
        more = {"sample_weight": weight} if weighs and weight is not None else {}
        labels = y if classes is None else classes[y]
        return float(scorer(answers, predictions, labels, **more))

    return score


class _Numbers(RegressorMixin, BaseEstimator):
    """To a scorer the estimator whose predictions X are."""

    def fit(self, X: Any, y: Any) -> "_Numbers":
        """Learn nothing."""
        return self

    def predict(self, X: Array) -> Array:
        """Return X."""
        return X


class _Labels(ClassifierMixin, BaseEstimator):
    """To a scorer the classifier whose probabilities X are."""

    def __init__(self, classes_: Array) -> None:
        self.classes_ = classes_

    def fit(self, X: Any, y: Any) -> "_Labels":
        """Learn nothing."""
        return self

    def predict(self, X: Array) -> Array:
        """Return the labels of the largest probabilities."""
        labels: Array = self.classes_[X.argmax(axis=1)]
        return labels

    def predict_proba(self, X: Array) -> Array:
        """Return X."""
        return X


def _accuracy(y: Array, predictions: Array, weight: Array | None) -> float:
    return float(np.average(predictions.argmax(axis=1) == y, weights=weight))


def _r2(y: Array, predictions: Array, weight: Array | None) -> float:
    center = np.average(y, weights=weight)
    total = np.average((y - center) ** 2, weights=weight)
    return float(1 + _mse(y, predictions, weight) / (total or 1.0))


def _mse(y: Array, predictions: Array, weight: Array | None) -> float:
    return -float(np.average((y - predictions) ** 2, weights=weight))


def _mae(y: Array, predictions: Array, weight: Array | None) -> float:
    return -float(np.average(np.abs(y - predictions), weights=weight))


# By whether there are numbers. A selection scores some thousand means: scikit-learn's functions
# take 0.6 ms for each, these 0.02 ms.
QUICK: dict[bool, dict[str, Score]] = {
    False: {"accuracy": _accuracy},
    True: {"r2": _r2, "neg_mean_squared_error": _mse, "neg_mean_absolute_error": _mae},
}
