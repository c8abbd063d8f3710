"""Predictions by blocks of rows,
which pass through all layers in the first-level cache.

A block's values lie transposed, one unit's values of all rows next to each other, so
that a weight is broadcast from where it lies in the flat parameters: nothing is packed.
1,000 rows 159 -> 100 us (16-64-64-2, 1 thread; packed panels -> blocks).
"""

from collections.abc import Callable, Sequence
from itertools import accumulate, pairwise
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastmlp._process.locks import publish
from fastmlp.backends.cpu.dispatch import LedCalls, Runner, Work
from fastmlp.backends.cpu.kernels import rule_blocks
from fastmlp.backends.cpu.plan.packing import round_up
from fastmlp.backends.cpu.plan.plan import aligned
from fastmlp.backends.cpu.plan.records import RELU, address, fields_of
from fastmlp.backends.cpu.predict.row_stages import Tables, row_stages, tables_of
from fastmlp.backends.cpu.simd.flat_weights import (
    Weights,
    batch_in_lanes,
    row_tiles,
    tile,
)
from fastmlp.backends.cpu.simd.gemm import Shape
from fastmlp.backends.cpu.simd.pack import MatrixRows, moves
from fastmlp.backends.cpu.tuning import (
    ALIGNMENT,
    BY_OUTPUTS_BYTES,
    LARGEST_TILE,
    LIVE_FLOPS,
    LOOP_FLOPS,
    PREDICT_FLOPS,
    ROW_TILE_BYTES,
    ROW_TILES,
    SECOND_TILE_ROWS,
    SPREAD_BYTES,
    TILED_AT_ONCE,
)
from fastmlp.compiler import (
    COMPILER,
    block_of,
    call,
    flush_denormals,
    hinted,
    njit,
    prange,
    restore_denormals,
    thread_number,
)
from fastmlp.compiler.memory import Record, record_at, records_at, row
from fastmlp.compiler.target import LINE_BYTES, lanes_of, vector_bytes
from fastmlp.network.spec import Network
from fastmlp.validation import Array

# Vectors of rows in a block: as many as the largest tile of sums is wide.
VECTORS = LARGEST_TILE[1]
# A thread's blocks of values: a layer's inputs, its outputs,
# and the derivatives that an activation's block writes.
N_BLOCKS = 3
# Numba's threads are not a team: one of its regions takes longer than a layer.
_HAS_TEAM = COMPILER == "translator"
# Fewest inputs whose flat weights tiles read at a time.
LEAST_INPUTS = 4


class FlatLayer(Record):
    """A layer of a net whose parameters lie in one flat vector."""

    n_in: int
    n_out: int
    weights: int  # bytes from the first parameter to the weights, shape (n_in, n_out)
    biases: int  # bytes from the first parameter to the biases, shape (n_out,)
    relu: int  # 1: the positive parts of the sums are stored; 0: the sums
    activation: int  # address of the activation's block, or 0
    # bytes from the first packed weight to the layer's panels, which its biases follow
    panels: int
    stages: int  # address of `row_stages.RowStages`, which finish its sums, or 0


