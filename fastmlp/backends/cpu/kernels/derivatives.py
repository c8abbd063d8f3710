"""Phase one of steps with derivatives of outputs by inputs:
values, Jacobians, and deltas of both.

Forward: z_l = b + a_(l-1) W_l, a_l = f(z_l). For each output, with u_L = 1 for it and 0
for others: v_l = u_l f'(z_l), u_(l-1) = v_l W_l^T, and u_0 is its row of the Jacobian.
The residual r is the slope of the objective by u_0. A tangent pass takes it through the
layers: t_0 = r, s_l = t_(l-1) W_l, t_l = s_l f'(z_l). The deltas of values go back as
always, with the second-order term: d_l = (d_(l+1) W_(l+1)^T) f'(z_l) + sum of s_l u_l
f''(z_l).

The gradient of W_l is then the outer product over more rows: inputs [a_(l-1); t_(l-1)],
deltas [d_l; v_l]. Buffers of a chunk have room for them: rows T (1 + k) and following
belong to output k, with T the chunk's rows in whole strips. Phase two sums over all,
and biases over the first alone.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from fastmlp.backends.cpu.kernels import Kernel, Scalar, Span, rows_of_part
from fastmlp.backends.cpu.kernels.forward_backward import (
    EVALUATE,
    TRAIN,
    deltas_to_columns,
    layer_kernels,
    losses,
    output_layer,
    packed_of,
    product_of,
)
from fastmlp.backends.cpu.plan import records
from fastmlp.backends.cpu.plan.packing import round_up
from fastmlp.backends.cpu.plan.plan import aligned
from fastmlp.backends.cpu.plan.records import (
    Derivatives,
    Layer,
    Net,
    address,
    batch_of,
    blocks_of,
    fields_of,
    layers_of,
)
from fastmlp.backends.cpu.simd.curves import Residuals, curve_loops
from fastmlp.backends.cpu.simd.gemm import Shape
from fastmlp.backends.cpu.simd.microkernel import STORE, Epilogue, Operands, Start
from fastmlp.backends.cpu.simd.pack import moves
from fastmlp.backends.cpu.simd.vector import Panels
from fastmlp.backends.cpu.tuning import (
    ALIGNMENT,
    APART_BYTES,
    DERIVATIVE_ROWS,
    STRIP_ROWS,
)
from fastmlp.compiler import call, hinted, njit, prange, thread_number
from fastmlp.compiler.memory import record_at, records_at, row
from fastmlp.compiler.target import lanes_of
from fastmlp.network.spec import Network


class PlacedRows(NamedTuple):
    """A block of rows: its first row in the buffers, rows,
    rows of the chunk in whole strips, its thread, and the thread's buffer.
    """

    at: int
    n: int
    strips_rows: int
    thread: int
    buffer: int


def block_bytes(
    n_out: int, n_in: int, n_panels: int, lanes: int, size: int, *, linked: bool
) -> int:
    """Bytes of a thread's buffer; `n_panels` is of all hidden layers."""
    panel = DERIVATIVE_ROWS * lanes * size
    in_panels = -(-n_in // lanes)
    units = (3 + n_out) * n_panels + (2 if linked else 1) * n_out * in_panels
    columns = 3 * n_out + 2
    strips = DERIVATIVE_ROWS // STRIP_ROWS
    return (
        units * panel
        + columns * DERIVATIVE_ROWS * size
        + (2 * strips + 1) * lanes * size
    )


@njit
def derivatives_of(net: Net) -> Derivatives:
    return record_at(net.derivatives, Derivatives)


@njit
def gradient_rows(net: Net, n_rows: int) -> int:
    """Rows of the buffers that phase two sums over, for a chunk of n rows."""
    if net.derivatives == 0:
        return n_rows
    whole = (n_rows + STRIP_ROWS - 1) // STRIP_ROWS * STRIP_ROWS
    return net.n_out * whole + n_rows


@njit
def take_known(net: Net, n_rows: int, mass: float) -> None:
    """Set the scale of a batch's derivatives; `index` points to all its rows."""
    own = derivatives_of(net)
    index = row(batch_of(net).index, n_rows, np.int64)
    if own.known == 0:
        return
    total = 0.0
    for r in range(n_rows):
        total += row(own.known + index[r] * 8, 1, np.float64)[0]
    own.scale = mass / total if total > 0 else 0.0
    own.epoch_known += total


@njit
def add_squares(net: Net, n_rows: int) -> None:
    """Add a chunk's squares to the epoch's."""
    own = derivatives_of(net)
    n_strips = (n_rows + STRIP_ROWS - 1) // STRIP_ROWS
    squares = row(own.squares, n_strips, np.float64)
    for s in range(n_strips):
        own.epoch_squares += squares[s]


@njit
def end_squares(net: Net, epoch: int) -> None:
    """Write an epoch's mean square, and begin the next one."""
    own = derivatives_of(net)
    if own.losses:
        row(own.losses + epoch * 8, 1, np.float64)[0] = (
            own.epoch_squares / own.epoch_known
        )
    own.epoch_squares = own.epoch_known = 0.0


class _Units(NamedTuple):
    """Bytes: of a number, a vector, a panel of a block, and lanes."""

    lanes: int
    size: int
    vector: int
    panel: int


def _units_of(scalar: Scalar) -> _Units:
    lanes = lanes_of(scalar)
    size = np.dtype(scalar).itemsize
    return _Units(lanes, size, lanes * size, DERIVATIVE_ROWS * lanes * size)


def _buffers(scalar: Scalar) -> tuple[Kernel, ...]:
    """Functions of a net and a thread's buffer: addresses of its parts."""
    lanes, _, _, panel = _units_of(scalar)

    @njit
    def products_at(net: Net, buffer: int, k: int) -> int:
        return buffer + (3 + k) * derivatives_of(net).n_panels * panel

    @njit
    def jacobian_at(net: Net, buffer: int, k: int) -> int:
        in_panels = (net.n_in + lanes - 1) // lanes
        return products_at(net, buffer, net.n_out) + k * in_panels * panel

    @njit
    def columns_at(net: Net, buffer: int) -> int:
        """Columns of outputs: slopes and curvatures of the link, and its second-order
        terms; then the rows' weights and scales, and sums of strips.
        """
        n = net.n_out if derivatives_of(net).link == records.LINKLESS else 2 * net.n_out
        return jacobian_at(net, buffer, n)

    return products_at, jacobian_at, columns_at


def _multiply(scalar: Scalar) -> Kernel:
    @njit
    def multiply(
        net: Net, c: Panels, start: Start, factors: Operands, shape: Shape, packed: int
    ) -> None:
        """C = start + A W, in the form that pays for the shape."""
        product = product_of(blocks_of(net), 0, factors.depth, shape)
        call(product, (c, start, factors, Epilogue(STORE, 0), shape, packed))

    return multiply


def _forward(scalar: Scalar) -> Kernel:
    """The forward pass of a block of rows, which keeps slopes and curvatures in the
    thread's buffer: the passes for each output read them again.
    """
    lanes, _, vector, panel = _units_of(scalar)
    clear = moves(scalar, lanes).clear
    multiply = _multiply(scalar)
    products_at = _buffers(scalar)[0]

    @njit
    def forward(net: Net, place: PlacedRows) -> None:
        """Values, slopes and curvatures of all hidden layers; second-order terms of 0.
        `finish` computes a transposed output layer, and applies its activation.
        """
        own, layers = derivatives_of(net), layers_of(net)
        down = place.at * vector
        packed = packed_of(net, place.thread)
        inputs, slopes = net.inputs, place.buffer
        all_bytes = own.n_panels * panel
        z = products_at(net, place.buffer, 0)
        outer = net.n_layers - 1
        for i in range(net.n_layers - layers[outer].is_transposed):
            layer = layers[i]
            waits = i < outer and layer.activation
            c = Panels(layer.outputs + down, net.panel)
            if waits:
                c = Panels(z, panel)
            start = Start(layer.biases, 0, layer.packed_panel)
            weights = layer.weights
            rows = inputs + down
            factors = Operands(weights, layer.weight_panel, rows, net.panel, layer.n_in)
            multiply(net, c, start, factors, Shape(layer.n_out, place.n), packed)
            for p in range(layer.n_panels if i < outer else 0):
                if waits:
                    values = layer.outputs + p * net.panel + down
                    bent = (slopes, slopes + all_bytes)
                    call(layer.activation, (z, values, *bent, place.n * lanes))
                    clear(slopes + 2 * all_bytes, place.n * lanes)
                z, slopes = z + panel, slopes + panel
            inputs = layer.outputs

    return forward


def _jacobian(scalar: Scalar) -> tuple[Kernel, Kernel]:
    """Two functions: one derives output k by the inputs;
    the other takes its residuals through the layers as tangents.
    """
    lanes, _, vector, panel = _units_of(scalar)
    bend = curve_loops(scalar, lanes).bend
    add_bend = curve_loops(scalar, lanes).add_bend
    copy = moves(scalar, lanes).copy
    multiply = _multiply(scalar)
    backward_layer = layer_kernels(scalar).backward
    place_deltas = deltas_to_columns(scalar)
    products_at, jacobian_at, _ = _buffers(scalar)

    @njit
    def begin(net: Net, k: int, at: int, place: PlacedRows) -> None:
        """The deltas of the output layer: 1 for output k."""
        outer = layers_of(net)[net.n_layers - 1]
        columns = net.value + place.thread * net.output_bytes
        ones = row(columns, place.n * net.n_out, scalar)
        for i in range(place.n * net.n_out):
            ones[i] = scalar(0)
        for r in range(place.n):
            ones[k * place.n + r] = scalar(1)
        place_deltas(net, outer, place.n, at, columns)

    @njit
    def derive(net: Net, k: int, place: PlacedRows) -> None:
        own = derivatives_of(net)
        layers = layers_of(net)
        n = place.n
        at = place.at + (1 + k) * place.strips_rows
        packed = packed_of(net, place.thread)
        begin(net, k, at, place)
        skip = own.n_panels * panel
        product = products_at(net, place.buffer, k) - place.buffer
        slopes = place.buffer + skip
        curved = own.n_panels * panel
        for i in range(net.n_layers - 1, 0, -1):
            backward_layer(net, i, (0, net.max_width), (at, n), packed)
            below = layers[i - 1]
            slopes -= below.n_panels * panel
            for p in range(below.n_panels if below.activation else 0):
                to = slopes + p * panel
                x = below.deltas + p * net.panel + at * vector
                bend(x, to, to + curved, to + product, n)
        if own.given:
            return
        first = layers[0]
        target = jacobian_at(net, place.buffer, k)
        if net.n_layers > 1:
            weights = first.transposed
            stride = first.transposed_panel
            rows = first.deltas + at * vector
            factors = Operands(weights, stride, rows, net.panel, first.n_out)
            start = Start(net.zeros, 0, 0)
            shape = Shape(net.n_in, n)
            multiply(net, Panels(target, panel), start, factors, shape, packed)
            return
        # The Jacobian of a linear net is the same for all rows.
        for p in range((net.n_in + lanes - 1) // lanes):
            source = first.transposed + p * first.transposed_panel + k * vector
            for r in range(n):
                copy(source, target + p * panel + r * vector, lanes)

    @njit
    def tangents(net: Net, k: int, place: PlacedRows) -> None:
        """Take the residuals r of output k forward: t_0 = r, s_l = t_(l-1) W_l, t_l =
        s_l f'(z_l). The second-order terms s_l u_l f''(z_l) are added to the terms of
        the outputs before.
        """
        own = derivatives_of(net)
        layers = layers_of(net)
        n = place.n
        at = place.at + (1 + k) * place.strips_rows
        packed = packed_of(net, place.thread)
        product = products_at(net, place.buffer, k) - place.buffer
        inputs = net.inputs
        slopes = place.buffer
        extra = 2 * own.n_panels * panel
        for i in range(net.n_layers - 1):
            layer = layers[i]
            c = Panels(layer.outputs + at * vector, net.panel)
            start = Start(net.zeros, 0, 0)
            weights = layer.weights
            rows = inputs + at * vector
            factors = Operands(weights, layer.weight_panel, rows, net.panel, layer.n_in)
            multiply(net, c, start, factors, Shape(layer.n_out, n), packed)
            for p in range(layer.n_panels if layer.activation else 0):
                to = slopes + p * panel
                x = layer.outputs + p * net.panel + at * vector
                add_bend(x, to, to + product, to + extra, n)
            slopes += layer.n_panels * panel
            inputs = layer.outputs

    return derive, tangents


def _links(scalar: Scalar) -> tuple[Kernel, Kernel]:
    """Two functions: one writes the Jacobian of predictions, from a block's raw
    Jacobian, to a second place; the other takes residuals back, and sums second-order
    terms in columns.
    """
    lanes, size, vector, panel = _units_of(scalar)
    _, jacobian_at, columns_at = _buffers(scalar)

    @njit
    def number(address: int, stride: int, r: int, c: int) -> Any:
        """A row's number c of panels, as a view of one number."""
        return row(
            address + c // lanes * stride + r * vector + c % lanes * size, 1, scalar
        )

    @njit
    def through_link(net: Net, place: PlacedRows) -> None:
        """Write the Jacobian of the predictions: each output's raw derivatives times
        the link's slope. Softmax subtracts their mean, weighted by the probabilities.
        """
        own = derivatives_of(net)
        n = place.n
        width = net.n_out
        raw = net.raw + place.thread * net.output_bytes
        columns = columns_at(net, place.buffer)
        slopes = row(columns, n * width, scalar)
        more = columns + n * width * size
        if own.link == records.SOFTMAX:
            call(own.link_block, (raw, columns, 0, n, width))
        else:
            call(own.link_block, (raw, columns, more, n, width))
        for r in range(n):
            for c in range(net.n_in):
                mean = scalar(0)
                for k in range(width if own.link == records.SOFTMAX else 0):
                    source = jacobian_at(net, place.buffer, k)
                    mean += slopes[k * n + r] * number(source, panel, r, c)[0]
                for k in range(width):
                    source = jacobian_at(net, place.buffer, k)
                    target = jacobian_at(net, place.buffer, width + k)
                    number(target, panel, r, c)[0] = slopes[k * n + r] * (
                        number(source, panel, r, c)[0] - mean
                    )

    @njit
    def by_number(net: Net, place: PlacedRows) -> None:
        n, width = place.n, net.n_out
        columns = columns_at(net, place.buffer)
        slopes = row(columns, n * width, scalar)
        curvatures = row(columns + n * width * size, n * width, scalar)
        terms = row(columns + 2 * n * width * size, n * width, scalar)
        for k in range(width):
            source = jacobian_at(net, place.buffer, k)
            target = net.inputs + (place.at + (1 + k) * place.strips_rows) * vector
            for r in range(n):
                term = scalar(0)
                for c in range(net.n_in):
                    residual = number(target, net.panel, r, c)
                    term += residual[0] * number(source, panel, r, c)[0]
                    residual[0] *= slopes[k * n + r]
                terms[k * n + r] = term * curvatures[k * n + r]

    @njit
    def by_softmax(net: Net, place: PlacedRows) -> None:
        """With p the probabilities, J_k the raw Jacobian's rows and R_k the residuals:
        the term of output i is p_i (b_i - sum of p_k b_k), b_i = <R_i, J_i - mean J> -
        <mean R, J_i>.
        """
        n, width = place.n, net.n_out
        columns = columns_at(net, place.buffer)
        shares = row(columns, n * width, scalar)
        terms = row(columns + 2 * n * width * size, n * width, scalar)
        first = net.inputs + (place.at + place.strips_rows) * vector
        apart = place.strips_rows * vector
        for i in range(n * width):
            terms[i] = scalar(0)
        for r in range(n):
            for c in range(net.n_in):
                mean, mean_residual = scalar(0), scalar(0)
                for k in range(width):
                    share = shares[k * n + r]
                    source = jacobian_at(net, place.buffer, k)
                    mean += share * number(source, panel, r, c)[0]
                    mean_residual += (
                        share * number(first + k * apart, net.panel, r, c)[0]
                    )
                for k in range(width):
                    share = shares[k * n + r]
                    slope = number(jacobian_at(net, place.buffer, k), panel, r, c)[0]
                    residual = number(first + k * apart, net.panel, r, c)
                    terms[k * n + r] += (
                        residual[0] * (slope - mean) - mean_residual * slope
                    )
                    residual[0] = share * (residual[0] - mean_residual)
            total = scalar(0)
            for k in range(width):
                total += shares[k * n + r] * terms[k * n + r]
            for k in range(width):
                terms[k * n + r] = shares[k * n + r] * (terms[k * n + r] - total)

    @njit
    def back_through_link(net: Net, place: PlacedRows) -> None:
        if derivatives_of(net).link == records.SOFTMAX:
            by_softmax(net, place)
        else:
            by_number(net, place)

    return through_link, back_through_link


def _residuals(scalar: Scalar) -> Kernel:
    """The residuals of a block of rows, derivatives less their targets, times the
    weights of rows and numbers, and the sums of their squares.
    """
    lanes, size, vector, panel = _units_of(scalar)
    pack_row = moves(scalar, lanes).pack_row
    clear = moves(scalar, lanes).clear
    weigh = curve_loops(scalar, lanes).residuals
    (_, jacobian_at, columns_at) = _buffers(scalar)

    @njit
    def gather(net: Net, k: int, start: int, place: PlacedRows) -> None:
        """Copy the rows' derivatives of output k to the place of its tangents."""
        batch, own = batch_of(net), derivatives_of(net)
        index = row(batch.index + start * 8, place.n, np.int64)
        target = net.inputs + (place.at + (1 + k) * place.strips_rows) * vector
        for r in range(place.n):
            source = own.values + (index[r] * net.n_out + k) * net.n_in * size
            pack_row(source, target + r * vector, net.panel, net.n_in)

    @njit
    def row_factors(net: Net, start: int, place: PlacedRows, weights: int) -> None:
        """Weights of rows, and factors of their residuals."""
        batch = batch_of(net)
        own = derivatives_of(net)
        n = place.n
        index = row(batch.index + start * 8, n, np.int64)
        weight = row(weights, n, scalar)
        scale = row(weights + DERIVATIVE_ROWS * size, n, scalar)
        for r in range(n):
            of_row = scalar(1)
            if batch.weight:
                of_row = row(batch.weight + index[r] * size, 1, scalar)[0]
            weight[r] = of_row
            scale[r] = scalar(2.0 * batch.scale * own.scale * float(of_row))

    @njit
    def add_sums(net: Net, sums: int, place: PlacedRows) -> None:
        """Add the strips' weighted squares to their losses."""
        own = derivatives_of(net)
        first = place.at // STRIP_ROWS
        n_strips = (place.n + STRIP_ROWS - 1) // STRIP_ROWS
        total = row(net.strip_losses + first * 8, n_strips, np.float64)
        squares = row(own.squares + first * 8, n_strips, np.float64)
        for s in range(n_strips):
            both = row(sums + 2 * s * vector, 2 * lanes, scalar)
            plain, weighted = 0.0, 0.0
            for j in range(lanes):
                plain += float(both[j])
                weighted += float(both[lanes + j])
            squares[s] = plain
            total[s] += own.scale * weighted

    @njit
    def residuals(net: Net, start: int, place: PlacedRows, jacobian: int) -> None:
        """Write the residuals of all outputs, from the Jacobian that is output
        `jacobian` and following of the buffer, to the tangents' place; add their
        squares to the losses.
        """
        own = derivatives_of(net)
        in_panels = (net.n_in + lanes - 1) // lanes
        for k in range(net.n_out):
            gather(net, k, start, place)
        if own.given:
            return
        weights = columns_at(net, place.buffer) + 3 * net.n_out * DERIVATIVE_ROWS * size
        sums = weights + 2 * DERIVATIVE_ROWS * size
        clear(sums, 2 * ((place.n + STRIP_ROWS - 1) // STRIP_ROWS) * lanes)
        row_factors(net, start, place, weights)
        for k in range(net.n_out):
            targets = net.inputs + (place.at + (1 + k) * place.strips_rows) * vector
            source = jacobian_at(net, place.buffer, jacobian + k)
            for p in range(in_panels):
                of_columns = own.weights + (k * in_panels + p) * vector
                rows = (weights, weights + DERIVATIVE_ROWS * size)
                matrix = (source + p * panel, targets + p * net.panel)
                weigh(Residuals(*matrix, of_columns, *rows, sums, own.limit), place.n)
        add_sums(net, sums, place)

    return residuals


def _backward(scalar: Scalar) -> Kernel:
    """The deltas of values, from the slopes of the loss, with second-order terms."""
    lanes, size, vector, panel = _units_of(scalar)
    close = curve_loops(scalar, lanes).close
    columns_at = _buffers(scalar)[2]
    backward_layer = layer_kernels(scalar).backward
    place_deltas = deltas_to_columns(scalar)
    scale_deltas = losses(scalar)[2]

    @njit
    def backward(net: Net, start: int, place: PlacedRows) -> None:
        """`slopes` counts down over the layers' panels in the thread's buffer, as
        `_forward` has written them upwards.
        """
        own = derivatives_of(net)
        layers = layers_of(net)
        n = place.n
        outer = layers[net.n_layers - 1]
        skip = place.thread * net.output_bytes
        scale_deltas(net, outer, (start, n), skip)
        columns = net.loss_slope + skip
        if own.link != records.LINKLESS:
            deltas = row(columns, n * net.n_out, scalar)
            count = n * net.n_out
            terms = columns_at(net, place.buffer) + 2 * count * size
            more = row(terms, count, scalar)
            for i in range(count):
                deltas[i] += more[i]
        place_deltas(net, outer, n, place.at, columns)
        packed = packed_of(net, place.thread)
        slopes = place.buffer + own.n_panels * panel
        extra = 2 * own.n_panels * panel
        for i in range(net.n_layers - 1, net.lowest, -1):
            backward_layer(net, i, (0, net.max_width), (place.at, n), packed)
            below = layers[i - 1]
            slopes -= below.n_panels * panel
            for p in range(below.n_panels if below.activation else 0):
                to = slopes + p * panel
                x = below.deltas + p * net.panel + place.at * vector
                close(x, to, to + extra, n)

    return backward


def _tidying(scalar: Scalar) -> Kernel:
    """Clear what phase two reads but no pass has written, so that a chunk which ends
    within a strip adds nothing there.
    """
    lanes, size, vector, _ = _units_of(scalar)
    clear = moves(scalar, lanes).clear

    @njit
    def clear_rows(net: Net, panels: int, n_panels: int, rows: Span) -> None:
        at, n = rows
        for p in range(n_panels):
            clear(panels + p * net.panel + at * vector, n * lanes)

    @njit
    def clear_columns(net: Net, outer: Layer, rows: Span) -> None:
        """Deltas of an output layer that lie transposed."""
        at, n = rows
        for r in range(at, at + n):
            place = outer.deltas + r // lanes * net.delta_panel + r % lanes * size
            for j in range(net.n_out):
                row(place + j * vector, 1, scalar)[0] = scalar(0)

    @njit
    def tidy(net: Net, place: PlacedRows) -> None:
        """Clear the rows between a chunk's last row and the end of its last strip:
        phase two sums over them.
        """
        layers = layers_of(net)
        n = place.strips_rows - place.at - place.n
        for k in range(net.n_out):
            rows = (k * place.strips_rows + place.at + place.n, n)
            clear_rows(net, net.inputs, (net.n_in + lanes - 1) // lanes, rows)
            for i in range(net.n_layers):
                layer = layers[i]
                if i == net.n_layers - 1 and layer.is_transposed:
                    clear_columns(net, layer, rows)
                else:
                    clear_rows(net, layer.deltas, layer.n_panels, rows)
                clear_rows(net, layer.outputs, layer.n_panels, rows)

    return tidy


class DerivativeBuffers:
    """The record of a session's derivatives, and what it points to.

    Parameters
    ----------
    link : how predictions depend on raw outputs, and the block for it
    n_threads : that have a buffer of a block of rows each

    Attributes
    ----------
    fields : of the record, by their names
    """

    def __init__(
        self,
        network: Network,
        panel_rows: int,
        n_threads: int,
        link: tuple[int, int],
    ) -> None:
        """All buffers are made here, a thread's apart from the next thread's; `take`
        and `at` point the record to rows later.
        """
        sizes = network.layout.sizes
        dtype = network.dtype
        self._lanes = lanes_of(dtype.type)
        self._dtype = dtype
        given = network.derivatives == "gradient"
        form, block = (records.LINKLESS, 0) if given else link
        n_panels = sum(-(-n // self._lanes) for n in sizes[1:-1])
        shape = (sizes[-1], sizes[0], n_panels, self._lanes, dtype.itemsize)
        n_bytes = block_bytes(*shape, linked=form != records.LINKLESS)
        self._apart = round_up(n_bytes, ALIGNMENT) + APART_BYTES
        self._buffers = aligned(n_threads * self._apart, np.uint8)
        self._squares = aligned(panel_rows // STRIP_ROWS, np.float64)
        self._limit = np.array([np.inf], dtype)
        self.record = aligned(1, Derivatives.dtype)
        self.fields = fields_of(self.record)
        fields = {
            "given": given,
            "limit": address(self._limit),
            "squares": address(self._squares),
            "buffers": address(self._buffers),
            "buffer_bytes": self._apart,
            "n_panels": n_panels,
            "link": form,
            "link_block": block,
        }
        for name, value in fields.items():
            self.fields[name] = value

    @property
    def n_bytes(self) -> int:
        return self._buffers.nbytes + self._squares.nbytes

    def take(self, derivatives: Any) -> None:
        """Take the derivatives of other rows, and their weights."""
        weights = derivatives.weights
        fields = self.fields
        if weights.size:
            n_out, n_in = weights.shape
            shape = (n_out, round_up(n_in, self._lanes))
            self._weights = aligned(shape[0] * shape[1], self._dtype).reshape(shape)
            self._weights[:, :n_in] = weights
            fields["weights"] = address(self._weights)
        self._known = derivatives.known
        fields["known"] = address(self._known) if self._known.size else 0
        fields["epoch_squares"] = fields["epoch_known"] = 0.0

    def weigh(self, data: Any, mass: float) -> None:
        """Weigh derivatives by their mass in all rows of some data,
        for sums over these.
        """
        known = data.derivatives.known
        self._total = float((known if data.rows is None else known[data.rows]).sum())
        self.fields["scale"] = mass / self._total if self._total else 0.0

    def begin(self) -> None:
        self.fields["epoch_squares"] = 0.0

    @property
    def mean_square(self) -> float:
        """Mean square of the known residuals since `begin`; NaN without one."""
        if not self._total:
            return float("nan")
        return float(self.fields["epoch_squares"] / self._total)

    def at(self, values: Any, first: int) -> None:
        """Point to the derivatives of rows from `first` on."""
        self.fields["values"] = address(values, first * values[0].size)
        if self._known.size:
            self.fields["known"] = address(self._known, first)


def derivative_pass(scalar: Scalar) -> Kernel:
    """Phase one with derivatives by the inputs,
    by rows; in the place of `forward_backward`.
    """
    gather = layer_kernels(scalar).gather
    forward = _forward(scalar)
    (derive, tangents), residuals = _jacobian(scalar), _residuals(scalar)
    through_link, back_through_link = _links(scalar)
    finish = output_layer(scalar)
    backward = _backward(scalar)
    tidy = _tidying(scalar)

    @njit
    def take_rows(net: Net, start: int, place: PlacedRows, mode: int) -> None:
        own = derivatives_of(net)
        gather(net, net.inputs, (start, place.n), place.at, (0, net.n_in))
        forward(net, place)
        finish(net, (start, place.n), place.at, EVALUATE, place.thread)
        for k in range(net.n_out):
            derive(net, k, place)
        linked = own.link != records.LINKLESS
        if linked:
            through_link(net, place)
        residuals(net, start, place, net.n_out if linked else 0)
        if mode != TRAIN:
            return
        if linked:
            back_through_link(net, place)
        for k in range(net.n_out):
            tangents(net, k, place)
        backward(net, start, place)

    @njit(parallel=True)
    def differentiate(team: int, nets: Sequence[Net], n_parts: int, mode: int) -> None:
        for part in prange(n_parts):
            net = nets[0]
            thread = thread_number()
            own = derivatives_of(net)
            n_rows = batch_of(net).n_rows
            low, stop = rows_of_part(net, part, n_parts)
            whole = (n_rows + STRIP_ROWS - 1) // STRIP_ROWS * STRIP_ROWS
            buffer = own.buffers + thread * own.buffer_bytes
            for start in range(low, stop, DERIVATIVE_ROWS):
                n = min(DERIVATIVE_ROWS, stop - start)
                place = PlacedRows(start, n, whole, thread, buffer)
                take_rows(net, start, place, mode)
                if start + n == n_rows and n_rows < whole:
                    tidy(net, place)

    @hinted(control=True)
    def enter(team: int, net: int, n_parts: int, mode: int, split: int) -> None:
        differentiate(team, records_at(net, 1, Net), n_parts, mode)

    return enter
