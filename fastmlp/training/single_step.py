"""One optimizer step with a gradient of the user's own making."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastmlp.backends.protocol import Engine
from fastmlp.network.state import NetState
from fastmlp.training.request import rates_at


def single_step(engine: Engine[Any, Any], state: NetState, gradient: NDArray[Any]) -> None:
    """Take the step of a fit that has come this far, with this flat gradient."""
    step = state.n_steps
    rates = rates_at(state.optimizer, np.array([step]), step + 1)
    coefficients = state.optimizer.coefficients(step + 1, rates)
    engine.update(state.parameters, engine.slots(state), state.optimizer, gradient, coefficients)
    state.n_steps += 1
