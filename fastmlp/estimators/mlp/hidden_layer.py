"""The activations of the last hidden layer, as new features."""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray
from sklearn.base import TransformerMixin
from sklearn.utils.validation import check_is_fitted

from fastmlp.estimators.arguments import Table
from fastmlp.estimators.sklearn_bases import (
    ClassNamePrefixFeaturesOutMixin,
    _SetOutputMixin,
    available_if,
)

Array = NDArray[Any]


class HiddenLayer(ClassNamePrefixFeaturesOutMixin, _SetOutputMixin):
    """Gives an estimator `transform` once it is fitted, and no `fit_transform`.

    scikit-learn, and tools around it, take an estimator with `fit_transform`, or an unfitted one
    with `transform`, for a transformer. A subclass that is a `TransformerMixin` is one.
    """

    coefs_: list[Array]

    def transform(self, X: Table) -> Array:
        """Return the activations of the last hidden layer; only a fitted estimator has it.

        A step before the last one of a pipeline must be a transformer. Put a fitted estimator into
        scikit-learn's `FrozenEstimator`; one that the pipeline fits is of a class of your own:
        ``class Features(TransformerMixin, MLPClassifier): ...``.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)

        Returns
        -------
        ndarray of shape (n_samples, n_units)
            Of a net without hidden layers, the features as they are.

        Raises
        ------
        AttributeError
            If the estimator is not fitted.
        """
        check_is_fitted(self)
        rows = self._validated_rows(X)
        if len(self.coefs_) == 1:
            return rows.toarray() if hasattr(rows, "toarray") else rows
        return self._outputs(rows, hidden=True)

    def _validated_rows(self, X: Any) -> Any:
        raise NotImplementedError

    def _outputs(self, X: Any, hidden: bool = False) -> Array:
        raise NotImplementedError

    @property
    def _n_features_out(self) -> int:
        """The number of names that `get_feature_names_out` returns."""
        return int(self.coefs_[-1].shape[0])


# Not as a decorator: `_SetOutputMixin` puts a plain function in the place of what is in the class.
available = available_if(lambda it: hasattr(it, "coefs_") or isinstance(it, TransformerMixin))
HiddenLayer.transform = available(HiddenLayer.transform)  # type: ignore[method-assign]
