"""Orders of the rows are those of `RandomState.shuffle`, and so is what is drawn afterwards."""

import threading
from typing import Any

import numpy as np
import pytest
from numpy.random import MT19937, PCG64, RandomState

from fastmlp.backends.shuffle import reshuffled
from fastmlp.compiler import INTERPRETED

# Around the powers of two, where a word has another mask; and around the generator's 624 words.
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
    ours, theirs, order = RandomState(n), RandomState(n), np.arange(n)[::-1] * 3
    for n_orders in (1, 3):
        orders = reshuffled(ours, order, n_orders)
        assert orders.dtype == np.int64
        np.testing.assert_array_equal(orders, expected_orders(theirs, order, n_orders))
        assert ours.randint(1 << 30) == theirs.randint(1 << 30)
        order = orders[-1]


@pytest.mark.parametrize("kind", [MT19937, PCG64])
def test_a_random_state_may_have_any_bit_generator(kind: Any) -> None:
    ours, theirs, order = RandomState(kind(1)), RandomState(kind(1)), np.arange(100)
    orders = reshuffled(ours, order, 2)
    np.testing.assert_array_equal(orders, expected_orders(theirs, order, 2))
    assert ours.random_sample() == theirs.random_sample()
    assert ours.standard_normal() == theirs.standard_normal()


def test_the_order_given_is_not_changed() -> None:
    order = np.arange(50)
    reshuffled(RandomState(0), order, 4)
    assert (order == np.arange(50)).all()


def test_no_orders_draw_nothing() -> None:
    random = RandomState(0)
    assert reshuffled(random, np.arange(9), 0).shape == (0, 9)
    assert random.randint(1 << 30) == RandomState(0).randint(1 << 30)


def test_threads_that_share_a_generator_share_out_its_words() -> None:
    """As the global generator's, which every fit without a random state draws from."""
    n, n_threads, n_calls = 50, 4, 3 if INTERPRETED else 50
    shared, found = RandomState(0), list[Any]()

    def work() -> None:
        for _ in range(n_calls):
            found.append(reshuffled(shared, np.arange(n), 2).tolist())

    threads = [threading.Thread(target=work) for _ in range(n_threads)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    alone = RandomState(0)
    in_turn = [reshuffled(alone, np.arange(n), 2).tolist() for _ in range(n_threads * n_calls)]
    assert sorted(found) == sorted(in_turn)
