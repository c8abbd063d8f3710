"""A subset of rows of data that several fits share without copies."""

from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.base import is_classifier
from sklearn.model_selection import train_test_split
from sklearn.utils import _safe_indexing
from sklearn.utils.validation import _num_samples

from fastmlp.backends.protocol import Data, Engine
from fastmlp.estimators.mlp.to_core import data_of

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

    def weighted(self, weight: Array | None) -> Self:
        """Return these rows with weights, shape (n,), one for each; other rows get the weight 0."""
        if weight is None or self.rows is None:
            return self._replace(weight=weight)
        of_all = np.zeros(len(self.y), weight.dtype)
        of_all[self.rows] = weight
        return self._replace(weight=of_all)

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


def derive_form(estimator: Any, X: Any, y: Any, rows: RowIndex) -> tuple[np.dtype[Any], Array]:
    """Set what `fit` derives from some rows of data on an unfitted estimator: labels, names, width.

    X is known to be valid: the first ``len(rows)`` rows stand for `rows`, which would be a copy.

    Returns
    -------
    dtype : in which the estimator takes X
    targets : (n_samples, n_outputs) array, binarized; zeros in other rows

    Raises
    ------
    TypeError, ValueError
        If the estimator does not take such targets.
    """
    n, n_samples = len(rows), _num_samples(X)
    its = X if n == n_samples else _safe_indexing(X, slice(n) if n < n_samples else rows)
    checked, targets = estimator._validate_input(its, _safe_indexing(y, rows), False, reset=True)
    table = np.zeros((n_samples, targets.size // n), targets.dtype)
    table[rows] = targets.reshape(n, -1)
    return checked.dtype, table
