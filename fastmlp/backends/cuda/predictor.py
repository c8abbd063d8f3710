"""Predictions of one net on a GPU: each call copies the parameters there."""

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from fastmlp import validation
from fastmlp.backends.protocol import Select, as_given

Array = NDArray[Any]


class Verbs(Protocol):
    """The verb of the engine that a predictor calls."""

    def predictions(
        self, parameters: Array, X: Any, out: Any, *, raw: bool = False, who: str = "MLP.predict"
    ) -> Any: ...


class Predictor:
    """Predictions of one net on a GPU.

    Parameters
    ----------
    engine : Engine
    parameters : (n_parameters,) array on the host, live: changes count
    raw : bool
        Predict the outputs before activation or link.
    select : from X and the caller's name to the columns to predict from
    """

    is_quick = False

    def __init__(
        self,
        engine: Verbs,
        parameters: Array,
        *,
        raw: bool = False,
        select: Select = as_given,
    ) -> None:
        self._engine, self._parameters, self._raw = engine, parameters, raw
        self._select = select

    def __reduce__(self) -> Any:
        """A copy has parameters of its own."""
        return type(None), ()

    def __call__(self, X: Any, out: Any = None, who: str = "MLP.predict") -> Any:
        """Return predictions, shape (n_rows, n_outputs): on the GPU if X or `out` is.

        Predictions on the host that are not finite warn.
        """
        x = self._select(X, who)
        found = self._engine.predictions(self._parameters, x, out, raw=self._raw, who=who)
        return validation.warn_if_not_finite(found, who) if isinstance(found, np.ndarray) else found

    def quick(self, x: object, out: object = None) -> Array | None:
        """Return None: a few rows go to the GPU as many do."""
        return None

    def write(self, x: Array, out: Array) -> None:
        """Write predictions of validated rows to `out`, unchecked."""
        self._engine.predictions(self._parameters, x, out, raw=self._raw)
