"""Into how many pieces a thread's part of some work is cut."""

import pytest

from fastmlp.backends.cpu.cost import Work
from fastmlp.backends.cpu.runner import PIECE_FLOPS, pieces_of
from fastmlp.backends.cpu.team import MOST_PIECES


@pytest.mark.parametrize(
    ("flops", "n_spreads", "n_threads", "expected"),
    [
        (0, 0, 2, 1),
        (2 * PIECE_FLOPS, 1, 2, 1),  # a part of one piece's work
        (4 * PIECE_FLOPS, 1, 2, 2),
        (4 * PIECE_FLOPS, 2, 2, 1),
        (4 * PIECE_FLOPS, 1, 4, 1),
        (12 * PIECE_FLOPS, 0, 2, 6),  # predictions never join
        (1e15, 10, 2, MOST_PIECES),
    ],
)
def test_only_long_parts_are_cut(
    flops: float, n_spreads: int, n_threads: int, expected: int
) -> None:
    assert pieces_of(Work(flops, n_spreads), n_threads) == expected
