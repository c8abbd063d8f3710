"""Fused steps: in one pass over a layer's weights, the update by one row and the next row forward.

Each weight is read once, updated, written, and multiplied while it is in a register. The numbers,
deltas and sums of a row are contiguous, padded to whole vectors.
"""

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

from fastmlp.backends.cpu.simd.microkernel import Epilogue, finished_delta
from fastmlp.backends.cpu.simd.vector import Panels, Scalar, Variable, Vector, Vectors, Word
from fastmlp.backends.cpu.simd.vector_function import VectorFunction, vector_function
from fastmlp.backends.cpu.tuning import FMA_CHAINS


class Row(NamedTuple):
    """The addresses of the numbers of two rows.

    Attributes
    ----------
    before : the last row's inputs
    steps : minus the rate times the last row's deltas
    now : the next row's inputs
    sums : receives the next row's sums, or with `positive` other than 0 their positive parts
    """

    before: Word
    now: Word
    steps: Word
    sums: Word


class FusedSteps(NamedTuple):
    """Functions of addresses, for one scalar type and width of vectors: the loops below."""

    steps: VectorFunction
    forward: VectorFunction
    forward_transposed: VectorFunction
    backward_transposed: VectorFunction


def fused_steps(scalar: Scalar, lanes: int) -> FusedSteps:
    """Return the fused steps for panels of so many lanes."""
    loops = (steps, forward, forward_transposed, backward_transposed)
    return FusedSteps(*(vector_function(loop, scalar, lanes) for loop in loops))


def steps(v: Vectors, deltas: Word, rate: Word, target: Word, n_panels: Word) -> None:
    """Store minus the rate times the deltas."""
    rates = v.broadcast(rate)
    for p in v.range(n_panels):
        v.store(v.zero - rates * v.load(deltas + p * v.bytes), target + p * v.bytes)


def forward(
    v: Vectors, weights: Panels, n_in: Word, row: Row, n_panels: Word, positive: Word
) -> None:
    """Update panels of W, with the biases as a last row, and multiply."""
    whole, rest = n_panels // FMA_CHAINS, n_panels % FMA_CHAINS
    for group in v.range(whole):
        _forward_panels(v, FMA_CHAINS, group * FMA_CHAINS, weights, n_in, row, positive)
    for count in range(1, FMA_CHAINS):
        shape = (count, whole * FMA_CHAINS, weights, n_in, row, positive)
        v.when(v.equal(rest, count), partial(_forward_panels, v, *shape))


def _forward_panels(
    v: Vectors, count: int, first: Word, weights: Panels, n_in: Word, row: Row, positive: Word
) -> None:
    """Update and multiply `count` panels side by side, each in its share of `FMA_CHAINS` chains."""
    n_chains, across = FMA_CHAINS // count, first * v.bytes
    down = [(first + c) * weights.stride for c in range(count)]
    step = [v.load(row.steps + across + c * v.bytes) for c in range(count)]

    def places(k: Word) -> list[Word]:
        return [weights.address + k * v.bytes + panel for panel in down]

    def accumulate(k: Word, chain: int) -> None:
        old, new = v.broadcast(row.before + k * v.size), v.broadcast(row.now + k * v.size)
        for c, place in enumerate(places(k)):
            w, total = v.fma(old, step[c], v.load(place)), totals[c][chain]
            v.store(w, place)
            total.value = v.fma(new, w, total.value)

    totals = [
        _chains_from_bias(v, n_chains, *pair) for pair in zip(places(n_in), step, strict=True)
    ]
    for i in v.range(n_in // n_chains):
        for chain in range(n_chains):
            accumulate(i * n_chains + chain, chain)
    for i in v.range(n_in % n_chains):
        accumulate(n_in // n_chains * n_chains + i, 0)
    for c, chains in enumerate(totals):
        value = _positive_if(v, positive, _added(chains))
        v.store(value, row.sums + across + c * v.bytes)


def _chains_from_bias(v: Vectors, n_chains: int, place: Word, step: Vector) -> list[Variable]:
    """Update a bias; return chains of which the first starts from it, the others from zero."""
    bias = v.load(place) + step
    v.store(bias, place)
    return [v.variable(bias), *(v.variable(v.zero) for _ in range(n_chains - 1))]


def _added(chains: Sequence[Variable]) -> Vector:
    value = chains[0].value
    for other in chains[1:]:
        value = value + other.value
    return value


def _positive_if(v: Vectors, positive: Word, value: Vector) -> Vector:
    """Return the positive part, or the value itself if `positive` is 0."""
    return v.select(v.equal(positive, 0), value, v.positive_part(value))


def forward_transposed(
    v: Vectors, weights: Word, biases: Word, n_in: Word, n_out: Word, row: Row, positive: Word
) -> None:
    """Update panels of W transposed, for no more outputs than a vector has lanes, and multiply.
    Padding is not read, and becomes zeros."""
    v.store(v.load(biases) + v.load(row.steps), biases)
    total = v.variable(v.zero)
    for j in v.range(n_out):
        step = v.broadcast(row.steps + j * v.size)
        total.value = v.zero
        for p, part in v.parts(n_in):
            old, new = part.load(row.before + p * v.bytes), part.load(row.now + p * v.bytes)
            place = weights + j * v.bytes + p * (n_out * v.bytes)
            w = v.fma(old, step, part.load(place))
            v.store(w, place)
            total.value = v.fma(new, w, total.value)
        value = v.sum(total.value) + v.broadcast(biases + j * v.size)
        v.store_lane(_positive_if(v, positive, value), row.sums + j * v.size)


def backward_transposed(
    v: Vectors, weights: Word, deltas: Word, n_out: Word, target: Word, epilogue: Epilogue,
    n_panels: Word,
) -> None:  # fmt: skip
    """Store W d of panels of W transposed, by way of an epilogue."""
    total = v.variable(v.zero)
    for p in v.range(n_panels):
        across, panel = p * v.bytes, weights + p * (n_out * v.bytes)
        total.value = v.zero
        for j in v.range(n_out):
            delta, w = v.broadcast(deltas + j * v.size), v.load(panel + j * v.bytes)
            total.value = v.fma(delta, w, total.value)
        operand = v.load(epilogue.operand + across)
        v.store(finished_delta(v, epilogue.number, total.value, operand), target + across)
