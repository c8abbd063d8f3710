"""Layers finished by rows: a norm, another layer's values added,
inputs after outputs; and back.

A norm works on a row, so it runs when all panels of a block of rows are there. Forth it
keeps two numbers a row, the mean and one over the root of the variance; back it
computes the normed values again. The variance is of the distances from the mean, in a
separate pass, so that it keeps its digits for numbers far from 0.

With x the normed values, D the deltas after the norm, g the gains, and means over a
row's units, the deltas before it are root (D g - mean(D g) - x mean(D g x)). The
gradient of a gain is the sum of D x over rows; the gradient of a shift is the sum of D.
Both are summed by strips here, whatever the threads, and phase two adds the strips.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from fastmlp.backends.cpu.kernels import Kernel, Scalar, Span
from fastmlp.backends.cpu.plan import records
from fastmlp.backends.cpu.plan.records import Layer, Net, Norm, blocks_of, layers_of
from fastmlp.backends.cpu.plan.stages import SCALES
from fastmlp.backends.cpu.simd.pack import moves
from fastmlp.backends.cpu.simd.vector import (
    Condition,
    Panels,
    Vector,
    Vectors,
    Word,
)
from fastmlp.backends.cpu.simd.vector_function import Loops
from fastmlp.backends.cpu.tuning import ROW_BLOCK, STAGED_BYTES, STRIP_ROWS
from fastmlp.compiler import call, njit
from fastmlp.compiler.memory import record_at, row, stack
from fastmlp.compiler.target import lanes_of


class NormOfRows(NamedTuple):
    """A norm with the numbers of a block of rows.

    Attributes
    ----------
    gains, panel : address of the gains, and bytes from a panel to the next
    means, roots : addresses of a number a row
    scales : see `plan.stages.Numbers`
    """

    gains: Word
    panel: Word
    means: Word
    roots: Word
    scales: Word


def norms(scalar: Scalar, lanes: int) -> Loops:
    return Loops(globals(), scalar, lanes)


def row_means(
    v: Vectors, source: Panels, share: Word, means: Word, width: Word, n: Word
) -> None:
    """Store `share` times the sum of each of n rows."""
    for down, mask in _groups(v, n):
        totals = [v.variable(v.zero) for _ in range(v.lanes)]
        for p in v.range(v.n_vectors(width)):
            place = source.address + p * source.stride + down * v.bytes
            units = v.first(width - p * v.lanes)
            for r, total in enumerate(totals):
                number = v.load(place + r * v.bytes)
                total.value = total.value + v.select(units, number, v.zero)
        mean = v.sums([total.value for total in totals]) * v.broadcast(share)
        v.store_masked(mean, means + down * v.size, mask)


def row_variances(
    v: Vectors,
    source: Panels,
    share: Word,
    means: Word,
    variances: Word,
    width: Word,
    n: Word,
) -> None:
    """Store `share` times the sum of each row's squared distances from its mean."""
    for down, mask in _groups(v, n):
        totals = [v.variable(v.zero) for _ in range(v.lanes)]
        for p in v.range(v.n_vectors(width)):
            place = source.address + p * source.stride + down * v.bytes
            units = v.first(width - p * v.lanes)
            for r, total in enumerate(totals):
                mean = v.broadcast(means + (down + r) * v.size)
                distance = v.load(place + r * v.bytes) - mean
                distance = v.select(units, distance, v.zero)
                total.value = v.fma(distance, distance, total.value)
        variance = v.sums([total.value for total in totals]) * v.broadcast(share)
        v.store_masked(variance, variances + down * v.size, mask)


def _groups(v: Vectors, n: Word) -> Iterator[tuple[Word, Condition]]:
    """Yield the first row of each vector of rows, and the mask of those below n."""
    for i in v.range(v.n_vectors(n)):
        down = i * v.lanes
        yield down, v.first(n - down)


def normalise(
    v: Vectors,
    source: Word,
    target: Word,
    rows: Word,
    roots: Word,
    gains: Word,
    shifts: Word,
    n: Word,
) -> None:
    """Store gain x + shift for n rows of a panel; `rows` are their means."""
    for down, value in _normalised(v, source, rows, roots, gains, shifts, n):
        v.store(value, target + down)


def normalise_relu(
    v: Vectors,
    source: Word,
    target: Word,
    rows: Word,
    roots: Word,
    gains: Word,
    shifts: Word,
    n: Word,
) -> None:
    """The positive parts of what `normalise` stores."""
    for down, value in _normalised(v, source, rows, roots, gains, shifts, n):
        v.store(v.positive_part(value), target + down)


