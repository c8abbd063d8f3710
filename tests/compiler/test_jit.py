"""Functions of both compilers, records,
and functions that have another body when compiled.
"""

import ctypes
import re
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import llvmlite.binding as llvm
import numba
import numpy as np
import pytest
from conditions import only_compiled
from fitting import in_threads
from hypothesis import given, settings
from hypothesis import strategies as st
from numba.core.errors import TypingError
from numpy.random import MT19937, PCG64, SFC64, Philox

import fastmlp.compiler
import fastmlp.compiler.by_numba
from fastmlp.backends.cpu.kernels import elementwise
from fastmlp.backends.shuffle import generator_address
from fastmlp.compiler import (
    INTERPRETED,
    block_of,
    by_numba,
    call,
    flush_denormals,
    fma,
    next_word,
    njit,
    pause,
    restore_denormals,
)
from fastmlp.compiler.blocks import Block, NativeCode
from fastmlp.compiler.by_numba import compile_block as compiled_by_numba
from fastmlp.compiler.jit import chosen_compiler, emitted
from fastmlp.compiler.memory import (
    Record,
    coefficients_at,
    exchange_if,
    fence,
    fetch_add,
    load_acquire,
    record_at,
    records_at,
    row,
    rows,
    stack,
    store_release,
)
from fastmlp.rules import elementary


def called(function: Any) -> Any:
    """Return compiled code that calls `function` as a leaf:
    leaves have no door from Python.
    """
    inner = njit(function)
    return numba.njit(lambda *arguments: inner(*arguments))


def divide(a: Any, b: Any) -> Any:
    return a / b


def sum_of(numbers: Any) -> Any:
    total = 0.0
    for i in range(numbers.size):
        total += numbers[i]
    return total


@only_compiled
def test_kernels_release_the_interpreter_and_use_no_fast_math() -> None:
    options = by_numba.dispatcher_of(njit(divide)).targetoptions
    assert options["nogil"]
    assert options["nopython"]
    assert options["error_model"] == "numpy"
    assert not options.get("fastmath")


@only_compiled
def test_divisions_and_widths_of_blocks_are_numpys_and_full(text: str) -> None:
    compiled = called(divide)
    assert compiled(1.0, 0.0) == np.inf
    assert np.isnan(compiled(0.0, 0.0))
    assert '"prefer-vector-width"="512"' in text


def test_sums_stack_and_bodies_are_as_they_are_written() -> None:
    # In pairs or in vector lanes the ones would meet before they meet 1e16, and count.
    numbers = np.array([1e16] + [1.0] * 63)
    assert called(sum_of)(numbers) == 1e16
    assert use_shifted(2.5, 3.0) == 5.5
    assert take_often(10_000) == 10_000


def test_another_compiler_is_refused() -> None:
    with pytest.raises(
        ValueError, match="FASTMLP_COMPILER must be 'translator' or 'numba'"
    ):
        chosen_compiler("gcc")


with_avx512 = pytest.mark.skipif(
    not llvm.get_host_cpu_features().get("avx512f") or bool(numba.config.CPU_NAME),
    reason="the processor, or the one that is compiled for, has no AVX-512",
)


@pytest.fixture(scope="module", params=["translated", "by Numba"])
def text(request: pytest.FixtureRequest) -> str:
    loop = elementwise.link_loop(np.float32, elementary.tanh, by_row=False)
    if request.param == "by Numba":
        return str(compiled_by_numba(loop, None).inspect_llvm())
    return str(Block(loop, None)._code.inspect_llvm())


@only_compiled
@with_avx512
def test_a_block_has_full_width(text: str) -> None:
    assert "<16 x float>" in text


@njit
def add_one(x: Any) -> Any:
    return x + 1


@njit
def add_two(x: Any) -> Any:
    return add_one(add_one(x))


def add_three(address: Any) -> None:
    numbers = row(address, 1, np.int64)
    numbers[0] = add_one(add_two(numbers[0]))


