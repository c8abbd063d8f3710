"""Loss, gradient and Jacobian of rows as functions of the parameters;
plan and buffers made once.

Rows of the Jacobian are multiplied by roots of the loss's curvature. A block of rows
passes through the net in lanes, as in predict/row_blocks.py; values and slopes of all
layers are kept. For each output q the deltas begin with row q of the root; a weight's
column is then its input times its delta. Columns go through a buffer to panels of
parameters.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from fastmlp.backends.cpu.dispatch import Runner
from fastmlp.backends.cpu.kernels import epoch, part_of, rule_blocks, step
from fastmlp.backends.cpu.kernels.elementwise import settings_reader
from fastmlp.backends.cpu.plan.partition import Partition
from fastmlp.backends.cpu.plan.plan import Addresses
from fastmlp.backends.cpu.plan.records import address
from fastmlp.backends.cpu.predict import row_blocks
from fastmlp.backends.cpu.predict.jacobian import DeltaBlocks, add_skip
from fastmlp.backends.cpu.predict.row_blocks import (
    FlatLayer,
    FlatNet,
    Scalar,
    n_vectors,
    products,
)
from fastmlp.backends.cpu.session import Session
from fastmlp.backends.cpu.simd.flat_weights import batch_in_lanes
from fastmlp.backends.cpu.tuning import SUMMED_ROWS
from fastmlp.backends.protocol import Data
from fastmlp.compiler import block_of, call, njit, prange, thread_number
from fastmlp.compiler.memory import Record, record_at, records_at, row, rows
from fastmlp.compiler.target import lanes_of
from fastmlp.network.spec import skip_weights
from fastmlp.rules.losses import unsmoothed
from fastmlp.validation import Array


class Evaluation:
    """The weighted mean loss over rows, without penalties,
    and their predictions if asked for.
    """

    def __init__(self, runner: Runner, data: Data) -> None:
        loss = unsmoothed(runner.network.loss)
        network = runner.network._replace(loss=loss, compute_dtype=None)
        if data.derivatives is None:
            network = network._replace(derivatives=None)
        blocks = Addresses(
            *rule_blocks.trained_activations(network),
            loss=rule_blocks.loss(network, data.y.shape[1]),
            link=rule_blocks.link(network),
            n_heads=len(network.heads),
        )
        self._runner = runner
        self._mass = data.mass
        options: Any = {"train": network.passes > 1, "n_threads": runner.n_threads}
        self._heads = np.zeros(len(network.heads))
        self._session = Session(network, blocks, data, **options)
        if self._session.derivatives:
            self._session.derivatives.weigh(data, self._mass)
        self._work = runner.work(self._session.rows, forward=2 * network.passes)

    def __call__(self, parameters: Array, out: Array | None = None) -> float:
        session, total = self._session, 0.0
        self._heads[:] = 0
        session.job["head_losses"] = address(self._heads)
        self._runner.load(session, parameters)
        if session.derivatives:
            session.derivatives.begin()
        for chunk in session.chunks():
            session.at(chunk)
            if out is not None:
                session.batch["out"] = address(out, chunk.start * out.shape[1])
            total += self._runner.run(epoch.evaluate, session, self._work)["loss"]
        return float(total / self._mass)

    @property
    def head_losses(self) -> Array:
        """The mean loss of each head, of the last call, shape (n_heads,)."""
        return self._heads / self._mass

    @property
    def derivative_loss(self) -> float:
        """The mean square of the last call's residuals of derivatives."""
        derivatives = self._session.derivatives
        return derivatives.mean_square if derivatives else float("nan")


