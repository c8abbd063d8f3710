"""Rows to validate on: the loss and the score of each epoch, without the cost of a public call."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.utils.validation import _check_sample_weight, validate_data

from fastmlp.backends.protocol import Data, Engine
from fastmlp.estimators.mlp.row_subset import Part
from fastmlp.network.state import NetState

Array = NDArray[Any]


class HeldOut:
    """Rows to validate on, while an estimator is trained.

    Parameters
    ----------
    part : Part
    data : Data, the same as the core takes it

    Attributes
    ----------
    X, labels, weight : what a scorer takes; X is None where no scorer of scikit-learn's is asked

    Raises
    ------
    ValueError
        Where no row has a weight.
    """

    def __init__(
        self,
        estimator: Any,
        part: Part,
        data: Data,
        state: NetState,
        engine: Engine[Any, Any],
    ) -> None:
        self._targets, self.weight = part.of(part.y), part.of(part.weight)
        if self.weight is not None and not self.weight.any():
            # What scikit-learn's metrics say.
            raise ValueError("Sample weights must contain at least one non-zero number.")
        self.labels = estimator._labels_of(self._targets)
        self.X = None if estimator.scoring in (None, "loss") else part.of(part.X)
        self._metric, self._flat = estimator._metric, state.parameters
        self._evaluation = engine.evaluation(data)
        self._outputs = np.empty((data.n_rows, state.layout.sizes[-1]), self._flat.dtype)

    def loss(self) -> float:
        """Return the mean loss, without penalty, at the parameters of now."""
        return self._evaluation(self._flat, self._outputs)

    def score(self) -> float:
        """Return the metric at the parameters for which the loss was last asked."""
        return float(self._metric(self._outputs, self._targets, self.weight))


def validation_rows(estimator: Any, X: Any, y: Any, weight: Any) -> Part | None:
    """Return what `fit` was given to validate on, checked, targets binarized."""
    if X is None and y is None:
        return None
    if X is None or y is None:
        given, lacks = ("y_val", "X_val") if X is None else ("X_val", "y_val")
        raise ValueError(f"{given} is provided, but {lacks} was not provided.")
    dtype = (np.float64, np.float32)
    X, y = validate_data(
        estimator, X, y, accept_sparse=["csr", "csc"], multi_output=True, dtype=dtype, reset=False
    )
    weight = None if weight is None else _check_sample_weight(weight, X)
    targets = estimator._binarized(y)
    if targets.shape[1] != estimator.n_outputs_:
        raise ValueError(
            f"y_val has {targets.shape[1]} columns, but there are {estimator.n_outputs_} outputs"
        )
    return Part(X, targets, weight)


def hold_out(
    estimator: Any,
    its: Part | None,
    part: Part,
    data: Data,
    state: NetState,
    engine: Engine[Any, Any],
) -> HeldOut | None:
    """Return the rows to validate on, where there are any."""
    if its is None:
        return None
    if estimator.validation_loss_curve_ is None:
        estimator.validation_loss_curve_ = []
    estimator._best_coefs = [coef.copy() for coef in state.weights]
    estimator._best_intercepts = [intercept.copy() for intercept in state.biases]
    # Targets and weights in the core's form are in memory once, too.
    own = data._replace(rows=its.rows) if its.shares(part) else its.data(engine)
    return HeldOut(estimator, its, own, state, engine)


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
