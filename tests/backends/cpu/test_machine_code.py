"""Machine code as it runs: the loops of every block,
what they multiply with, what they call.
"""

import platform
import re
import sys
from collections.abc import Callable
from functools import cache, partial
from typing import Any

import numpy as np
import pytest
from loss_cases import CASES, options_of
from numba.extending import register_jitable
from panelled import INTERPRETED, assembly, innermost

from fastmlp.backends.cpu.kernels import elementwise
from fastmlp.backends.cpu.kernels.epoch import evaluate, predict, train
from fastmlp.backends.cpu.kernels.first_layer import (
    expanded_columns,
    expanded_forward,
    expanded_gradient,
    sparse_columns,
    sparse_forward,
    sparse_gradient,
)
from fastmlp.backends.cpu.kernels.forward_backward import forward_backward, row_backward
from fastmlp.backends.cpu.kernels.gradient_update import update
from fastmlp.backends.cpu.kernels.step import (
    forward_backward_by_panels,
    microbatches,
    objective,
    split_k,
    split_k_backward,
)
from fastmlp.backends.cpu.plan.packing import pack, transposes, unpack
from fastmlp.backends.cpu.predict.row_blocks import predict_blocks, rows_in_lanes
from fastmlp.backends.cpu.predict.small_batch import row_by_row, small_batch
from fastmlp.backends.cpu.simd.gemm import product
from fastmlp.compiler import COMPILER
from fastmlp.compiler.blocks import Block, NativeCode
from fastmlp.compiler.by_numba import INLINED
from fastmlp.compiler.memory import row
from fastmlp.compiler.target import vector_bytes
from fastmlp.rules import activations, losses, updates
from fastmlp.rules.optimizers import OPTIMIZERS
from fastmlp.rules.updates import N_MOMENTS

Factory = Callable[..., Any]
pytestmark = pytest.mark.skipif(
    INTERPRETED or COMPILER == "numba", reason="it reads the translator's machine code"
)
reads_assembly = pytest.mark.skipif(
    platform.machine() not in ("x86_64", "AMD64")
    or sys.platform != "linux"
    or vector_bytes() < 32,
    reason="the words looked for are those of x86 with AVX2, in the assembly of Linux",
)
each_dtype = pytest.mark.parametrize("dtype", [np.float32, np.float64])

# Of expanded rows the plain numbers are multiplied by a block.
EXPANDED: dict[str, Factory] = {
    "expanded_forward": expanded_forward,
    "expanded_gradient": expanded_gradient,
}
# What multiplies matrices, or numbers and errors.
PRODUCTS: dict[str, Factory] = {
    "product": partial(product, by_column=False),
    "gradient_product": partial(product, by_column=True),
    "row_by_row": row_by_row,
    "rows_in_lanes": rows_in_lanes,
    "row_backward": row_backward,
    "sparse_forward": sparse_forward,
    "sparse_gradient": sparse_gradient,
    **EXPANDED,
}
# For an activation, once for many numbers, or for a product of many rows.
THAT_CALL_BLOCKS = ("row_by_row", "rows_in_lanes", "sparse_forward", *EXPANDED)
# What moves numbers, and calls blocks: products by themselves, or as the last layer's.
PHASES: dict[str, Factory] = {
    factory.__name__: factory
    for factory in (
        forward_backward,
        update,
        forward_backward_by_panels,
        split_k,
        split_k_backward,
        microbatches,
        pack,
        unpack,
        transposes,
        sparse_columns,
        expanded_columns,
        predict_blocks,
        small_batch,
        train,
        evaluate,
        predict,
        objective,
    )
}
# The plain forms of three phases.
PLAIN: dict[str, Factory] = {
    f"plain {factory.__name__}": partial(factory, plain=True)
    for factory in (forward_backward, update, train)
}
PHASES |= PLAIN
# Phases that multiply by themselves: the sums of few outputs,
# and what a single row needs.
THAT_MULTIPLY = (
    "forward_backward",
    "forward_backward_by_panels",
    "update",
    "plain forward_backward",
    "plain update",
)
# Those that calculate: they add sums, weigh deltas, add gradients.
THAT_CALCULATE = {*THAT_MULTIPLY, "train", "plain train", "objective"}
# Counts and losses are float64 there by design.
WIDE = {"forward_backward", "forward_backward_by_panels", "train", "predict_blocks"}
WIDE |= {"plain forward_backward", "plain train"}
# Rules with an exponential in them, or a logarithm: straight lines of fused steps.
STEPS = {
    "sigmoid",
    "tanh",
    "elu",
    "selu",
    "gelu",
    "gelu_tanh",
    "silu",
    "mish",
    "softplus",
}
STEPS |= {"exp", "softmax", "binary_cross_entropy", "cross_entropy", "poisson"}