class Objective:
    """The objective on all rows of some data, penalties included, and its gradient.

    Attributes
    ----------
    packed : the packed gradient
    skips : True if the output layer takes the inputs too

    Parameters
    ----------
    summed : True: losses are summed, and the objective may be differentiated by the inputs
    room : the most rows of `take`, optional; each number of rows has the bits of a new objective
    """

    def __init__(
        self,
        runner: Runner,
        data: Data,
        *,
        summed: bool = False,
        room: int | None = None,
    ) -> None:
        network = runner.network._replace(compute_dtype=None)
        blocks = Addresses(
            *rule_blocks.trained_activations(network),
            loss=rule_blocks.loss(network, data.y.shape[1]),
            penalties=rule_blocks.penalties(network),
            n_heads=len(network.heads),
        )
        self._runner = runner
        self._summed = summed
        self._roomy = room is not None
        # The deltas of microbatches are not kept.
        most = room or data.n_rows
        rows = min(most, SUMMED_ROWS) if summed else None
        options: Any = {
            "train": True,
            "roomy": self._roomy,
            "n_threads": runner.n_threads,
        }
        session = Session(network, blocks, data, most, rows=rows, **options)
        self.session, self.packed = session, session.keep_gradient()
        self.skips = network.layout.takes_inputs
        # Norms and skips are not needed: the first layer's weights alone are read.
        layout = network.layout._replace(norms=(), skips=(), takes_inputs=False)
        self.network = network.without_link()._replace(layout=layout)
        self._back: DeltaBlocks | None = None
        self.take(data)

    def take(self, data: Data) -> None:
        """Take other dense rows, as many as before, or at most `room`."""
        session, n_rows = self.session, data.n_rows
        session.take(data)
        self._mass = 1.0 if self._summed else data.mass
        if session.derivatives:
            session.derivatives.weigh(data, self._mass)
        if self._roomy:
            passes = self.network.passes
            rows = min(n_rows, SUMMED_ROWS)
            summed = Partition(rows, passes=passes) if self._summed else None
            session.divide(summed or self._runner.partition(n_rows))
        small = session.partition.microbatch_rows > 0
        self._work = self._runner.work(
            session.rows, forward=4, tiles=2, by_microbatches=small
        )

    @property
    def n_bytes(self) -> int:
        return self.session.n_bytes

    def __call__(
        self,
        parameters: Array,
        inputs: Array | None = None,
        *,
        by_parameters: bool = True,
    ) -> tuple[float, Array]:
        """Return the objective and its flat gradient; write the gradient by the inputs
        to `inputs`. Without `by_parameters` the flat gradient has no meaning.
        """
        session, total = self.session, 0.0
        session.job["deltas_alone"] = not by_parameters
        self._runner.load(session, parameters)
        if session.derivatives:
            session.derivatives.begin()
        for chunk in session.chunks():
            session.at(chunk)
            where = {"more": chunk.start > 0, "ends": chunk.stop == session.data.n_rows}
            job = self._runner.run(
                step.objective, session, self._work, mass=self._mass, **where
            )
            total += job["loss"]
            if inputs is not None:
                deltas = np.ascontiguousarray(session.first_deltas(chunk))
                self._back = self._back or DeltaBlocks(self._runner, self.network)
                self._back(parameters, deltas, inputs[chunk])
                if self.skips:
                    self._add_skip(parameters, chunk, inputs)
        gradient = np.empty_like(parameters)
        if by_parameters:
            session.unpack(self.packed, gradient)
        return float(total), gradient

    def _add_skip(self, parameters: Array, chunk: slice, inputs: Array) -> None:
        """The part of the gradient by the inputs that passes by the hidden layers."""
        add = block_of(add_skip, parameters.dtype)
        n_in = inputs.shape[1]
        deltas = np.ascontiguousarray(self.session.output_deltas(chunk))
        n_out = deltas.shape[1]
        n_rows = len(deltas)
        weights = address(parameters, skip_weights(self.network.layout))
        to = address(inputs, chunk.start * n_in)
        add(weights, n_in, n_out, address(deltas), to, n_rows)

    @property
    def derivative_loss(self) -> float:
        """The mean square of the last call's residuals of derivatives;
        NaN without them.
        """
        derivatives = self.session.derivatives
        return derivatives.mean_square if derivatives else float("nan")


