"""Compiled code draws what NumPy would draw, and leaves the generator as NumPy would."""

import ctypes
from typing import Any

import numpy as np
import pytest
from numpy.random import MT19937, PCG64, SFC64, Philox

from fastmlp.backends.shuffle import generator_address
from fastmlp.compiler import INTERPRETED, next_word, row
from fastmlp.compiler.blocks import NativeCode

KINDS = (MT19937, PCG64, SFC64, Philox)


def draw(generator: Any, out: Any, n: Any) -> None:
    numbers = row(out, n, np.int64)
    for i in range(n):
        numbers[i] = next_word(generator)


def words(bits: Any, n: int, function: Any) -> list[int]:
    out = np.zeros(n, np.int64)
    function(generator_address(bits), out.ctypes.data, n)
    return [int(word) for word in out]


@pytest.mark.parametrize("kind", KINDS)
def test_words_are_those_that_numpy_draws(kind: Any) -> None:
    ways = [draw] if INTERPRETED else [draw, NativeCode(draw, None, light=True).entry]  # type: ignore[arg-type]
    for function in ways:
        bits, expected = kind(3), kind(3)
        # A generator of 64 bits keeps the half that it has not given out: an odd number of words.
        found = words(bits, 1001, function)
        its = expected.ctypes
        assert found == [its.next_uint32(its.state) for _ in range(1001)]
        assert bits.random_raw() == expected.random_raw()


def test_the_address_is_that_of_numpys_own_interface() -> None:
    bits = MT19937(0)
    state = ctypes.c_int64.from_address(generator_address(bits)).value
    assert state == bits.ctypes.state_address
