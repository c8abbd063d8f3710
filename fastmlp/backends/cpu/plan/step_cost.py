"""What a step of training costs a team, for each form in which it may be divided.

A cost has the seconds of arithmetic, as evenly as it can be shared, the seconds of cross-core
traffic, and the joins.

=========  =======================================================  ==========================
a layer    each thread has                                          and fetches
=========  =======================================================  ==========================
by rows    rows of its outputs and deltas; panels of its weights    weights both ways, inputs
by panels  panels of its outputs, its inputs' deltas, its weights   inputs, deltas, transposes
split-K    a half of its inputs, and those rows of its weights      sums of a half, deltas
=========  =======================================================  ==========================
"""

from collections.abc import Iterator
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from fastmlp.backends.cpu.plan.packing import holds_transposed, middle_of
from fastmlp.backends.cpu.simd.gemm import groups_of_panels
from fastmlp.backends.cpu.tuning import FETCH_RATE, JOIN_SECONDS, RATE, SHARED_FLOPS, STRIP_ROWS
from fastmlp.network.parameter_layout import Layout


class Step(NamedTuple):
    """A net and the rows of a step.

    Attributes
    ----------
    layout : Layout
    rows : int, of a chunk
    dtype : np.dtype
    lanes : int, numbers of a vector
    """

    layout: Layout
    rows: int
    dtype: np.dtype[Any]
    lanes: int

    @property
    def flops(self) -> int:
        """The operations of its products, 6 per weight and row."""
        return 6 * self.layout.n_weights * self.rows


class StepCost(NamedTuple):
    """What a step costs a team.

    Attributes
    ----------
    busy : float, seconds of the busiest thread's arithmetic in phase one
    fetched : float, seconds of cross-core traffic in both phases
    joins : int, in both phases
    """

    busy: float
    fetched: float
    joins: int

    @property
    def seconds(self) -> float:
        """The sum, with an estimate for the joins."""
        return self.busy + self.fetched + self.joins * JOIN_SECONDS


def split_layer_of(step: Step) -> int:
    """Return the layer, from 1, to compute by split-K; 0: none.

    Split-K changes the order of sums, so the choice depends on the net and its rows alone: the best
    layer for two threads is split for any number of threads.
    """
    if step.rows < STRIP_ROWS or step.flops < SHARED_FLOPS:
        return 0
    return min((0, *_can_be_split(step)), key=lambda split_layer: _soonest(step, 2, split_layer))


def panels_pay(step: Step, n_threads: int, split_layer: int = 0) -> bool:
    """Return True if a team shares phase one sooner by panels of each layer than by rows.

    The split layer, and those below it, are not shared by panels either way.
    """
    if n_threads < 2:
        return False
    by_rows = cost_of(step, n_threads, split_layer, by_panels=False)
    by_panels = cost_of(step, n_threads, split_layer, by_panels=True)
    return by_panels.seconds < by_rows.seconds


def cost_of(
    step: Step, n_threads: int, split_layer: int = 0, *, by_panels: bool = False
) -> StepCost:
    """Estimate phase one, with what phase two fetches and joins."""
    busy, fetched, joins = 0.0, 0.0, 2
    for i, (n_in, n_out) in enumerate(pairwise(step.layout.sizes)):
        if i + 1 == split_layer:
            part, numbers, more = _by_split_k(step, n_threads, i, n_in, n_out)
        elif i + 1 < split_layer:
            part, numbers, more = _below_split_k(step, n_threads, n_in, n_out)
        elif by_panels:
            part, numbers, more = _by_panels(step, n_threads, i, n_in, n_out)
        else:
            part, numbers, more = _by_rows(step, n_threads, i, n_in, n_out)
        busy += 2 * n_in * n_out * step.rows / RATE * part
        fetched += numbers * (1 - 1 / n_threads) * step.dtype.itemsize / FETCH_RATE
        joins += more
    return StepCost(busy, fetched, joins)


def _can_be_split(step: Step) -> Iterator[int]:
    """Yield 1 and 2, the first layers, unless held transposed or of fewer than two panels."""
    for i, (n_in, n_out) in enumerate([*pairwise(step.layout.sizes)][:2]):
        if middle_of(n_in, step.lanes) and not holds_transposed(n_in, n_out, step.lanes):
            yield i + 1


def _soonest(step: Step, n_threads: int, split_layer: int) -> float:
    """Return the estimated seconds of the step, by rows or by panels, whichever takes less."""
    return min(
        cost_of(step, n_threads, split_layer, by_panels=by_panels).seconds
        for by_panels in (False, True)
    )


# The busiest thread's part of one product, the numbers that all threads fetch from other cores, and
# the joins.
_LayerCost = tuple[float, float, int]


def _by_rows(step: Step, n_threads: int, i: int, n_in: int, n_out: int) -> _LayerCost:
    # Products of forward and backward pass; the first layer has no backward pass.
    n_products = 2 if i > 0 else 1
    numbers = n_products * n_in * n_out + step.rows * (n_in + n_out / n_threads)
    return n_products * _part_of_strips(step, n_threads), numbers, 0


def _by_panels(step: Step, n_threads: int, i: int, n_in: int, n_out: int) -> _LayerCost:
    busy, numbers = _part_of_panels(step, n_threads, n_out), float(step.rows * n_in)
    if i == 0:
        return busy, numbers, 2
    busy += _part_of_panels(step, n_threads, n_in)
    return busy, numbers + step.rows * n_out + n_in * n_out / n_threads, 2


def _by_split_k(step: Step, n_threads: int, i: int, n_in: int, n_out: int) -> _LayerCost:
    busy = _larger_half(step, n_in) * _part_of_strips(step, max(n_threads // 2, 1))
    if i > 0:
        busy += _part_of_panels(step, n_threads, n_in)
    return busy, 2 * step.rows * n_out, 1 + i


def _below_split_k(step: Step, n_threads: int, n_in: int, n_out: int) -> _LayerCost:
    busy = _larger_half(step, n_out) * _part_of_strips(step, max(n_threads // 2, 1))
    # Each half gathers all rows for itself: from memory, and without a join.
    return busy, step.rows * n_in, 0


def _part_of_strips(step: Step, n_threads: int) -> float:
    return _largest_part(-(-step.rows // STRIP_ROWS), n_threads)


def _part_of_panels(step: Step, n_threads: int, width: int) -> float:
    return _largest_part(groups_of_panels(-(-width // step.lanes)), n_threads)


def _larger_half(step: Step, width: int) -> float:
    middle = middle_of(width, step.lanes)
    return max(middle, width - middle) / width


def _largest_part(n: int, n_threads: int) -> float:
    """Return the busiest thread's part of n pieces."""
    return -(-n // n_threads) / n