class JacobianRows(Record):
    """The rows of a net whose Jacobian is wanted, and each thread's buffers.

    A buffer holds units, one after the other: values and slopes of the layers,
    deltas, targets, roots, and columns of the Jacobian.
    """

    net: int  # address of its FlatNet record, whose x are all rows
    y: int  # address of the targets, shape (n_rows, n_targets)
    n_targets: int
    scale: (
        int  # address of the roots of the rows' weights over their sum, shape (n_rows,)
    )
    curvature: int  # address of the block of `curvature_loop`,
    settings: int  # and of the loss's constants, or 0
    # address of the first columns of the layers' weights, and then of their biases;
    places: int
    # -1: frozen
    first: int  # the rows of the block: first,
    last: int  # and the one after the last
    buffers: int  # address of the first thread's
    buffer_bytes: int  # from one thread's to the next thread's
    values: int  # bytes from a buffer to the values of the inputs and of the layers,
    slopes: int  # to the layers' slopes,
    deltas: int  # to two blocks of deltas,
    width: int  # of so many units each,
    targets: int  # to the targets,
    roots: int  # to the roots,
    columns: int  # to the columns,
    curvatures: int  # and with derivatives to the layers' curvatures,
    sums: int  # to the layers' tangents before the activation,
    tangents: int  # to those of the inputs and after the activations,
    seconds: int  # and to two blocks of second-order deltas
    curves: int  # address of the blocks of `curvature_loop` of elementwise.py, by layer
    unbiased: int  # address of a FlatNet record whose biases are 0
    factors: int  # address of the derivatives' factors, shape (n_rows, n_out * n_in)
    n_sets: int  # rows of the Jacobian for each row of X: outputs, and derivatives
    panels: int  # address of the Jacobian's panels
    panel: int  # bytes from a panel to the next
    n_panels: int


def curvature_loop(
    scalar: Scalar,
    rule: Callable[..., Any],
    by_row: bool,
    mean: bool,
    n_constants: int = 0,
    weighted: bool = False,
) -> Callable[..., None]:
    """The roots of the curvatures of n_rows rows, in columns;
    with `weighted` of targets with factors beside them.
    """
    size = np.dtype(scalar).itemsize
    read = settings_reader(scalar, n_constants)

    def by_number(
        output: Any,
        target: Any,
        value: Any,
        root: Any,
        settings: Any,
        n_rows: Any,
        width: Any,
        n_targets: Any,
    ) -> None:
        constants = read(settings, width)
        share = scalar(1.0 / width if mean else 1.0)
        roots = row(root, width * width * n_rows, scalar)
        for i in range(width * width * n_rows):
            roots[i] = scalar(0)
        for j in range(width):
            skip = j * n_rows * size
            p = row(output + skip, n_rows, scalar)
            y = row(target + skip, n_rows, scalar)
            roots = row(root + j * width * n_rows * size + skip, n_rows, scalar)
            for r in range(n_rows):
                roots[r] = np.sqrt(rule(p[r], y[r], *constants) * share)
            if weighted:
                factors = row(target + (width + j) * n_rows * size, n_rows, scalar)
                for r in range(n_rows):
                    known = roots[r] * np.sqrt(factors[r])
                    roots[r] = known if factors[r] > scalar(0) else scalar(0)

    def by_rows(
        output: Any,
        target: Any,
        value: Any,
        root: Any,
        settings: Any,
        n_rows: Any,
        width: Any,
        n_targets: Any,
    ) -> None:
        rule(
            rows(output, width, n_rows, scalar).T,
            rows(target, n_targets, n_rows, scalar).T,
            rows(value, width, n_rows, scalar).T,
            rows(root, width * width, n_rows, scalar).T,
        )

    return by_rows if by_row else by_number


def _gather(scalar: Scalar) -> Callable[..., None]:
    """Copies inputs and targets of a block of rows to lanes."""
    lanes = lanes_of(scalar)
    size = np.dtype(scalar).itemsize
    vector = lanes * size
    n_lanes = row_blocks.VECTORS * lanes
    unit = row_blocks.VECTORS * vector
    into_lanes = batch_in_lanes(scalar).into_lanes

    @njit
    def gather(
        of: JacobianRows, net: FlatNet, start: int, buffer: int, checks: int
    ) -> None:
        """Copy inputs and targets of a block of rows to lanes;
        the last row again past it.
        """
        last = of.last - 1
        n_targets = of.n_targets
        for v in range(row_blocks.VECTORS):
            place = buffer + of.values + v * vector
            at = start + v * lanes
            into_lanes(net.x, net.n_in, at, last, place, unit, checks)
        targets = row(buffer + of.targets, n_targets * n_lanes, scalar)
        for r in range(n_lanes):
            y = row(of.y + min(start + r, last) * n_targets * size, n_targets, scalar)
            for j in range(n_targets):
                targets[j * n_lanes + r] = y[j]

    return gather


