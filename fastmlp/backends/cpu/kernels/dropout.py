"""Dropout of a layer's outputs, and noise and dropout of inputs,
on panels of a block of rows.

Random words are drawn for all rows of a panel in one loop, which LLVM vectorises: 0.13
ns a decision, and 0.09 to apply it. Dropped slopes are 0, so the backward pass needs no
mask.
"""

from typing import Any

import numpy as np

from fastmlp.backends.cpu.kernels import Kernel, Scalar
from fastmlp.backends.cpu.plan.records import RELU_DROPPED, Net, batch_of, layers_of
from fastmlp.backends.cpu.tuning import ROW_BLOCK
from fastmlp.compiler import fma, njit
from fastmlp.compiler.memory import record_at, row, stack
from fastmlp.compiler.target import lanes_of
from fastmlp.rules import dropout as rules
from fastmlp.rules import elementary

PIECE = np.uint64(16)


def _drawing(scalar: Scalar) -> tuple[Kernel, Kernel]:
    """Two functions: the keys of a block's draws, and the draw.

    Keys are: the position of the first row in its batch, the purpose with the high bits
    of the step, the low bits of the step, and the seed's key.
    """
    philox = rules.philox_of(njit)

    @njit
    def word(numbers: Any, j: int) -> Any:
        return np.uint64(numbers[j]) | (np.uint64(numbers[j + 1]) << PIECE)

    @njit
    def source_of(net: Net, at: int, purpose: int) -> Any:
        batch = batch_of(net)
        numbers = row(batch.coefficients + net.draws, rules.INPUTS, scalar)
        high = np.uint64(purpose) | (np.uint64(numbers[6]) << PIECE)
        first = np.uint64(batch.position + at)
        return first, high, word(numbers, 4), word(numbers, 0), word(numbers, 2)

    @njit
    def draw(source: Any, group: Any, r: int) -> Any:
        """The four words of a group of units in row r."""
        first, high, step, k0, k1 = source
        return philox(np.uint64(group), first + np.uint64(r), high, step, k0, k1)

    return source_of, draw


def _decisions(scalar: Scalar) -> tuple[Kernel, Kernel]:
    """Two functions: 16 bits for each of `width` units of n rows;
    the bits of a panel, `skip` units into the row.
    """
    lanes = lanes_of(scalar)
    (_, draw) = _drawing(scalar)
    width = max(lanes, rules.UNITS)
    n_words = width // 2

    @njit
    def put(words: Any, bits: Any, place: int) -> None:
        w0, w1, w2, w3 = words
        bits[place] = np.uint32(w0)
        bits[place + 1] = np.uint32(w1)
        bits[place + 2] = np.uint32(w2)
        bits[place + 3] = np.uint32(w3)

    @njit
    def decide(source: Any, unit: int, n: int, out: int) -> None:
        bits = row(out, n * n_words, np.uint32)
        group = unit // rules.UNITS
        for r in range(n):
            put(draw(source, group, r), bits, n_words * r)
            if width > rules.UNITS:
                put(draw(source, group + 1, r), bits, n_words * r + 4)

    @njit
    def place_of(i: int, skip: int) -> int:
        return i if lanes == width else i // lanes * width + skip + i % lanes

    return decide, place_of


def _dropping(scalar: Scalar) -> tuple[Kernel, Kernel, Kernel]:
    """Three functions that drop or scale n values of a panel.

    The first does the same to their slopes. The second writes the slopes of relu, which
    are known from the values. The third is for layers without slopes.
    """
    _, place_of = _decisions(scalar)
    zero = scalar(0)

    @njit
    def with_slopes(
        values: Any, slopes: Any, n: int, bits: Any, skip: int, rate: Any
    ) -> None:
        threshold, scale = rate
        for i in range(n):
            factor = scale if bits[place_of(i, skip)] >= threshold else zero
            values[i] = values[i] * factor
            slopes[i] = slopes[i] * factor

    @njit
    def with_slopes_of_relu(
        values: Any, slopes: Any, n: int, bits: Any, skip: int, rate: Any
    ) -> None:
        threshold, scale = rate
        for i in range(n):
            factor = scale if bits[place_of(i, skip)] >= threshold else zero
            slopes[i] = factor if values[i] > zero else zero
            values[i] = values[i] * factor

    @njit
    def without_slopes(values: Any, n: int, bits: Any, skip: int, rate: Any) -> None:
        threshold, scale = rate
        for i in range(n):
            factor = scale if bits[place_of(i, skip)] >= threshold else zero
            values[i] = values[i] * factor

    return with_slopes, with_slopes_of_relu, without_slopes


