"""What all ranks must have alike, as texts that they compare."""

import re
from typing import Any

from fastmlp.network.spec import Network
from fastmlp.network.state import NetState
from fastmlp.training.checkpoint import digest
from fastmlp.training.monitors import Monitors

# A function's address in its repr differs from process to process.
ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")


def settings_of(
    network: Network, state: NetState, monitors: Monitors, **others: Any
) -> dict[str, str]:
    """Return the settings of a fit, and what it begins with, by names that users know."""
    slots = state.slots()
    given: dict[str, Any] = {
        **others,
        "layers, rules and penalties": network,
        "optimizer": state.optimizer,
        "early_stopping, callbacks and metrics": monitors.settings(),
        "number of steps": state.n_steps,
    }
    told = {name: ADDRESS.sub("", repr(value)) for name, value in given.items()}
    told["parameters (by seed=, or from a file)"] = digest(state.parameters)
    told["optimizer's state"] = "zeros" if slots is None else digest(slots)
    return told
