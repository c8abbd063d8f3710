"""Norms and skips of a single row, whose units follow each other,
with the bits of the panels.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastmlp.backends.cpu.kernels import Kernel, Scalar, rule_blocks
from fastmlp.backends.cpu.plan.records import BLOCK, RELU, address
from fastmlp.backends.cpu.plan.stages import Numbers, staged
from fastmlp.backends.cpu.simd.pack import moves
from fastmlp.backends.cpu.simd.vector import Vectors, Word
from fastmlp.backends.cpu.simd.vector_function import Loops
from fastmlp.compiler import call, njit
from fastmlp.compiler.memory import Record, record_at, row, stack
from fastmlp.compiler.target import lanes_of
from fastmlp.network.spec import Network


class RowNorm(Record):
    """A norm of a layer's units."""

    centred: int  # 1: "layer", which has shifts; 0: "rms"
    gains: int  # bytes from the first parameter
    shifts: int  # bytes from the first parameter; without shifts, to the gains
    numbers: int  # address of `plan.stages.Numbers`


class RowStages(Record):
    """The stages that finish the sums of a layer."""

    n: int  # units
    adds: int  # 1: the kept values are added to the sums
    norm: int  # address of a `RowNorm` of the sums, or 0
    rectifies: int  # 1: relu
    activation: int  # address of another activation's block, or 0
    keeps: int  # 1: the values are kept, for a later layer
    end_norm: int  # address of a `RowNorm` of the values, or 0
    n_inputs: int  # of the row, which follow the outputs, or 0


class Tables(NamedTuple):
    """The stages of a net's layers, and the arrays that they point to.

    Attributes
    ----------
    layers : records of `RowStages`, shape (n_layers,); n is 0 for a layer without
    norms : records of `RowNorm`
    numbers : of the norms
    """

    layers: NDArray[Any]
    norms: NDArray[Any]
    numbers: NDArray[Any]

    def at(self, layer: int) -> int:
        """The address of a layer's stages, or 0."""
        return address(self.layers, layer) if self.layers[layer]["n"] else 0


def tables_of(network: Network) -> Tables:
    """The tables of stages of a net with norms or skips."""
    layout, dtype = network.layout, network.dtype
    activations, forms = rule_blocks.activations(network, slopes=False)
    layers = np.zeros(layout.n_layers, RowStages.dtype)
    norms = np.zeros(len(layout.norms), RowNorm.dtype)
    numbers = np.zeros((len(layout.norms), len(Numbers._fields)), dtype)
    for i in staged(layout):
        layer = layers[i]
        layer["n"] = layout.sizes[i + 1]
        layer["rectifies"] = forms[i] == RELU
        layer["activation"] = activations[i] if forms[i] == BLOCK else 0
        layer["adds"] = bool(layout.skips) and layout.skips[i] >= 0
        layer["keeps"] = i in layout.skips
    if layout.takes_inputs:
        layers[-2]["n_inputs"] = layout.sizes[0]
    for k, norm in enumerate(layout.norms):
        numbers[k] = Numbers(1 / layout.sizes[norm.layer + 1], norm.epsilon)
        centred = norm.shifts >= 0
        size = dtype.itemsize
        shifts = (norm.shifts if centred else norm.gains) * size
        place = address(numbers, k * numbers.shape[1])
        norms[k] = (centred, norm.gains * size, shifts, place)
        layers[norm.layer]["end_norm" if norm.after else "norm"] = address(norms, k)
    return Tables(layers, norms, numbers)


def single(scalar: Scalar, lanes: int) -> Loops:
    return Loops(globals(), scalar, lanes)


def mean(v: Vectors, source: Word, share: Word, target: Word, width: Word) -> None:
    """Store `share` times the sum of a row."""
    total = v.variable(v.zero)
    for p in v.range(v.n_vectors(width)):
        units = v.first(width - p * v.lanes)
        number = v.load_masked(source + p * v.bytes, units)
        total.value = total.value + number
    v.store_lane(v.sum(total.value) * v.broadcast(share), target)


def variance(
    v: Vectors, source: Word, share: Word, centre: Word, target: Word, width: Word
) -> None:
    """Store `share` times the sum of the squared distances from the number at
    `centre`.
    """
    total = v.variable(v.zero)
    middle = v.broadcast(centre)
    for p in v.range(v.n_vectors(width)):
        units = v.first(width - p * v.lanes)
        distance = v.load_masked(source + p * v.bytes, units) - middle
        distance = v.select(units, distance, v.zero)
        total.value = v.fma(distance, distance, total.value)
    v.store_lane(v.sum(total.value) * v.broadcast(share), target)


def normalise(
    v: Vectors,
    values: Word,
    centre: Word,
    root: Word,
    gains: Word,
    shifts: Word,
    centred: Word,
    width: Word,
) -> None:
    """Replace a row by gain x + shift."""
    middle, factor = v.broadcast(centre), v.broadcast(root)
    for p in v.range(v.n_vectors(width)):
        units = v.first(width - p * v.lanes)
        place = values + p * v.bytes
        number = (v.load_masked(place, units) - middle) * factor
        shift = v.load_masked(shifts + p * v.bytes, units)
        shift = v.select(v.equal(centred, 1), shift, v.zero)
        value = v.fma(number, v.load_masked(gains + p * v.bytes, units), shift)
        v.store_masked(value, place, units)


def rectify(v: Vectors, values: Word, width: Word) -> None:
    for p, part in v.parts(width):
        place = values + p * v.bytes
        part.store(v.positive_part(part.load(place)), place)


def row_stages(scalar: Scalar) -> Kernel:
    """The block that finishes a layer's sums of a single row where they lie.

    `other` and `slopes` have room for a row;
    `kept` has the values of a layer before, `x` the inputs.
    """
    lanes = lanes_of(scalar)
    size = np.dtype(scalar).itemsize
    one = scalar(1)
    loops = single(scalar, lanes)
    mean_of = loops.mean
    variance_of = loops.variance
    write = loops.normalise
    rectify_row = loops.rectify
    room = 2 * size
    add = moves(scalar, lanes).add
    copy = moves(scalar, lanes).copy

    @njit
    def apply(norm: RowNorm, parameters: int, values: int, n: int, place: int) -> None:
        numbers = row(place, 2, scalar)
        root = place + size
        numbers[0] = scalar(0)
        if norm.centred:
            mean_of(values, norm.numbers, place, n)
        variance_of(values, norm.numbers, place, root, n)
        epsilon = row(norm.numbers + size, 1, scalar)[0]
        numbers[1] = one / np.sqrt(numbers[1] + epsilon)
        gains = parameters + norm.gains
        shifts = parameters + norm.shifts
        write(values, place, root, gains, shifts, norm.centred, n)

    def finish(
        address: int,
        parameters: int,
        values: int,
        other: int,
        slopes: int,
        kept: int,
        x: int,
    ) -> None:
        layer = record_at(address, RowStages)
        place = stack(room)
        n = layer.n
        if layer.adds:
            add(kept, values, n)
        if layer.norm:
            apply(record_at(layer.norm, RowNorm), parameters, values, n, place)
        if layer.rectifies:
            rectify_row(values, n)
        if layer.activation:
            call(layer.activation, (values, other, slopes, n))
            copy(other, values, n)
        if layer.keeps:
            copy(values, kept, n)
        if layer.end_norm:
            apply(record_at(layer.end_norm, RowNorm), parameters, values, n, place)
        if layer.n_inputs:
            copy(x, values + n * size, layer.n_inputs)

    return finish
