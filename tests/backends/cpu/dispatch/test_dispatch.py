"""Into how many pieces a thread's part of some work is cut, and what learns from its time."""

from typing import Any

import numpy as np
import pytest
from nets import Net

from fastmlp.backends.cpu.dispatch import dispatch
from fastmlp.backends.cpu.dispatch.cost_model import Work
from fastmlp.backends.cpu.dispatch.dispatch import Autotuner, pieces_of
from fastmlp.backends.cpu.engine import Engine
from fastmlp.backends.cpu.tuning import MOST_PIECES, PIECE_FLOPS


@pytest.mark.parametrize(
    ("flops", "n_joins", "n_threads", "expected"),
    [
        (0, 0, 2, 1),
        (2 * PIECE_FLOPS, 1, 2, 1),  # a part of one piece's work
        (4 * PIECE_FLOPS, 1, 2, 2),
        (4 * PIECE_FLOPS, 2, 2, 1),
        (4 * PIECE_FLOPS, 1, 4, 1),
        (6 * PIECE_FLOPS, 0, 2, 3),  # predictions never join
        (1e15, 10, 2, MOST_PIECES),
    ],
)
def test_only_long_parts_are_cut(flops: float, n_joins: int, n_threads: int, expected: int) -> None:
    assert pieces_of(Work(flops, n_joins), n_threads) == expected


def test_nets_of_another_dtype_have_tuners_of_their_own(
    monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator
) -> None:
    # 13-32-32-1 at 64 rows is faster on one thread in float32, and on two in float64.
    tuners: dict[Any, Autotuner] = {}
    monkeypatch.setattr(dispatch, "tuner_for", lambda kind: tuners.setdefault(kind, Autotuner()))
    for dtype in ("float32", "float64", "float32"):
        net = Net((3, 5, 2), dtype=dtype)
        Engine(net.network, 1).loss(*net.draw(rng, 20))
    assert len(tuners) == 2
