"""Words that several threads read and write."""

import threading
from typing import Any

import numba
import numpy as np

from fastmlp.compiler import exchange_if, fetch_add, load_acquire, pause, store_release


@numba.njit
def through_each(address: Any) -> Any:
    store_release(address, 5)
    before = fetch_add(address, 3)
    pause()
    swapped = exchange_if(address, 8, 1 << 40)
    refused = exchange_if(address, 8, 7)
    return before, swapped, refused, load_acquire(address)


@numba.njit(nogil=True)
def add_ones(address: Any, n: Any) -> None:
    for _ in range(n):
        fetch_add(address, 1)


@numba.njit(nogil=True)
def swap_in_ones(address: Any, n: Any) -> None:
    for _ in range(n):
        before = load_acquire(address)
        while not exchange_if(address, before, before + 1):
            before = load_acquire(address)


def test_each_does_what_it_says_compiled_and_interpreted() -> None:
    words = np.zeros(3, np.int64)
    for function in (through_each, getattr(through_each, "py_func", through_each)):
        assert function(words[1:].ctypes.data) == (5, True, False, 1 << 40)
        assert words.tolist() == [0, 1 << 40, 0]


def from_two_threads(function: Any, n: int) -> int:
    """The word after two threads at the same time."""
    word = np.zeros(1, np.int64)
    function(word.ctypes.data, 0)
    threads = [threading.Thread(target=function, args=(word.ctypes.data, n)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return int(word[0])


N = 10 if numba.config.DISABLE_JIT else 100_000


def test_no_addition_is_lost() -> None:
    assert from_two_threads(add_ones, N) == 2 * N


def test_no_exchange_is_lost() -> None:
    assert from_two_threads(swap_in_ones, N) == 2 * N
