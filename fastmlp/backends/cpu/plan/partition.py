"""The one place that decides how a step is divided: into chunks of rows, and among threads."""

from typing import NamedTuple

from fastmlp.backends.cpu.plan.blocking import chunk_rows, microbatch_rows, rows_by_microbatches
from fastmlp.backends.cpu.plan.packing import CLOSE, Spacing, numbers_packed, packed_layers
from fastmlp.backends.cpu.plan.step_cost import (
    Step,
    StepCost,
    cost_of,
    panels_pay,
    split_layer_of,
)
from fastmlp.backends.cpu.tuning import APART_BYTES, SHARED_FLOPS
from fastmlp.compiler.target import lanes_of
from fastmlp.network.precision import paired_layers
from fastmlp.network.spec import Network


class Partition(NamedTuple):
    """How a step is divided.

    ============  =======================================  =====================================
    form          a team shares phase one                  chosen by
    ============  =======================================  =====================================
    by rows       by strips of rows                        default
    by panels     by panels of each layer, one layer       `by_panels`: wide nets
                  after the other
    split-K       the split layer by halves of its inputs  `split_layer`: many inputs or weights,
                                                           not in mixed precision
    microbatches  both phases, by pieces of the chunk      `microbatch_rows`: small nets, many
                                                           rows
    single row    not at all                               `single_row`: batches of one row
    ============  =======================================  =====================================

    The fields that change the order of sums (`rows`, `microbatch_rows`, `split_layer`) depend on
    the net and its rows alone; the others depend on the number of threads too.

    Attributes
    ----------
    rows : int, of a chunk
    microbatch_rows : int, of a microbatch; 0: none
    n_threads : int, among how many threads the tiles are divided; 1: no team
    by_panels : bool, True if a team shares phase one by panels, a layer at a time
    split_layer : int, from 1, the layer that is computed by split-K; 0: none
    cost : StepCost or None, of a step on a team; None: not estimated
    spacing : Spacing, room between memory that different threads write
    cuts : first inputs of columns of expanded rows, where tiles are rather cut than within them
    """

    rows: int
    microbatch_rows: int = 0
    n_threads: int = 1
    by_panels: bool = False
    split_layer: int = 0
    cost: StepCost | None = None
    spacing: Spacing = CLOSE
    cuts: tuple[int, ...] = ()

    @property
    def buffer_rows(self) -> int:
        """The rows for which there are buffers."""
        return self.microbatch_rows or self.rows

    @property
    def single_row(self) -> bool:
        """True if a chunk is one row."""
        return self.rows == 1


# One chunk on one thread; its rows are those of the workspace.
WHOLE = Partition(0)


def partition_of(
    spec: Network, n_rows: int, n_threads: int, *, train: bool, sparse: bool
) -> Partition:
    """Return how to divide a step on up to n_rows rows for up to n_threads threads."""
    layout = spec.layout
    if sparse or not train:
        return Partition(chunk_rows(layout, n_rows, train=train, sparse=sparse))
    lanes, small = lanes_of(spec.dtype.type), microbatch_rows(layout, n_rows)
    if small:
        n_packed = numbers_packed(packed_layers(layout, lanes, small, train=True), lanes)
        return Partition(rows_by_microbatches(layout, n_rows, small, n_packed), small)
    rows = chunk_rows(layout, n_rows, train=True)
    step = Step(layout, rows, spec.dtype, lanes)
    # Sums of halves stay float32, while products take half the time. With split-K -> without:
    # 1.44 -> 1.38 ms (784-512-512-10@128 in bfloat16, 2 threads).
    paired = paired_layers(layout, spec.compute_dtype, sparse=sparse)
    split_layer = 0 if any(paired) else split_layer_of(step)
    if n_threads == 1 or step.flops < SHARED_FLOPS:
        # Without a cost no team is tried. 1 -> 2 threads: 3.3 -> 4.7 us, 5.5 us on cores far from
        # each other (8-32-32-1@32). Spacing for two threads costs one thread 2 %.
        return Partition(rows, split_layer=split_layer)
    by_panels = panels_pay(step, n_threads, split_layer)
    cost = cost_of(step, n_threads, split_layer, by_panels=by_panels)
    return Partition(rows, 0, n_threads, by_panels, split_layer, cost, _spacing(step, split_layer))


def paired_of(network: Network, partition: Partition, *, sparse: bool) -> tuple[bool, ...]:
    """Return which layers' products take bfloat16: none of small nets in microbatches, nor of
    single rows in training, whose layers are no products of matrices."""
    if partition.microbatch_rows or partition.single_row:
        return ()
    return paired_layers(network.layout, network.compute_dtype, sparse=sparse)


def _spacing(step: Step, split_layer: int) -> Spacing:
    """Return the spacing for a team; none for single rows, whose deltas are read without it."""
    if step.rows == 1:
        return CLOSE
    return Spacing(APART_BYTES // (step.lanes * step.dtype.itemsize), split_layer)