def _backward(scalar: Scalar) -> tuple[Callable[..., Any], ...]:
    """Functions that begin an output's deltas, and write a layer's columns by them."""
    n_lanes = row_blocks.VECTORS * lanes_of(scalar)
    unit = n_lanes * np.dtype(scalar).itemsize

    @njit
    def take_slopes(layer: FlatLayer, deltas: int, values: int, slopes: int) -> None:
        n = layer.n_out * n_lanes
        delta = row(deltas, n, scalar)
        value = row(values, n, scalar)
        slope = row(slopes, n, scalar)
        if layer.relu:
            for i in range(n):
                if value[i] > scalar(0):
                    delta[i] = delta[i]
                else:
                    delta[i] = scalar(0)
        elif layer.activation:
            for i in range(n):
                delta[i] *= slope[i]

    @njit
    def first_deltas(
        of: JacobianRows, net: FlatNet, start: int, root: int, deltas: int
    ) -> None:
        """Write the root's row of an output,
        times the rows' scale, to the first deltas.
        """
        for j in range(net.n_out):
            delta = row(deltas + j * unit, n_lanes, scalar)
            numbers = row(root + j * unit, n_lanes, scalar)
            for r in range(n_lanes):
                delta[r] = (
                    numbers[r]
                    * row(of.scale, of.last, scalar)[min(start + r, of.last - 1)]
                )

    @njit
    def write_columns(layer: FlatLayer, inputs: int, deltas: int, place: int) -> None:
        """Columns of a layer's weights: inputs times deltas."""
        for k in range(layer.n_in):
            value = row(inputs + k * unit, n_lanes, scalar)
            for j in range(layer.n_out):
                delta = row(deltas + j * unit, n_lanes, scalar)
                column = row(place, n_lanes, scalar)
                for r in range(n_lanes):
                    column[r] = value[r] * delta[r]
                place += unit

    return take_slopes, first_deltas, write_columns


def _copy(scalar: Scalar) -> Callable[..., None]:
    @njit
    def copy(source: int, target: int, n: int) -> None:
        numbers = row(source, n, scalar)
        copies = row(target, n, scalar)
        for i in range(n):
            copies[i] = numbers[i]

    return copy


def _tangents(scalar: Scalar) -> Callable[..., None]:
    """Takes the direction of an input through the layers of a block of rows."""
    n_lanes = row_blocks.VECTORS * lanes_of(scalar)
    unit = n_lanes * np.dtype(scalar).itemsize
    forward = products(scalar, row_blocks.VECTORS)

    @njit
    def tangents(of: JacobianRows, net: FlatNet, f: int, buffer: int) -> None:
        """Each layer's product has no biases: a direction is not shifted. Sums and
        tangents of all layers are kept, one layer after the other, for the second-order
        deltas.
        """
        layers = records_at(net.layers, net.n_layers, FlatLayer)
        unbiased = record_at(of.unbiased, FlatNet)
        bare = records_at(unbiased.layers, net.n_layers, FlatLayer)
        t = buffer + of.tangents
        s = buffer + of.sums
        slopes = buffer + of.slopes
        direction = row(t, net.n_in * n_lanes, scalar)
        for i in range(net.n_in * n_lanes):
            direction[i] = scalar(0)
        for r in range(n_lanes):
            direction[f * n_lanes + r] = scalar(1)
        for i in range(net.n_layers):
            layer = layers[i]
            n = layer.n_out * n_lanes
            forward(unbiased, bare[i], t, s)
            t += layer.n_in * unit
            sums, after = row(s, n, scalar), row(t, n, scalar)
            slope = row(slopes, n, scalar)
            for j in range(n):
                if layer.activation:
                    after[j] = sums[j] * slope[j]
                else:
                    after[j] = sums[j]
            s = s + layer.n_out * unit
            slopes = slopes + layer.n_out * unit

    return tangents