def dropout(scalar: Scalar) -> Kernel:
    """The block that drops values of layer i, and their slopes, for some panels."""
    lanes = lanes_of(scalar)
    size = np.dtype(scalar).itemsize
    width = max(lanes, rules.UNITS)
    source_of = _drawing(scalar)[0]
    (decide, _) = _decisions(scalar)
    with_slopes, with_slopes_of_relu, _ = _dropping(scalar)
    n_bytes = ROW_BLOCK * width * 2

    def drop(address: int, i: int, panel: int, n_panels: int, at: int, n: int) -> None:
        """Bits are drawn for `width` units at a time, so panels narrower than that
        share a draw; the draw depends on the unit and the row alone, not on the panels
        or threads.
        """
        net = record_at(address, Net)
        place = stack(n_bytes)
        layer = layers_of(net)[i]
        count = n * lanes
        numbers = row(
            batch_of(net).coefficients + net.draws, rules.HIDDEN + 2 * i + 2, scalar
        )
        rate = (
            np.uint16(numbers[rules.HIDDEN + 2 * i]),
            numbers[rules.HIDDEN + 2 * i + 1],
        )
        source = source_of(net, at, i * rules.PURPOSES + rules.OF_HIDDEN)
        bits = row(place, n * width, np.uint16)
        down = at * lanes * size
        for p in range(panel, min(panel + n_panels, layer.n_panels)):
            skip = p * lanes % width
            if p == panel or skip == 0:
                decide(source, p * lanes, n, place)
            values = row(layer.values + p * net.panel + down, count, scalar)
            slopes = row(layer.slopes + p * net.panel + down, count, scalar)
            if layer.inner_form == RELU_DROPPED:
                with_slopes_of_relu(values, slopes, count, bits, skip, rate)
            else:
                with_slopes(values, slopes, count, bits, skip, rate)

    return drop


def dropout_alone(scalar: Scalar) -> Kernel:
    """The block that drops numbers of layer i's units, in panels:
    its sums, before a norm, and their deltas, by the same draws.
    """
    lanes = lanes_of(scalar)
    size = np.dtype(scalar).itemsize
    width = max(lanes, rules.UNITS)
    source_of = _drawing(scalar)[0]
    (decide, _) = _decisions(scalar)
    _, _, drop_values = _dropping(scalar)
    n_bytes = ROW_BLOCK * width * 2

    def drop(address: int, i: int, values: int, at: int, n: int) -> None:
        """`values` is the address of layer i's panels; n rows from row `at` are dropped.
        Bits are drawn for `width` units at a time; narrower panels share a draw, and
        `skip` is a panel's first unit in it.
        """
        net = record_at(address, Net)
        place = stack(n_bytes)
        layer = layers_of(net)[i]
        count = n * lanes
        # A layer has two settings: the least bits that are kept, and their scale.
        threshold_at = rules.HIDDEN + 2 * i
        settings = row(batch_of(net).coefficients + net.draws, threshold_at + 2, scalar)
        rate = (np.uint16(settings[threshold_at]), settings[threshold_at + 1])
        source = source_of(net, at, i * rules.PURPOSES + rules.OF_HIDDEN)
        bits = row(place, n * width, np.uint16)
        first_row = at * lanes * size
        for p in range(layer.n_panels):
            skip = p * lanes % width
            if skip == 0:
                decide(source, p * lanes, n, place)
            panel = row(values + p * net.panel + first_row, count, scalar)
            drop_values(panel, count, bits, skip, rate)

    return drop


def input_noise(scalar: Scalar) -> Kernel:
    """The block that adds noise to inputs, and then drops some, for some panels."""
    lanes = lanes_of(scalar)
    size = np.dtype(scalar).itemsize
    width = max(lanes, rules.UNITS)
    n_normals = max(lanes, rules.NORMALS)
    source_of, draw = _drawing(scalar)
    normals = rules.normals_of(scalar, njit, fma, elementary.log, elementary.sqrt)
    (decide, _), (_, _, drop) = _decisions(scalar), _dropping(scalar)
    n_bytes = ROW_BLOCK * max(width * 2, n_normals * size)

    @njit
    def put(words: Any, out: Any, place: int) -> None:
        w0, w1, w2, w3 = words
        out[place], out[place + 1] = normals(w0, w1)
        out[place + 2], out[place + 3] = normals(w2, w3)

    @njit
    def add_noise(
        source: Any, values: Any, unit: int, shape: Any, place: int, std: Any
    ) -> None:
        n, n_features = shape
        noise = row(place, n * n_normals, scalar)
        first = unit // rules.NORMALS
        for g in range(n_normals // rules.NORMALS):
            for r in range(n):
                put(
                    draw(source, first + g, r), noise, r * n_normals + g * rules.NORMALS
                )
        skip = unit % n_normals
        for r in range(n):
            for j in range(n_features):
                values[r * lanes + j] += std * noise[r * n_normals + skip + j]

    def disturb(
        address: int, inputs: int, panel: int, n_panels: int, at: int, n: int
    ) -> None:
        net = record_at(address, Net)
        place = stack(n_bytes)
        numbers = row(batch_of(net).coefficients + net.draws, rules.HIDDEN, scalar)
        rate = (np.uint16(numbers[rules.INPUTS]), numbers[rules.INPUTS + 1])
        source = source_of(net, at, rules.OF_INPUTS)
        of_noise = source_of(net, at, rules.OF_NOISE)
        bits = row(place, n * width, np.uint16)
        count = n * lanes
        for p in range(panel, panel + n_panels):
            values = row(inputs + p * net.panel + at * lanes * size, count, scalar)
            if numbers[rules.NOISE] > 0:
                shape = (n, min(lanes, net.n_in - p * lanes))
                add_noise(
                    of_noise, values, p * lanes, shape, place, numbers[rules.NOISE]
                )
            if numbers[rules.INPUTS] > 0:
                decide(source, p * lanes, n, place)
                drop(values, count, bits, p * lanes % width, rate)

    return disturb