class FlatNet(Record):
    """A net whose parameters lie in one flat vector,
    its rows, and each thread's buffers.

    It is the job of calls, and begins as `worker_pool.JobTeam`.
    """

    team: int  # address of the team's record, or 0
    n_parts: int  # into how many parts the rows are cut
    n_layers: int
    n_in: int
    n_out: int
    layers: int  # address of n_layers FlatLayer records
    parameters: int  # address of the flat vector
    packed: int  # address of the packed weights that tiles read, or 0
    link: int  # address of the output link's block, or 0
    link_settings: int  # address of each head's `Slice`, or 0
    x: int  # address of the rows, shape (n_rows, n_in)
    out: int  # address of the predictions, shape (n_rows, n_out)
    n_rows: int
    n_threads: int  # how many threads have buffers
    buffers: int  # address of the first thread's blocks of values
    buffer_bytes: int  # from one thread's blocks to the next thread's
    block_bytes: int  # from one block of a thread to its next
    # address of the first thread's two vectors of checks: numbers read, written
    checks: int
    check_bytes: int  # from one thread's checks to the next thread's
    derivatives: (
        int  # address of the outputs' derivatives, shape (n_rows, n_derived, n_in)
    )
    n_derived: int  # how many outputs are derived
    derived: int  # address of their places, int64
    zeros: int  # address of zeros, as many as a tile has units
    rows_in_lanes: int  # address of a block of rows, in lanes or in tiles, or 0
    one_by_one: int  # the most rows of a small batch that go one by one
    row_by_row: int  # address of the block of `small_batch.row_by_row`
    small_batch: int  # address of the block of `small_batch.small_batch`
    row_flops: int  # operations of a row
    is_wide: (
        int  # 1: weights that a team shares by outputs, whatever the number of rows
    )
    least: int  # fewest operations of a call that may be led
    next_calls: int  # address of the table of `worker_pool.NextCalls` records
    lead: int  # address of a `worker_pool.Lead`
    lead_call: int  # address of the block of `worker_pool.lead_call`
    faults: int  # 0 if all numbers read and written in a call were finite
    row_stages: int  # address of the block of `row_stages.row_stages`, or 0


class Flat(NamedTuple):
    """A `FlatNet` record and the arrays that it points to.

    Attributes
    ----------
    net : record array of `FlatNet`, shape (1,)
    layers : array of `FlatLayer`, shape (n_layers,)
    buffers : bytes, each thread's on separate cache lines
    checks : each thread's on separate cache lines: 0, or NaN after a number that was not finite
    zeros : as many as a tile has units, the biases of products that go backward
    """

    net: Any
    layers: NDArray[Any]
    buffers: NDArray[np.uint8]
    checks: NDArray[Any]
    zeros: NDArray[Any]
    stages: Tables | None = None


