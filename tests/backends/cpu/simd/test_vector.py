"""The vector operations: emitted as LLVM IR and computed by NumPy they give the same numbers."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import pytest
from panelled import INTERPRETED, address, block

from fastmlp.backends.cpu.plan.workspace import aligned
from fastmlp.backends.cpu.simd.vector import Vectors, Word
from fastmlp.backends.cpu.simd.vector_function import vector_function
from fastmlp.backends.cpu.simd.vector_numpy import NumPyVectors
from fastmlp.compiler.target import lanes_of

N_VECTORS = 64
each_dtype = pytest.mark.parametrize("dtype", [np.float32, np.float64])


class Pair(NamedTuple):
    """Two counts."""

    a: Word
    b: Word


def arithmetic(v: Vectors, source: Word, target: Word, n: Pair) -> None:
    """Store what operators and functions make of two vectors and a number."""
    x, y = v.load(source), v.load(source + v.bytes)
    number = v.broadcast(source + n.a * v.size)
    found = [
        x + y, x - y, x * y, v.fma(x, v.zero, y), number, v.positive_part(x), v.sum(v.zero),
        v.select(x < y, x, y), v.select(x > number, x, y), v.select(n.a < n.b, x, y),
        v.select(v.equal(n.a, n.b), x, y), v.opaque(x), v.load_masked(source, v.first(n.a)),
        v.shuffle(x, y, [2 * j for j in range(v.lanes)]), *v.transposed([x, y] * (v.lanes // 2)),
    ]  # fmt: skip
    for i, value in enumerate(found):
        v.store(value, target + i * v.bytes)


def words(v: Vectors, source: Word, target: Word, n: Pair) -> None:
    """Store the vectors that words count to."""
    a, b = n
    chosen = [
        a + b, b - a, 9 - a, a * 3, b // 2, b % 2, v.choose(a < b, a, 7), v.choose(a > b, a, 7),
        v.choose(a <= b, 5, a), v.choose(a >= b, a, b), v.n_vectors(a * v.lanes + 1),
    ]  # fmt: skip
    for i, word in enumerate(chosen):
        v.store(v.load(source + word * v.bytes), target + i * v.bytes)


def flow(v: Vectors, source: Word, target: Word, n: Pair) -> None:
    """Store what loops, parts and branches do."""
    half, total = v.of_lanes(v.lanes // 2), v.variable(v.zero)
    for i in v.range(n.a, n.b):
        total.value = total.value + v.load(source + i * v.bytes)
    waiting = v.scratch(2)
    v.store(total.value, waiting + v.bytes)
    v.store(v.load(waiting + v.bytes), target)
    for p, part in v.parts(n.b * 3):
        part.store(part.load(source + p * v.bytes), target + (p + 1) * v.bytes)
    high = target + 9 * v.bytes
    v.when(n.a > 2, partial(v.store, total.value, high))
    x = v.load(source)
    either = (partial(v.store, x, high + v.bytes), partial(v.store, v.zero - x, high + v.bytes))
    v.either(n.a < n.b, *either)
    cases = {1: partial(v.store, x, high + 2 * v.bytes), 3: partial(v.store_lane, x, high)}
    v.switch(n.a, cases)
    half.store(half.load(source) + half.load(source + half.bytes), high + 3 * v.bytes)
    v.store_non_temporal(x, high + 4 * v.bytes)
    v.store_masked(x, high + 5 * v.bytes, v.first(n.a))
    v.prefetch(source)


def results(
    loop: Callable[..., None], dtype: Any, numbers: Any, counts: tuple[int, int]
) -> tuple[Any, Any]:
    """The numbers that a loop writes, computed by NumPy and compiled."""
    lanes, found = lanes_of(dtype), []
    compiled = vector_function(loop, dtype, lanes)

    def run(source: Any, target: Any, n: Pair) -> None:
        compiled(source, target, n)

    def compute(source: int, target: int, a: int, b: int) -> None:
        loop(NumPyVectors(dtype, lanes), source, target, Pair(a, b))

    for function in (compute, block(run)):
        target = aligned(N_VECTORS * lanes, dtype)
        target[:] = 77
        function(address(numbers), address(target), *counts)
        found.append(target)
    return found[0], found[1]


@each_dtype
@pytest.mark.parametrize("counts", [(1, 2), (3, 4), (4, 4), (5, 2)], ids=str)
@pytest.mark.parametrize("loop", [arithmetic, words, flow])
def test_a_loop_does_the_same_compiled_and_in_numpy(
    loop: Callable[..., None], counts: tuple[int, int], dtype: Any, rng: Any
) -> None:
    # Small integers: an fma that rounds twice has the same bits.
    numbers = aligned(N_VECTORS * lanes_of(dtype), dtype)
    numbers[:] = rng.integers(-9, 9, size=numbers.size)
    computed, compiled = results(loop, dtype, numbers, counts)
    assert not (computed == 77).all()
    np.testing.assert_array_equal(computed, compiled)


@each_dtype
def test_comparisons_with_nan_are_false_and_the_positive_part_keeps_it(dtype: Any) -> None:
    numbers = aligned(N_VECTORS * lanes_of(dtype), dtype)
    numbers[:] = np.nan
    computed, compiled = results(arithmetic, dtype, numbers, (1, 2))
    np.testing.assert_array_equal(computed, compiled)
    assert np.isnan(compiled[5 * lanes_of(dtype)])


@each_dtype
def test_vectors_are_not_changed_in_place(dtype: Any) -> None:
    v = NumPyVectors(dtype, 4)
    numbers = np.arange(4, dtype=dtype)
    vector: Any = v.load(address(numbers))
    numbers += 1
    assert vector.tolist() == [0, 1, 2, 3]
    zero: Any = v.zero
    with pytest.raises(ValueError, match="read-only"):
        zero += 1


@pytest.mark.skipif(INTERPRETED, reason="uncompiled, nothing is emitted")
def test_a_loop_is_made_a_function_once() -> None:
    assert vector_function(flow, np.float32, 4) is vector_function(flow, np.float32, 4)
    assert vector_function(flow, np.float32, 4) is not vector_function(flow, np.float64, 4)
