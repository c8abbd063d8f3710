"""Predictions of an estimator, for many rows and for a few in microseconds."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.utils.validation import validate_data

from fastmlp.estimators.mlp import advice
from fastmlp.estimators.mlp.parameters import dtype_of, stand_in, state_from
from fastmlp.estimators.mlp.prediction_cache import PredictionCache, Quick
from fastmlp.estimators.mlp.to_core import engine_of, features_of, network_of
from fastmlp.network.state import NetState

Array = NDArray[Any]


class Predictions:
    """An estimator whose parameters are in `coefs_` and `intercepts_`."""

    activation: Any
    out_activation_: str
    coefs_: list[Array]
    intercepts_: list[Array]
    _state: NetState
    _live_state: Callable[[], NetState]

    def _forward_pass_fast(self, X: Any, check_input: bool = True) -> Array:
        return self._outputs(self._validated_rows(X) if check_input else X)

    def _validated_rows(self, X: Any) -> Any:
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
            cache.quick = Quick(state, predictor, self.activation, self.out_activation_)
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
