"""What all ranks must have alike, as texts that they compare."""

import re
from typing import Any

from fastmlp.data.rows import Reading
from fastmlp.network.spec import Network
from fastmlp.network.state import NetState
from fastmlp.training.checkpoint import digest
from fastmlp.training.monitors import Monitors
from fastmlp.training.ranks.ranks import Ranks

# A function's address in its repr differs from process to process.
ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")


def agree(
    ranks: Ranks,
    network: Network,
    state: NetState,
    reading: Reading,
    monitors: Monitors,
    others: dict[str, Any],
) -> None:
    """Check that all ranks have the same settings of a fit, and begin it with the same state.

    `others` are further settings, by names that users know.

    Raises
    ------
    ValueError
        If they do not, on all of them.
    """
    if ranks.size == 1:
        return
    slots, alike = state.slots(), ("epochs", "shuffle", "steps_per_epoch", "class_weight")
    given: dict[str, Any] = {
        **{name: getattr(reading, name) for name in alike},
        **others,
        "layers, rules and penalties": network,
        "optimizer": state.optimizer,
        "early_stopping, callbacks and metrics": monitors.settings(),
        "number of steps": state.n_steps,
    }
    told = {name: ADDRESS.sub("", repr(value)) for name, value in given.items()}
    told["parameters (by seed=, or from a file)"] = digest(state.parameters)
    told["optimizer's state"] = "zeros" if slots is None else digest(slots)
    ranks.agree(told)
