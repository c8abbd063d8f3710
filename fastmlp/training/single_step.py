"""One optimizer step with a given gradient."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastmlp.backends.protocol import Engine
from fastmlp.network.state import NetState
from fastmlp.rules.groups import groups_of
from fastmlp.rules.optimizers import coefficients_of
from fastmlp.training.request import rates_at


def single_step(engine: Engine[Any, Any], state: NetState, gradient: NDArray[Any]) -> None:
    """Take the next step of the net's optimizer, with this flat gradient."""
    step = state.n_steps
    rates = rates_at(state.optimizer, np.array([step]), step + 1)
    groups = groups_of(state.optimizer, engine.network.factors).groups
    coefficients = coefficients_of(state.optimizer, step + 1, rates, groups)
    engine.update(state.parameters, engine.slots(state), state.optimizer, gradient, coefficients)
    state.n_steps += 1
