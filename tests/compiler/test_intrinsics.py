"""Functions with two bodies: interpreted and compiled they give the same results."""

import ctypes
import re
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba
import numpy as np
import pytest
from conditions import only_compiled
from numpy.random import MT19937, PCG64, SFC64, Philox

import fastmlp.compiler
import fastmlp.compiler.by_numba
from fastmlp.backends.shuffle import generator_address
from fastmlp.compiler import (
    INTERPRETED,
    Record,
    block_of,
    call,
    coefficients_at,
    exchange_if,
    fence,
    fetch_add,
    flush_denormals,
    fma,
    load_acquire,
    next_word,
    pause,
    record_at,
    records_at,
    restore_denormals,
    row,
    rows,
    stack,
    store_release,
)
from fastmlp.compiler.blocks import NativeCode
from fastmlp.compiler.intrinsics import emitted


def shifted(x: Any, by: Any) -> Any:
    return x + by


@emitted(shifted, 0, alike=True)
def _shifted(builder: Any, x: Any, by: Any) -> Any:
    return builder.fadd(x, by)


def add(scalar: Any) -> Any:
    def add_number(a: Any, b: Any) -> None:
        row(a, 1, scalar)[0] += row(b, 1, scalar)[0]

    return add_number


def use_call(numbers: Any, address: Any, block: Any) -> Any:
    call(block, (address, address + 8))
    return numbers[0]


def use_coefficients_at(numbers: Any, address: Any, block: Any) -> Any:
    a, b, c = coefficients_at(address, 3, np.float64)
    return a + 10 * b + 100 * c


def use_exchange_if(numbers: Any, address: Any, block: Any) -> Any:
    done = exchange_if(address, 5, 6), exchange_if(address, 0, 7), exchange_if(address, 7, 9)
    return done, load_acquire(address)


def use_fetch_add(numbers: Any, address: Any, block: Any) -> Any:
    return fetch_add(address, 3), fetch_add(address, -1), load_acquire(address)


def use_fma(numbers: Any, address: Any, block: Any) -> Any:
    return fma(numbers[1], numbers[2], numbers[3])


def use_load_acquire(numbers: Any, address: Any, block: Any) -> Any:
    return load_acquire(address + 8), load_acquire(address)


def use_modes(numbers: Any, address: Any, block: Any) -> Any:
    mode = flush_denormals()
    numbers[0] = numbers[1] + numbers[2]
    restore_denormals(mode)
    return numbers[0]


def use_pause(numbers: Any, address: Any, block: Any) -> Any:
    pause()
    return numbers[1]


def use_fence(numbers: Any, address: Any, block: Any) -> Any:
    store_release(address, 7)
    fence()
    return load_acquire(address)


class Pair(Record):
    count: int
    mass: float


def use_record_at(numbers: Any, address: Any, block: Any) -> Any:
    pair = record_at(address + 8, Pair)
    pair.count += 1
    pair.mass *= 2
    return pair.count, pair.mass, numbers[2]


def use_records_at(numbers: Any, address: Any, block: Any) -> Any:
    pairs = records_at(address, 2, Pair)
    pairs[1].count = pairs[0].count - 1
    pairs[0].mass = pairs[1].mass
    return pairs[1].count, pairs[0].mass, len(pairs), numbers[1]


def use_row(numbers: Any, address: Any, block: Any) -> Any:
    view = row(address + 8, 3, np.float64)
    view[1] = 7
    return view[0], view[2], view.size, numbers[2]


def use_rows(numbers: Any, address: Any, block: Any) -> Any:
    view = rows(address, 2, 2, np.float64)
    view[1, 0] = 7
    return view[0, 1], view[1, 1], view.shape[0], view.shape[1], numbers[2]


def use_stack(numbers: Any, address: Any, block: Any) -> Any:
    place = stack(64)
    view = row(place, 8, np.float64)
    for i in range(8):
        view[i] = i
    return view.sum()


def use_store_release(numbers: Any, address: Any, block: Any) -> Any:
    store_release(address, -2)
    return load_acquire(address)


USES: dict[str, Callable[..., Any]] = {
    "call": use_call,
    "coefficients_at": use_coefficients_at,
    "exchange_if": use_exchange_if,
    "fence": use_fence,
    "fetch_add": use_fetch_add,
    "flush_denormals": use_modes,
    "fma": use_fma,
    "load_acquire": use_load_acquire,
    "pause": use_pause,
    "record_at": use_record_at,
    "records_at": use_records_at,
    "restore_denormals": use_modes,
    "row": use_row,
    "rows": use_rows,
    "stack": use_stack,
    "store_release": use_store_release,
}


def result_of(use: Callable[..., Any]) -> tuple[Any, list[float]]:
    numbers = np.array([0.0, 2.0, 3.0, 4.0])
    result = use(numbers, numbers.ctypes.data, block_of(add, "float64").address)
    return result, numbers.view(np.int64).tolist()


@pytest.mark.parametrize("name", sorted(set(USES) - {"call"}))
def test_both_bodies_give_the_same_result(name: str) -> None:
    use = USES[name]
    assert result_of(numba.njit(use)) == result_of(use)


def test_a_block_is_called_by_its_address() -> None:
    # Not interpreted in a process that compiles: a compiled block's address is the machine's.
    result, _ = result_of(numba.njit(use_call))
    assert result == 2


def test_every_emitted_function_is_tested_here() -> None:
    folder = Path(fastmlp.compiler.__file__).parent
    sources = "".join(path.read_text() for path in folder.rglob("*.py"))
    names = set(re.findall(r"^@?(?:emitted|_ours)\((?:intrinsics\.)?(\w+)", sources, re.MULTILINE))
    # What draws another word each time has a file of its own: `test_words`; elementary functions
    # have `test_elementary`.
    exact = {"where", "copysign", "polynomial", "scaled", "octave"}
    assert names == {*USES, *exact, "next_word"}


@numba.njit
def use_shifted(x: Any, by: Any) -> Any:
    return shifted(x, by)


def test_compiled_code_takes_the_other_body() -> None:
    assert use_shifted(2.5, 3.0) == 5.5


@only_compiled
def test_the_other_body_is_code_in_the_place_of_the_call() -> None:
    use_shifted(2.5, 3.0)
    text = next(iter(use_shifted.inspect_llvm().values()))
    assert not re.search(r"call [^\n]*shifted[^\n]*_shifted", text.replace("use_shifted", ""))


@only_compiled
def test_types_that_have_no_other_body_are_refused() -> None:
    with pytest.raises(numba.TypingError):
        use_shifted(2, 3)
    with pytest.raises(numba.TypingError):
        use_shifted(np.float32(2), np.float64(3))


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


def from_two_threads(function: Any, n: int) -> int:
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
        result = words(bits, 1001, function)
        values = expected.ctypes
        assert result == [values.next_uint32(values.state) for _ in range(1001)]
        assert bits.random_raw() == expected.random_raw()


def test_the_address_is_that_of_numpys_own_interface() -> None:
    bits = MT19937(0)
    state = ctypes.c_int64.from_address(generator_address(bits)).value
    assert state == bits.ctypes.state_address
