"""What products ask memory for while they multiply, written as LLVM IR: a few lines at a time.

Cores keep some tens of requests at a time, and what comes after more of them waits: products of
1024-2048-2048-1000 at 32 rows that asked for 64 lines at once ran no faster than without.
"""

from typing import Any

import numpy as np
from numba import types
from numba.core import cgutils

from fastmlp.backends.cpu.simd.target import LINE_BYTES
from fastmlp.compiler.atomics import WORD, emit_fetch
from fastmlp.compiler.intrinsics import emitted

# As many streams as a tile of weights has panels, times their parameters and numbers of state.
MOST_STREAMS = 9
# What the caller of a product wants in a cache when it is done: `n_streams` pieces of memory of
# `n_lines` each, and where they begin.
WANTED = np.dtype((np.record, [("n_streams", np.int64), ("n_lines", np.int64)]))
WANTED_BYTES = WANTED.itemsize + 8 * MOST_STREAMS


def ask(address: Any, n_lines: Any) -> None:
    """Ask memory for so many lines (uncompiled: nothing)."""


@emitted(ask)
def _ask(typing_context: Any, address: Any, n_lines: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        Share(builder, arguments[1], WORD(0), WORD(1)).ask(arguments[0])
        return context.get_dummy_value()

    return types.void(types.intp, types.intp), generate


class Share:
    """Which of n lines one of `n_turns` asks for, whose number is `turn`: as many as each other."""

    def __init__(self, builder: Any, n_lines: Any, turn: Any, n_turns: Any) -> None:
        one = WORD(1)
        rounded = builder.add(n_lines, builder.sub(n_turns, one))
        self.builder, at_once = builder, builder.udiv(rounded, n_turns)
        self.begin = builder.mul(turn, at_once)
        end = builder.add(self.begin, at_once)
        self.end = builder.select(builder.icmp_unsigned("<", end, n_lines), end, n_lines)

    def ask(self, *places: Any) -> None:
        """Emit the requests, of pieces of memory that begin at these places."""
        builder = self.builder
        with cgutils.for_range_slice(builder, self.begin, self.end, WORD(1)) as (line, _):
            skip = builder.mul(line, WORD(LINE_BYTES))
            for place in places:
                emit_fetch(builder, builder.add(place, skip))


class NextBlock:
    """The block of B that a product needs after this one, asked for along a tile's rows of A.

    128 x 2048 x 2048 ran at 232 GFLOP/s of 280 without, at 254 so.

    Parameters
    ----------
    places : where it begins in each panel
    n_lines : of it in a panel; 0: it is not asked for
    tile, n_tiles : the number of this tile, and of all that pass over the block at hand
    stretches : int, of a tile
    """

    def __init__(
        self, builder: Any, places: list[Any], n_lines: Any, tile: Any, n_tiles: Any, stretches: int
    ) -> None:
        self.builder, self.places, self.n_lines = builder, places, n_lines
        self.before = builder.mul(tile, WORD(stretches))
        self.n_turns = builder.mul(n_tiles, WORD(stretches))

    def ask(self, stretch: Any) -> None:
        """Emit the requests of a stretch."""
        turn = self.builder.add(self.before, stretch)
        Share(self.builder, self.n_lines, turn, self.n_turns).ask(*self.places)


def ask_for_wanted(builder: Any, wanted: Any, turn: Any, n_turns: Any) -> None:
    """Emit one turn's requests for what a `WANTED` record tells; its address 0 is none."""
    with builder.if_then(builder.icmp_unsigned("!=", wanted, WORD(0))):
        words = builder.inttoptr(wanted, WORD.as_pointer())
        n_streams, n_lines = (builder.load(builder.gep(words, [WORD(i)])) for i in range(2))
        share = Share(builder, n_lines, turn, n_turns)
        with cgutils.for_range(builder, n_streams) as loop:
            place = builder.gep(words, [builder.add(loop.index, WORD(2))])
            share.ask(builder.load(place))