@only_compiled
@pytest.mark.parametrize("compiled", [Block, compiled_by_numba])
def test_leaves_become_part_of_a_block(compiled: Any) -> None:
    block = compiled(add_three, None)
    numbers = np.array([4])
    code = block._code if isinstance(block, Block) else block
    getattr(block, "ctypes", block)(numbers.ctypes.data)
    assert numbers[0] == 7
    assert "call i64" not in code.inspect_llvm()


@only_compiled
def test_what_is_wrong_in_a_leaf_is_said_as_ever() -> None:
    @njit
    def wrong(x: Any) -> Any:
        return x.nothing

    def block(address: Any) -> None:
        wrong(address)

    with pytest.raises(TypingError, match="nothing"):
        Block(block, None, ours=False)


each_dtype = pytest.mark.parametrize("dtype", [np.float32, np.float64])


@numba.njit
def fused(a: Any, b: Any, c: Any) -> Any:
    return fma(a, b, c)


@only_compiled
@each_dtype
def test_fma_is_rounded_once(dtype: Any) -> None:
    a = dtype(1) + np.finfo(dtype).eps
    # a a - (1 + 2 eps) is eps^2, which a product rounded to 1 + 2 eps has lost.
    b = -(dtype(1) + dtype(2) * np.finfo(dtype).eps)
    assert a * a + b == 0
    assert fused(a, a, b) == np.finfo(dtype).eps ** 2


@only_compiled
@settings(derandomize=True, deadline=None)
@given(*[st.floats(-1e100, 1e100, allow_subnormal=False)] * 3)
def test_fma_is_the_exact_value_rounded(a: float, b: float, c: float) -> None:
    exact = Fraction(a) * Fraction(b) + Fraction(c)
    assert fused(a, b, c) == float(exact)


@each_dtype
def test_fma_keeps_the_precision_of_its_arguments(dtype: Any) -> None:
    a, b, c = np.array([2, 3, 4], dtype)
    assert fused(a, b, c) == 10
    assert numba.typeof(fma(a, b, c)) == numba.typeof(a)


@only_compiled
def test_fma_takes_numbers_of_one_precision_only() -> None:
    with pytest.raises(numba.TypingError):
        fused(np.float32(1), 1.0, np.float32(1))


@numba.njit
def fill_two(numbers: Any) -> Any:
    one, two = stack(256), stack(256)
    first = row(one, 256, np.uint8)
    second = row(two, 256, np.uint8)
    # By loops: Numba compiles four slices for 3 s.
    for i in range(256):
        first[i] = 1
        second[i] = 2
    for i in range(256):
        numbers[i] = first[i]
        numbers[256 + i] = second[i]
    return one, two


@numba.njit
def take_often(n_times: Any) -> Any:
    """Ask for the same 64 KiB again and again: more than any stack has."""
    total = 0
    for i in range(n_times):
        place = stack(65536)
        numbers = row(place, 65536, np.uint8)
        numbers[i % 65536] = 1
        total += 1 if numbers[i % 65536] == 1 else 0
    return total


@pytest.mark.slow
def test_pieces_of_the_stack_hold_what_was_written_and_do_not_overlap() -> None:
    numbers = np.zeros(512, np.uint8)
    one, two = fill_two(numbers)
    assert numbers.tolist() == [1] * 256 + [2] * 256
    assert one + 256 <= two or two + 256 <= one


@pytest.mark.slow
@only_compiled
def test_a_piece_of_the_stack_begins_on_a_cache_line() -> None:
    assert [place % 64 for place in fill_two(np.zeros(512, np.uint8))] == [0, 0]


class Piece(Record):
    first: int
    weight: float
    last: int


def double(address: Any, n: Any) -> None:
    pieces = records_at(address, n, Piece)
    for i in range(n):
        pieces[i].last = 2 * pieces[i].first
        record_at(address + i * 24, Piece).weight = pieces[i].last * 0.25


