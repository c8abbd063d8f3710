"""The greedy selection against Caruana's algorithm, written down, and the best of all subsets."""

from itertools import combinations

import numpy as np
import pytest
from numpy.typing import NDArray

from fastmlp.tabular.pack.selection import greedy

Array = NDArray[np.float64]


def candidates_of(seed: int, n: int = 7, n_rows: int = 60) -> tuple[Array, Array]:
    """Targets, and candidates that differ from them by noise of their own strength."""
    generator = np.random.default_rng(seed)
    y = generator.normal(size=n_rows)
    noise = generator.normal(size=(n, n_rows)) * generator.uniform(0.5, 1.5, (n, 1))
    return y, y + noise + generator.normal(size=(n, 1)) * 0.2


def loss_of(y: Array, mean: Array) -> float:
    return float(np.sqrt(np.mean((y - mean) ** 2)))


def caruana(y: Array, candidates: Array, n_rounds: int) -> list[int]:
    """The chosen places of the best round, in their order."""
    chosen: list[int] = []
    history: list[tuple[float, list[int]]] = []
    for _ in range(n_rounds):
        losses = [loss_of(y, candidates[[*chosen, i]].mean(axis=0)) for i in range(len(candidates))]
        best = min(range(len(candidates)), key=lambda i: losses[i])
        chosen = [*chosen, best]
        history.append((losses[best], chosen))
    return min(history, key=lambda pair: pair[0])[1]


@pytest.mark.parametrize("seed", range(8))
def test_with_replacement_it_is_caruanas_selection(seed: int) -> None:
    y, candidates = candidates_of(seed)
    found = greedy(candidates, lambda mean: loss_of(y, mean), n_rounds=25)
    chosen = caruana(y, candidates, 25)
    expected = np.bincount(chosen, minlength=len(candidates)) / len(chosen)
    np.testing.assert_allclose(found.weights, expected, rtol=0, atol=1e-15)
    assert found.loss == pytest.approx(loss_of(y, found.weights @ candidates), rel=1e-12)


@pytest.mark.parametrize("seed", range(8))
def test_without_replacement_each_counts_once_and_every_round_helps(seed: int) -> None:
    y, candidates = candidates_of(seed)
    found = greedy(candidates, lambda mean: loss_of(y, mean), replacement=False)
    chosen = np.flatnonzero(found.weights)
    np.testing.assert_array_equal(found.weights[chosen], 1 / len(chosen))
    others = [i for i in range(len(candidates)) if i not in chosen]
    for other in others:
        assert loss_of(y, candidates[[*chosen, other]].mean(axis=0)) >= found.loss
    assert found.loss <= min(loss_of(y, each) for each in candidates)


@pytest.mark.parametrize("replacement", [True, False])
def test_there_are_at_most_so_many_different_members(replacement: bool) -> None:
    y, candidates = candidates_of(3, n=12)
    for most in (1, 2, 3):
        found = greedy(
            candidates, lambda mean: loss_of(y, mean), max_members=most, replacement=replacement
        )
        assert 1 <= np.count_nonzero(found.weights) <= most
        assert found.weights.sum() == pytest.approx(1)


def test_one_member_is_the_best_one() -> None:
    y, candidates = candidates_of(5)
    found = greedy(candidates, lambda mean: loss_of(y, mean), max_members=1)
    losses = [loss_of(y, each) for each in candidates]
    assert np.flatnonzero(found.weights).tolist() == [int(np.argmin(losses))]


def test_many_rounds_come_near_to_the_best_pair() -> None:
    y, candidates = candidates_of(1, n=5)
    found = greedy(candidates, lambda mean: loss_of(y, mean), n_rounds=100)
    pairs = combinations(range(len(candidates)), 2)
    best = min(loss_of(y, candidates[list(pair)].mean(axis=0)) for pair in pairs)
    assert found.loss <= best * 1.01


def test_candidates_whose_loss_is_no_number_are_left_out() -> None:
    y, candidates = candidates_of(2, n=3)
    candidates[0] = np.nan
    found = greedy(candidates, lambda mean: loss_of(y, mean))
    assert found.weights[0] == 0
    assert np.isfinite(found.loss)
    none = greedy(candidates[:1], lambda mean: loss_of(y, mean))
    assert not none.weights.any()
