"""Vector operations and moves: the same numbers by LLVM and by NumPy,
and nothing beside them.
"""

import sys
from collections.abc import Callable
from functools import cache, partial
from typing import Any, NamedTuple

import numpy as np
import pytest
from conditions import only_compiled
from llvmlite import ir
from panelled import INTERPRETED, address, block, to_panels

from fastmlp.backends.cpu.plan.packing import round_up
from fastmlp.backends.cpu.plan.plan import aligned
from fastmlp.backends.cpu.simd import vector_llvm
from fastmlp.backends.cpu.simd.microkernel import (
    STREAMS,
    STREAMS_BYTES,
    Turn,
    prefetch_streams,
)
from fastmlp.backends.cpu.simd.pack import moves
from fastmlp.backends.cpu.simd.vector import Vectors, Word
from fastmlp.backends.cpu.simd.vector_function import NumPyVectors, vector_function
from fastmlp.backends.cpu.tuning import MOST_STREAMS, STRIP_ROWS
from fastmlp.compiler import Block
from fastmlp.compiler.target import LINE_BYTES, lanes_of

N_VECTORS = 64
each_dtype = pytest.mark.parametrize("dtype", [np.float32, np.float64])


class Pair(NamedTuple):
    a: Word
    b: Word


def arithmetic(v: Vectors, source: Word, target: Word, n: Pair) -> None:
    x = v.load(source)
    y = v.load(source + v.bytes)
    number = v.broadcast(source + n.a * v.size)
    results = [
        x + y,
        x - y,
        x * y,
        v.fma(x, v.zero, y),
        number,
        v.positive_part(x),
        v.sum(v.zero),
        v.select(x < y, x, y),
        v.select(x > number, x, y),
        v.select(n.a < n.b, x, y),
        v.select(v.equal(n.a, n.b), x, y),
        v.opaque(x),
        v.load_masked(source, v.first(n.a)),
        v.shuffle(x, y, [2 * j for j in range(v.lanes)]),
        *v.transposed([x, y] * (v.lanes // 2)),
    ]
    for i, value in enumerate(results):
        v.store(value, target + i * v.bytes)


def words(v: Vectors, source: Word, target: Word, n: Pair) -> None:
    a, b = n
    chosen = [
        a + b,
        b - a,
        9 - a,
        a * 3,
        b // 2,
        b % 2,
        v.choose(a < b, a, 7),
        v.choose(a > b, a, 7),
        v.choose(a <= b, 5, a),
        v.choose(a >= b, a, b),
        v.n_vectors(a * v.lanes + 1),
    ]
    for i, word in enumerate(chosen):
        v.store(v.load(source + word * v.bytes), target + i * v.bytes)


def flow(v: Vectors, source: Word, target: Word, n: Pair) -> None:
    half = v.of_lanes(v.lanes // 2)
    total = v.variable(v.zero)
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
    either = (
        partial(v.store, x, high + v.bytes),
        partial(v.store, v.zero - x, high + v.bytes),
    )
    v.either(n.a < n.b, *either)
    cases = {
        1: partial(v.store, x, high + 2 * v.bytes),
        3: partial(v.store_lane, x, high),
    }
    v.switch(n.a, cases)
    half.store(half.load(source) + half.load(source + half.bytes), high + 3 * v.bytes)
    v.store_non_temporal(x, high + 4 * v.bytes)
    v.store_masked(x, high + 5 * v.bytes, v.first(n.a))
    v.prefetch(source)


def results(
    loop: Callable[..., None], dtype: Any, numbers: Any, counts: tuple[int, int]
) -> tuple[Any, Any]:
    lanes = lanes_of(dtype)
    outcomes = []
    compiled = vector_function(loop, dtype, lanes)

    def run(source: Any, target: Any, n: Pair) -> None:
        compiled(source, target, n)

    def compute(source: int, target: int, a: int, b: int) -> None:
        loop(NumPyVectors(dtype, lanes), source, target, Pair(a, b))

    for function in (compute, block(run)):
        target = aligned(N_VECTORS * lanes, dtype)
        target[:] = 77
        function(address(numbers), address(target), *counts)
        outcomes.append(target)
    return outcomes[0], outcomes[1]


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
def test_positive_parts_keep_nan_and_replace_whole_vectors(
    dtype: Any, rng: Any
) -> None:
    numbers = aligned(N_VECTORS * lanes_of(dtype), dtype)
    numbers[:] = np.nan
    computed, compiled = results(arithmetic, dtype, numbers, (1, 2))
    np.testing.assert_array_equal(computed, compiled)
    assert np.isnan(compiled[5 * lanes_of(dtype)])
    lanes = lanes_of(dtype)
    for n in range(5):
        numbers = rng.normal(size=(n + 1) * lanes).astype(dtype)
        special = [np.nan, -0.0, -np.inf][: numbers.size]
        numbers[: len(special)] = special
        expected = numbers.copy()
        first = expected[: n * lanes]
        first[first < 0] = 0
        move("rectify", dtype)(address(numbers), n)
        assert numbers.tobytes() == expected.tobytes()


UNTOUCHED = 77.0


@cache
def move(name: str, dtype: Any) -> Block:
    chosen = getattr(moves(dtype, lanes_of(dtype)), name)

    def of_two(a: Any, b: Any) -> None:
        chosen(a, b)

    def of_three(a: Any, b: Any, c: Any) -> None:
        chosen(a, b, c)

    def of_four(a: Any, b: Any, c: Any, d: Any) -> None:
        chosen(a, b, c, d)

    def of_five(a: Any, b: Any, c: Any, d: Any, e: Any) -> None:
        chosen(a, b, c, d, e)

    others: dict[str, Any] = {"rectify": of_two, "add_differences": of_three}
    others |= {"pack_row": of_four, "unpack_row": of_four}
    return block(others.get(name, of_five))


@each_dtype
def test_differences_are_zero_unless_a_number_is_not_finite(
    dtype: Any, rng: Any
) -> None:
    lanes = lanes_of(dtype)
    for n in range(1, 10 * lanes):
        # What comes after the numbers is not looked at.
        numbers = np.full(n + lanes, np.nan, dtype)
        numbers[:n] = rng.normal(size=n) * (np.finfo(dtype).max / 9)
        for value, finite in ((numbers[0], True), (np.nan, False), (-np.inf, False)):
            numbers[rng.integers(n)] = value
            sums = np.zeros(lanes, dtype)
            move("add_differences", dtype)(address(numbers), n, address(sums))
            assert (not sums.any()) is finite


HEIGHTS = [1, 2, 7, 8, 9, 15, 16, 17, 24, 33]


@each_dtype
@pytest.mark.parametrize("n", HEIGHTS)
def test_columns_of_panels_and_rows_of_columns(dtype: Any, n: int, rng: Any) -> None:
    lanes = lanes_of(dtype)
    for width in range(1, 3 * lanes + 2):
        matrix = rng.normal(size=(n, width)).astype(dtype)
        # Whole squares are read, and a vector more is written.
        panels = to_panels(matrix, lanes, round_up(n, lanes), np.nan)
        columns = np.full(n * width + lanes + 1, UNTOUCHED, dtype)
        move("unpack_columns", dtype)(
            address(panels), panels[0].nbytes, address(columns), width, n
        )
        assert np.array_equal(columns[: n * width].reshape(width, n).T, matrix)
        assert columns[-1] == UNTOUCHED
        index = rng.permutation(n)
        gathered = np.full_like(columns, UNTOUCHED)
        shuffled = matrix[np.argsort(index)]
        move("gather_columns", dtype)(
            address(shuffled), address(index), address(gathered), width, n
        )
        assert np.array_equal(gathered[: n * width], columns[: n * width])
        assert gathered[-1] == UNTOUCHED
        back = np.full(
            (len(panels) + 1, round_up(n, STRIP_ROWS) + lanes, lanes), UNTOUCHED, dtype
        )
        move("pack_columns", dtype)(
            address(columns), address(back), back[0].nbytes, width, n
        )
        assert np.array_equal(back[:-1, :n], to_panels(matrix, lanes))
        assert (back[:-1, round_up(n, STRIP_ROWS) :] == UNTOUCHED).all()
        assert (back[-1] == UNTOUCHED).all()


# Rows that end where memory ends:
# to touch the next byte is to crash, as a forked child does.
AT_THE_EDGE = """
import os, signal
import numpy as np
from fitting import memory_with_an_edge
from fastmlp.compiler.target import lanes_of
from backends.cpu.simd import test_gemm
from backends.cpu.simd.test_vector import address, move

memory, end, page = memory_with_an_edge()
for dtype in (np.float32, np.float64):
    lanes, size = lanes_of(dtype), np.dtype(dtype).itemsize
    for width in range(1, 3 * lanes + 1):
        panels = np.zeros((4, 1, lanes), dtype)
        edge = end - width * size
        line = np.frombuffer(memory, dtype, width, page - width * size)
        line[:] = np.arange(1, width + 1)
        move("pack_row", dtype)(edge, address(panels), panels[0].nbytes, width)
        panels *= 2
        move("unpack_row", dtype)(address(panels), panels[0].nbytes, edge, width)
        assert line.tolist() == list(range(2, 2 * width + 1, 2))
    stand, lie = test_gemm.move("into_lanes", dtype), test_gemm.move("out_of_lanes", dtype)
    for width in range(1, 2 * lanes + 2):
        units, check = np.zeros((3 * lanes, lanes), dtype), np.zeros(lanes, dtype)
        for n in (1, lanes - 1, lanes):
            edge = end - n * width * size
            line = np.frombuffer(memory, dtype, n * width, page - n * width * size)
            line[:] = np.arange(n * width)
            stand(edge, width, 0, n - 1, address(units), units[0].nbytes, address(check))
            units += 1
            lie(address(units), width, 0, n - 1, edge, units[0].nbytes, address(check))
            assert line.tolist() == list(range(1, n * width + 1))
child = os.fork()
if child == 0:
    move("pack_row", dtype)(end - lanes * size + size, address(panels), panels[0].nbytes, lanes)
    os._exit(0)
status = os.waitpid(child, 0)[1]
assert os.WIFSIGNALED(status) and os.WTERMSIG(status) in (signal.SIGSEGV, signal.SIGBUS), status
print("alive")
"""


@pytest.mark.slow
@pytest.mark.skipif(
    sys.platform == "win32" or INTERPRETED,
    reason="needs mprotect, and code that could run over",
)
def test_no_byte_after_a_row_is_read_or_written(python: Callable[..., str]) -> None:
    assert python(AT_THE_EDGE).strip() == "alive"


def prefetching() -> Block:
    prefetch = vector_function(prefetch_streams, np.float32, 1)

    def take_turns(streams: Any, n: Any) -> None:
        for turn in range(n):
            prefetch(streams, Turn(turn, n))

    return block(take_turns)


@pytest.mark.parametrize("n_lines", [1, 5, 16, 49])
@pytest.mark.parametrize("n_turns", [1, 3, 16, 64])
@only_compiled
def test_the_turns_of_a_product_prefetch_each_line_once(
    monkeypatch: pytest.MonkeyPatch, n_lines: int, n_turns: int
) -> None:
    def count(builder: Any, place: Any) -> None:
        word = builder.inttoptr(place, ir.PointerType())
        before = builder.load(word, typ=ir.IntType(64))
        builder.store(builder.add(before, ir.IntType(64)(1)), word)

    monkeypatch.setattr(vector_llvm, "emit_fetch", count)
    memory = np.zeros((2, n_lines + 2, LINE_BYTES // 8), np.int64)
    record = np.zeros(STREAMS_BYTES // 8, np.int64)
    record[:4] = 2, n_lines, address(memory[0, 1:]), address(memory[1, 1:])
    assert len(record) == STREAMS.itemsize // 8 + MOST_STREAMS
    compiled = prefetching()
    compiled(address(record), n_turns)
    compiled(0, n_turns)
    counts = memory[:, :, 0]
    assert (memory[:, :, 1:] == 0).all()
    assert (counts[:, [0, -1]] == 0).all()
    assert (counts[:, 1:-1] == 1).all()


@only_compiled
def test_what_is_prefetched_stays_as_it_is_and_need_not_be_there() -> None:
    memory = np.arange(3 * LINE_BYTES // 8)
    record = np.zeros(STREAMS_BYTES // 8, np.int64)
    record[:4] = 2, 3, address(memory), 0
    prefetching()(address(record), 2)
    assert (memory == np.arange(3 * LINE_BYTES // 8)).all()
