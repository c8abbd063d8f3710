"""Fused steps: the update by one row and the next row forward, in every shape."""

from functools import cache
from typing import Any

import numpy as np
import pytest
from panelled import INTERPRETED, address, block, rounding, to_panels

from fastmlp.backends.cpu.plan.packing import few_outputs, round_up
from fastmlp.backends.cpu.simd.fused_step import Row, fused_steps
from fastmlp.backends.cpu.simd.microkernel import STORE, TIMES, WHERE_POSITIVE, Epilogue
from fastmlp.backends.cpu.simd.vector import Panels
from fastmlp.backends.cpu.tuning import FMA_CHAINS
from fastmlp.compiler import Block
from fastmlp.compiler.target import lanes_of

DEPTHS = (1, 5, 17) if INTERPRETED else (*range(1, 12), 16, 17, 31, 64, 65)
UNTOUCHED = 77.0

each_dtype = pytest.mark.parametrize("dtype", [np.float32, np.float64])
# As many outputs as make a layer lie so, the most last.
each_few = pytest.mark.parametrize("place", [0, 1, -1], ids=["one", "two", "most"])
each_part = pytest.mark.parametrize("positive", [0, 1], ids=["all", "positive"])


def few(dtype: Any, place: int) -> int:
    """A number of outputs that are few."""
    return range(1, few_outputs(lanes_of(dtype)) + 1)[place]


@cache
def compiled(name: str, dtype: Any) -> Block:
    chosen = getattr(fused_steps(dtype, lanes_of(dtype)), name)

    def steps(a: Any, b: Any, c: Any, d: Any) -> None:
        chosen(a, b, c, d)

    def forward(a: Panels, b: Any, c: Row, d: Any, e: Any) -> None:
        chosen(a, b, c, d, e)

    def forward_transposed(a: Any, b: Any, c: Any, d: Any, e: Row, f: Any) -> None:
        chosen(a, b, c, d, e, f)

    def backward_transposed(a: Any, b: Any, c: Any, d: Any, e: Epilogue, f: Any) -> None:
        chosen(a, b, c, d, e, f)

    loops = (steps, forward, forward_transposed, backward_transposed)
    return block({loop.__name__: loop for loop in loops}[name])


class Layer:
    """A layer's weights and biases, and what goes into a pass over them."""

    def __init__(self, rng: Any, dtype: Any, n_in: int, n_out: int) -> None:
        self.dtype, self.lanes = dtype, lanes_of(dtype)
        self.w, self.b, self.steps, self.before, self.now = (
            rng.normal(size=shape).astype(dtype)
            for shape in ((n_in, n_out), n_out, n_out, n_in, n_in)
        )

    def filled(self, vector: Any, fill: float = 0.0) -> Any:
        """A vector, filled up to a whole number of them."""
        return to_panels(vector[None], self.lanes, fill=fill)

    def check(self, w: Any, b: Any, sums: Any, positive: int) -> None:
        """The pass did all that it should."""
        steps, now, eps = self.steps.astype(float), self.now.astype(float), np.finfo(self.dtype).eps
        exact_w, exact_b = self.w + np.outer(self.before, steps), self.b + steps
        room_w, room_b = abs(self.w) + abs(np.outer(self.before, steps)), abs(self.b) + abs(steps)
        assert (abs(w - exact_w) <= eps * room_w).all()
        assert (abs(b - exact_b) <= eps * room_b).all()
        expected, room = now @ exact_w + exact_b, abs(now) @ room_w + room_b
        if positive:
            expected = np.maximum(expected, 0)
        assert (abs(sums - expected) <= rounding(len(now) + 2, self.dtype) * room).all()


@each_dtype
@each_part
@pytest.mark.parametrize("n_panels", range(1, 2 * FMA_CHAINS + 2))
def test_a_fused_step_updates_and_multiplies(
    dtype: Any, positive: int, n_panels: int, rng: Any
) -> None:
    lanes = lanes_of(dtype)
    for n_in in DEPTHS:
        for n_out in (n_panels * lanes, n_panels * lanes - 1):
            layer = Layer(rng, dtype, n_in, n_out)
            weights = to_panels(np.vstack([layer.w, layer.b]), lanes)
            steps, sums = layer.filled(layer.steps), np.full(n_panels * lanes + 1, UNTOUCHED, dtype)
            numbers = (address(layer.before), address(layer.now), address(steps), address(sums))
            where = (address(weights), weights[0].nbytes, n_in)
            compiled("forward", dtype)(*where, *numbers, n_panels, positive)
            after = weights.transpose(1, 0, 2).reshape(n_in + 1, -1)
            assert not after[:, n_out:].any()
            assert sums[-1] == UNTOUCHED
            layer.check(after[:-1, :n_out], after[-1, :n_out], sums[:n_out], positive)