def _second_deltas(scalar: Scalar) -> tuple[Callable[..., Any], ...]:
    """Functions of deltas v of an output and d of its derivative by an input: one
    begins both, one turns those by a layer's values into those by its sums, one writes
    weights' columns.
    """
    n_lanes = row_blocks.VECTORS * lanes_of(scalar)
    unit = n_lanes * np.dtype(scalar).itemsize

    @njit
    def begin(of: JacobianRows, net: FlatNet, entry: Any, start: int, v: int) -> None:
        """v: the factors of an entry (output, input) for its output; d: zeros."""
        (k, f), n_entries, n = entry, net.n_out * net.n_in, net.n_out * n_lanes
        first = row(v, n, scalar)
        second = row(v - of.deltas + of.seconds, n, scalar)
        for i in range(n):
            first[i] = second[i] = scalar(0)
        factors = row(of.factors, of.last * n_entries, scalar)
        for r in range(n_lanes):
            at = min(start + r, of.last - 1) * n_entries
            first[k * n_lanes + r] = factors[at + k * net.n_in + f]

    @njit
    def bend(layer: FlatLayer, places: Any) -> None:
        v, d, slopes, curvatures, sums = places
        n = layer.n_out * n_lanes if layer.activation else 0
        first, second = row(v, n, scalar), row(d, n, scalar)
        slope = row(slopes, n, scalar)
        curvature = row(curvatures, n, scalar)
        s = row(sums, n, scalar)
        for i in range(n):
            second[i] = second[i] * slope[i] + first[i] * s[i] * curvature[i]
            first[i] *= slope[i]

    @njit
    def write_columns(layer: FlatLayer, places: Any, to: int) -> None:
        """Columns of a layer's weights: t v + a d, with values a and tangents t."""
        a, t, v, d = places
        for k in range(layer.n_in):
            value = row(a + k * unit, n_lanes, scalar)
            tangent = row(t + k * unit, n_lanes, scalar)
            for j in range(layer.n_out):
                first = row(v + j * unit, n_lanes, scalar)
                second = row(d + j * unit, n_lanes, scalar)
                column = row(to, n_lanes, scalar)
                for r in range(n_lanes):
                    column[r] = tangent[r] * first[r] + value[r] * second[r]
                to += unit

    return begin, bend, write_columns


def _second_columns(scalar: Scalar) -> Callable[..., None]:
    """Writes the columns of an entry of the Jacobian, after the input's tangents."""
    n_lanes = row_blocks.VECTORS * lanes_of(scalar)
    unit = n_lanes * np.dtype(scalar).itemsize
    backward = products(scalar, row_blocks.VECTORS, backward=True)
    copy = _copy(scalar)
    (begin, bend, write_columns) = _second_deltas(scalar)

    @njit
    def second_columns(
        of: JacobianRows, net: FlatNet, entry: Any, start: int, buffer: int
    ) -> None:
        layers = records_at(net.layers, net.n_layers, FlatLayer)
        places = row(of.places, 2 * net.n_layers, np.int64)
        columns = buffer + of.columns
        width = of.width * unit
        v, d = buffer + of.deltas, buffer + of.seconds
        other_v, other_d = v + width, d + width
        begin(of, net, entry, start, v)
        # Bytes of the inputs and the layers below, of values and of tangents.
        above = 0
        for i in range(net.n_layers):
            above += layers[i].n_out * unit
        for i in range(net.n_layers - 1, -1, -1):
            layer = layers[i]
            above -= layer.n_out * unit
            below = above + (net.n_in - layer.n_in) * unit
            slopes = buffer + of.slopes
            curvatures = buffer + of.curvatures
            sums = buffer + of.sums + above
            bend(layer, (v, d, slopes + above, curvatures + above, sums))
            if places[i] >= 0:
                a = buffer + of.values + below
                t = buffer + of.tangents + below
                write_columns(layer, (a, t, v, d), columns + places[i] * unit)
            if places[net.n_layers + i] >= 0:
                place = columns + places[net.n_layers + i] * unit
                copy(d, place, layer.n_out * n_lanes)
            if i > 0:
                backward(net, layer, v, other_v)
                backward(net, layer, d, other_d)
                v, other_v = other_v, v
                d, other_d = other_d, d

    return second_columns


