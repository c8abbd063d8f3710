"""How the rows of a call are cut, and what a team shares of each piece."""

from typing import NamedTuple

from fastmlp.backends.cpu.plan.packing import (
    APART_BYTES,
    CLOSE,
    Spacing,
    numbers_packed,
    packed_layers,
)
from fastmlp.backends.cpu.plan.partitioning import (
    SHARED_FLOPS,
    Effort,
    Step,
    effort,
    halved_layer,
    layers_pay,
)
from fastmlp.backends.cpu.plan.workspace import chunk_rows, lot_rows, rows_of_lots
from fastmlp.backends.cpu.simd.target import lanes_of
from fastmlp.network.spec import Network


class Cut(NamedTuple):
    """What rows and tiles come in.

    Attributes
    ----------
    rows : of a chunk
    lot : rows of a lot; 0 where a chunk is not cut into lots
    members : of a team, by which tiles are shared out; 1 where no team shares them
    by_layers : whether a team shares phase one a layer at a time
    halved : the layer, counted from 1, that is done by halves of its inputs; 0 for none
    effort : what a step takes a team, where it has been estimated
    spacing : room between what different members write
    """

    rows: int
    lot: int = 0
    members: int = 1
    by_layers: bool = False
    halved: int = 0
    effort: Effort | None = None
    spacing: Spacing = CLOSE

    @property
    def at_once(self) -> int:
        """The rows for which there must be buffers."""
        return self.lot or self.rows


def cut_of(network: Network, most: int, members: int, *, train: bool, sparse: bool) -> Cut:
    """Return how to cut up to `most` rows for a team of so many."""
    layout = network.layout
    if sparse or not train:
        return Cut(chunk_rows(layout, most, train=train, sparse=sparse))
    lanes, lot = lanes_of(network.dtype.type), lot_rows(layout, most)
    if lot:
        n_packed = numbers_packed(packed_layers(layout, lanes, lot, train=True), lanes)
        return Cut(rows_of_lots(layout, most, lot, n_packed), lot)
    rows = chunk_rows(layout, most, train=True)
    step = Step(layout, rows, network.dtype, lanes)
    halved = halved_layer(step)
    if members == 1 or step.flops < SHARED_FLOPS:
        # Without an estimate no team is tried: 8-32-32-1 at 32 rows takes two threads 4.7 us, or
        # 5.5 where they are far from each other, and one 3.3, and 2 % more with room for two.
        return Cut(rows, halved=halved)
    by_layers = layers_pay(step, members, halved)
    estimate = effort(step, members, halved, by_panels=by_layers)
    return Cut(rows, 0, members, by_layers, halved, estimate, _spacing(step, halved))


def _spacing(step: Step, halved: int) -> Spacing:
    """Return the room for a team; a row's errors go back without."""
    if step.rows == 1:
        return CLOSE
    return Spacing(APART_BYTES // (step.lanes * step.dtype.itemsize), halved)