@each_dtype
@each_part
@each_few
def test_a_fused_step_of_transposed_weights(
    dtype: Any, positive: int, place: int, rng: Any
) -> None:
    lanes, n_out = lanes_of(dtype), few(dtype, place)
    for n_in in DEPTHS:
        layer = Layer(rng, dtype, n_in, n_out)
        weights, biases = to_panels(layer.w.T.copy(), lanes), layer.filled(layer.b)
        before, now = layer.filled(layer.before, np.nan), layer.filled(layer.now, np.nan)
        steps, sums = layer.filled(layer.steps), np.full(n_out + 1, UNTOUCHED, dtype)
        numbers = (address(before), address(now), address(steps), address(sums))
        where = (address(weights), address(biases), n_in, n_out)
        compiled("forward_transposed", dtype)(*where, *numbers, positive)
        after = weights.transpose(1, 0, 2).reshape(n_out, -1)
        assert not after[:, n_in:].any()
        assert sums[-1] == UNTOUCHED
        layer.check(after[:, :n_in].T, biases[0, 0, :n_out], sums[:n_out], positive)


@each_dtype
@pytest.mark.parametrize("epilogue", [STORE, TIMES, WHERE_POSITIVE])
@each_few
def test_deltas_go_back_through_transposed_weights(
    dtype: Any, epilogue: int, place: int, rng: Any
) -> None:
    lanes, n_out = lanes_of(dtype), few(dtype, place)
    for n_in in DEPTHS:
        layer, n_panels = Layer(rng, dtype, n_in, n_out), round_up(n_in, lanes) // lanes
        weights, errors = to_panels(layer.w.T.copy(), lanes), layer.filled(layer.steps)
        operand, target = layer.filled(layer.before), np.full(n_panels * lanes, UNTOUCHED, dtype)
        where = (address(weights), address(errors), n_out, address(target))
        compiled("backward_transposed", dtype)(*where, epilogue, address(operand), n_panels)
        expected = layer.w.astype(float) @ layer.steps
        bound = rounding(n_out, dtype) * (abs(layer.w) @ abs(layer.steps))
        if epilogue == TIMES:
            expected, bound = expected * layer.before, bound * abs(layer.before)
        elif epilogue == WHERE_POSITIVE:
            expected = np.where(layer.before > 0, expected, 0)
        assert (abs(target[:n_in] - expected) <= bound).all()
        assert not target[n_in:].any()


@each_dtype
def test_steps_are_minus_the_rate_times_deltas(dtype: Any, rng: Any) -> None:
    lanes, rate = lanes_of(dtype), np.array([0.3], dtype)
    for n_panels in (1, 2, 5):
        errors = rng.normal(size=n_panels * lanes).astype(dtype)
        expected = -(rate * errors)
        compiled("steps", dtype)(address(errors), address(rate), address(errors), n_panels)
        assert np.array_equal(errors, expected)


@each_dtype
def test_a_positive_part_keeps_what_is_not_a_number(dtype: Any, rng: Any) -> None:
    layer = Layer(rng, dtype, 3, 1)
    layer.now[1] = np.nan
    for name, matrix in (
        ("forward", np.vstack([layer.w, layer.b])),
        ("forward_transposed", layer.w.T),
    ):
        weights, biases = to_panels(matrix.copy(), layer.lanes), layer.filled(layer.b)
        steps, sums = layer.filled(layer.steps), np.zeros(layer.lanes, dtype)
        before, now = layer.filled(layer.before), layer.filled(layer.now)
        numbers = (address(before), address(now), address(steps), address(sums))
        where = (address(weights), weights[0].nbytes, 3, *numbers, 1, 1)
        if name == "forward_transposed":
            where = (address(weights), address(biases), 3, 1, *numbers, 1)
        compiled(name, dtype)(*where)
        assert np.isnan(sums[0])
