"""One net's part of a call that trains many."""

from typing import Any, NamedTuple

from fastmlp.model import MLP
from fastmlp.network.parameter_layout import Layout

# What a fit takes, in operations at full speed: to begin, a step beside its arithmetic, an element
# of a layer's outputs, and a parameter's update. They order the nets, no more.
FIT_FLOPS, STEP_FLOPS, OUTPUT_FLOPS, UPDATE_FLOPS = 50_000_000, 50_000, 60, 40


class Job(NamedTuple):
    """One net's part of the call, checked.

    Attributes
    ----------
    data, held_out : `protocol.Data`, what to train and to validate on; held_out may be None
    batch_size : no more than there are rows
    """

    net: MLP
    data: Any
    held_out: Any
    epochs: int
    batch_size: int

    @property
    def cost(self) -> float:
        """About how long the fit takes, in operations at full speed."""
        layout = self.net._network.layout
        return cost_of(layout, self.data.n_rows, self.epochs, self.batch_size)


def cost_of(layout: Layout, n_rows: int, epochs: int, batch_size: int) -> float:
    """Return about how long a fit takes, in operations at full speed."""
    steps = epochs * -(-n_rows // batch_size)
    by_row = 6 * layout.n_weights + OUTPUT_FLOPS * sum(layout.sizes[1:])
    by_step = STEP_FLOPS + UPDATE_FLOPS * layout.n_parameters
    return float(FIT_FLOPS + epochs * n_rows * by_row + steps * by_step)
