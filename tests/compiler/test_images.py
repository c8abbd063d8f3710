"""Images of objects for Arm, whose instructions are read by its manual."""

import struct
from collections.abc import Iterator

import llvmlite.binding as llvm

from fastmlp.compiler.native import images

TRIPLE = "aarch64-linux-gnu"
# A call of a function outside, and a number that lies a page behind the first.
SOURCE = f"""
target triple = "{TRIPLE}"
declare double @exp(double)
@.numbers = private constant [600 x double] [{"double 0.0, " * 599}double 0.25]
define double @kernel(double %x) {{
  %y = call double @exp(double %x)
  %last = getelementptr [600 x double], ptr @.numbers, i64 0, i64 599
  %z = load double, ptr %last
  %sum = fadd double %y, %z
  ret double %sum
}}
"""


def signed(bits: int, n: int) -> int:
    """The integer that n bits hold in two's complement."""
    return bits - (bits >> (n - 1) << n)


def references(image: bytes) -> Iterator[tuple[str, int]]:
    """Where the instructions of an image point: calls, and numbers that are loaded."""
    page = 0
    for place in range(0, len(image) - 3, 4):
        (word,) = struct.unpack_from("<I", image, place)
        if word >> 26 == 0b100101:
            yield "bl", place + 4 * signed(word & 0x3FFFFFF, 26)
        elif word & 0x9F000000 == 0x90000000:
            pages = (word >> 5 & 0x7FFFF) << 2 | word >> 29 & 3
            page = (place & ~0xFFF) + (signed(pages, 21) << 12)
        elif word & 0xFFC00000 == 0xFD400000:
            yield "ldr", page + 8 * (word >> 10 & 0xFFF)


def test_arm_reaches_slots_and_numbers_of_other_pages() -> None:
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    target = llvm.Target.from_triple(TRIPLE)
    machine = target.create_target_machine("generic", "+neon", 3, "static", "small")
    made = machine.emit_object(llvm.parse_assembly(SOURCE))
    parts, image = images.link_object(made, "kernel")
    found = dict(references(image))
    assert parts["entry"] == 0
    assert found["bl"] == parts["slots"]["exp"] + 8
    assert found["ldr"] > 0xFFF
    assert struct.unpack_from("<d", image, found["ldr"]) == (0.25,)
