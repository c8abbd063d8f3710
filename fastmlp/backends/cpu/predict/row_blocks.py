"""Predictions by blocks of rows, which pass through all layers in the first-level cache.

A block's values lie transposed, one unit's values of all rows next to each other, so that a weight
is broadcast from where it lies in the flat parameters: nothing is packed. 1,000 rows
159 -> 100 us (16-64-64-2, 1 thread; packed panels -> blocks).
"""

from collections.abc import Callable, Sequence
from itertools import accumulate, pairwise
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastmlp._process.locks import publish
from fastmlp.backends.cpu.dispatch import Runner, Work
from fastmlp.backends.cpu.kernels import rule_blocks
from fastmlp.backends.cpu.plan.packing import round_up
from fastmlp.backends.cpu.plan.plan import aligned
from fastmlp.backends.cpu.plan.records import RELU, Job, address, fields_of
from fastmlp.backends.cpu.simd.flat_weights import (
    Weights,
    batch_in_lanes,
    row_tiles,
    tile,
)
from fastmlp.backends.cpu.simd.pack import MatrixRows, moves
from fastmlp.backends.cpu.tuning import (
    ALIGNMENT,
    FEW_ROWS,
    LARGEST_TILE,
    LIVE_FLOPS,
    PREDICT_FLOPS,
    ROW_TILE_BYTES,
    SPREAD_BYTES,
    TILED_AT_ONCE,
)
from fastmlp.compiler import block_of, call, hinted, njit, prange, thread_number
from fastmlp.compiler.memory import Record, record_at, records_at, row
from fastmlp.compiler.target import LINE_BYTES, lanes_of, vector_bytes
from fastmlp.network.spec import Network
from fastmlp.validation import Array

# Vectors of rows in a block: as many as the largest tile of sums is wide.
VECTORS = LARGEST_TILE[1]
# A thread's blocks of values: a layer's inputs, its outputs, and the derivatives that an
# activation's block writes.
BLOCKS = 3
# Operations of a call that asks for no threads, 50 us: asking takes 15 us, and a team as long. A
# call of one vector of rows asks for no threads either: a team would get one part.
MOST_ALONE = 5_000_000
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
    panels: int  # bytes from the first packed weight to the layer's panels, which its biases follow


class FlatNet(Record):
    """A net whose parameters lie in one flat vector, its rows, and each thread's buffers."""

    n_layers: int
    n_in: int
    n_out: int
    layers: int  # address of n_layers FlatLayer records
    parameters: int  # address of the flat vector
    packed: int  # address of the packed weights that tiles read, or 0
    link: int  # address of the output link's block, or 0
    x: int  # address of the rows, shape (n_rows, n_in)
    out: int  # address of the predictions, shape (n_rows, n_out)
    n_rows: int
    n_threads: int  # how many threads have buffers
    buffers: int  # address of the first thread's blocks of values
    buffer_bytes: int  # from one thread's blocks to the next thread's
    block_bytes: int  # from one block of a thread to its next
    checks: int  # address of the first thread's two vectors of checks: numbers read, written
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


