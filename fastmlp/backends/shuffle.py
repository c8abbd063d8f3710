"""Orders of the rows for both devices, shuffled on the host.

`orders_of` makes them from 32-bit words: 1.9 ns a row, where NumPy's `permuted` takes
13. `reshuffled` makes the orders that scikit-learn draws from a `RandomState`.
"""

import ctypes
from typing import Any

import numpy as np
from numpy.random import BitGenerator
from numpy.typing import NDArray

from fastmlp.compiler import block_of, next_word
from fastmlp.compiler.memory import row

# A new prototype: argument types set on the function of ctypes.pythonapi would hold for
# the whole process.
_POINTER = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.py_object, ctypes.c_char_p)
_pointer_of = _POINTER(("PyCapsule_GetPointer", ctypes.pythonapi))


def shuffle(scalar: Any) -> Any:
    """Turns n_orders x n words of 32 random bits into orders of n rows.

    The shuffle is Fisher & Yates', inside out (Durstenfeld, 1964). Row i takes the
    position ``word (i + 1) / 2^32`` (Lemire, 2019, without its rejections: the
    probabilities of two orders of n rows differ by a factor of up to 1 + n / 2^32).
    """

    def shuffle_rows(words: Any, orders: Any, n: Any, n_orders: Any) -> None:
        for e in range(n_orders):
            word = row(words + e * n * 4, n, np.uint32)
            order = row(orders + e * n * 8, n, np.int64)
            for i in range(n):
                j = np.int64((np.uint64(word[i]) * np.uint64(i + 1)) >> np.uint64(32))
                order[i] = order[j]
                order[j] = i

    return shuffle_rows


def orders_of(words: NDArray[np.uint32]) -> NDArray[np.int64]:
    """An order of the rows, int64, for each row of uint32 words,
    both shape (n_orders, n_rows).
    """
    words, orders = np.ascontiguousarray(words), np.empty(words.shape, np.int64)
    n_orders, n = words.shape
    block_of(shuffle, np.int64)(words.ctypes.data, orders.ctypes.data, n, n_orders)
    return orders


def shuffle_again(scalar: Any) -> Any:
    """Shuffles an order of n rows, and the result again, n_orders times.

    The draws and orders are `numpy.random.RandomState.shuffle`'s, from the generator
    whose `bitgen_t` lies at an address: 11 us for 1,437 rows, where NumPy takes 15.6
    and holds the GIL. No branch depends on a word, as the processor would mispredict
    every fourth: a word past the last row swaps this row with itself, and another word
    is drawn.
    """

    def shuffle_rows(
        generator: Any, before: Any, orders: Any, n: Any, n_orders: Any
    ) -> None:
        most = 1
        while most < n:
            most = 2 * most
        for e in range(n_orders):
            order = row(orders + e * n * 8, n, np.int64)
            source = row(before, n, np.int64)
            for i in range(n):
                order[i] = source[i]
            before = orders + e * n * 8
            last, mask = n - 1, most - 1
            while last > 0:
                mask = mask >> 1 if last <= mask >> 1 else mask
                j = next_word(generator) & mask
                inside = j <= last
                j = j if inside else last
                there = order[j]
                order[j] = order[last]
                order[last] = there
                last = last - 1 if inside else last

    return shuffle_rows


def generator_address(bits: BitGenerator) -> int:
    """A generator's `bitgen_t`, valid for as long as the generator lives."""
    place: int = _pointer_of(bits.capsule, b"BitGenerator")
    return place


def reshuffled(
    random: np.random.RandomState, order: NDArray[np.int64], n_orders: int
) -> NDArray[np.int64]:
    """Return n_orders orders,
    each the one before it as ``random.shuffle`` would leave it.

    Examples
    --------
    >>> orders = reshuffled(np.random.RandomState(0), np.arange(5), 2)
    >>> order, random = np.arange(5), np.random.RandomState(0)
    >>> [random.shuffle(order) or bool((order == each).all()) for each in orders]
    [True, True]
    """
    n = len(order)
    source = np.ascontiguousarray(order)
    orders = np.empty((n_orders, n), np.int64)
    bits = random._bit_generator
    shuffle_orders = block_of(shuffle_again, np.int64)
    with bits.lock:
        shuffle_orders(
            generator_address(bits), source.ctypes.data, orders.ctypes.data, n, n_orders
        )
    return orders