def table() -> Any:
    pieces = np.zeros(3, Piece.dtype)
    pieces["first"] = 1, 2, 3
    return pieces


def test_dtypes_are_those_of_annotations_and_no_others() -> None:
    assert Piece.dtype.names == ("first", "weight", "last")
    assert [str(Piece.dtype[name]) for name in Piece.dtype.names] == [
        "int64",
        "float64",
        "int64",
    ]
    assert Piece.size == Piece.dtype.itemsize == 24
    with pytest.raises(KeyError):

        class Wrong(Record):
            name: str


@pytest.mark.skipif(INTERPRETED, reason="with the JIT off nothing is compiled")
@pytest.mark.parametrize("compiler", ["translator", "numba"])
def test_both_compilers_read_and_write_fields(compiler: str) -> None:
    pieces, expected = table(), table()
    double(expected.ctypes.data, 3)
    entry: Any = numba.njit(double)
    if compiler == "translator":
        entry = NativeCode(double, None, light=True).entry  # type: ignore[arg-type]
    entry(pieces.ctypes.data, 3)
    np.testing.assert_array_equal(pieces, expected)


@pytest.mark.skipif(INTERPRETED, reason="with the JIT off nothing is compiled")
def test_a_function_takes_a_record() -> None:
    @njit
    def total(piece: Any) -> Any:
        return piece.first + piece.weight

    def add(address: Any) -> None:
        piece = record_at(address, Piece)
        piece.weight = total(piece)

    pieces = table()
    NativeCode(add, None, light=True).entry(pieces[1:].ctypes.data)  # type: ignore[arg-type]
    assert pieces["weight"].tolist() == [0.0, 2.0, 0.0]


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
    done = (
        exchange_if(address, 5, 6),
        exchange_if(address, 0, 7),
        exchange_if(address, 7, 9),
    )
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


def test_blocks_and_generators_have_their_addresses() -> None:
    # Not interpreted in a process that compiles:
    # a compiled block's address is the machine's.
    result, _ = result_of(numba.njit(use_call))
    assert result == 2
    bits = MT19937(0)
    state = ctypes.c_int64.from_address(generator_address(bits)).value
    assert state == bits.ctypes.state_address


def test_every_emitted_function_is_tested_here() -> None:
    folder = Path(fastmlp.compiler.__file__).parent
    sources = "".join(path.read_text() for path in folder.rglob("*.py"))
    registered = r"^@?(?:jit\.)?(?:emitted|_ours)\((?:jit\.|memory\.)?(\w+)"
    names = set(re.findall(registered, sources, re.MULTILINE))
    # What draws another word each time has a file of its own:
    # `test_words`; elementary functions have `test_elementary`.
    exact = {"where", "copysign", "polynomial", "scaled", "octave"}
    assert names == {*USES, *exact, "next_word"}


@numba.njit
def use_shifted(x: Any, by: Any) -> Any:
    return shifted(x, by)


@only_compiled
def test_other_bodies_are_in_the_place_of_calls_of_known_types() -> None:
    use_shifted(2.5, 3.0)
    text = next(iter(use_shifted.inspect_llvm().values()))
    assert not re.search(
        r"call [^\n]*shifted[^\n]*_shifted", text.replace("use_shifted", "")
    )
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
    in_threads(lambda i: function(word.ctypes.data, n), 2)
    return int(word[0])


N = 10 if numba.config.DISABLE_JIT else 100_000


def test_no_addition_and_no_exchange_is_lost() -> None:
    assert from_two_threads(add_ones, N) == 2 * N
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
        # A generator of 64 bits keeps the half that it has not given out:
        # an odd number of words.
        result = words(bits, 1001, function)
        values = expected.ctypes
        assert result == [values.next_uint32(values.state) for _ in range(1001)]
        assert bits.random_raw() == expected.random_raw()
