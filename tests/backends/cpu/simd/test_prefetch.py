"""Prefetches: each line once, and whether there is memory or not."""

from typing import Any

import numpy as np
import pytest
from llvmlite import ir
from panelled import INTERPRETED, address, block

from fastmlp.backends.cpu.simd import vector_llvm
from fastmlp.backends.cpu.simd.prefetch import (
    STREAMS,
    STREAMS_BYTES,
    Turn,
    prefetch_streams,
)
from fastmlp.backends.cpu.simd.vector_function import vector_function
from fastmlp.backends.cpu.tuning import MOST_STREAMS
from fastmlp.compiler import Block
from fastmlp.compiler.target import LINE_BYTES

only_compiled = pytest.mark.skipif(INTERPRETED, reason="uncompiled, nothing is prefetched")


def prefetching() -> Block:
    """The block that takes all turns of prefetching what a record names."""

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
        word = builder.inttoptr(place, ir.IntType(64).as_pointer())
        builder.store(builder.add(builder.load(word), ir.IntType(64)(1)), word)

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
