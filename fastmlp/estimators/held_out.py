"""Rows to validate on: the loss and the score of each epoch, without the cost of a public call."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import is_classifier
from sklearn.model_selection import train_test_split

from fastmlp.estimators.parameters import Parameters
from fastmlp.estimators.translation import data_of, engine_of
from fastmlp.network import Network

Array = NDArray[Any]
Rows = tuple[Any, Any, Any]


class HeldOut:
    """Rows to validate on, while an estimator is trained.

    Parameters
    ----------
    rows : (X, y, sample_weight or None), targets binarized
    labels : the targets as a scorer takes them
    metric : function of outputs, targets and weights that returns the score

    Attributes
    ----------
    X, labels, weight : what a scorer takes

    Raises
    ------
    ValueError
        Where no row has a weight.
    """

    def __init__(
        self,
        estimator: Any,
        rows: Rows,
        labels: Any,
        metric: Callable[..., float],
        parameters: Parameters,
        network: Network,
    ) -> None:
        self.X, self._targets, self.weight = rows
        if self.weight is not None and not self.weight.any():
            # What scikit-learn's metrics say.
            raise ValueError("Sample weights must contain at least one non-zero number.")
        self.labels, self._metric, self._flat = labels, metric, parameters.flat
        data = data_of(network, *rows)
        self._evaluation = engine_of(estimator, network).evaluation(data)
        self._outputs = np.empty((len(data.x), network.layout.sizes[-1]), self._flat.dtype)

    def loss(self) -> float:
        """Return the mean loss, without penalty, at the parameters of now."""
        return self._evaluation(self._flat, self._outputs)

    def score(self) -> float:
        """Return the metric at the parameters for which the loss was last asked."""
        return float(self._metric(self._outputs, self._targets, self.weight))


def accuracy(outputs: Array, targets: Array, weight: Any, *, one_hot: bool) -> float:
    """Return the share of rows whose classes are right; of several labels, all of them.

    `sklearn.metrics.accuracy_score` of the labels takes 600 us, more than an epoch of a small net.
    """
    if one_hot:
        right = outputs.argmax(axis=1) == targets.argmax(axis=1)
    else:
        right = ((outputs > 0.5) == targets).all(axis=1)
    return float(np.average(right, weights=weight))


def r2(outputs: Array, targets: Array, weight: Any) -> float:
    """Return the coefficient of determination, the mean over outputs; NaN for a net that diverged.

    `sklearn.metrics.r2_score` takes 400 us for it.
    """
    if not np.isfinite(outputs).all():
        return np.nan
    weights = np.float64(1) if weight is None else weight[:, None]
    mean = np.average(targets, axis=0, weights=weight)
    residual = (weights * (targets - outputs) ** 2).sum(axis=0, dtype=np.float64)
    total = (weights * (targets - mean) ** 2).sum(axis=0, dtype=np.float64)
    scores = np.where(residual == 0, 1.0, 0.0)
    np.divide(residual, total, out=residual, where=total != 0)
    return float(np.mean(np.where(total != 0, 1 - residual, scores)))


def split(estimator: Any, rows: Rows) -> tuple[Rows, Rows]:
    """Return the rows to train on, and those to validate on.

    As in scikit-learn only a binary target is stratified: one of several classes has several
    columns here.
    """
    X, y, weight = rows
    stratify = y if is_classifier(estimator) and estimator.n_outputs_ == 1 else None
    parts = train_test_split(
        *((X, y) if weight is None else (X, y, weight)),
        random_state=estimator._random_state,
        test_size=estimator.validation_fraction,
        stratify=stratify,
    )
    if parts[1].shape[0] < 2:
        raise ValueError(
            "The validation set is too small. Increase 'validation_fraction' or the size of your "
            "dataset."
        )
    return (*parts[::2], None)[:3], (*parts[1::2], None)[:3]
