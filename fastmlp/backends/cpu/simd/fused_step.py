"""One pass over a layer's weights: the update that one row has left, and the way of the next row.

Each weight is read once, stepped with, written, and multiplied while it is in a register. Numbers,
errors and sums of a row lie one after the other, filled up to whole vectors.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numba.core import cgutils

from fastmlp.backends.cpu.simd.builder import LANE, Vectors
from fastmlp.backends.cpu.simd.microkernel import TIMES, WHERE_POSITIVE
from fastmlp.backends.cpu.simd.pack import compiled_move
from fastmlp.backends.cpu.simd.skinny import sent_down
from fastmlp.compiler import INTERPRETED, row
from fastmlp.compiler.memory import entry_alloca

# Chains of multiply-adds, each of which waits four cycles for the one before: of as many panels, or
# several of one. 64 inputs of two panels took 58 ns by two chains, which is the wait, and 42 so.
CHAINS = 4


class Passes(NamedTuple):
    """Functions of addresses, for one scalar type and width of vectors.

    `before` are the numbers that went into the layer, and `steps` what a number of 1 changes the
    weights by: less rate times errors. `now` are the next row's numbers, and `sums` receives what
    they become, or where `positive` is not 0 its positive part.

    Attributes
    ----------
    steps : ``steps(errors, rate, target, n_panels)``
        The errors times the rate, less than nothing.
    forth : ``forth(weights, panel, n_in, before, now, steps, sums, n_panels, positive)``
        Of panels of W, with the biases as a row more.
    forth_turned : ``forth_turned(weights, biases, n_in, n_out, before, now, steps, sums, \
        positive)``
        Of panels of W transposed, for no more outputs than a vector has lanes; their padding is not
        read, and becomes zeros.
    back_turned : ``back_turned(weights, errors, n_out, operand, target, epilogue, n_panels)``
        W e of panels of W transposed, by way of an epilogue as a product's.
    """

    steps: Callable[..., None]
    forth: Callable[..., None]
    forth_turned: Callable[..., None]
    back_turned: Callable[..., None]


def passes(scalar: type[np.floating[Any]], lanes: int) -> Passes:
    """Return them for panels of so many lanes."""
    if INTERPRETED:
        return _interpreted(scalar, lanes)
    size = np.dtype(scalar).itemsize
    return Passes(
        steps=compiled_move(_emit_steps, 4, lanes, size),
        forth=compiled_move(_emit_forth, 9, lanes, size),
        forth_turned=compiled_move(_emit_forth_turned, 9, lanes, size),
        back_turned=compiled_move(_emit_back_turned, 7, lanes, size),
    )


def _emit_steps(v: Vectors, errors: Any, rate: Any, target: Any, n_panels: Any) -> None:
    builder, rates = v.builder, v.everywhere(rate, 0)
    with cgutils.for_range(builder, n_panels) as loop:
        across = builder.mul(loop.index, v.number(v.bytes))
        product = builder.fmul(rates, v.load(builder.add(errors, across)))
        v.store(builder.fsub(v.zero, product), builder.add(target, across))


def _positive(v: Vectors, asked: Any, value: Any) -> Any:
    """The positive part where it is asked for; NaN stays NaN."""
    builder = v.builder
    kept = builder.select(builder.fcmp_ordered("<", value, v.zero), v.zero, value)
    return builder.select(builder.icmp_signed("!=", asked, v.number(0)), kept, value)


class _Panels:
    """Some panels of W side by side, each of as many chains as there are for it."""

    def __init__(self, v: Vectors, count: int, chains: list[Any]) -> None:
        self.v, self.turns = v, CHAINS // count
        self.totals = [chains[c * self.turns : (c + 1) * self.turns] for c in range(count)]

    def begin(self, biases: list[Any], steps: list[Any]) -> None:
        """Step with the biases, with which the first chain of each begins."""
        v, builder = self.v, self.v.builder
        for place, step, (first, *others) in zip(biases, steps, self.totals, strict=True):
            bias = builder.fadd(v.load(place), step)
            v.store(bias, place)
            builder.store(bias, first)
            for other in others:
                builder.store(v.zero, other)

    def take(self, row_of_w: list[Any], steps: list[Any], old: Any, new: Any, turn: int) -> None:
        """Step with a row of W, and multiply it."""
        v, builder = self.v, self.v.builder
        for place, step, chains in zip(row_of_w, steps, self.totals, strict=True):
            w = v.fma(old, step, v.load(place))
            v.store(w, place)
            builder.store(v.fma(new, w, builder.load(chains[turn])), chains[turn])

    def sums(self) -> list[Any]:
        """The chains of each panel, added up."""
        builder, sums = self.v.builder, []
        for first, *others in self.totals:
            value = builder.load(first)
            for other in others:
                value = builder.fadd(value, builder.load(other))
            sums.append(value)
        return sums


def _emit_forth(
    v: Vectors, weights: Any, panel: Any, n_in: Any, before: Any, now: Any, steps: Any, sums: Any,
    n_panels: Any, positive: Any,
) -> None:  # fmt: skip
    builder, vector = v.builder, v.number(v.bytes)
    chains = [entry_alloca(builder, v.kind) for _ in range(CHAINS)]

    def go_along(first: Any, count: int) -> None:
        panels, across = _Panels(v, count, chains), builder.mul(first, vector)
        down = [builder.mul(builder.add(first, v.number(c)), panel) for c in range(count)]
        its_steps = [v.load(builder.add(steps, across), c * v.bytes) for c in range(count)]

        def places(k: Any) -> list[Any]:
            row_of_w = builder.add(weights, builder.mul(k, vector))
            return [builder.add(row_of_w, it) for it in down]

        def take(k: Any, turn: int) -> None:
            number = builder.mul(k, v.number(v.size))
            old, new = (v.everywhere(builder.add(it, number), 0) for it in (before, now))
            panels.take(places(k), its_steps, old, new, turn)

        panels.begin(places(n_in), its_steps)
        unit = v.number(panels.turns)
        whole, rest = builder.udiv(n_in, unit), builder.urem(n_in, unit)
        with cgutils.for_range(builder, whole) as loop:
            for turn in range(panels.turns):
                take(builder.add(builder.mul(loop.index, unit), v.number(turn)), turn)
        with cgutils.for_range(builder, rest) as loop:
            take(builder.add(builder.mul(whole, unit), loop.index), 0)
        for c, value in enumerate(panels.sums()):
            v.store(_positive(v, positive, value), builder.add(sums, across), c * v.bytes)

    most = v.number(CHAINS)
    whole, rest = builder.udiv(n_panels, most), builder.urem(n_panels, most)
    with cgutils.for_range(builder, whole) as groups:
        go_along(builder.mul(groups.index, most), CHAINS)
    for count in range(1, CHAINS):
        with builder.if_then(builder.icmp_unsigned("==", rest, v.number(count))):
            go_along(builder.mul(whole, most), count)


def _emit_forth_turned(
    v: Vectors, weights: Any, biases: Any, n_in: Any, n_out: Any, before: Any, now: Any,
    steps: Any, sums: Any, positive: Any,
) -> None:  # fmt: skip
    builder, vector, size = v.builder, v.number(v.bytes), v.number(v.size)
    v.store(builder.fadd(v.load(biases), v.load(steps)), biases)
    total, panel = entry_alloca(builder, v.kind), builder.mul(n_out, vector)
    whole, rest = v.parts(n_in)
    there = v.first(rest)
    with cgutils.for_range(builder, n_out) as outputs:
        number = builder.mul(outputs.index, size)
        step = v.everywhere(builder.add(steps, number), 0)
        row_of_w = builder.add(weights, builder.mul(outputs.index, vector))

        def take(p: Any, load: Callable[[Any], Any]) -> None:
            across = builder.mul(p, vector)
            old, new = (load(builder.add(it, across)) for it in (before, now))
            place = builder.add(row_of_w, builder.mul(p, panel))
            w = v.fma(old, step, load(place))
            v.store(w, place)
            builder.store(v.fma(new, w, builder.load(total)), total)

        builder.store(v.zero, total)
        with cgutils.for_range(builder, whole) as loop:
            take(loop.index, v.load)
        with builder.if_then(builder.icmp_unsigned(">", rest, v.number(0))):
            take(whole, lambda at: v.masked_load(at, there))
        bias = v.everywhere(builder.add(biases, number), 0)
        value = _positive(v, positive, builder.fadd(v.summed(builder.load(total)), bias))
        place = builder.inttoptr(builder.add(sums, number), v.kind.element.as_pointer())
        builder.store(builder.extract_element(value, LANE(0)), place)


def _emit_back_turned(
    v: Vectors, weights: Any, errors: Any, n_out: Any, operand: Any, target: Any, epilogue: Any,
    n_panels: Any,
) -> None:  # fmt: skip
    builder, vector, size = v.builder, v.number(v.bytes), v.number(v.size)
    total, panel = entry_alloca(builder, v.kind), builder.mul(n_out, vector)
    with cgutils.for_range(builder, n_panels) as panels:
        place = builder.add(weights, builder.mul(panels.index, panel))
        across = builder.mul(panels.index, vector)
        builder.store(v.zero, total)
        with cgutils.for_range(builder, n_out) as loop:
            error = v.everywhere(builder.add(errors, builder.mul(loop.index, size)), 0)
            w = v.load(builder.add(place, builder.mul(loop.index, vector)))
            builder.store(v.fma(error, w, builder.load(total)), total)
        factor = v.load(builder.add(operand, across))
        value = sent_down(v, builder.load(total), factor, epilogue)
        v.store(value, builder.add(target, across))


def _interpreted(scalar: type[np.floating[Any]], lanes: int) -> Passes:
    vector = lanes * np.dtype(scalar).itemsize

    def steps(errors: int, rate: int, target: int, n_panels: int) -> None:
        n = n_panels * lanes
        row(target, n, scalar)[:] = -(row(rate, 1, scalar)[0] * row(errors, n, scalar))

    def forth(
        weights: int, panel: int, n_in: int, before: int, now: int, steps: int, sums: int,
        n_panels: int, positive: int,
    ) -> None:  # fmt: skip
        old, new = row(before, n_in, scalar), row(now, n_in, scalar)
        for p in range(n_panels):
            step = row(steps + p * vector, lanes, scalar)
            w = row(weights + p * panel, (n_in + 1) * lanes, scalar).reshape(n_in + 1, lanes)
            w += np.append(old, scalar(1))[:, None] * step
            total = new @ w[:-1] + w[-1]
            row(sums + p * vector, lanes, scalar)[:] = positive_part(total, positive)

    def forth_turned(
        weights: int, biases: int, n_in: int, n_out: int, before: int, now: int, steps: int,
        sums: int, positive: int,
    ) -> None:  # fmt: skip
        old, new = row(before, n_in, scalar), row(now, n_in, scalar)
        step, bias = row(steps, n_out, scalar), row(biases, n_out, scalar)
        bias += step
        total = bias.copy()
        for k in range(n_in):
            w = row(weights + k // lanes * n_out * vector, n_out * lanes, scalar)[
                k % lanes :: lanes
            ]
            w += old[k] * step
            total += new[k] * w
        row(sums, n_out, scalar)[:] = positive_part(total, positive)

    def positive_part(total: Any, positive: int) -> Any:
        return np.where(total < 0, 0, total) if positive else total

    def back_turned(
        weights: int, errors: int, n_out: int, operand: int, target: int, epilogue: int,
        n_panels: int,
    ) -> None:  # fmt: skip
        for p in range(n_panels):
            w = row(weights + p * n_out * vector, n_out * lanes, scalar).reshape(n_out, lanes)
            value = row(errors, n_out, scalar) @ w
            factor = row(operand + p * vector, lanes, scalar)
            if epilogue == TIMES:
                value = value * factor
            elif epilogue == WHERE_POSITIVE:
                value = np.where(factor > 0, value, 0)
            row(target + p * vector, lanes, scalar)[:] = value

    return Passes(steps, forth, forth_turned, back_turned)
