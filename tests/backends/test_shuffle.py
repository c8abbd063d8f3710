"""Orders of the rows: equally likely permutations, and those of RandomState.shuffle."""

from math import factorial
from typing import Any

import numpy as np
import pytest
from fitting import in_threads
from hypothesis import given, settings
from hypothesis import strategies as st
from nets import generator_of
from numpy.random import MT19937, PCG64, RandomState

from fastmlp import MLP
from fastmlp.backends import shuffle
from fastmlp.backends.protocol import Data
from fastmlp.backends.shuffle import reshuffled
from fastmlp.compiler import INTERPRETED
from fastmlp.model import core_of

FULL = 2**32 - 1  # the largest word


def orders_of(words: Any) -> Any:
    return shuffle.orders_of(np.asarray(words, np.uint32))


def by_hand(words: Any) -> list[int]:
    order: list[int] = []
    for i, word in enumerate(words):
        j = int(word) * (i + 1) >> 32
        order.append(i)
        order[i], order[j] = order[j], order[i]
    return order


def draw(rng: Any, *shape: int) -> Any:
    return rng.integers(1 << 32, size=shape, dtype=np.uint32)


@settings(derandomize=True, deadline=None, max_examples=10 if INTERPRETED else 100)
@given(
    st.integers(0, 2**32), st.integers(0, 5), st.integers(1, 50) | st.integers(1, 5000)
)
def test_every_order_is_a_permutation(seed: int, n_orders: int, n: int) -> None:
    orders = orders_of(draw(np.random.default_rng(seed), n_orders, n))
    assert orders.shape == (n_orders, n)
    assert (np.sort(orders) == np.arange(n)).all()


@pytest.mark.parametrize("word", [0, 1, 2**31 - 1, 2**31, FULL])
def test_words_at_the_ends_stay_inside(word: int) -> None:
    assert np.array_equal(
        np.sort(orders_of(np.full((3, 1000), word))), [np.arange(1000)] * 3
    )


def test_orders_are_those_of_the_formula_and_not_of_others(rng: Any) -> None:
    words = draw(rng, 7, 101)
    assert orders_of(words).tolist() == [by_hand(row) for row in words]
    words = draw(rng, 5, 33)
    assert np.array_equal(
        orders_of(words), np.concatenate([orders_of(row[None]) for row in words])
    )
    assert np.array_equal(orders_of(words), orders_of(words))


@pytest.mark.parametrize("n", [2, 3, 4])
def test_all_orders_are_equally_likely(n: int, rng: Any) -> None:
    kinds = factorial(n)
    draws = 500 * factorial(n)
    orders = orders_of(draw(rng, draws, n))
    _, counts = np.unique(orders, axis=0, return_counts=True)
    assert len(counts) == kinds
    chi_squared = ((counts - 500) ** 2 / 500).sum()
    # Of kinds - 1 degrees of freedom: mean and variance;
    # five deviations to either side.
    mean = kinds - 1
    deviation = np.sqrt(2 * (kinds - 1))
    assert abs(chi_squared - mean) < 5 * deviation


@pytest.mark.parametrize("n_rows", [10, 11])
def test_words_may_have_a_gap_after_each_row(n_rows: int, rng: Any) -> None:
    words = draw(rng, 3, 12)[:, :n_rows]
    x = np.zeros((n_rows, 1))
    orders = Data(x, x, x[:0, 0]).orders(words)
    assert orders.dtype == np.int64
    assert orders.flags.c_contiguous
    assert np.array_equal(orders, orders_of(words))
    backwards = np.arange(n_rows)[::-1]
    some = Data(x, x, x[:0, 0], backwards)
    assert np.array_equal(some.orders(words), n_rows - 1 - orders)
    assert np.array_equal(some.plain_order, backwards[None])


def fitted(seed: int, n_rows: int = 23, **options: Any) -> tuple[MLP, list[float]]:
    rng = np.random.default_rng(7)
    x = rng.normal(size=(n_rows, 3))
    y = rng.normal(size=(n_rows, 2))
    net = MLP((3, 4, 2), seed=seed, n_threads=1)
    history = net.fit(x, y, **{"epochs": 6, "batch_size": 5, **options})
    return net, history.loss


