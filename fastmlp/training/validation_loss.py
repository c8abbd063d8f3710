"""The loss and the metrics of a fit's validation rows."""

from collections.abc import Callable
from typing import Any, Protocol, final

from numpy.typing import NDArray

from fastmlp.backends.protocol import Data, Engine
from fastmlp.training.metrics import Measures, Metrics


class Validation(Protocol):
    """The loss and the metrics of validation rows."""

    def __call__(self, parameters: NDArray[Any]) -> tuple[float, dict[str, float]]:
        """Return both at these parameters."""
        ...


# Takes an engine, the validation rows and metrics.
NewValidation = Callable[[Engine[Any], Any, Metrics], Validation]


@final
class OnePass:
    """The loss and the metrics of validation rows, by one pass over them.

    Parameters
    ----------
    engine : Engine
    held_out : Data, the rows
    metrics : Metrics, which may be empty
    """

    def __init__(self, engine: Engine[Any], held_out: Data, metrics: Metrics) -> None:
        self._evaluation = engine.evaluation(held_out)
        self._measures = Measures(metrics, engine.network, held_out) if metrics else None

    def __call__(self, parameters: NDArray[Any]) -> tuple[float, dict[str, float]]:
        """Return the loss and the metrics at these parameters."""
        measures = self._measures
        if measures is None:
            return self._evaluation(parameters), {}
        return self._evaluation(parameters, measures.predictions), measures()
