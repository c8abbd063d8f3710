"""How a step is divided into chunks,
into microbatches and among threads, by their costs.
"""

from collections.abc import Iterator
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from fastmlp.backends.cpu import tuning
from fastmlp.backends.cpu.plan import packing
from fastmlp.backends.cpu.simd.gemm import groups_of_panels
from fastmlp.compiler.target import lanes_of
from fastmlp.network.spec import Layout, Network, paired_layers


def chunk_rows(
    layout: Layout, n_rows: int, *, train: bool = False, sparse: bool = False
) -> int:
    """Rows of a chunk.

    `CHUNK_NUMBERS` activations and `CHUNK_FLOPS` operations, about 0.25 s of one core,
    bound them: memory does not grow with the data, and Ctrl-C is served in time. If the
    gradient is small beside the chunk, outputs and deltas stay in the second-level
    cache (`CACHE_NUMBERS`).
    """
    return _even_chunk(n_rows, _most_rows(layout, train=train, sparse=sparse))


def _most_rows(layout: Layout, *, train: bool, sparse: bool = False) -> int:
    per_row = sum(layout.sizes[1:] if sparse else layout.sizes)
    by_memory = tuning.CHUNK_NUMBERS // per_row
    by_time = tuning.CHUNK_FLOPS // (6 * layout.n_weights)
    most = max(tuning.MIN_CHUNK_ROWS, min(by_memory, by_time))
    in_cache = (
        tuning.CACHE_NUMBERS
        // (2 * per_row)
        // tuning.MIN_CHUNK_ROWS
        * tuning.MIN_CHUNK_ROWS
    )
    if not train or in_cache * per_row > tuning.CHUNK_PER_WEIGHT * layout.n_weights:
        most = min(most, max(tuning.MIN_CHUNK_ROWS, in_cache))
    return most


