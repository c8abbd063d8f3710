"""Prefetches of a product while it multiplies: a few lines at a time.

Cores keep some tens of requests at a time, and a load after more of them waits: 64 lines prefetched
at once gained nothing (products of 1024-2048-2048-1000@32).
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from fastmlp.backends.cpu.simd.vector import Vectors, Word
from fastmlp.backends.cpu.simd.vector_function import vector_function
from fastmlp.backends.cpu.tuning import MOST_STREAMS
from fastmlp.compiler.target import LINE_BYTES

# Memory that is read after a product: `n_streams` pieces of `n_lines` lines each; the addresses of
# the pieces follow the record.
STREAMS = np.dtype((np.record, [("n_streams", np.int64), ("n_lines", np.int64)]))
STREAMS_BYTES = STREAMS.itemsize + 8 * MOST_STREAMS


class Turn(NamedTuple):
    """One of `n_turns` turns that share the prefetches of some lines."""

    number: Word | int
    n_turns: Word | int


def prefetch_share(v: Vectors, places: Sequence[Word], n_lines: Word, turn: Turn) -> None:
    """Prefetch one turn's share of n lines at each of some places."""
    at_once = (n_lines + (turn.n_turns - 1)) // turn.n_turns
    begin = turn.number * at_once
    end = begin + at_once
    for line in v.range(begin, v.choose(end < n_lines, end, n_lines)):
        skip = line * LINE_BYTES
        for place in places:
            v.prefetch(place + skip)


def prefetch_streams(v: Vectors, streams: Word, turn: Turn) -> None:
    """Prefetch one turn's share of the pieces of a `STREAMS` record; address 0: no record."""

    def prefetch() -> None:
        n_streams, n_lines = v.word(streams), v.word(streams + 8)
        for i in v.range(n_streams):
            prefetch_share(v, [v.word(streams + STREAMS.itemsize + i * 8)], n_lines, turn)

    v.when(streams > 0, prefetch)


def _lines(v: Vectors, address: Word, n_lines: Word) -> None:
    """Prefetch so many lines."""
    prefetch_share(v, [address], n_lines, Turn(0, 1))


prefetch_lines = vector_function(_lines, np.float32, 1)
