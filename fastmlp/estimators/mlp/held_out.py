"""Rows held out for validation: each epoch's loss and score, without the cost of a public call."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.utils.validation import _check_sample_weight, validate_data

from fastmlp.backends.protocol import Data, Engine
from fastmlp.data.sources import is_source
from fastmlp.estimators.mlp.advice import checking
from fastmlp.estimators.mlp.row_subset import RowSubset
from fastmlp.estimators.mlp.sources import rows_of_source
from fastmlp.network.state import NetState

Array = NDArray[Any]


class HeldOut:
    """The rows on which an estimator is validated during training.

    Parameters
    ----------
    part : RowSubset
    data : Data, the same rows in the core's form

    Attributes
    ----------
    X, labels, weight : arguments of a scorer; X is None if no scorer of scikit-learn's is used

    Raises
    ------
    ValueError
        If all weights are 0.
    """

    weight: Any
    labels: Any

    def __init__(
        self,
        estimator: Any,
        part: RowSubset,
        data: Data,
        state: NetState,
        engine: Engine[Any],
    ) -> None:
        self._targets, self.weight = part.of(part.y), part.of(part.weight)
        if self.weight is not None and not self.weight.any():
            # The message of scikit-learn's metrics.
            raise ValueError("Sample weights must contain at least one non-zero number.")
        self.labels = estimator._labels_of(self._targets)
        self.X = None if estimator.scoring in (None, "loss") else part.of(part.X)
        self._metric, self._flat = estimator._metric, state.parameters
        of_classes = estimator.n_outputs_ == 1 or estimator.out_activation_ == "softmax"
        self._has_common_class = of_classes and hasattr(estimator, "classes_")
        self._evaluation = engine.evaluation(data)
        self._outputs = np.empty((data.n_rows, state.layout.sizes[-1]), self._flat.dtype)

    def loss(self) -> float:
        """Return the mean loss, without penalty, at the current parameters."""
        return self._evaluation(self._flat, self._outputs)

    def score(self) -> float:
        """Return the metric at the parameters of the last call of `loss`."""
        return float(self._metric(self._outputs, self._targets, self.weight))

    def common_share(self) -> float:
        """Return the share of the most common class; 0 of other targets, and of several labels."""
        if not self._has_common_class:
            return 0.0
        shares = np.average(self._targets, axis=0, weights=self.weight)
        return float(max(shares.max(), 1 - shares[0] if len(shares) == 1 else 0.0))


def validation_rows(estimator: Any, X: Any, y: Any, weight: Any) -> RowSubset | None:
    """Return the validation data given to `fit`, checked and with binarized targets, or None.

    X may be a source.
    """
    if X is None and y is None:
        return None
    if y is None and weight is None and is_source(X):
        return rows_of_source(estimator, X)
    if X is None or y is None:
        given, lacks = ("y_val", "X_val") if X is None else ("X_val", "y_val")
        raise ValueError(f"{given} is provided, but {lacks} was not provided.")
    dtype = (np.float64, np.float32)
    with checking(estimator, X, y_val=y, sample_weight_val=weight):
        X, y = validate_data(
            estimator,
            X,
            y,
            accept_sparse=["csr", "csc"],
            multi_output=True,
            dtype=dtype,
            reset=False,
        )
    weight = None if weight is None else _check_sample_weight(weight, X)
    targets = estimator._binarized(y)
    if estimator._outputs_for(targets) != estimator.n_outputs_:
        raise ValueError(
            f"y_val has {targets.shape[1]} columns, but there are {estimator.n_outputs_} outputs"
        )
    return RowSubset(X, targets, weight)


def hold_out(
    estimator: Any,
    its: RowSubset | None,
    part: RowSubset,
    data: Data,
    state: NetState,
    engine: Engine[Any],
) -> HeldOut | None:
    """Return the rows to validate on, or None if there are none."""
    if its is None:
        return None
    if estimator.validation_loss_curve_ is None:
        estimator.validation_loss_curve_ = []
    estimator._best_coefs = [coef.copy() for coef in state.weights]
    estimator._best_intercepts = [intercept.copy() for intercept in state.biases]
    # If both are subsets of one table, targets and weights in the core's form are shared too.
    own = data._replace(rows=its.rows) if its.shares(part) else its.data(engine)
    return HeldOut(estimator, its, own, state, engine)


def accuracy(outputs: Array, targets: Array, weight: Any, *, one_hot: bool) -> float:
    """Return the share of rows with the right class, or with all labels right.

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
