"""Every block that a wheel has, for each kind of processor:
the instructions in it, not run.
"""

import re
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest
from panelled import innermost

from fastmlp.backends.cpu.predict import row_blocks, small_batch
from fastmlp.backends.cpu.simd import gemm
from fastmlp.compiler import COMPILER, INTERPRETED, Key
from fastmlp.compiler.cache import LOADS
from fastmlp.compiler.target import BFMMLA, NEON, V3, V4, Host, target

pytestmark = pytest.mark.skipif(
    INTERPRETED or COMPILER == "numba" or not LOADS,
    reason="it reads the translator's code of Linux",
)
_SSE = "+64bit,+cx16,+popcnt,+sahf,+sse,+sse2,+sse3,+sse4.1,+sse4.2,+ssse3"
_OF_X86_LATER = (
    r"tile|\btdp|vdpbf16|vcvtne\w*bf16|vpdp|vp2intersect|vgf2p8|vaes|\w+ph\t"
)
_OF_V4 = rf"%zmm|%[xy]mm(?:1[6-9]|2\d|3[01])\b|%k[0-7]\b|{_OF_X86_LATER}"
# SVE's registers, atomics in one instruction, half precision,
# products of integers; and x18, which is macOS'.
_OF_ARM_LATER = (
    r"\b[zp]\d+[./]|^\s+(?:cas|swp|(?:ld|st)(?:add|clr|eor|set|[su]m(?:ax|in)))[abl]*\t|"
    r"^\s+f\w+\t.*(?:\.[48]h|\bh\d)|[su]dot|[su]mmla|\b[wx]18\b"
)


class Kind(NamedTuple):
    """A kind of processor.

    Attributes
    ----------
    foreign : what it lacks, in assembly
    whole : a multiply-add of a whole vector
    others : those of parts of a vector and of single numbers
    """

    host: Host
    foreign: str
    whole: str
    others: str


KINDS = {
    # Without fused multiply-adds C's function makes each.
    "x86-64 without AVX": Kind(
        Host("nehalem", _SSE, "x86_64"),
        rf"^\s+v[a-z]|%ymm|{_OF_V4}",
        r"\bfmaf?(?:@\w+)?(?:\(|$)",
        r"\bvfn?m",
    ),
    "x86-64-v3": Kind(V3, _OF_V4, r"vfn?m\w+p[sd]\t.*%ymm", r"vfn?m"),
    "x86-64-v4": Kind(V4, _OF_X86_LATER, r"vfn?m\w+p[sd]\t.*%zmm", r"vfn?m"),
    "aarch64": Kind(
        NEON,
        rf"\tbf(?:mmla|dot|cvt|ml)|{_OF_ARM_LATER}",
        r"\tfml[as]\tv\d+\.(?:4s|2d)",
        r"\tf(?:ml[as]|n?m(?:add|sub))\t",
    ),
    "aarch64 with bfmmla": Kind(BFMMLA, _OF_ARM_LATER, r"\tbfmmla\t", r"\tf?ml[as]\t"),
}
# The blocks that multiply matrices.
PRODUCTS = (
    gemm.product,
    gemm.packed_product,
    row_blocks.rows_in_lanes,
    row_blocks.rows_in_tiles,
    small_batch.row_by_row,
)


def blocks_of(number: int, *, whole: bool) -> Iterator[Key]:
    """The blocks that are compiled for a kind of processor: of pairs alone where all
    others are of the kind before; and of these kernels for one dtype, and every fourth
    rule, unless `whole`.
    """
    from compiler.test_every_block import EVERY

    alike = defaultdict[Any, list[Key]](list)
    for factory, dtype, rule, options in EVERY:
        of_one = factory, rule, tuple(sorted(options.items()))
        alike[of_one].append((factory, dtype, rule, options))
    for i, keys in enumerate(alike.values()):
        factory, _, rule, options = keys[0]
        if target() == BFMMLA and "pairs" not in options:
            continue
        if whole:
            yield from keys
        elif rule is None or i % 4 == number:
            yield keys[(i + number) % len(keys)]


