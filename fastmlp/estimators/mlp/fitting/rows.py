"""The rows of a fit: subsets of arrays, and rows held out to validate on."""

from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.base import is_classifier
from sklearn.model_selection import train_test_split
from sklearn.utils.validation import (
    _check_sample_weight,
    validate_data,
)

from fastmlp.backends.protocol import Data, Engine
from fastmlp.estimators.mlp.fitting.advice import checking
from fastmlp.estimators.mlp.fitting.to_core import data_of
from fastmlp.network.state import NetState
from fastmlp.training.metrics import Measures, Metrics, check

Array = NDArray[Any]
RowIndex = NDArray[np.int64]


class RowSubset(NamedTuple):
    """Some rows of checked data, or all rows.

    Attributes
    ----------
    X : (n_samples, n_features) array or sparse matrix
    y : (n_samples, n_outputs) array, binarized
    weight : (n_samples,) array, or None
    rows : (n,) array of int64, in any order; None: all rows
    """

    X: Any
    y: Array
    weight: Any = None
    rows: RowIndex | None = None

    def of(self, array: Any) -> Any:
        """Return these rows of an array with a row for each row of X."""
        return array if array is None or self.rows is None else array[self.rows]

    def data(self, engine: Engine[Any]) -> Data:
        """Return the subset in the core's form."""
        return data_of(engine, self.X, self.y, self.weight)._replace(rows=self.rows)

    def shares(self, other: "RowSubset") -> bool:
        """Return True if both are subsets of the same data."""
        return all(a is b for a, b in zip(self[:3], other[:3], strict=True))

    def split(self, estimator: Any) -> tuple[Self, Self]:
        """Return the rows to train on, and the rows that early stopping holds out.

        As in scikit-learn only a binary target is stratified: targets of several classes have
        several columns here.
        """
        rows = np.arange(len(self.y), dtype=np.int64) if self.rows is None else self.rows
        binary = is_classifier(estimator) and estimator.n_outputs_ == 1
        # The draw depends on the number of rows alone.
        train, test = train_test_split(
            rows,
            random_state=estimator._random_state,
            test_size=estimator.validation_fraction,
            stratify=self.of(self.y) if binary else None,
        )
        if len(test) < 2:
            raise ValueError(
                "The validation set is too small. Increase 'validation_fraction' or the size of "
                "your dataset."
            )
        return self._replace(rows=train), self._replace(rows=test)


class HeldOutRows:
    """The rows on which an estimator is validated during training.

    Parameters
    ----------
    part : RowSubset
    data : Data, the same rows in the core's form

    Attributes
    ----------
    X, labels, weight : arguments of a scorer; X is None if no scorer of scikit-learn's is used
    metrics : Measures, of the predictions at the last call of `loss`

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
        metrics: Metrics,
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
        check(metrics, engine.network, data, f"{type(estimator).__name__}.fit")
        self.metrics = Measures(metrics, engine.network, data)
        self._outputs = self.metrics.predictions

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
    """Return the validation data given to `fit`, checked and with binarized targets, or None."""
    if X is None and y is None:
        return None
    if X is None or y is None:
        present, lacks = ("y_val", "X_val") if X is None else ("X_val", "y_val")
        raise ValueError(f"{present} is provided, but {lacks} was not provided.")
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
    held_out: RowSubset | None,
    part: RowSubset,
    data: Data,
    state: NetState,
    engine: Engine[Any],
    metrics: Metrics,
) -> HeldOutRows | None:
    """Return the rows to validate on, or None if there are none."""
    if held_out is None:
        return None
    if estimator.validation_loss_curve_ is None:
        estimator.validation_loss_curve_ = []
    estimator._best_coefs = [coef.copy() for coef in state.weights]
    estimator._best_intercepts = [intercept.copy() for intercept in state.biases]
    # If both are subsets of one table, targets and weights in the core's form are shared too.
    own = data._replace(rows=held_out.rows) if held_out.shares(part) else held_out.data(engine)
    return HeldOutRows(estimator, held_out, own, state, engine, metrics)
