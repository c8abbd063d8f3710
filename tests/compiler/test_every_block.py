"""Every block that a wheel has, as LLVM leaves it: what its addresses are made of."""

import re

import numpy as np
import pytest

from fastmlp.compiler import COMPILER, INTERPRETED, Key
from fastmlp.compiler.native import objects
from fastmlp.compiler.target import Host, pair_target, target
from fastmlp.warmup import every_block

pytestmark = pytest.mark.skipif(
    INTERPRETED or COMPILER == "numba", reason="it reads the translator's code"
)
EVERY: list[Key] = [
    key for keys in every_block(("float32", "float64")).values() for key in keys
]
# Each part has blocks of all kinds: their list goes from kind to kind.
N_PARTS = 48
# An element pointer, or a calculated address, with null or a constant at its base.
RELATIVE_TO_NULL = re.compile(r"getelementptr[^\n]*, ptr (?:null|inttoptr)\b")
# The word of a pointer, with the name by which it is used.
WORD = re.compile(r"^\s+(%\S+) = ptrto(?:int|addr) ptr ", re.MULTILINE)
FUNCTION = re.compile(r"^define .*?^}", re.MULTILINE | re.DOTALL)
CALCULATES = "add|sub|mul|shl|or|and|xor"


def generated(key: Key, host: Host) -> tuple[str, str]:
    """A block's IR after all passes, of the code generator too, and its assembly."""
    factory, dtype, rule, options = key
    if rule is None:
        rules = []
    else:
        rules = [rule]
    loop = factory(np.dtype(dtype).type, *rules, **options)
    module = objects.optimize(loop, host, light=rule is None)
    assembly: str = objects.machine(host).emit_assembly(module)
    return str(module), assembly


def calculated(ir: str) -> list[str]:
    """The instructions that calculate with the word of a pointer."""
    lines = []
    for function in FUNCTION.findall(ir):
        words = "|".join(re.escape(name) for name in WORD.findall(function))
        if words:
            use = rf"^.* = (?:{CALCULATES}) .*(?:{words})(?:,.*)?$"
            lines += re.findall(use, function, re.MULTILINE)
    return lines


@pytest.mark.slow
@pytest.mark.few(4)
@pytest.mark.parametrize("part", range(N_PARTS))
def test_addresses_are_element_pointers_of_what_they_point_to(part: int) -> None:
    for key in EVERY[part::N_PARTS]:
        ir, _ = generated(key, pair_target() if "pairs" in key[3] else target())
        assert not RELATIVE_TO_NULL.search(ir), key
        assert not calculated(ir), key


@pytest.mark.parametrize(
    "code",
    [
        "getelementptr i8, ptr null, i64 %1",
        "getelementptr i8, ptr inttoptr (i64 8 to ptr), i64 %1",
    ],
)
def test_an_address_relative_to_null_would_be_seen(code: str) -> None:
    assert RELATIVE_TO_NULL.search(f"  %2 = {code}\n")


@pytest.mark.parametrize("code", ["add i64 %1, 8", "or disjoint i64 8, %1"])
def test_a_word_of_a_pointer_that_is_calculated_with_would_be_seen(code: str) -> None:
    ir = f"define void @f() {{\n  %1 = ptrtoint ptr %0 to i64\n  %2 = {code}\n}}\n"
    assert calculated(ir) == [f"  %2 = {code}"]
    assert not calculated(ir.replace(code, "call i64 @f(i64 %1)"))