def _normalised(
    v: Vectors,
    source: Word,
    means: Word,
    roots: Word,
    gains: Word,
    shifts: Word,
    n: Word,
) -> Iterator[tuple[Word, Vector]]:
    """Yield gain x + shift of each row, with the bytes before the row."""
    gain, shift = v.load(gains), v.load(shifts)
    for r, n_rows in _rows(v, n):
        for k in range(n_rows):
            number = _normed(v, source, means, roots, r + k)
            yield (r + k) * v.bytes, v.fma(number, gain, shift)


def _rows(v: Vectors, n: Word) -> Iterator[tuple[Word, int]]:
    """Yield the first row of each strip, and of each row that is left."""
    whole = n // STRIP_ROWS
    for first, count, rows in (
        (0, whole, STRIP_ROWS),
        (whole * STRIP_ROWS, n % STRIP_ROWS, 1),
    ):
        for i in v.range(count):
            yield i * rows + first, rows


def _normed(v: Vectors, source: Word, means: Word, roots: Word, r: Word) -> Vector:
    mean = v.broadcast(means + r * v.size)
    root = v.broadcast(roots + r * v.size)
    return (v.load(source + r * v.bytes) - mean) * root


def delta_means(
    v: Vectors,
    deltas: Panels,
    source: Panels,
    norm: NormOfRows,
    sums: Word,
    width: Word,
    n: Word,
) -> None:
    """Store the means of D g and of D g x, for half a vector of rows at a time: first
    all means of D g, then the others.
    """
    half = v.lanes // 2
    for i in v.range((n + (half - 1)) // half):
        down = i * half
        first = [v.variable(v.zero) for _ in range(half)]
        second = [v.variable(v.zero) for _ in range(half)]
        for p in v.range(v.n_vectors(width)):
            units = v.first(width - p * v.lanes)
            gain = v.load(norm.gains + p * norm.panel)
            skip = down * v.bytes
            place = deltas.address + p * deltas.stride + skip
            of_source = source.address + p * source.stride
            for r, (total, product) in enumerate(zip(first, second, strict=True)):
                delta = v.select(units, v.load(place + r * v.bytes) * gain, v.zero)
                number = _normed(v, of_source, norm.means, norm.roots, down + r)
                number = v.select(units, number, v.zero)
                total.value = total.value + delta
                product.value = v.fma(delta, number, product.value)
        both = v.sums([total.value for total in (*first, *second)])
        v.store(both * v.load(norm.scales), sums + i * v.bytes)


class StripSums(NamedTuple):
    """Where a panel's sums of strips begin: of D x, and of D."""

    by_gain: Word
    by_shift: Word


def normed_deltas(
    v: Vectors,
    deltas: Word,
    source: Word,
    norm: NormOfRows,
    means: Word,
    sums: StripSums,
    units: Word,
    n: Word,
) -> None:
    """Replace n rows of a panel's deltas by those before the norm;
    store the sums of D x and of D of each strip. `means` are those of `delta_means`.
    """
    gain = v.load(norm.gains)
    mask = v.first(units)
    by_gain, by_shift = [v.variable(v.zero) for _ in range(2)]
    half = v.lanes // 2

    def replace(first: Word, r: Word) -> None:
        """Replace the deltas of row r after the first row of a strip."""
        row = first + r
        place = deltas + row * v.bytes
        delta = v.select(mask, v.load(place), v.zero)
        number = _normed(v, source, norm.means, norm.roots, row)
        number = v.select(mask, number, v.zero)
        by_gain.value = v.fma(delta, number, by_gain.value)
        by_shift.value = by_shift.value + delta
        of_row = means + (2 * first + r // half * v.lanes + r % half) * v.size
        rest = delta * gain - v.broadcast(of_row)
        rest = rest - number * v.broadcast(of_row + half * v.size)
        root = v.broadcast(norm.roots + row * v.size)
        v.store(v.select(mask, rest * root, v.zero), place)

    for i in v.range((n + (STRIP_ROWS - 1)) // STRIP_ROWS):
        by_gain.value = by_shift.value = v.zero
        first = i * STRIP_ROWS
        left = n - first
        is_whole = left >= STRIP_ROWS
        for _ in v.range(v.choose(is_whole, 1, 0)):
            for k in range(STRIP_ROWS):
                replace(first, k)
        for r in v.range(v.choose(is_whole, 0, left)):
            replace(first, r)
        v.store(by_shift.value, sums.by_shift + i * v.bytes)
        v.store(by_gain.value, sums.by_gain + i * v.bytes)


def keep_positive(v: Vectors, values: Word, deltas: Word, n: Word) -> None:
    """Keep the n vectors of deltas where values are above 0; others become 0."""
    for i in v.range(n):
        place = deltas + i * v.bytes
        where = v.load(values + i * v.bytes) > v.zero
        v.store(v.select(where, v.load(place), v.zero), place)


def multiply(v: Vectors, factors: Word, deltas: Word, n: Word) -> None:
    for i in v.range(n):
        place = deltas + i * v.bytes
        v.store(v.load(place) * v.load(factors + i * v.bytes), place)


def _normalising(scalar: Scalar) -> tuple[Kernel, Kernel]:
    """Two functions: one finds the means and roots of a block of rows,
    the other writes a panel of normed values.
    """
    lanes = lanes_of(scalar)
    size = np.dtype(scalar).itemsize
    vector = lanes * size
    loops = norms(scalar, lanes)
    one = scalar(1)
    row_means = loops.row_means
    row_variances = loops.row_variances
    normalise = loops.normalise
    normalise_relu = loops.normalise_relu

    @njit
    def measure(net: Net, norm: Norm, source: int, width: int, rows: Span) -> None:
        (at, n), share = rows, norm.numbers
        means = norm.means + at * size
        place = norm.roots + at * size
        panels = Panels(source + at * vector, net.panel)
        if norm.centred:
            row_means(panels, share, means, width, n)
        else:
            no_means = row(means, n, scalar)
            for r in range(n):
                no_means[r] = scalar(0)
        row_variances(panels, share, means, place, width, n)
        roots = row(place, n, scalar)
        epsilon = row(norm.numbers + size, 1, scalar)[0]
        for r in range(n):
            roots[r] = one / np.sqrt(roots[r] + epsilon)

    @njit
    def write(
        net: Net, layer: Layer, norm: Norm, places: Span, p: int, rows: Span, relu: int
    ) -> None:
        """From the panel at one place to the panel at another."""
        (at, n), (source, target) = rows, places
        gains = norm.gains + p * layer.packed_panel
        shifts = gains + vector if norm.centred else net.zeros
        of_rows = (norm.means + at * size, norm.roots + at * size)
        if relu:
            normalise_relu(source, target, *of_rows, gains, shifts, n)
        else:
            normalise(source, target, *of_rows, gains, shifts, n)

    return measure, write


@njit
def rows_at_once(layer: Layer, lanes: int, vector: int) -> int:
    """Whole vectors of rows whose numbers stay in the first-level cache for all
    passes.
    """
    n = STAGED_BYTES // (layer.n_panels * vector)
    return max(n // lanes, 1) * lanes


def stages_forward(scalar: Scalar) -> Kernel:
    """The block that finishes n rows of layer i, from its sums to its outputs."""
    lanes = lanes_of(scalar)
    size = np.dtype(scalar).itemsize
    vector = lanes * size
    z_bytes = ROW_BLOCK * vector
    (measure, write) = _normalising(scalar)
    add = moves(scalar, lanes).add
    rectify = moves(scalar, lanes).rectify

    @njit
    def sum_up(net: Net, layer: Layer, i: int, rows: Span) -> None:
        """Dropout before a norm, and the values of another layer."""
        at, n = rows
        if layer.dropped and layer.norm:
            call(blocks_of(net).drop_alone, (net.address, i, layer.sums, at, n))
        for p in range(layer.n_panels if layer.added else 0):
            skip = p * net.panel + at * vector
            add(layer.added + skip, layer.sums + skip, n * lanes)

    @njit
    def activate(net: Net, layer: Layer, rows: Span, z: int) -> None:
        """The values, and slopes where the activation has a block,
        after a norm if any.
        """
        (at, n), form = rows, layer.inner_form
        is_relu = 1 if form == records.RELU or form == records.RELU_DROPPED else 0
        norm = record_at(layer.norm, Norm)
        for p in range(layer.n_panels):
            skip = p * net.panel + at * vector
            sums, values = layer.sums + skip, layer.values + skip
            if form == records.BLOCK:
                if layer.norm:
                    write(net, layer, norm, (sums, z), p, rows, 0)
                    sums = z
                slopes = layer.slopes + skip
                call(layer.activation, (sums, values, slopes, n * lanes))
            elif layer.norm:
                write(net, layer, norm, (sums, values), p, rows, is_relu)
            elif is_relu:
                rectify(values, n)

    @njit
    def append_inputs(net: Net, layer: Layer, rows: Span) -> None:
        """Copy the rows' inputs to the columns after the outputs."""
        (at, n), width = rows, layer.n_out
        down = at * vector
        count = (rows[1] - 1) * lanes + 1
        for k in range(net.n_in):
            to = width + k
            inputs = net.inputs + k // lanes * net.panel + k % lanes * size
            outputs = layer.outputs + to // lanes * net.panel + to % lanes * size
            source = row(inputs + down, count, scalar)
            target = row(outputs + down, count, scalar)
            for r in range(n):
                target[r * lanes] = source[r * lanes]

    @njit
    def finish(net: Net, layer: Layer, i: int, rows: Span, z: int) -> None:
        sum_up(net, layer, i, rows)
        if layer.norm:
            measure(net, record_at(layer.norm, Norm), layer.sums, layer.n_out, rows)
        activate(net, layer, rows, z)
        if layer.dropped and layer.norm == 0:
            group = (0, layer.n_panels)
            call(blocks_of(net).drop, (net.address, i, *group, *rows))
        if layer.end_norm:
            norm = record_at(layer.end_norm, Norm)
            measure(net, norm, layer.values, layer.n_out, rows)
            for p in range(layer.n_panels):
                skip = p * net.panel + rows[0] * vector
                places = (layer.values + skip, layer.outputs + skip)
                write(net, layer, norm, places, p, rows, 0)
        if layer.takes_inputs:
            append_inputs(net, layer, rows)

    def forward(address: int, i: int, at: int, n: int) -> None:
        z = stack(z_bytes)
        net = record_at(address, Net)
        layer = layers_of(net)[i]
        step = rows_at_once(layer, lanes, vector)
        for group in range((n + step - 1) // step):
            first = group * step
            finish(net, layer, i, (at + first, min(step, n - first)), z)

    return forward


def stages_backward(scalar: Scalar) -> Kernel:
    """The block that turns n rows' deltas of a layer's outputs into deltas of sums."""
    lanes = lanes_of(scalar)
    size = np.dtype(scalar).itemsize
    vector = lanes * size
    loops = norms(scalar, lanes)
    delta_means = loops.delta_means
    normed_deltas = loops.normed_deltas
    keep_positive = loops.keep_positive
    multiply = loops.multiply
    add = moves(scalar, lanes).add
    sums_bytes = (2 * ROW_BLOCK + lanes) * size

    @njit
    def through_norm(
        net: Net, layer: Layer, norm: Norm, source: int, rows: Span, sums: int
    ) -> None:
        (at, n), down = rows, rows[0] * vector
        of_rows = (norm.means + at * size, norm.roots + at * size)
        scales = norm.numbers + SCALES * size
        whole = NormOfRows(norm.gains, layer.packed_panel, *of_rows, scales)
        deltas = Panels(layer.deltas + down, net.panel)
        numbers = Panels(source + down, net.panel)
        delta_means(deltas, numbers, whole, sums, layer.n_out, n)
        for p in range(layer.n_panels):
            skip = p * net.panel + down
            strips = p * net.strip_panel + down // STRIP_ROWS
            gains = norm.gains + p * layer.packed_panel
            of_panel = NormOfRows(gains, 0, *of_rows, scales)
            # Without shifts, their sums are overwritten.
            by_gain = norm.gain_sums + strips
            by_shift = norm.shift_sums + strips if norm.centred else by_gain
            units = layer.n_out - p * lanes
            places = (layer.deltas + skip, source + skip)
            strip_sums = StripSums(by_gain, by_shift)
            normed_deltas(*places, of_panel, sums, strip_sums, units, n)

    @njit
    def clear_padding(net: Net, layer: Layer, rows: Span) -> None:
        """Deltas of the inputs that share the last panel: they belong to no unit."""
        (at, n), used = rows, layer.n_out % lanes
        panel = layer.deltas + (layer.n_panels - 1) * net.panel + at * vector
        for r in range(n if used > 0 else 0):
            deltas = row(panel + r * vector, lanes, scalar)
            for j in range(used, lanes):
                deltas[j] = scalar(0)

    @njit
    def go_back(net: Net, layer: Layer, i: int, rows: Span, sums: int) -> None:
        """The stages of `stages_forward` in reverse: the end norm, the skip's deltas,
        the slopes that a layer defers, the norm, and dropout before it.
        """
        at, n = rows
        if layer.takes_inputs:
            clear_padding(net, layer, rows)
        if layer.end_norm:
            norm = record_at(layer.end_norm, Norm)
            through_norm(net, layer, norm, layer.values, rows, sums)
        for p in range(layer.n_panels):
            skip = p * net.panel + at * vector
            if layer.skip_deltas:
                add(layer.skip_deltas + skip, layer.deltas + skip, n * lanes)
            if layer.defers and layer.inner_form == records.RELU:
                keep_positive(layer.values + skip, layer.deltas + skip, n)
            elif layer.defers:
                multiply(layer.slopes + skip, layer.deltas + skip, n)
        if layer.norm:
            norm = record_at(layer.norm, Norm)
            through_norm(net, layer, norm, layer.sums, rows, sums)
            if layer.dropped:
                drop = blocks_of(net).drop_alone
                call(drop, (net.address, i, layer.deltas, at, n))

    def backward(address: int, i: int, at: int, n: int) -> None:
        sums = stack(sums_bytes)
        net = record_at(address, Net)
        layer = layers_of(net)[i]
        step = rows_at_once(layer, lanes, vector)
        for group in range((n + step - 1) // step):
            first = group * step
            go_back(net, layer, i, (at + first, min(step, n - first)), sums)

    return backward
