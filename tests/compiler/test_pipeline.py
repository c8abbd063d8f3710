"""Blocks use the widest vectors of the processor, under both compilers."""

from typing import Any

import llvmlite.binding as llvm
import numba
import numpy as np
import pytest
from conditions import only_compiled
from numba.core.errors import TypingError

from fastmlp.backends.cpu.kernels import elementwise
from fastmlp.compiler import njit, row
from fastmlp.compiler.blocks import Block, compiled_by_numba
from fastmlp.rules import elementary

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
