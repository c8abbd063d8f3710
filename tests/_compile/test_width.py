"""Blocks use the widest vectors of the processor, without a setting."""

import llvmlite.binding as llvm
import numba
import numpy as np
import pytest

from fastmlp import elementary
from fastmlp._compile.blocks import Block
from fastmlp.backends.cpu import loops

only_compiled = pytest.mark.skipif(
    bool(numba.config.DISABLE_JIT), reason="with the JIT off nothing has a width"
)
with_avx512 = pytest.mark.skipif(
    not llvm.get_host_cpu_features().get("avx512f") or bool(numba.config.CPU_NAME),
    reason="the processor, or the one that is compiled for, has no AVX-512",
)


@pytest.fixture(scope="module")
def block() -> Block:
    return Block(loops.link_loop(np.float32, elementary.tanh, by_row=False), None)


@only_compiled
def test_a_block_asks_for_full_width(block: Block) -> None:
    assert '"prefer-vector-width"="512"' in block._code.inspect_llvm()


@only_compiled
@with_avx512
def test_a_block_has_full_width(block: Block) -> None:
    assert "<16 x float>" in block._code.inspect_llvm()
