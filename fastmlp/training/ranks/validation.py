"""Validation on several ranks: each validates its own rows, and all have the loss of all rows."""

from typing import Any, NamedTuple, final

import numpy as np
from numpy.typing import NDArray

from fastmlp.backends.protocol import Data, Engine
from fastmlp.training.metrics import Measures, Metrics
from fastmlp.training.ranks.ranks import Ranks

Array = NDArray[Any]


class _Targets(NamedTuple):
    """The targets of all ranks' rows, as far as metrics look at `Data`."""

    y: Array
    weight: Array
    rows: None = None

    @property
    def n_rows(self) -> int:
        return len(self.y)


@final
class OnAllRanks:
    """The loss and the metrics of all ranks' validation rows, the same on all ranks.

    Metrics are measured by rank 0, on the predictions of all.

    Parameters
    ----------
    ranks : Ranks
    engine : Engine
    held_out : Data, this rank's rows, which may be none
    metrics : Metrics, which may be empty
    """

    def __init__(self, ranks: Ranks, engine: Engine[Any], held_out: Data, metrics: Metrics) -> None:
        self._ranks, self._mass = ranks, held_out.mass
        self._evaluation = engine.evaluation(held_out) if held_out.n_rows else None
        self._predictions: Array | None = None
        if metrics:
            network = engine.network
            shape = (held_out.n_rows, network.layout.sizes[-1])
            self._predictions = np.empty(shape, network.dtype)
            y, weight = self._joined(_in_use(held_out.y, held_out)), self._weights(held_out)
            whole: Any = _Targets(y, weight)
            self._measures = Measures(metrics, network, whole) if ranks.is_first else None

    def _weights(self, held_out: Data) -> Array:
        """Return the weights of all ranks' rows, (0,) if none has any."""
        own = _in_use(held_out.weight, held_out)
        if not any(self._ranks.allgather_objects(bool(own.size))):
            return own
        return self._joined(own if own.size else np.ones(held_out.n_rows, held_out.weight.dtype))

    def _joined(self, own: Array) -> Array:
        """Return the rows of all ranks, in their order."""
        sizes = self._ranks.allgather(np.array([len(own)], np.int64))[:, 0].tolist()
        padded = np.zeros((max(sizes), *own.shape[1:]), own.dtype)
        padded[: len(own)] = own
        parts = self._ranks.allgather(padded.reshape(-1)).reshape(-1, *padded.shape)
        return np.concatenate([part[:n] for part, n in zip(parts, sizes, strict=True)])

    def __call__(self, parameters: Array) -> tuple[float, dict[str, float]]:
        """Return the loss and the metrics at these parameters."""
        loss = 0.0
        if self._evaluation is not None:
            loss = self._evaluation(parameters, self._predictions)
        told = self._ranks.allgather(np.array([loss * self._mass, self._mass])).sum(axis=0)
        with np.errstate(all="ignore"):
            mean = float(told[0] / told[1])
        if self._predictions is None:
            return mean, {}
        predictions, values = self._joined(self._predictions), {}
        if self._measures is not None:
            self._measures.predictions[:] = predictions
            values = self._measures()
        return mean, self._ranks.broadcast(values)


def _in_use(array: Array, data: Data) -> Array:
    """Return the rows in use of an array of `data`."""
    return array if data.rows is None or not array.size else array[data.rows]