def make_flat(
    network: Network,
    parameters: NDArray[Any],
    *,
    n_threads: int = 1,
    blocks: bool = True,
    tiled: bool = False,
    slopes: bool = False,
) -> Flat:
    """Lay out a net and its rules for rows one by one and,
    with `blocks`, for blocks of rows, in lanes or `tiled`.

    Parameters
    ----------
    parameters : (n_parameters,) array of the network's dtype, kept alive by the caller
    slopes : keep the slopes of all layers, which follow two blocks of values
    """
    layout, dtype = network.layout, network.dtype
    assert layout.is_plain or not blocks, "norms and skips go row by row, or by panels"
    lanes = lanes_of(dtype.type)
    size = dtype.itemsize
    layers = np.array(_layers(network), FlatLayer.dtype)
    stages, kept_rows = None, 0
    if not layout.is_plain:
        stages = tables_of(network)
        kept_rows = 1
        for i, layer in enumerate(layers):
            layer["stages"] = stages.at(i)
            layer["relu"] = 0 if layer["stages"] else layer["relu"]
    height = TILED_AT_ONCE if tiled else VECTORS * lanes if blocks else 1
    apart = 2 * LINE_BYTES if tiled else 0
    block_bytes = (round_up(layout.widest, lanes) * size + apart) * height
    slope_bytes = sum(layout.sizes[1:]) * height * size if slopes else block_bytes
    n_blocks = N_BLOCKS - 1 + kept_rows
    buffer_bytes = round_up(n_blocks * block_bytes + slope_bytes, ALIGNMENT)
    check_bytes = round_up(2 * lanes * size, ALIGNMENT)
    buffers = aligned(n_threads * buffer_bytes, np.uint8)
    checks = aligned(n_threads * check_bytes // size, dtype)
    zeros = np.zeros(LARGEST_TILE[0], dtype)
    link, link_settings = rule_blocks.link(network, needed=False)
    fields = {
        "n_layers": layout.n_layers,
        "n_in": layout.sizes[0],
        "n_out": layout.sizes[-1],
        "layers": address(layers),
        "parameters": address(parameters),
        "link": link,
        "link_settings": link_settings,
        "n_threads": n_threads,
        "buffers": address(buffers),
        "buffer_bytes": buffer_bytes,
        "block_bytes": block_bytes,
        "checks": address(checks),
        "check_bytes": check_bytes,
        "zeros": address(zeros),
        "n_parts": 1,
        "row_flops": 2 * layout.n_weights,
        "is_wide": layout.n_weights * size > BY_OUTPUTS_BYTES,
        "least": 1 << 62,
        "row_stages": 0 if stages is None else block_of(row_stages, dtype).address,
    }
    net = aligned(1, FlatNet.dtype)
    net[0] = tuple(fields.get(name, 0) for name in FlatNet.dtype.names or ())
    return Flat(net.view(np.recarray), layers, buffers, checks, zeros, stages)


def panels_of(network: Network) -> list[int]:
    """Return how many packed numbers are before each layer's, and of all layers."""
    sizes = network.layout.sizes
    lanes = lanes_of(network.dtype.type)
    numbers = ((n_in + 1) * round_up(n_out, lanes) for n_in, n_out in pairwise(sizes))
    return [0, *accumulate(numbers)]


def _layers(network: Network) -> list[tuple[int, ...]]:
    """Return the table of layers; fields in the order of `FlatLayer`."""
    layout = network.layout
    size = network.dtype.itemsize
    activations, forms = rule_blocks.activations(network)
    return [
        (
            *layout.shapes[i],
            layout.weights[i] * size,
            layout.biases[i] * size,
            forms[i] == RELU,
            activations[i],
            panels_of(network)[i] * size,
            0,
        )
        for i in range(layout.n_layers)
    ]


Scalar = type[np.floating[Any]]
Span = tuple[int, int]
Multiply = Callable[[FlatNet, FlatLayer, int, int], None]
Predict = Callable[..., None]


@njit
def n_vectors(n_rows: int, lanes: int) -> int:
    """Vectors of `lanes` rows that hold n_rows."""
    return (n_rows + lanes - 1) // lanes


def products(scalar: Scalar, vectors: int, *, backward: bool = False) -> Multiply:
    """Writes a layer's sums, or their positive parts, of one block;
    `backward`: sums over the layer's outputs, for its inputs.
    """
    size = np.dtype(scalar).itemsize
    unit = vectors * lanes_of(scalar) * size
    most = LARGEST_TILE[0]
    largest, two, one = (
        tile(scalar, vectors, n_units, backward=backward) for n_units in (most, 2, 1)
    )

    def multiply(net: FlatNet, layer: FlatLayer, inputs: int, outputs: int) -> None:
        """Units are taken in groups, as large as they come: the largest tile, pairs, a
        single one. Backward the roles of units and terms change, and biases are zeros.
        """
        w = net.parameters + layer.weights
        left = layer.n_out
        n_terms = layer.n_in
        b = net.parameters + layer.biases
        w_step = size
        b_step = size
        positive = layer.relu
        if backward:
            left, n_terms = layer.n_in, layer.n_out
            b = net.zeros
            w_step = layer.n_out * size
            b_step = 0
            positive = 0
        shape = (layer.n_out, inputs, n_terms, positive)
        while left > 0:
            if left >= most:
                largest(outputs, b, w, *shape)
                step = most
            elif left >= 2:
                two(outputs, b, w, *shape)
                step = 2
            else:
                one(outputs, b, w, *shape)
                step = 1
            left -= step
            outputs = outputs + step * unit
            b = b + step * b_step
            w = w + step * w_step

    return njit(multiply)


# Numbers that a pass in lanes keeps: no layer's slopes; all slopes; all values too.
NOTHING, SLOPES, VALUES = range(3)


def lane_pass(
    scalar: Scalar, vectors: int, *, keeps: int = NOTHING, curved: bool = False
) -> Callable[[FlatNet, int, int, int, int, int], tuple[int, int]]:
    """The forward pass of a block of rows in lanes, which lie at `first`.

    Values take turns between the blocks `first` and `second`, or if all `VALUES` are
    kept, follow each other from `first` on; sums then pass by `second`. Slopes that are
    kept follow each other, too; relu's are its values, which are positive where they
    are 1. If it is `curved`, blocks of activations at `curves` write curvatures,
    `apart` bytes from the slopes. The results are the addresses of the outputs and of
    the slopes' end.
    """
    n_rows = vectors * lanes_of(scalar)
    multiply = products(scalar, vectors)
    unit = n_rows * np.dtype(scalar).itemsize
    keeps_values = keeps == VALUES
    keeps_slopes = keeps != NOTHING

    def forward(
        net: FlatNet, first: int, second: int, slopes: int, curves: int, apart: int
    ) -> tuple[int, int]:
        """`source` is the layer's inputs, `target` where its sums go; they never are
        one block, as a product reads all inputs for each output.
        """
        layers = records_at(net.layers, net.n_layers, FlatLayer)
        source = first
        for i in range(net.n_layers):
            layer = layers[i]
            target = second if source == first else first
            n = layer.n_out * n_rows
            values = source + layer.n_in * unit
            if keeps_values:
                target = second if layer.activation else values
            elif keeps_slopes and layer.relu:
                target = slopes
            multiply(net, layer, source, target)
            source = target
            if layer.activation:
                source = second if target == first else first
                if keeps_values:
                    source = values
                if curved:
                    block = row(curves, net.n_layers, np.int64)[i]
                    call(block, (target, source, slopes, slopes + apart, n))
                else:
                    call(layer.activation, (target, source, slopes, n))
            if keeps_slopes:
                slopes += layer.n_out * unit
        return source, slopes

    return njit(forward)


def _vectors_of_rows(scalar: Scalar) -> Predict:
    """Predicts vectors first to last of rows in one thread's buffers."""
    lanes = lanes_of(scalar)
    size = np.dtype(scalar).itemsize
    vector = lanes * size
    wide = lane_pass(scalar, VECTORS)
    narrow = lane_pass(scalar, 1)
    lane_moves = batch_in_lanes(scalar)
    into_lanes = lane_moves.into_lanes
    out_of_lanes = lane_moves.out_of_lanes

    def predict_vectors(net: FlatNet, first: int, last: int, thread: int) -> None:
        buffer = net.buffers + thread * net.buffer_bytes
        checks = net.checks + thread * net.check_bytes
        other = buffer + net.block_bytes
        places = (buffer, other, other + net.block_bytes)
        begin, end = first * lanes, min(last * lanes, net.n_rows)
        pitch = net.n_out * size
        for start in range(begin, end, VECTORS * lanes):
            # One vector of rows takes half the time of two.
            vectors = 1 if end - start <= lanes else VECTORS
            unit = vectors * vector
            for v in range(vectors):
                at = start + v * lanes
                into_lanes(
                    net.x, net.n_in, at, end - 1, buffer + v * vector, unit, checks
                )
            if vectors == 1:
                source, _ = narrow(net, *places, 0, 0)
            else:
                source, _ = wide(net, *places, 0, 0)
            if net.link:
                shape = (vectors * lanes, net.n_out)
                target = other if source == buffer else buffer
                call(net.link, (source, target, net.link_settings, *shape))
                source = target
            for v in range(vectors):
                at, place = start + v * lanes, source + v * vector
                target = net.out + at * pitch
                checked = checks + vector
                out_of_lanes(place, net.n_out, end - at, target, pitch, unit, checked)

    return njit(predict_vectors)


def rows_in_lanes(scalar: Scalar) -> Callable[[int, int, int], None]:
    """Predicts a `FlatNet` record's rows, on a team or on one thread."""
    return hinted(control=True)(on_all_rows(scalar, _vectors_of_rows(scalar)))


def _tiles_of_rows(scalar: Scalar) -> tuple[Predict, Predict]:
    """Make the functions that predict in tiles of rows and outputs:
    vectors first to last of rows in one thread's buffers, and all rows on a team.
    """
    lanes = lanes_of(scalar)
    size = np.dtype(scalar).itemsize
    many, few, two = row_tiles(scalar)
    apart = 2 * LINE_BYTES
    vector = vector_bytes()
    # Rows, and vectors of outputs, in a tile of many rows; vectors in a tile of two.
    (most_tall, most_wide), two_wide = ROW_TILES[0], ROW_TILES[2][1]
    copy = moves(scalar, lanes).copy
    add_differences = moves(scalar, lanes).add_differences

    @njit
    def multiply(
        net: FlatNet,
        layer: FlatLayer,
        inputs: Span,
        outputs: Span,
        n: int,
        columns: Span,
    ) -> None:
        """Write n rows' sums, or their positive parts, in some vectors of outputs,
        first to last; of flat weights, some inputs at a time.
        """
        (source, stride), (target, pitch), (first, last) = inputs, outputs, columns
        n_in = layer.n_in
        k = 0
        skip = first * vector
        n_out = min(last * lanes, layer.n_out) - first * lanes
        start = net.parameters + layer.biases + skip
        start_pitch = 0
        row_bytes = layer.n_out * size
        at = net.parameters + layer.weights + skip
        across = vector
        step = ROW_TILE_BYTES // row_bytes
        if net.packed:
            n_out = (last - first) * lanes
            panels = net.packed + layer.panels
            at = panels + skip * n_in
            across = n_in * vector
            row_bytes = vector
            step = n_in
            start = panels + n_vectors(layer.n_out, lanes) * vector * n_in + skip
        target += skip
        while k < layer.n_in:
            n_terms = min(max(step, LEAST_INPUTS), n_in - k)
            positive = layer.relu if k + n_terms == n_in else 0
            weights = Weights(at + k * row_bytes, across, row_bytes)
            sums = MatrixRows(target, pitch)
            begins = MatrixRows(start, start_pitch)
            numbers = MatrixRows(source + k * size, stride)
            shape = Shape(n_out, n)
            operands = (sums, begins, weights, numbers, shape, n_terms, positive)
            if n > SECOND_TILE_ROWS:
                many(*operands)
            elif n > 2:
                few(*operands)
            else:
                two(*operands)
            start = target
            start_pitch = pitch
            k = k + n_terms

    @njit
    def write_linked(net: FlatNet, raw: Span, n: int, out: int, spare: Span) -> None:
        """Write n rows' predictions by way of columns, as the link reads them."""
        (place, stride), (before, after), n_out = raw, spare, net.n_out
        columns = row(before, n * n_out, scalar)
        results = row(after, n * n_out, scalar)
        for r in range(n):
            numbers = row(place + r * stride, n_out, scalar)
            for j in range(n_out):
                columns[j * n + r] = numbers[j]
        call(net.link, (before, after, net.link_settings, n, n_out))
        for r in range(n):
            numbers = row(out + r * n_out * size, n_out, scalar)
            for j in range(n_out):
                numbers[j] = results[j * n + r]

    @njit
    def pitch_of(n_out: int) -> int:
        """Bytes from a row's outputs to the next row's."""
        wide = n_vectors(n_out, lanes) * vector
        return wide + apart if wide % SPREAD_BYTES == 0 else wide

    @njit
    def write_out(
        net: FlatNet, raw: Span, n: int, out: int, spare: Span, checks: int
    ) -> None:
        """Write n rows' predictions, and check them."""
        source, stride = raw
        if net.link:
            write_linked(net, raw, n, out, spare)
        else:
            for r in range(n):
                copy(source + r * stride, out + r * net.n_out * size, net.n_out)
        add_differences(out, n * net.n_out, checks + vector)

    def predict_tiles(net: FlatNet, first: int, last: int, thread: int) -> None:
        """Blocks of at most `TILED_AT_ONCE` rows, of nearly equal size, pass through
        all layers; `target` and `other` change places after each.
        """
        layers = records_at(net.layers, net.n_layers, FlatLayer)
        buffer = net.buffers + thread * net.buffer_bytes
        checks = net.checks + thread * net.check_bytes
        begin, end = first * lanes, min(last * lanes, net.n_rows)
        n_blocks = (end - begin + TILED_AT_ONCE - 1) // TILED_AT_ONCE
        for block in range(n_blocks):
            at = begin + block * (end - begin) // n_blocks
            n = begin + (block + 1) * (end - begin) // n_blocks - at
            source = net.x + at * net.n_in * size
            stride = net.n_in * size
            out = net.out + at * net.n_out * size
            target = buffer
            other = buffer + net.block_bytes
            derivatives = buffer + 2 * net.block_bytes
            add_differences(source, n * net.n_in, checks)
            for i in range(net.n_layers):
                layer = layers[i]
                pitch = pitch_of(layer.n_out)
                columns = n_vectors(layer.n_out, lanes)
                multiply(net, layer, (source, stride), (target, pitch), n, (0, columns))
                if layer.activation:
                    numbers = n * pitch // size
                    call(layer.activation, (target, other, derivatives, numbers))
                    target, other = other, target
                source, stride = target, pitch
                target, other = other, target
            write_out(net, (source, stride), n, out, (target, derivatives), checks)

    @njit
    def tile_width(n_rows: int) -> int:
        return most_wide if n_rows > 2 else two_wide

    @njit(parallel=True)
    def check_on_team(
        team: int, nets: Sequence[FlatNet], at: int, n: int, n_parts: int
    ) -> None:
        for index in prange(n_parts):
            net = nets[0]
            part = int(np.int64(index))
            first, last = part * n // n_parts, (part + 1) * n // n_parts
            source = net.x + (at + first) * net.n_in * size
            checks = net.checks + thread_number() * net.check_bytes
            add_differences(source, (last - first) * net.n_in, checks)

    @njit(parallel=True)
    def multiply_on_team(
        team: int, nets: Sequence[FlatNet], i: int, places: Span, n: int, n_parts: int
    ) -> None:
        """Share a layer's tiles of outputs, each of parts of n rows:
        a thread reads its tiles' weights alone.
        """
        source, target = places
        n_out = records_at(nets[0].layers, nets[0].n_layers, FlatLayer)[i].n_out
        n_tiles = n_vectors(n_vectors(n_out, lanes), tile_width(n))
        for index in prange(n_tiles * n_parts):
            net = nets[0]
            number = int(np.int64(index))
            layer = records_at(net.layers, net.n_layers, FlatLayer)[i]
            stride = net.n_in * size if i == 0 else pitch_of(layer.n_in)
            pitch = pitch_of(layer.n_out)
            widest = tile_width(n)
            begin = number // n_parts * widest
            part = number % n_parts
            end = min(begin + widest, n_vectors(layer.n_out, lanes))
            # Whole tiles of rows.
            step = n_vectors(n_vectors(n, n_parts), most_tall) * most_tall
            first, last = min(part * step, n), min((part + 1) * step, n)
            if first < last:
                inputs = source + first * stride, stride
                outputs = target + first * pitch, pitch
                multiply(net, layer, inputs, outputs, last - first, (begin, end))

    @njit(parallel=True)
    def activate_on_team(
        team: int, activation: int, places: Span, derivatives: int, n: int, n_parts: int
    ) -> None:
        source, target = places
        for index in prange(n_parts):
            part = int(np.int64(index))
            first = part * n // n_parts * lanes
            last = (part + 1) * n // n_parts * lanes
            skip = first * size
            numbers = source + skip, target + skip, derivatives + skip, last - first
            call(activation, numbers)

    @njit(parallel=True)
    def write_on_team(
        team: int,
        nets: Sequence[FlatNet],
        raw: Span,
        at: int,
        n: int,
        spare: Span,
        n_parts: int,
    ) -> None:
        """Share the writing and checking of predictions: a thread takes a part of the
        n rows from row `at`. `raw` and `spare` begin at the first of these rows.
        """
        source, stride = raw
        before, after = spare
        for index in prange(n_parts):
            net = nets[0]
            part = int(np.int64(index))
            first, last = part * n // n_parts, (part + 1) * n // n_parts
            skip = first * net.n_out * size
            out = net.out + at * net.n_out * size + skip
            checks = net.checks + thread_number() * net.check_bytes
            place = source + first * stride, stride
            places = before + skip, after + skip
            write_out(net, place, last - first, out, places, checks)

    def predict_on_team(team: int, nets: Sequence[FlatNet], n_threads: int) -> None:
        """Predict in the first thread's buffers, some rows at a time:
        each thread reads some of the weights.
        """
        net = nets[0]
        buffer = nets[0].buffers
        layers = records_at(net.layers, net.n_layers, FlatLayer)
        n_blocks = n_vectors(net.n_rows, TILED_AT_ONCE)
        for block in range(n_blocks):
            at = block * net.n_rows // n_blocks
            n = (block + 1) * net.n_rows // n_blocks - at
            n_parts = n_threads if n >= n_threads * most_tall else 1
            source = net.x + at * net.n_in * size
            target = buffer
            other = buffer + net.block_bytes
            derivatives = buffer + 2 * net.block_bytes
            check_on_team(team, nets, at, n, n_parts)
            for i in range(net.n_layers):
                layer = layers[i]
                multiply_on_team(team, nets, i, (source, target), n, n_parts)
                if layer.activation:
                    activate_on_team(
                        team,
                        layer.activation,
                        (target, other),
                        derivatives,
                        n * pitch_of(layer.n_out) // vector,
                        n_threads,
                    )
                    target, other = other, target
                source = target
                target, other = other, target
            raw = (source, pitch_of(net.n_out))
            spare = (target, derivatives)
            write_on_team(team, nets, raw, at, n, spare, n_parts)

    return njit(predict_tiles), njit(predict_on_team)


def rows_in_tiles(scalar: Scalar) -> Callable[[int, int, int], None]:
    """Predicts a `FlatNet` record's rows in tiles of rows and outputs.

    A team shares the tiles of each layer,
    but many rows of a net that each core's cache holds.
    """
    lanes = lanes_of(scalar)
    predict_tiles, by_outputs = _tiles_of_rows(scalar)
    on_rows = njit(on_all_rows(scalar, predict_tiles))

    @hinted(control=True)
    def predict_rows(team: int, net: int, n_parts: int) -> None:
        nets = records_at(net, 1, FlatNet)
        by_rows = nets[0].is_wide == 0 and nets[0].n_rows > lanes
        if _HAS_TEAM and team != 0 and not by_rows:
            by_outputs(team, nets, n_parts)
        else:
            on_rows(team, net, n_parts)

    return predict_rows


def on_all_rows(scalar: Scalar, on_vectors: Predict) -> Callable[[int, int, int], None]:
    """Applies a function of some vectors of rows to all."""
    lanes = lanes_of(scalar)

    @njit(parallel=True)
    def predict_rows(
        team: int, nets: Sequence[FlatNet], begin: int, end: int, n_parts: int
    ) -> None:
        """Each part takes a range of vectors through all layers."""
        n = end - begin
        for index in prange(n_parts):
            # A table of one record: a record itself does not cross into a region of
            # Numba's.
            net = nets[0]
            # Numba counts in uint64, which would make floats of the products.
            part = np.int64(index)
            first, last = part * n // n_parts, (part + 1) * n // n_parts
            on_vectors(net, begin + first, begin + last, thread_number())

    def predict_rows_of(team: int, net: int, n_parts: int) -> None:
        """A worker that comes late joins the next loop."""
        nets = records_at(net, 1, FlatNet)
        n = n_vectors(nets[0].n_rows, lanes)
        whole = n_parts * TILED_AT_ONCE // lanes
        step = max(LOOP_FLOPS // (nets[0].row_flops * lanes), whole)
        if not _HAS_TEAM or team == 0:
            step = n
        for i in range(n_vectors(n, max(step, 1))):
            predict_rows(team, nets, i * step, min((i + 1) * step, n), n_parts)

    return predict_rows_of


def predict_blocks(scalar: Scalar) -> Callable[[int], None]:
    """Predicts the rows of a `FlatNet` record, and counts its checks that find a number
    that is not finite.
    """
    size = np.dtype(scalar).itemsize

    def predict_job(address: int) -> None:
        mode = flush_denormals()
        net = record_at(address, FlatNet)
        n_checks = net.n_threads * net.check_bytes // size
        checks = row(net.checks, n_checks, scalar)
        checks[:] = 0
        call(net.rows_in_lanes, (net.team, address, net.n_parts))
        for i in range(n_checks):
            net.faults += 0 if checks[i] == 0 else 1
        restore_denormals(mode)

    return predict_job


class RowBlocks:
    """Predicts the rows of a network by blocks.

    Attributes
    ----------
    job : fields of the `FlatNet`, which is the job of the driver
    kind : of the job, for the autotuner
    record : of the job, for `Runner`
    """

    # The block of the rows, and options of `make_flat`.
    FACTORY: ClassVar[Any] = staticmethod(rows_in_lanes)
    OPTIONS: ClassVar[dict[str, bool]] = {}
    kind: tuple[Any, ...]
    record: Array
    job: Any

    def __init__(self, runner: Runner, network: Network) -> None:
        self._runner = runner
        self._network = network
        self._lanes = lanes_of(network.dtype.type)
        self._row_flops = 2 * network.layout.n_weights
        self._most = max(1, PREDICT_FLOPS // self._row_flops)
        self.kind = (self.FACTORY.__name__, network.layout.sizes, network.dtype)
        self._parameters = aligned(network.layout.n_parameters, network.dtype)
        options: Any = {"n_threads": runner.n_threads, **self.OPTIONS}
        self._flat = make_flat(network, self._parameters, **options)
        self.record, self.job = self._flat.net, fields_of(self._flat.net)
        self._net = self.job
        self._net["rows_in_lanes"] = block_of(self.FACTORY, network.dtype).address
        self._driver = block_of(predict_blocks, network.dtype)
        # Kept, as the address of a record array takes 3.4 us.
        self._place = address(self._flat.net)
        self._calls = LedCalls(
            self.kind,
            runner.n_threads,
            self.job,
            n_weights=network.layout.n_weights,
        )

    def __call__(self, parameters: Array, x: Array, out: Array) -> bool:
        """Write the predictions for x to out,
        shape (n_rows, n_outputs); return True if all numbers are finite.

        Short calls read the live parameters. Long calls,
        and those during which training has written, read a copy of one state.
        """
        lock = self._runner.lock
        live = self._row_flops * len(out) <= LIVE_FLOPS
        if live:
            before = lock.seen()
            finite = self._write(parameters, x, out)
            if lock.seen() == before:
                return finite
        with lock.parameters:
            publish(parameters, self._parameters)
        return self._write(self._parameters, x, out)

    def _write(self, parameters: Array, x: Array, out: Array) -> bool:
        net = self._net
        n_rows = len(out)
        net["parameters"] = address(parameters)
        net["faults"] = 0
        for first in range(0, n_rows, self._most):
            last = min(first + self._most, n_rows)
            net["x"] = address(x, first * x.shape[1])
            net["n_rows"] = last - first
            net["out"] = address(out, first * out.shape[1])
            self._run(self._row_flops * min(n_rows, self._most))
        return bool(net["faults"] == 0)

    def _run(self, flops: int) -> None:
        """Run the driver with these `flops`."""
        if COMPILER == "numba":
            self._runner.run(predict_blocks, self, Work(flops, 0))
        else:
            self._calls.run(self._driver, self._place, flops)
