"""What each of a team does of phase one: rows, panels of each layer, or halves of one's inputs.

Estimates of what a step takes each way, in seconds: arithmetic, as evenly as it can be shared, and
what the members fetch of what others have just written.

==========  ======================================================  ==========================
a layer     each of a team has                                      fetches
==========  ======================================================  ==========================
by rows     rows of its outputs and errors; panels of its weights   weights both ways, inputs
by panels   panels of its outputs, its inputs' errors, its weights  inputs, errors, transposes
by halves   a half of its inputs, and those rows of its weights     sums of a half, errors
==========  ======================================================  ==========================
"""

from collections.abc import Iterator
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from fastmlp.backends.cpu.plan.packing import is_turned, middle_of
from fastmlp.backends.cpu.plan.workspace import STRIP_ROWS
from fastmlp.backends.cpu.simd.gemm import groups_of_panels
from fastmlp.backends.cpu.tuning import RATE
from fastmlp.network.parameter_layout import Layout

# Bytes a second that a core gets of what another wrote: 784-512-512-10 sent 1.8 MB of weights
# in 0.4 ms, and a virtual machine's cores may be near each other, or not, for seconds; a join.
FETCHED, JOIN_SECONDS = 4e9, 1e-6
# Operations of a step: below, two threads gain little, and halves take one 1 % longer. 16-64-64-2
# at 16 rows, 0.5 MFLOP, takes two 5.5 us with them, 8.7 without, and one 6.9.
SHARED_FLOPS = 400_000


class Step(NamedTuple):
    """A net and its rows.

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
        """The operations of its products, 6 a weight and row."""
        return 6 * self.layout.n_weights * self.rows


class Effort(NamedTuple):
    """What a step takes a team: seconds of arithmetic in phase one, and to fetch; its joins."""

    busy: float
    fetched: float
    joins: int

    @property
    def seconds(self) -> float:
        """What all of it takes, with a guess for joins."""
        return self.busy + self.fetched + self.joins * JOIN_SECONDS


def halved_layer(step: Step) -> int:
    """Return the number of the layer, from 1, that is best done by halves of its inputs; 0: none.

    That changes the order of its sums, so it depends on the net and its rows alone: what is best
    for two threads is done on any number.
    """
    if step.rows < STRIP_ROWS or step.flops < SHARED_FLOPS:
        return 0
    return min((0, *_can_be_halved(step)), key=lambda halved: _soonest(step, 2, halved))


def layers_pay(step: Step, members: int, halved: int = 0) -> bool:
    """Whether a team is to share phase one by panels of each layer, rather than by rows.

    But for the layer that is done by halves, and what is below.
    """
    if members < 2:
        return False
    by_panels, by_rows = (effort(step, members, halved, by_panels=way) for way in (True, False))
    return by_panels.seconds < by_rows.seconds


def effort(step: Step, members: int, halved: int = 0, *, by_panels: bool = False) -> Effort:
    """Estimate phase one, with what phase two fetches and joins."""
    busy, fetched, joins = 0.0, 0.0, 2
    for i, (n_in, n_out) in enumerate(pairwise(step.layout.sizes)):
        if i + 1 == halved:
            part, numbers, more = _by_halves(step, members, i, n_in, n_out)
        elif i + 1 < halved:
            part, numbers, more = _below_halves(step, members, n_in, n_out)
        elif by_panels:
            part, numbers, more = _by_panels(step, members, i, n_in, n_out)
        else:
            part, numbers, more = _by_rows(step, members, i, n_in, n_out)
        busy += 2 * n_in * n_out * step.rows / RATE * part
        fetched += numbers * (1 - 1 / members) * step.dtype.itemsize / FETCHED
        joins += more
    return Effort(busy, fetched, joins)


def _can_be_halved(step: Step) -> Iterator[int]:
    """The first layer, or the second, unless it is turned, or has fewer than two panels."""
    for i, (n_in, n_out) in enumerate([*pairwise(step.layout.sizes)][:2]):
        if middle_of(n_in, step.lanes) and not is_turned(n_in, n_out, step.lanes):
            yield i + 1


def _soonest(step: Step, members: int, halved: int) -> float:
    return min(effort(step, members, halved, by_panels=way).seconds for way in (False, True))


# Each returns which part of one product the busiest has to do, of how many numbers it fetches what
# is not its own, and how often all join.
_Costs = tuple[float, float, int]


def _by_rows(step: Step, members: int, i: int, n_in: int, n_out: int) -> _Costs:
    ways = 2 if i > 0 else 1
    numbers = ways * n_in * n_out + step.rows * (n_in + n_out / members)
    return ways * _part_of_strips(step, members), numbers, 0


def _by_panels(step: Step, members: int, i: int, n_in: int, n_out: int) -> _Costs:
    busy, numbers = _part_of_panels(step, members, n_out), float(step.rows * n_in)
    if i == 0:
        return busy, numbers, 2
    transposes = n_in * n_out / members
    return busy + _part_of_panels(step, members, n_in), numbers + step.rows * n_out + transposes, 2


def _by_halves(step: Step, members: int, i: int, n_in: int, n_out: int) -> _Costs:
    busy = _larger_half(step, n_in) * _part_of_strips(step, max(members // 2, 1))
    if i > 0:
        busy += _part_of_panels(step, members, n_in)
    return busy, 2 * step.rows * n_out, 1 + i


def _below_halves(step: Step, members: int, n_in: int, n_out: int) -> _Costs:
    busy = _larger_half(step, n_out) * _part_of_strips(step, max(members // 2, 1))
    # Each half gathers all its inputs for itself: from memory, and without a join.
    return busy, step.rows * n_in, 0


def _part_of_strips(step: Step, members: int) -> float:
    return _largest_part(-(-step.rows // STRIP_ROWS), members)


def _part_of_panels(step: Step, members: int, width: int) -> float:
    return _largest_part(groups_of_panels(-(-width // step.lanes)), members)


def _larger_half(step: Step, width: int) -> float:
    middle = middle_of(width, step.lanes)
    return max(middle, width - middle) / width


def _largest_part(n: int, members: int) -> float:
    """Return which part of n pieces one of the members has to do."""
    return -(-n // members) / n
