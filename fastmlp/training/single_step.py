"""One optimizer step with a given gradient."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastmlp.backends.protocol import Engine
from fastmlp.network.state import NetState
from fastmlp.rules.groups import groups_of
from fastmlp.rules.optimizers import coefficients_of
from fastmlp.training.recording import rates_at


def single_step(engine: Engine[Any], state: NetState, gradient: NDArray[Any]) -> None:
    """Take the next step of the net's optimizer, with this flat gradient."""
    step, slots = state.n_steps, engine.slots(state)
    # A fit that has ended early may have ended before its average.
    state.averaged_from = min(state.averaged_from, step)
    rates = rates_at(state.optimizer, np.array([step]), step + 1)
    groups = groups_of(state.optimizer, engine.network.factors).groups
    its = (state.optimizer, step + 1, rates, groups, state.averaged_from)
    engine.update(state.parameters, slots, state.optimizer, gradient, coefficients_of(*its))
    state.n_steps += 1