CALL = re.compile(r"^\s+call", re.MULTILINE)
# Functions may lie anywhere: their addresses are loaded,
# as numbers are, and those of blocks not.
SYMBOL = re.compile(r"^\s+(?:movabsq\s+\$|call\w*\s+)([A-Za-z_][\w.@]*)", re.MULTILINE)

OWN = re.compile(r"^([A-Za-z_][\w.]*):", re.MULTILINE)


def rule_blocks() -> dict[str, partial[Any]]:
    table: dict[str, partial[Any]] = {}
    for name, rule in activations.RULES.items():
        table[f"activation {name}"] = partial(elementwise.activation_loop, rule=rule)
    for name, link in losses.LINKS.items():
        table[f"link {name}"] = partial(
            elementwise.link_loop, rule=link.rule, by_row=link.by_row
        )
    for name, loss in CASES.items():
        options: dict[str, Any] = {"rule": loss.rule, **options_of(loss)}
        table[f"loss {name}"] = partial(elementwise.loss_loop, **options)
    for name, rule in updates.PENALTIES.items():
        table[f"penalty {name}"] = partial(elementwise.penalty_loop, rule=rule)
    for name, kind in OPTIMIZERS.items():
        optimizer = kind()
        n = optimizer.coefficients(1, np.ones(1)).shape[1]
        options = {"rule": optimizer.rule, "n_coefficients": n}
        n_moments = N_MOMENTS.get(optimizer.rule, 2)
        table[f"update {name}"] = partial(
            elementwise.update_loop, **options, n_moments=n_moments
        )
        for penalty in updates.PENALTIES if n_moments == 2 else ():
            loop = partial(
                elementwise.penalised_update_loop, **options, penalty=penalty
            )
            table[f"update {name} {penalty}"] = loop
    return table


RULES = rule_blocks()


@cache
def compiled(name: str, dtype: Any) -> Block:
    """The block as a fit has it: phases are compiled lightly, rules in full."""
    if name in RULES:
        register_jitable(**INLINED)(RULES[name].keywords["rule"])
        code = Block(RULES[name](dtype), None)
    else:
        code = Block({**PRODUCTS, **PHASES}[name](dtype), None, light=True)
    assert isinstance(code._code, NativeCode)  # else Numba has compiled it
    return code


def multiplying(
    loops: list[str], dtype: Any, kind: str = "p", register: str = ""
) -> list[str]:
    """Those with fused multiply-adds: of packed numbers,
    or single ones, in such a register.
    """
    letter = "s" if dtype == np.float32 else "d"
    words = re.compile(rf"vfn?m(?:add|sub)\d+{kind}{letter}\b.*%{register}")
    return [loop for loop in loops if words.search(loop)]


def calculating(loops: list[str], dtype: Any) -> list[str]:
    letter = "s" if dtype == np.float32 else "d"
    words = re.compile(rf"v(?:add|sub|mul|max|min|fn?m(?:add|sub)\d+)p{letter}\b")
    return [loop for loop in loops if words.search(loop)]


