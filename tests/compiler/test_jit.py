"""The options that every kernel is compiled with."""

from typing import Any

import numba
import numpy as np
import pytest
from conditions import only_compiled

from fastmlp.compiler import kernel, njit
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
