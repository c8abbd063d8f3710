"""Predictions of an estimator, and the activations of its last hidden layer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, final

import numpy as np
from numpy.typing import NDArray
from sklearn.base import TransformerMixin
from sklearn.utils.validation import check_is_fitted, validate_data

from fastmlp._process.memory import FreeList
from fastmlp.backends.protocol import Predictor
from fastmlp.estimators.common import Table
from fastmlp.estimators.mlp.fitting import advice
from fastmlp.estimators.mlp.fitting.net import dtype_of, stand_in, state_from
from fastmlp.estimators.mlp.fitting.shortcuts import is_checked
from fastmlp.estimators.mlp.fitting.to_core import engine_of, features_of, network_of
from fastmlp.estimators.sklearn_bases import (
    ClassNamePrefixFeaturesOutMixin,
    SklearnMLP,
    _SetOutputMixin,
    available_if,
)
from fastmlp.network.state import NetState


class QuickPredictor(NamedTuple):
    """The predictor of the last small batch, with the net and settings that it is valid for."""

    state: NetState
    predictor: Predictor
    activation: Any
    out_activation: str


@final
class PredictionCache:
    """A mutable cache: `predict` must not change the attributes of an estimator.

    Attributes
    ----------
    buffers : FreeList of buffers for predictions of many rows
    quick : QuickPredictor, or None before the first small batch
    """

    buffers: FreeList
    quick: QuickPredictor | None

    def __init__(self) -> None:
        self.buffers = FreeList()
        self.quick = None


Array = NDArray[Any]


class Predictions(ClassNamePrefixFeaturesOutMixin, _SetOutputMixin, SklearnMLP):
    """An estimator whose parameters are in `coefs_` and `intercepts_`.

    Once it is fitted it has `transform`, and no `fit_transform`: scikit-learn, and tools around it,
    take an estimator with `fit_transform`, or an unfitted one with `transform`, for a transformer.
    A subclass that is a `TransformerMixin` is one.
    """

    _state: NetState
    _live_state: Callable[[], NetState]

    def _forward_pass_fast(self, X: Any, check_input: bool = True) -> Array:
        return self._outputs(self._validated_rows(X) if check_input else X)

    def _validated_rows(self, X: Any) -> Any:
        if is_checked(self, X, reset=False):
            return X
        with advice.checking(self, X):
            return validate_data(self, X, accept_sparse=["csr", "csc"], reset=False)

    def _outputs(self, X: Any, hidden: bool = False) -> Array:
        """Return predictions, or the last hidden layer's activations, shape (n_rows, n_units)."""
        state = self._live_state()
        if X.shape[1] != state.layout.sizes[0]:
            raise ValueError(
                f"X has {X.shape[1]} features, but coefs_[0] has {state.layout.sizes[0]} rows"
            )
        dtype = dtype_of(np.empty(0, X.dtype), state.parameters)
        # Without penalties: nets that differ in penalties alone then share buffers.
        network = network_of(self, state.layout.sizes, dtype)._replace(penalties=())
        with state.lock.parameters:
            flat = state.parameters.astype(dtype, copy=False)
            if hidden:
                network = features_of(network)
                flat = state_from(self.coefs_[:-1], self.intercepts_[:-1], dtype).parameters
        out = np.empty((X.shape[0], network.layout.sizes[-1]), dtype)
        cache: PredictionCache | None = self.__dict__.get("_cache")
        engine = engine_of(self, network, state.lock, cache.buffers if cache else None)
        predictor = engine.predictor(flat)
        predictor.write(engine.features(X), out)
        if cache is not None and predictor.is_quick and flat is state.parameters:
            cache.quick = QuickPredictor(state, predictor, self.activation, self.out_activation_)
        return out

    def _quick_outputs(self, X: Any) -> Array | None:
        """Return predictions for a few plain rows in microseconds; None for other rows."""
        cache: PredictionCache | None = self.__dict__.get("_cache")
        if cache is None or cache.quick is None or hasattr(self, "feature_names_in_"):
            return None
        state, predictor, activation, output = cache.quick
        if activation is not self.activation or output is not self.out_activation_:
            return None
        if state is not self._state or not stand_in(state, self.coefs_, self.intercepts_):
            return None
        return predictor.quick(X)

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

    @property
    def _n_features_out(self) -> int:
        """The number of names that `get_feature_names_out` returns."""
        return int(self.coefs_[-1].shape[0])


# Not as a decorator: `_SetOutputMixin` would put a plain function in its place in the class.
available = available_if(lambda it: hasattr(it, "coefs_") or isinstance(it, TransformerMixin))
Predictions.transform = available(Predictions.transform)  # type: ignore[method-assign]
