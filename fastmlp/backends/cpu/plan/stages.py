"""The records and buffers of layers whose sums are finished by rows: norms and skips.

The stages of a layer, forth: dropout of the sums, where a norm follows; the values of
another layer are added; a norm; the activation; dropout, where no norm came before; a
norm of the values; the rows' inputs after the outputs, where the output layer takes
them too.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastmlp.backends.cpu.plan import records
from fastmlp.backends.cpu.plan.packing import norm_rows, round_up
from fastmlp.backends.cpu.plan.records import BLOCK, LINEAR, RELU, RELU_DROPPED
from fastmlp.backends.cpu.tuning import STRIP_ROWS
from fastmlp.network.spec import Layout


class Numbers(NamedTuple):
    """Numbers of a norm, in the net's dtype, at these places of its `Norm.numbers`.

    From `SCALES` on there is a vector. In one half it has the factor of the deltas'
    sums, 0 without a mean, in the other half the factor of the sums of their products
    with the normed values.
    """

    share: float  # one over the number of units
    epsilon: float


SCALES = len(Numbers._fields)


def staged(layout: Layout) -> list[int]:
    """Layers with a norm, with a skip, or whose values go to another layer than the
    next; and the last hidden one, where inputs follow its outputs.
    """
    skips = enumerate(layout.skips)
    ends = {layer for pair in skips if pair[1] >= 0 for layer in pair}
    if layout.takes_inputs:
        ends.add(layout.n_layers - 2)
    return sorted(ends | {norm.layer for norm in layout.norms})


def numbers_of(layout: Layout, panel_rows: int, lanes: int) -> int:
    """Numbers of the buffer of all stages: sums, values and slopes of each staged
    layer, gradients by strips, outputs with the inputs, and two numbers a row of each
    norm.
    """
    total = 0
    if layout.takes_inputs:
        total += panel_rows * round_up(layout.shapes[-1][0], lanes)
    for i in staged(layout):
        width = round_up(layout.sizes[i + 1], lanes)
        total += 3 * panel_rows * width
        total += norm_rows(layout, i) * (panel_rows // STRIP_ROWS) * width
    return total + 2 * len(layout.norms) * (panel_rows + lanes)


class _Places:
    """Hands out a buffer, piece by piece."""

    def __init__(self, buffer: NDArray[Any]) -> None:
        self._next = records.address(buffer)
        self._size = buffer.itemsize

    def take(self, n: int) -> int:
        place = self._next
        self._next = self._next + n * self._size
        return place


class Stages(NamedTuple):
    """For each layer the fields of `Layer` that stages set,
    and the arrays that they point to.
    """

    fields: list[dict[str, int]]
    arrays: tuple[NDArray[Any], ...]


def stages_of(layout: Layout, workspace: Any, forms: Any) -> Stages:
    """The stages of a layout's layers; `point_to_gains` sets the addresses of gains.

    Parameters
    ----------
    forms : how each layer's activation is finished
    """
    places = _Places(workspace.stages)
    lanes = workspace.lanes
    rows = workspace.panel_rows
    dtype = workspace.parameters.dtype
    norms = np.zeros(len(layout.norms), records.Norm.dtype).view(np.recarray)
    numbers = np.zeros((len(layout.norms), SCALES + lanes), dtype)
    offsets = [np.zeros(0, np.int64)] * layout.n_layers
    fields: list[dict[str, int]] = [{} for _ in range(layout.n_layers)]
    for i in staged(layout):
        width = round_up(layout.sizes[i + 1], lanes)
        buffers = [places.take(rows * width) for _ in range(3)]
        fields[i] = _buffers(layout, i, forms[i], buffers)
        strips = rows // STRIP_ROWS * width
        offsets[i] = _offsets(layout, i)
        fields[i] |= {
            "norm_rows": len(offsets[i]),
            "norm_offsets": records.address(offsets[i]),
            "norm_sums": places.take(len(offsets[i]) * strips),
            "norm_sums_bytes": strips * dtype.itemsize,
        }
    if layout.takes_inputs:
        place = places.take(rows * round_up(layout.shapes[-1][0], lanes))
        of_last = {"takes_inputs": 1, "outputs": place}
        of_last |= {name: fields[-2][name] or place for name in ("sums", "values")}
        fields[-2] |= of_last
    sums_taken = [0] * layout.n_layers
    for k, norm in enumerate(layout.norms):
        own = fields[norm.layer]
        record = norms[k]
        share = 1 / layout.sizes[norm.layer + 1]
        centred = norm.shifts >= 0
        numbers[k, :SCALES] = Numbers(share, norm.epsilon)
        numbers[k, SCALES : SCALES + lanes // 2] = share * centred
        numbers[k, SCALES + lanes // 2 :] = share
        first = own["norm_sums"] + sums_taken[norm.layer] * own["norm_sums_bytes"]
        sums_taken[norm.layer] += 1 + centred
        record["centred"] = centred
        record["gain_sums"] = first
        record["shift_sums"] = first + own["norm_sums_bytes"]
        record["means"], record["roots"] = (
            places.take(rows + lanes),
            places.take(rows + lanes),
        )
        record["numbers"] = records.address(numbers, k * numbers.shape[1])
        own["end_norm" if norm.after else "norm"] = records.address(norms, k)
    return Stages(fields, (norms, numbers, *offsets))


def point_to_gains(layout: Layout, layers: Any, stages: Stages, vector: int) -> None:
    """Set the addresses of the packed gains, which follow the biases."""
    rows_taken = [0] * layout.n_layers
    for norm, record in zip(layout.norms, stages.arrays[0], strict=True):
        rows_taken[norm.layer] += 1
        place = layers[norm.layer]["biases"] + rows_taken[norm.layer] * vector
        record["gains"] = place
        rows_taken[norm.layer] += norm.shifts >= 0


def _offsets(layout: Layout, i: int) -> NDArray[np.int64]:
    """Offsets of a layer's gains and shifts in the flat parameters,
    as they follow the biases.
    """
    rows = [
        offset
        for norm in layout.norms_of(i)
        for offset in (norm.gains, norm.shifts)
        if offset >= 0
    ]
    return np.array(rows, np.int64)


def _buffers(layout: Layout, i: int, form: int, buffers: list[int]) -> dict[str, int]:
    """The places of a layer's sums, values and slopes; 0: where a plain layer has them.

    Deltas from a norm of the values, or from another layer, are added before slopes are
    multiplied. Slopes then have a separate place, and the products do not take them.
    """
    before, after = (
        any(norm.after == end for norm in layout.norms_of(i)) for end in (False, True)
    )
    is_source = i in layout.skips
    sums, values, slopes = buffers
    defers = after or is_source
    own_values = values if after else 0
    if defers and form in (BLOCK, RELU_DROPPED):
        own_slopes = slopes
    else:
        own_slopes = 0
    own_sums = sums if before or form == BLOCK else own_values
    return {
        "stages": 1,
        "sums": own_sums,
        "values": own_values,
        "slopes": own_slopes,
        "inner_form": form,
        "form": LINEAR if defers else form,
        "defers": defers and form in (BLOCK, RELU, RELU_DROPPED),
    }