def make_flat(
    network: Network,
    parameters: NDArray[Any],
    *,
    n_threads: int = 1,
    blocks: bool = True,
    tiled: bool = False,
    slopes: bool = False,
) -> Flat:
    """Lay out a net and its rules for rows one by one and, with `blocks`, for blocks of rows, in
    lanes or `tiled`.

    Parameters
    ----------
    parameters : (n_parameters,) array of the network's dtype, kept alive by the caller
    slopes : keep the slopes of all layers, which follow two blocks of values
    """
    layout, dtype = network.layout, network.dtype
    lanes, size = lanes_of(dtype.type), dtype.itemsize
    layers = np.array(_layers(network), FlatLayer.dtype)
    height = TILED_AT_ONCE if tiled else VECTORS * lanes if blocks else 1
    apart = 2 * LINE_BYTES if tiled else 0
    block_bytes = (round_up(max(layout.sizes), lanes) * size + apart) * height
    slope_bytes = sum(layout.sizes[1:]) * height * size if slopes else block_bytes
    buffer_bytes = round_up((BLOCKS - 1) * block_bytes + slope_bytes, ALIGNMENT)
    check_bytes = round_up(2 * lanes * size, ALIGNMENT)
    buffers = aligned(n_threads * buffer_bytes, np.uint8)
    checks = aligned(n_threads * check_bytes // size, dtype)
    zeros = np.zeros(LARGEST_TILE[0], dtype)
    fields = {
        "n_layers": layout.n_layers,
        "n_in": layout.sizes[0],
        "n_out": layout.sizes[-1],
        "layers": address(layers),
        "parameters": address(parameters),
        "link": rule_blocks.link(network, needed=False),
        "n_threads": n_threads,
        "buffers": address(buffers),
        "buffer_bytes": buffer_bytes,
        "block_bytes": block_bytes,
        "checks": address(checks),
        "check_bytes": check_bytes,
        "zeros": address(zeros),
    }
    net = aligned(1, FlatNet.dtype)
    net[0] = tuple(fields.get(name, 0) for name in FlatNet.dtype.names or ())
    return Flat(net.view(np.recarray), layers, buffers, checks, zeros)


def panels_of(network: Network) -> list[int]:
    """Return how many packed numbers are before each layer's, and of all layers."""
    sizes, lanes = network.layout.sizes, lanes_of(network.dtype.type)
    numbers = ((n_in + 1) * round_up(n_out, lanes) for n_in, n_out in pairwise(sizes))
    return [0, *accumulate(numbers)]


def _layers(network: Network) -> list[tuple[int, ...]]:
    """Return the table of layers; fields in the order of `FlatLayer`."""
    layout, size = network.layout, network.dtype.itemsize
    activations, forms = rule_blocks.activations(network)
    return [
        (
            *layout.sizes[i : i + 2],
            layout.weights[i] * size,
            layout.biases[i] * size,
            forms[i] == RELU,
            activations[i],
            panels_of(network)[i] * size,
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
    """Writes a layer's sums, or their positive parts, of one block; `backward`: sums over the
    layer's outputs, for its inputs."""
    size = np.dtype(scalar).itemsize
    unit = vectors * lanes_of(scalar) * size
    most = LARGEST_TILE[0]
    largest, two, one = (
        tile(scalar, vectors, n_units, backward=backward) for n_units in (most, 2, 1)
    )

    def multiply(net: FlatNet, layer: FlatLayer, inputs: int, outputs: int) -> None:
        w, left, n_terms = net.parameters + layer.weights, layer.n_out, layer.n_in
        b, w_step, b_step, positive = (
            net.parameters + layer.biases,
            size,
            size,
            layer.relu,
        )
        if backward:
            left, n_terms = layer.n_in, layer.n_out
            b, w_step, b_step, positive = net.zeros, layer.n_out * size, 0, 0
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
            outputs, b, w = outputs + step * unit, b + step * b_step, w + step * w_step

    return njit(multiply)


def _vectors_of_rows(scalar: Scalar) -> Predict:
    """Predicts vectors first to last of rows in one thread's buffers."""
    lanes, size = lanes_of(scalar), np.dtype(scalar).itemsize
    vector = lanes * size
    wide, narrow = products(scalar, VECTORS), products(scalar, 1)
    lane_moves = batch_in_lanes(scalar)
    into_lanes, out_of_lanes = lane_moves.into_lanes, lane_moves.out_of_lanes

    def predict_vectors(net: FlatNet, first: int, last: int, thread: int) -> None:
        layers = records_at(net.layers, net.n_layers, FlatLayer)
        buffer = net.buffers + thread * net.buffer_bytes
        checks = net.checks + thread * net.check_bytes
        begin, end = first * lanes, min(last * lanes, net.n_rows)
        pitch = net.n_out * size
        for start in range(begin, end, VECTORS * lanes):
            # One vector of rows takes half the time of two.
            vectors = 1 if end - start <= lanes else VECTORS
            unit = vectors * vector
            source, target = buffer, buffer + net.block_bytes
            derivatives = buffer + 2 * net.block_bytes
            for v in range(vectors):
                at = start + v * lanes
                into_lanes(
                    net.x, net.n_in, at, end - 1, source + v * vector, unit, checks
                )
            for i in range(net.n_layers):
                layer = layers[i]
                if vectors == 1:
                    narrow(net, layer, source, target)
                else:
                    wide(net, layer, source, target)
                source, target = target, source
                if layer.activation:
                    n = layer.n_out * vectors * lanes
                    call(layer.activation, (source, target, derivatives, n))
                    source, target = target, source
            if net.link:
                call(net.link, (source, target, vectors * lanes, net.n_out))
                source, target = target, source
            for v in range(vectors):
                at, place = start + v * lanes, source + v * vector
                target, checked = net.out + at * pitch, checks + vector
                out_of_lanes(place, net.n_out, end - at, target, pitch, unit, checked)

    return njit(predict_vectors)


def rows_in_lanes(scalar: Scalar) -> Callable[[int, int, int], None]:
    """Predicts a `FlatNet` record's rows, on a team or on one thread."""
    return hinted(control=True)(on_all_rows(scalar, _vectors_of_rows(scalar)))


def _tiles_of_rows(scalar: Scalar) -> Predict:
    """Make the function that predicts vectors first to last of rows, in tiles of rows and outputs,
    in one thread's buffers."""
    lanes, size = lanes_of(scalar), np.dtype(scalar).itemsize
    many, few, two = row_tiles(scalar)
    apart, vector = 2 * LINE_BYTES // size, vector_bytes()
    copy, add_differences = (
        moves(scalar, lanes).copy,
        moves(scalar, lanes).add_differences,
    )

    @njit
    def multiply(
        net: FlatNet, layer: FlatLayer, inputs: Span, outputs: Span, n: int
    ) -> None:
        """Write the sums of n rows, or their positive parts; of flat weights, some inputs at a
        time."""
        (source, stride), (target, pitch) = inputs, outputs
        n_in, n_out, k = layer.n_in, layer.n_out, 0
        start, start_pitch, row_bytes = net.parameters + layer.biases, 0, n_out * size
        at, across, step = (
            net.parameters + layer.weights,
            vector,
            ROW_TILE_BYTES // row_bytes,
        )
        if net.packed:
            n_out = n_vectors(n_out, lanes) * lanes
            at, across, row_bytes, step = (
                net.packed + layer.panels,
                n_in * vector,
                vector,
                n_in,
            )
            start = at + n_out * n_in * size
        while k < layer.n_in:
            n_terms = min(max(step, LEAST_INPUTS), n_in - k)
            positive = layer.relu if k + n_terms == n_in else 0
            weights = Weights(at + k * row_bytes, across, row_bytes)
            of = (
                MatrixRows(target, pitch),
                MatrixRows(start, start_pitch),
                weights,
                n_out,
            )
            right = (MatrixRows(source + k * size, stride), n_terms, positive, n)
            if n > FEW_ROWS:
                many(*of, *right)
            elif n > 2:
                few(*of, *right)
            else:
                two(*of, *right)
            start, start_pitch, k = target, pitch, k + n_terms

    @njit
    def write_linked(net: FlatNet, raw: Span, n: int, out: int, spare: Span) -> None:
        """Write n rows' predictions by way of columns, as the link reads them."""
        (place, stride), (before, after), n_out = raw, spare, net.n_out
        columns, results = row(before, n * n_out, scalar), row(after, n * n_out, scalar)
        for r in range(n):
            numbers = row(place + r * stride, n_out, scalar)
            for j in range(n_out):
                columns[j * n + r] = numbers[j]
        call(net.link, (before, after, n, n_out))
        for r in range(n):
            numbers = row(out + r * n_out * size, n_out, scalar)
            for j in range(n_out):
                numbers[j] = results[j * n + r]

    def predict_tiles(net: FlatNet, first: int, last: int, thread: int) -> None:
        layers = records_at(net.layers, net.n_layers, FlatLayer)
        buffer = net.buffers + thread * net.buffer_bytes
        checks = net.checks + thread * net.check_bytes
        begin, end = first * lanes, min(last * lanes, net.n_rows)
        n_blocks = (end - begin + TILED_AT_ONCE - 1) // TILED_AT_ONCE
        for block in range(n_blocks):
            at = begin + block * (end - begin) // n_blocks
            n = begin + (block + 1) * (end - begin) // n_blocks - at
            source, stride = net.x + at * net.n_in * size, net.n_in * size
            out, target = net.out + at * net.n_out * size, buffer
            other, derivatives = buffer + net.block_bytes, buffer + 2 * net.block_bytes
            add_differences(source, n * net.n_in, checks)
            for i in range(net.n_layers):
                layer = layers[i]
                wide = (layer.n_out + lanes - 1) // lanes * lanes
                if wide * size % SPREAD_BYTES == 0:
                    wide += apart
                multiply(net, layer, (source, stride), (target, wide * size), n)
                if layer.activation:
                    call(layer.activation, (target, other, derivatives, n * wide))
                    target, other = other, target
                source, stride = target, wide * size
                target, other = other, target
            if net.link:
                write_linked(net, (source, stride), n, out, (target, derivatives))
            else:
                for r in range(n):
                    copy(source + r * stride, out + r * net.n_out * size, net.n_out)
            add_differences(out, n * net.n_out, checks + lanes * size)

    return njit(predict_tiles)


def rows_in_tiles(scalar: Scalar) -> Callable[[int, int, int], None]:
    """Predicts a `FlatNet` record's rows in tiles of rows and outputs."""
    return hinted(control=True)(on_all_rows(scalar, _tiles_of_rows(scalar)))


def on_all_rows(scalar: Scalar, on_vectors: Predict) -> Callable[[int, int, int], None]:
    """Applies a function of some vectors of rows to all."""
    lanes = lanes_of(scalar)

    @njit(parallel=True)
    def predict_rows(team: int, nets: Sequence[FlatNet], n_parts: int) -> None:
        """Each part takes a range of vectors through all layers."""
        n = n_vectors(nets[0].n_rows, lanes)
        for index in prange(n_parts):
            # A table of one record: a record itself does not cross into a region of Numba's.
            net = nets[0]
            # Numba counts in uint64, which would make floats of the products.
            part = np.int64(index)
            first, last = part * n // n_parts, (part + 1) * n // n_parts
            on_vectors(net, first, last, thread_number())

    def predict_rows_of(team: int, net: int, n_parts: int) -> None:
        predict_rows(team, records_at(net, 1, FlatNet), n_parts)

    return predict_rows_of


def predict_blocks(scalar: Scalar) -> Callable[[int], None]:
    """Predicts the rows of the `FlatNet` record of a job.

    It adds 0 to the job's `loss` where all numbers read and written are finite, else NaN.
    """
    size = np.dtype(scalar).itemsize

    def predict_job(address: int) -> None:
        job = record_at(address, Job)
        net = record_at(job.net, FlatNet)
        n_checks = net.n_threads * net.check_bytes // size
        checks = row(net.checks, n_checks, scalar)
        checks[:] = 0
        call(net.rows_in_lanes, (job.team, job.net, job.n_parts))
        for i in range(n_checks):
            job.loss += checks[i]

    return predict_job


class RowBlocks:
    """Predicts the rows of a network by blocks.

    Attributes
    ----------
    kind : tuple, the job's: of the network, and of the bit length of a call's number of rows
    job, record : the driver's job, by its fields' names and as a record array
    """

    # The block of the rows, and options of `make_flat`.
    FACTORY: ClassVar[Any] = staticmethod(rows_in_lanes)
    OPTIONS: ClassVar[dict[str, bool]] = {}
    kind: tuple[Any, ...]
    record: Array
    job: Any

    def __init__(self, runner: Runner, network: Network) -> None:
        self._runner, self._network = runner, network
        self._lanes = lanes_of(network.dtype.type)
        self._row_flops = 2 * network.layout.n_weights
        self._most = max(1, PREDICT_FLOPS // self._row_flops)
        self.kind = self._kind = (network.layout.sizes, network.dtype)
        self._parameters = aligned(network.layout.n_parameters, network.dtype)
        options: Any = {"n_threads": runner.n_threads, **self.OPTIONS}
        self._flat = make_flat(network, self._parameters, **options)
        self._net = fields_of(self._flat.net)
        self._net["rows_in_lanes"] = block_of(self.FACTORY, network.dtype).address
        self._driver = block_of(predict_blocks, network.dtype)
        self.record = aligned(1, Job.dtype)
        self.job = fields_of(self.record)
        self.job["net"] = address(self._flat.net)
        # Kept, as the address of a record array takes 3.4 us.
        self._place = address(self.record)

    def __call__(self, parameters: Array, x: Array, out: Array) -> bool:
        """Write the predictions for x to out, shape (n_rows, n_outputs); return True if all numbers
        are finite.

        Short calls read the live parameters. Long calls, and those during which training has
        written, read a copy of one state.
        """
        lock, live = self._runner.lock, self._row_flops * len(out) <= LIVE_FLOPS
        if live:
            before = lock.seen()
            finite = self._write(parameters, x, out)
            if lock.seen() == before:
                return finite
        with lock.parameters:
            publish(parameters, self._parameters)
        return self._write(self._parameters, x, out)

    def _write(self, parameters: Array, x: Array, out: Array) -> bool:
        net, n_rows = self._net, len(out)
        net["parameters"], self.job["loss"] = address(parameters), 0.0
        for first in range(0, n_rows, self._most):
            last = min(first + self._most, n_rows)
            net["x"], net["n_rows"] = address(x, first * x.shape[1]), last - first
            net["out"] = address(out, first * out.shape[1])
            self._run(self._row_flops * min(n_rows, self._most))
        return bool(self.job["loss"] == 0)

    def _run(self, flops: int) -> None:
        """Run the driver with these `flops`; a short call asks for no threads."""
        if flops <= MOST_ALONE or self._net["n_rows"] <= self._lanes:
            self.job["team"], self.job["n_parts"] = 0, 1
            self._driver.entry(self._place)
        else:
            # No thread reads the writes of another.
            self.kind = (*self._kind, int(self._net["n_rows"]).bit_length())
            self._runner.run(predict_blocks, self, Work(flops, 0))