def faults_of(assembly: str, kind: Kind, *, multiplies: bool) -> list[str]:
    """Instructions that no code of this kind has,
    and the largest loop's parts of vectors.
    """
    foreign = re.compile(f"^.*(?:{kind.foreign}).*$", re.MULTILINE)
    faults = [line.strip() for line in foreign.findall(assembly)]
    if not multiplies:
        return faults
    whole = re.compile(kind.whole, re.MULTILINE)
    others = re.compile(kind.others)

    def counts(loop: str) -> tuple[int, int]:
        return len(others.findall(loop)), len(whole.findall(loop))

    if not whole.search(assembly):
        faults.append("no multiply-add of a whole vector")
    largest = max(innermost(assembly), key=counts, default="")
    for line in largest.splitlines():
        if others.search(line) and not whole.search(line):
            faults.append(f"a part of a vector: {line.strip()}")
    return faults


def report(name: str, whole: bool) -> list[str]:
    """The number of blocks, and the faults of each; in a process with this target."""
    from compiler.test_every_block import generated

    kind = KINDS[name]
    faults = list[str]()
    n = 0
    assert target() == kind.host
    for key in blocks_of(list(KINDS).index(name), whole=whole):
        factory, dtype, rule, options = key
        _, assembly = generated(key, kind.host)
        n += 1
        for fault in faults_of(assembly, kind, multiplies=factory in PRODUCTS):
            faults.append(f"{factory.__name__} {dtype} {rule} {options}: {fault}")
    return [str(n), *faults]


@pytest.mark.slow
@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize(
    "whole", [False, pytest.param(True, marks=pytest.mark.nightly)]
)
def test_blocks_have_instructions_of_their_processor_and_whole_vectors(
    name: str, whole: bool, python: Callable[..., str]
) -> None:
    script = f"""
from compiler.test_every_target import report
print(*report({name!r}, {whole}), sep="\\n")"""
    told = {"FASTMLP_TARGET": " ".join(KINDS[name].host), "FASTMLP_CACHE": "0"}
    n, *faults = python(script, **told).splitlines()
    assert faults == []
    assert int(n) >= (5 if KINDS[name].host == BFMMLA else 120)


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("x86-64 without AVX", "\tvaddps\t%xmm0, %xmm1, %xmm0"),
        ("x86-64-v3", "\tvaddps\t%zmm0, %zmm1, %zmm0"),
        ("x86-64-v3", "\tvmovups\t(%rax), %ymm17"),
        ("x86-64-v3", "\tvmovups\t(%rax), %ymm1 {%k1} {z}"),
        ("x86-64-v4", "\tvdpbf16ps\t%zmm0, %zmm1, %zmm2"),
        ("x86-64-v4", "\ttileloadd\t(%rax,%rcx), %tmm0"),
        ("aarch64", "\tbfmmla\tv0.4s, v1.8h, v2.8h"),
        ("aarch64", "\tfmla\tz0.s, p0/m, z1.s, z2.s"),
        ("aarch64", "\tldaddal\tx0, x1, [x2]"),
        ("aarch64 with bfmmla", "\tmov\tx18, x0"),
        ("aarch64 with bfmmla", "\tfadd\tv0.8h, v1.8h, v2.8h"),
    ],
)
def test_an_instruction_that_a_processor_lacks_would_be_seen(
    name: str, line: str
) -> None:
    assert faults_of(line, KINDS[name], multiplies=False) == [line.strip()]


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("x86-64-v3", "\tvfmadd231ps\t%xmm0, %xmm1, %xmm2"),
        ("x86-64-v4", "\tvfmadd231pd\t%ymm0, %ymm1, %ymm2"),
        ("aarch64", "\tfmla\tv0.2s, v1.2s, v2.2s"),
        ("aarch64", "\tfmadd\ts0, s1, s2, s3"),
    ],
)
def test_a_product_in_a_part_of_a_vector_would_be_seen(name: str, line: str) -> None:
    jump = "b.ne" if name == "aarch64" else "jne"
    loop = f".LBB0_1:\n{line}\n\t{jump}\t.LBB0_1\n"
    assert faults_of(loop, KINDS[name], multiplies=True)