REGISTER = "zmm" if vector_bytes() == 64 else "ymm"
# Of a single row's product, what is left is less than a vector;
# products in panels have no rest.
WITH_A_REST = {"row_by_row"}
THAT_ASK_AHEAD = {"product", "gradient_product"}
MASKED_STORE = re.compile(r"vmaskmovp.\s+%ymm\d+, %ymm\d+, [^%]*\(")


def calls_blocks_only(text: str) -> bool:
    """True if blocks are called by their addresses, and nothing else.

    Zeros are written by the C library, once for all the rows of a block;
    and a leaf that a block uses twice is a function of the block's.
    """
    return set(SYMBOL.findall(text)) - set(OWN.findall(text)) <= {"memset"}


@pytest.mark.slow
@pytest.mark.few(3)
@reads_assembly
@each_dtype
@pytest.mark.parametrize("name", PRODUCTS)
def test_products_multiply_and_add_whole_vectors_and_call_nothing(
    name: str, dtype: Any
) -> None:
    text = assembly(compiled(name, dtype))
    loops = innermost(text)
    assert multiplying(loops, dtype, register=REGISTER)
    assert not any(CALL.search(loop) for loop in multiplying(loops, dtype))
    assert calls_blocks_only(text)
    assert name in THAT_CALL_BLOCKS or not CALL.search(text)
    assert not multiplying(loops, dtype, "s") or name in WITH_A_REST
    assert "prefetch" in text or name not in THAT_ASK_AHEAD


@pytest.mark.slow
@pytest.mark.few(4)
@reads_assembly
@each_dtype
@pytest.mark.parametrize("name", PHASES)
def test_loops_of_phases_are_of_whole_vectors_and_call_nothing(
    name: str, dtype: Any
) -> None:
    text = assembly(compiled(name, dtype))
    every = innermost(text)
    loops = calculating(every, dtype)
    assert bool(loops) == (name in THAT_CALCULATE)
    assert any(f"%{REGISTER}" in loop for loop in loops) == bool(loops)
    assert not any(CALL.search(loop) for loop in loops)
    assert calls_blocks_only(text)
    assert not any(map(MASKED_STORE.search, every))
    if name in THAT_MULTIPLY:
        assert multiplying(every, dtype, register=REGISTER)
        assert not multiplying(every, dtype, "s")
        # A product of float32 is summed in float32, also where losses are float64.
        assert not any("vcvt" in loop for loop in multiplying(every, dtype))


@pytest.mark.few(12)
@reads_assembly
@each_dtype
@pytest.mark.parametrize("name", RULES)
def test_loops_of_rules_call_nothing_and_multiply_whole_vectors(
    name: str, dtype: Any
) -> None:
    """Rules of `STEPS` have fused multiply-adds; the others need not."""
    text = assembly(compiled(name, dtype))
    loops = innermost(text)
    assert calls_blocks_only(text)
    assert not any(CALL.search(loop) for loop in loops)
    rule = name.split()[1]
    if rule in STEPS:
        assert multiplying(loops, dtype, register="[xyz]mm")


@pytest.mark.few(8)
@pytest.mark.parametrize("name", sorted({*PRODUCTS, *PHASES} - WIDE))
def test_no_number_of_float32_is_widened(name: str) -> None:
    text = str(compiled(name, np.float32)._code.inspect_llvm())
    assert "fpext" not in text
    if name in PRODUCTS:
        assert "float" in text
        assert "double" not in text


@reads_assembly
@each_dtype
def test_a_call_would_be_seen(dtype: Any) -> None:
    def calls(address: Any, n: Any) -> None:
        numbers = row(address, n, dtype)
        for i in range(n):
            numbers[i] = np.tanh(numbers[i])

    text = assembly(Block(calls, None, ours=False))
    assert any(CALL.search(loop) for loop in innermost(text))
    assert any("tanh" in name for name in SYMBOL.findall(text))
