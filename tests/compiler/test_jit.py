"""The options that every kernel is compiled with, and the width of its vectors."""

from typing import Any

import llvmlite.binding as llvm
import numba
import numpy as np
import pytest
from conditions import only_compiled
from numba.core.errors import TypingError

from fastmlp.backends.cpu.kernels import elementwise
from fastmlp.compiler import kernel, njit, row
from fastmlp.compiler.blocks import Block, compiled_by_numba
from fastmlp.compiler.jit import chosen_compiler
from fastmlp.rules import elementary


def called(function: Any) -> Any:
    """Return compiled code that calls `function` as a leaf: leaves have no door from Python."""
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
@pytest.mark.parametrize("compile_later", [njit, kernel("test.options")])
def test_kernels_release_the_interpreter_and_use_no_fast_math(compile_later: Any) -> None:
    options = compile_later(divide).targetoptions
    assert options["nogil"]
    assert options["nopython"]
    assert options["error_model"] == "numpy"
    assert not options.get("fastmath")


@only_compiled
def test_decorating_compiles_nothing() -> None:
    compiled: Any = njit(divide)
    assert not compiled.signatures
    compiled = kernel("test.later")(divide)
    assert not compiled.signatures


@only_compiled
def test_a_division_by_zero_is_that_of_numpy() -> None:
    compiled = called(divide)
    assert compiled(1.0, 0.0) == np.inf
    assert np.isnan(compiled(0.0, 0.0))


def test_sums_run_in_the_order_that_is_written() -> None:
    # In pairs or in vector lanes the ones would meet before they meet 1e16, and count.
    numbers = np.array([1e16] + [1.0] * 63)
    assert called(sum_of)(numbers) == 1e16


@pytest.mark.parametrize("function", elementary.FUNCTIONS, ids=lambda f: f.__name__)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_elementary_functions_compile_in_the_precision_of_their_argument(
    function: Any, dtype: Any
) -> None:
    # Called by compiled code only: compiled, a float32 that leaves is a Python float.
    out = np.empty(1, dtype)

    @called
    def apply(x: Any, out: Any) -> None:
        out[0] = function(x)

    apply(dtype(0.7), out)
    np.testing.assert_allclose(out[0], function(dtype(0.7)), rtol=4 * np.finfo(dtype).eps)


@pytest.mark.parametrize(
    ("asked", "version", "expected"),
    [
        ("", "0.65.0", "translator"),
        ("", "0.68.1", "translator"),
        ("translator", "0.68.1", "translator"),
        ("numba", "0.68.1", "numba"),
        ("", "0.64.9", "numba"),
        ("", "0.69.0", "numba"),
        ("translator", "1.0.0", "numba"),
        ("", "0.68.0rc1", "translator"),
    ],
)
def test_an_untried_numba_compiles_the_kernels_itself(
    asked: str, version: str, expected: str
) -> None:
    assert chosen_compiler(asked, version) == expected


def test_another_compiler_is_refused() -> None:
    with pytest.raises(ValueError, match="FASTMLP_COMPILER must be 'translator' or 'numba'"):
        chosen_compiler("gcc", "0.68.1")


with_avx512 = pytest.mark.skipif(
    not llvm.get_host_cpu_features().get("avx512f") or bool(numba.config.CPU_NAME),
    reason="the processor, or the one that is compiled for, has no AVX-512",
)


@pytest.fixture(scope="module", params=["translated", "by Numba"])
def text(request: pytest.FixtureRequest) -> str:
    """LLVM's final text of a block."""
    loop = elementwise.link_loop(np.float32, elementary.tanh, by_row=False)
    if request.param == "by Numba":
        return str(compiled_by_numba(loop, None).inspect_llvm())
    return str(Block(loop, None)._code.inspect_llvm())


@only_compiled
def test_a_block_asks_for_full_width(text: str) -> None:
    assert '"prefer-vector-width"="512"' in text


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
    block, numbers = compiled(add_three, None), np.array([4])
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
        Block(block, None)