def jacobian_rows(scalar: Scalar, *, derived: bool) -> Callable[..., None]:
    """Writes a block of rows of the Jacobian, on a team or alone;
    with `derived`, rows of the derivatives by the inputs follow.
    """
    lanes = lanes_of(scalar)
    size = np.dtype(scalar).itemsize
    vector = lanes * size
    n_lanes = row_blocks.VECTORS * lanes
    unit = row_blocks.VECTORS * vector
    backward = products(scalar, row_blocks.VECTORS, backward=True)
    out_of_lanes = batch_in_lanes(scalar).out_of_lanes
    kept: Any = {"keeps": row_blocks.VALUES, "curved": derived}
    gather = _gather(scalar)
    forward = row_blocks.lane_pass(scalar, row_blocks.VECTORS, **kept)
    tangents = _tangents(scalar)
    second_columns = _second_columns(scalar)
    take_slopes, first_deltas, write_columns = _backward(scalar)
    copy = _copy(scalar)

    @njit
    def write_panels(
        of: JacobianRows, at: int, last: int, columns: int, checks: int
    ) -> None:
        """Write a block of columns to rows of the panels,
        from row `at`, but for rows past `last`.
        """
        for p in range(of.n_panels):
            for v in range(row_blocks.VECTORS):
                place = columns + p * lanes * unit + v * vector
                first = at + v * lanes
                target = of.panels + p * of.panel + first * vector
                out_of_lanes(
                    place, lanes, last - first + 1, target, vector, unit, checks
                )

    @njit
    def derive(of: JacobianRows, start: int, thread: int) -> None:
        """The rows of a block of `n_lanes` rows, of all outputs."""
        net = record_at(of.net, FlatNet)
        layers = records_at(net.layers, net.n_layers, FlatLayer)
        places = row(of.places, 2 * net.n_layers, np.int64)
        buffer = of.buffers + thread * of.buffer_bytes
        checks = net.checks + thread * net.check_bytes
        columns = buffer + of.columns
        n = of.last - of.first
        gather(of, net, start, buffer, checks)
        parts = (buffer + of.values, buffer + of.deltas, buffer + of.slopes)
        apart = of.curvatures - of.slopes
        outputs, _ = forward(net, *parts, of.curves, apart)
        value, roots = buffer + of.deltas, buffer + of.roots
        targets = buffer + of.targets
        shape = n_lanes, net.n_out, of.n_targets
        call(of.curvature, (outputs, targets, value, roots, of.settings, *shape))
        for q in range(net.n_out):
            deltas = buffer + of.deltas
            other = buffer + of.deltas + of.width * unit
            first_deltas(of, net, start, roots + q * net.n_out * unit, deltas)
            values = outputs
            slopes = (
                buffer + of.slopes + (outputs - buffer - of.values) - net.n_in * unit
            )
            for i in range(net.n_layers - 1, -1, -1):
                layer = layers[i]
                take_slopes(layer, deltas, values, slopes)
                values -= layer.n_in * unit
                slopes -= layer.n_in * unit
                if places[i] >= 0:
                    write_columns(layer, values, deltas, columns + places[i] * unit)
                if places[net.n_layers + i] >= 0:
                    place = columns + places[net.n_layers + i] * unit
                    copy(deltas, place, layer.n_out * n_lanes)
                if i > 0:
                    backward(net, layer, deltas, other)
                    deltas, other = other, deltas
            write_panels(of, q * n + start - of.first, q * n + n - 1, columns, checks)
        if derived:
            for f in range(net.n_in):
                tangents(of, net, f, buffer)
                for k in range(net.n_out):
                    second_columns(of, net, (k, f), start, buffer)
                    q = net.n_out + k * net.n_in + f
                    at = q * n + start - of.first
                    last = q * n + n - 1
                    write_panels(of, at, last, columns, checks)

    @njit(parallel=True)
    def write_rows(team: int, of: Sequence[JacobianRows], n_parts: int) -> None:
        """Each part takes a range of blocks of lanes."""
        n = n_vectors(of[0].last - of[0].first, n_lanes)
        for index in prange(n_parts):
            own = of[0]
            first, last = part_of(index, n_parts, n)
            for i in range(first, last):
                derive(own, own.first + i * n_lanes, thread_number())

    return write_rows