def microbatch_rows(layout: Layout, n_rows: int) -> int:
    """Rows of a microbatch, which one thread takes through both phases, or 0.

    For large batches of small nets: a microbatch's outputs and deltas stay in the
    second-level cache, its gradient is small beside them, and multiples of four share
    out evenly.
    """
    if 6 * layout.n_weights * n_rows < tuning.MICROBATCH_FLOPS:
        return 0
    per_row = sum(layout.sizes)
    n_microbatches = microbatches_of(layout, n_rows)
    rows = packing.round_up(-(-n_rows // n_microbatches), tuning.STRIP_ROWS)
    if rows * per_row > tuning.CHUNK_PER_WEIGHT * layout.n_weights:
        return rows
    return 0


def microbatches_of(layout: Layout, n_rows: int) -> int:
    return packing.round_up(-(-n_rows // _rows_in_cache(layout)), tuning.MICROBATCHES)


def _rows_in_cache(layout: Layout) -> int:
    return max(tuning.MIN_CHUNK_ROWS, tuning.CACHE_NUMBERS // (2 * sum(layout.sizes)))


def rows_by_microbatches(layout: Layout, n_rows: int, small: int, n_packed: int) -> int:
    """Rows of a chunk of microbatches of `small` rows and n_packed gradients each:
    one core's training in 0.25 s, and `CHUNK_NUMBERS` numbers of gradients.
    """
    by_time = tuning.CHUNK_FLOPS // (6 * layout.n_weights)
    by_memory = tuning.CHUNK_NUMBERS // n_packed * small
    return min(n_rows, max(1, min(by_time, by_memory) // small) * small)


def _even_chunk(n_rows: int, most: int) -> int:
    """Rows of equal chunks of about `most` rows; a quarter more saves a short last one.

    Chunks of 499 and 13 rows -> one of 512:
    156 -> 144 ms (1024-2048-2048-1000@512, 1 thread).
    """
    n_chunks = max(1, -(-(4 * n_rows - most) // (4 * most)))
    rows = -(-n_rows // n_chunks)
    # Whole strips, if there is room.
    return max(
        1, min(n_rows, max(most, rows), packing.round_up(rows, tuning.STRIP_ROWS))
    )


class Step(NamedTuple):
    """A net and the rows of a step.

    Attributes
    ----------
    rows : of a chunk
    lanes : numbers of a vector
    """

    layout: Layout
    rows: int
    dtype: np.dtype[Any]
    lanes: int

    @property
    def flops(self) -> int:
        """Operations of its products, 6 per weight and row."""
        return 6 * self.layout.n_weights * self.rows


class StepCost(NamedTuple):
    """The cost of a step for a team.

    Attributes
    ----------
    busy : seconds of the busiest thread's arithmetic in phase one
    fetched : seconds of cross-core traffic in both phases
    joins : number of joins in both phases
    """

    busy: float
    fetched: float
    joins: int

    @property
    def seconds(self) -> float:
        return self.busy + self.fetched + self.joins * tuning.JOIN_SECONDS


@lru_cache(maxsize=256)
def split_layer_of(step: Step) -> int:
    """The layer, from 1, to compute by split-K, or 0.

    Split-K changes the order of sums, so the net and its rows alone decide:
    the best layer for two threads is split for any number of threads.
    """
    if step.rows < tuning.STRIP_ROWS or step.flops < tuning.SHARED_FLOPS:
        return 0
    return min(
        (0, *_can_be_split(step)),
        key=lambda split_layer: _soonest(step, 2, split_layer),
    )


def panels_pay(step: Step, n_threads: int, split_layer: int = 0) -> bool:
    """True if a team shares phase one sooner by panels of each layer than by rows.

    The split layer, and those below it, are not shared by panels either way.
    """
    if n_threads < 2:
        return False
    by_rows = cost_of(step, n_threads, split_layer, by_panels=False)
    by_panels = cost_of(step, n_threads, split_layer, by_panels=True)
    return by_panels.seconds < by_rows.seconds


@lru_cache(maxsize=256)
def cost_of(
    step: Step, n_threads: int, split_layer: int = 0, *, by_panels: bool = False
) -> StepCost:
    """Phase one, and the fetches and joins of phase two."""
    busy = 0.0
    fetched = 0.0
    joins = 2
    for i, (n_in, n_out) in enumerate(step.layout.shapes):
        if i + 1 == split_layer:
            part, numbers, more = _by_split_k(step, n_threads, i, n_in, n_out)
        elif i + 1 < split_layer:
            part, numbers, more = _below_split_k(step, n_threads, n_in, n_out)
        elif by_panels:
            part, numbers, more = _by_panels(step, n_threads, i, n_in, n_out)
        else:
            part, numbers, more = _by_rows(step, n_threads, i, n_in, n_out)
        busy += 2 * n_in * n_out * step.rows / tuning.FLOP_RATE * part
        fetched += (
            numbers * (1 - 1 / n_threads) * step.dtype.itemsize / tuning.FETCH_RATE
        )
        joins += more
    return StepCost(busy, fetched, joins)


def _can_be_split(step: Step) -> Iterator[int]:
    """Yield 1 and 2, the first layers,
    unless held transposed or of fewer than two panels.
    """
    for i, (n_in, n_out) in enumerate(step.layout.shapes[:2]):
        if packing.middle_of(n_in, step.lanes) and not packing.holds_transposed(
            n_in, n_out, step.lanes
        ):
            yield i + 1


def _soonest(step: Step, n_threads: int, split_layer: int) -> float:
    """Estimated seconds of the step, by rows or by panels, whichever takes less."""
    return min(
        cost_of(step, n_threads, split_layer, by_panels=by_panels).seconds
        for by_panels in (False, True)
    )


# The busiest thread's part of one product,
# the numbers fetched from other cores, and the joins.
_LayerCost = tuple[float, float, int]


def _by_rows(step: Step, n_threads: int, i: int, n_in: int, n_out: int) -> _LayerCost:
    # The first layer has no backward pass.
    n_products = 2 if i > 0 else 1
    numbers = n_products * n_in * n_out + step.rows * (n_in + n_out / n_threads)
    return n_products * _part_of_strips(step, n_threads), numbers, 0


def _by_panels(step: Step, n_threads: int, i: int, n_in: int, n_out: int) -> _LayerCost:
    busy = _part_of_panels(step, n_threads, n_out)
    numbers = float(step.rows * n_in)
    if i == 0:
        return busy, numbers, 2
    busy += _part_of_panels(step, n_threads, n_in)
    return busy, numbers + step.rows * n_out + n_in * n_out / n_threads, 2


def _by_split_k(
    step: Step, n_threads: int, i: int, n_in: int, n_out: int
) -> _LayerCost:
    busy = _larger_half(step, n_in) * _part_of_strips(step, max(n_threads // 2, 1))
    if i > 0:
        busy += _part_of_panels(step, n_threads, n_in)
    return busy, 2 * step.rows * n_out, 1 + i


def _below_split_k(step: Step, n_threads: int, n_in: int, n_out: int) -> _LayerCost:
    busy = _larger_half(step, n_out) * _part_of_strips(step, max(n_threads // 2, 1))
    # Each half gathers all rows for itself: from memory, and without a join.
    return busy, step.rows * n_in, 0


def _part_of_strips(step: Step, n_threads: int) -> float:
    return _largest_part(-(-step.rows // tuning.STRIP_ROWS), n_threads)


def _part_of_panels(step: Step, n_threads: int, width: int) -> float:
    return _largest_part(groups_of_panels(-(-width // step.lanes)), n_threads)


def _larger_half(step: Step, width: int) -> float:
    middle = packing.middle_of(width, step.lanes)
    return max(middle, width - middle) / width


def _largest_part(n: int, n_threads: int) -> float:
    return -(-n // n_threads) / n


class Partition(NamedTuple):
    """The division of a step among threads.

    ============  =======================================  =====================================
    form          a team shares phase one                  chosen by
    ============  =======================================  =====================================
    by rows       by strips of rows                        default; norms and skips
    by panels     by panels of each layer, one layer       `by_panels`: wide nets
                  after the other
    split-K       the split layer by halves of its inputs  `split_layer`: many inputs or weights,
                                                           not in mixed precision
    microbatches  both phases, by pieces of the chunk      `microbatch_rows`: small nets, many
                                                           rows
    single row    not at all                               `single_row`: chunks of one row
    ============  =======================================  =====================================

    The fields that change the order of sums
    (`rows`, `microbatch_rows`, `split_layer`) do not depend on the number of threads.

    Attributes
    ----------
    rows : of a chunk
    microbatch_rows : 0: no microbatches
    n_threads : that share the tiles; 1: no team
    split_layer : from 1; 0: no layer
    cost : of a step on a team; None: not estimated
    spacing : between memory that different threads write
    cuts : first inputs of expanded columns, where tiles are preferably cut
    passes : with derivatives one more than outputs: each has as many rows of buffers
    """

    rows: int
    microbatch_rows: int = 0
    n_threads: int = 1
    by_panels: bool = False
    split_layer: int = 0
    cost: StepCost | None = None
    spacing: packing.Spacing = packing.CLOSE
    cuts: tuple[int, ...] = ()
    passes: int = 1

    @property
    def buffer_rows(self) -> int:
        if self.passes > 1:
            return self.passes * packing.round_up(self.rows, tuning.STRIP_ROWS)
        return self.microbatch_rows or self.rows

    @property
    def single_row(self) -> bool:
        return self.rows == 1 and self.passes == 1


# One chunk on one thread; its rows are the workspace's.
ONE_CHUNK = Partition(0)


def partition_of(
    spec: Network, n_rows: int, n_threads: int, *, train: bool, sparse: bool
) -> Partition:
    """The partition of a step on up to n_rows rows for up to n_threads threads."""
    layout = spec.layout
    if spec.passes > 1:
        return _with_derivatives(spec, n_rows, n_threads)
    if sparse or not train:
        return Partition(chunk_rows(layout, n_rows, train=train, sparse=sparse))
    lanes = lanes_of(spec.dtype.type)
    small = microbatch_rows(layout, n_rows)
    if small:
        n_packed = packing.numbers_packed(
            packing.packed_layers(layout, lanes, small, train=True), lanes
        )
        return Partition(rows_by_microbatches(layout, n_rows, small, n_packed), small)
    rows = chunk_rows(layout, n_rows, train=True)
    step = Step(layout, rows, spec.dtype, lanes)
    # Sums of halves stay float32, while products take half the time. With split-K ->
    # without: 1.44 -> 1.38 ms (784-512-512-10@128 in bfloat16, 2 threads).
    paired = paired_layers(layout, spec.compute_dtype, sparse=sparse)
    by_rows = not layout.is_plain
    split_layer = 0 if any(paired) or by_rows else split_layer_of(step)
    if n_threads == 1 or step.flops < tuning.SHARED_FLOPS:
        # Too small for a team. 1 -> 2 threads: 3.3 -> 4.7 us, 5.5 us on cores far from
        # each other (8-32-32-1@32). Spacing for two threads costs one thread 2 %.
        return Partition(rows, split_layer=split_layer)
    by_panels = not by_rows and panels_pay(step, n_threads, split_layer)
    cost = cost_of(step, n_threads, split_layer, by_panels=by_panels)
    return Partition(
        rows, 0, n_threads, by_panels, split_layer, cost, _spacing(step, split_layer)
    )


def _with_derivatives(spec: Network, n_rows: int, n_threads: int) -> Partition:
    """By rows, in chunks that fill the same buffers as those without derivatives;
    spaced as steps without, which may take turns with them on the optimizer's state,
    unless they split a layer.
    """
    layout, passes = spec.layout, spec.passes
    most = _most_rows(layout, train=True) // passes
    rows = _even_chunk(n_rows, max(tuning.MIN_CHUNK_ROWS, most))
    step = Step(layout, passes * rows, spec.dtype, lanes_of(spec.dtype.type))
    if n_threads == 1 or step.flops < tuning.SHARED_FLOPS:
        return Partition(rows, passes=passes)
    plain = spec._replace(derivatives=None)
    spacing = partition_of(plain, n_rows, n_threads, train=True, sparse=False).spacing
    if spacing.split_layer:
        spacing = _spacing(step, 0)
    cost = cost_of(step, n_threads)
    return Partition(rows, 0, n_threads, cost=cost, spacing=spacing, passes=passes)


def form_of(network: Network, n_rows: int, partition: Partition) -> tuple[int, ...]:
    """The key of steps that may share buffers:
    equal keys have the same order of sums as a plan for n_rows rows.
    """
    if partition.microbatch_rows and partition.rows < n_rows:
        in_chunks = n_rows
    else:
        in_chunks = 0
    tile_rows = 0
    if network.penalties:
        # Penalties are summed in the order of the tiles.
        widest = packing.round_up(max(network.layout.sizes), tuning.TILE_ROWS)
        tile_rows = min(
            rows_of_tiles(partition.buffer_rows, network.dtype.itemsize), widest
        )
    single = partition.single_row
    small = partition.microbatch_rows > 0
    return single, small, partition.split_layer, in_chunks, tile_rows


def rows_of_tiles(chunk_rows: int, size: int) -> int:
    """Rows of weights whose inputs, for n rows of a chunk,
    stay in the second-level cache while all deltas pass; `size` is a number's bytes.
    """
    return (
        max(1, tuning.CACHE_BYTES // (chunk_rows * size * tuning.TILE_ROWS))
        * tuning.TILE_ROWS
    )


def room_of(layout: Layout, partition: Partition, most: int) -> Partition:
    """A partition of `most` rows whose buffers serve every smaller number of rows of
    the same form.
    """
    if partition.microbatch_rows:
        cached = packing.round_up(_rows_in_cache(layout), tuning.STRIP_ROWS)
        small = min(
            packing.round_up(-(-most // tuning.MICROBATCHES), tuning.STRIP_ROWS), cached
        )
        return partition._replace(microbatch_rows=max(small, partition.microbatch_rows))
    # A short last chunk is part of the others: see `_even_chunk`.
    chunk = _most_rows(layout, train=True)
    if partition.passes > 1:
        chunk = max(tuning.MIN_CHUNK_ROWS, chunk // partition.passes)
    return partition._replace(
        rows=max(partition.rows, min(most, chunk + chunk // 4 + 1))
    )


def paired_of(
    network: Network, partition: Partition, *, sparse: bool
) -> tuple[bool, ...]:
    """Layers whose products take bfloat16; empty for small nets in microbatches and for
    single rows in training, which have no products of matrices.
    """
    if partition.microbatch_rows or partition.single_row:
        return ()
    return paired_layers(network.layout, network.compute_dtype, sparse=sparse)


def _spacing(step: Step, split_layer: int) -> packing.Spacing:
    """`CLOSE` for single rows, whose deltas are read without spacing."""
    if step.rows == 1:
        return packing.CLOSE
    return packing.Spacing(
        tuning.APART_BYTES // (step.lanes * step.dtype.itemsize), split_layer
    )