@pytest.mark.parametrize("n_rows", [22, 23])
def test_orders_do_not_depend_on_how_many_epochs_are_planned_at_once(
    n_rows: int,
) -> None:
    whole, losses = fitted(3, n_rows)
    by_epoch, again = fitted(3, n_rows, callbacks=lambda report: None)
    assert np.array_equal(whole.parameters, by_epoch.parameters)
    assert losses == again


def test_each_epoch_has_an_order_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    original = Data.orders

    def spy(self: Data, words: Any) -> Any:
        orders = original(self, words)
        seen.extend(orders.tolist())
        return orders

    monkeypatch.setattr(Data, "orders", spy)
    fitted(3)
    assert len(seen) == len({tuple(order) for order in seen}) == 6


@pytest.mark.parametrize("batch_size", [23, 100])
def test_a_batch_of_all_rows_is_not_shuffled(batch_size: int) -> None:
    shuffled, _ = fitted(3, batch_size=batch_size)
    plain, _ = fitted(3, batch_size=batch_size, shuffle=False)
    assert np.array_equal(shuffled.parameters, plain.parameters)
    states = [generator_of(core_of(net).state) for net in (shuffled, plain)]
    assert states[0] == states[1]


# Around the powers of two, where a word has another mask;
# and around the generator's 624 words.
SIZES = [1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 255, 256, 257, 623, 624, 625]
SIZES += [] if INTERPRETED else [1437, 4095, 4096, 4097, 100_000]


def expected_orders(random: Any, order: Any, n_orders: int) -> Any:
    orders = []
    for _ in range(n_orders):
        order = order.copy()
        random.shuffle(order)
        orders.append(order)
    return np.array(orders)


@pytest.mark.parametrize("n", SIZES)
def test_orders_are_those_of_numpy(n: int) -> None:
    ours = RandomState(n)
    theirs = RandomState(n)
    order = np.arange(n)[::-1] * 3
    for n_orders in (1, 3):
        orders = reshuffled(ours, order, n_orders)
        assert orders.dtype == np.int64
        np.testing.assert_array_equal(orders, expected_orders(theirs, order, n_orders))
        assert ours.randint(1 << 30) == theirs.randint(1 << 30)
        order = orders[-1]


@pytest.mark.parametrize("kind", [MT19937, PCG64])
def test_a_random_state_may_have_any_bit_generator(kind: Any) -> None:
    ours = RandomState(kind(1))
    theirs = RandomState(kind(1))
    order = np.arange(100)
    orders = reshuffled(ours, order, 2)
    np.testing.assert_array_equal(orders, expected_orders(theirs, order, 2))
    assert ours.random_sample() == theirs.random_sample()
    assert ours.standard_normal() == theirs.standard_normal()


def test_an_order_given_stays_and_none_draws_nothing() -> None:
    order = np.arange(50)
    reshuffled(RandomState(0), order, 4)
    assert (order == np.arange(50)).all()
    random = RandomState(0)
    assert reshuffled(random, np.arange(9), 0).shape == (0, 9)
    assert random.randint(1 << 30) == RandomState(0).randint(1 << 30)


def test_threads_that_share_a_generator_share_out_its_words() -> None:
    """As the global generator's, which every fit without a random state draws from."""
    n = 50
    n_threads = 4
    n_calls = 3 if INTERPRETED else 50
    shared = RandomState(0)
    results = list[Any]()

    def work(i: int) -> None:
        for _ in range(n_calls):
            results.append(reshuffled(shared, np.arange(n), 2).tolist())

    in_threads(work, n_threads)
    alone = RandomState(0)
    in_turn = [
        reshuffled(alone, np.arange(n), 2).tolist() for _ in range(n_threads * n_calls)
    ]
    assert sorted(results) == sorted(in_turn)
