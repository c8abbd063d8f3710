"""One net's part of a call that trains many."""

from typing import NamedTuple

from fastmlp.backends.protocol import Data
from fastmlp.model import MLP, Core
from fastmlp.network.parameter_layout import Layout

# What a fit takes, in operations at full speed: to begin, a step beside its arithmetic, an element
# of a layer's outputs, and a parameter's update. They order the nets, no more.
FIT_FLOPS, STEP_FLOPS, OUTPUT_FLOPS, UPDATE_FLOPS = 50_000_000, 50_000, 60, 40


class Job(NamedTuple):
    """One net's part of the call, checked.

    Attributes
    ----------
    core : Core, the net's engine and state
    data, held_out : Data, to train and to validate on; held_out may be None
    batch_size : no more than there are rows
    """

    net: MLP
    core: Core
    data: Data
    held_out: Data | None
    epochs: int
    batch_size: int

    @property
    def cost(self) -> float:
        """About how long the fit takes, in operations at full speed."""
        return cost_of(self.core.state.layout, self.data.n_rows, self.epochs, self.batch_size)


def cost_of(layout: Layout, n_rows: int, epochs: int, batch_size: int) -> float:
    """Return about how long a fit takes, in operations at full speed."""
    steps = epochs * -(-n_rows // batch_size)
    by_row = 6 * layout.n_weights + OUTPUT_FLOPS * sum(layout.sizes[1:])
    by_step = STEP_FLOPS + UPDATE_FLOPS * layout.n_parameters
    return float(FIT_FLOPS + epochs * n_rows * by_row + steps * by_step)
