"""The host's registers and features, and what multiplies pairs of bfloat16 in them.

LLVM's answer is stored, by the processor's `cpuid`,
so that a process whose code is stored does not import LLVM.
"""

import ctypes
import os
import struct
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from fastmlp._process import locks
from fastmlp.compiler.cache import HERE, LOADS, CodeCache, executable, shipped
from fastmlp.compiler.jit import setting

LINE_BYTES = 64
# How pairs of bfloat16 are multiplied: by AMX, in tile registers; by Arm's bfmmla, as
# matrices of 2 x 4 numbers; by AVX512-BF16, a pair in each lane; or widened to float32.
PairProducts = Literal["tiles", "matrices", "lanes", "widened"]
# A processor's name, features and architecture,
# where a wheel's code is compiled for it.
TOLD = os.environ.get("FASTMLP_TARGET", "")
# Linux' number of the word with an Arm processor's further features,
# and the bit of bfmmla there.
_FEATURES = 26
_BFMMLA = 1 << 14
# Linux' arch_prctl on x86-64, its request of state that is off by default,
# and the number of AMX's tile state.
_ARCH_PRCTL = 158
_ARCH_REQ_XCOMP_PERM = 0x1023
_TILE_DATA = 18


class Host(NamedTuple):
    """LLVM's name of a processor, its features,
    as in "+avx2,-avx512f", and its architecture.
    """

    name: str
    features: str
    machine: str = HERE

    def has(self, feature: str) -> bool:
        return f"+{feature}" in self.features.split(",")


def vector_bytes() -> int:
    """Bytes of the vector registers that code is compiled for."""
    return _vector_bytes(target().features)


@cache
def _vector_bytes(features: str) -> int:
    names = features.split(",")
    if "+avx512f" in names:
        return 64
    if "+avx2" in names:
        return 32
    return 16


def second_level_bytes() -> int:
    """Bytes of a core's second-level cache, as Linux tells; 1 MB elsewhere."""
    try:
        text = Path("/sys/devices/system/cpu/cpu0/cache/index2/size").read_text()
        return int(text.strip().removesuffix("K")) * 1024
    except (OSError, ValueError):
        return 1 << 20


def multiplies_pairs() -> bool:
    return pair_target().has("avx512bf16")


def pair_products() -> PairProducts:
    """How the host multiplies pairs of bfloat16 in products of matrices.

    The process asks the system for tiles here, once.
    """
    on = pair_target()
    if on.has("avx512bf16"):
        by_tiles = vector_bytes() == 64 and on.has("amx-tile") and on.has("amx-bf16")
        return "tiles" if by_tiles and permits_tiles() else "lanes"
    return "matrices" if on.has("bf16") else "widened"


@cache
def permits_tiles() -> bool:
    """Ask Linux for tile registers,
    for all threads of the process and for its children.

    Linux refuses if a thread's alternate signal stack is too small.
    Other systems have no such call.
    """
    if sys.platform != "linux":
        return False
    call = ctypes.CDLL(None, use_errno=True).syscall
    words = (
        ctypes.c_long(word) for word in (_ARCH_PRCTL, _ARCH_REQ_XCOMP_PERM, _TILE_DATA)
    )
    return int(call(*words)) == 0


# The levels that a wheel has code for: AVX2, and the AVX-512 of all processors that
# have more; all of Arm's processors, and for blocks of mixed precision those with
# bfmmla.
_AVX2 = (
    "+64bit,+avx,+avx2,+bmi,+bmi2,+cmov,+crc32,+cx16,+cx8,+f16c,+fma,+fxsr,+lzcnt,+mmx,+movbe,"
    "+popcnt,+sahf,+sse,+sse2,+sse3,+sse4.1,+sse4.2,+ssse3,+xsave"
)
V3 = Host("x86-64-v3", _AVX2, "x86_64")
V4 = Host(
    "x86-64-v4",
    f"{_AVX2},+avx512bw,+avx512cd,+avx512dq,+avx512f,+avx512vl",
    "x86_64",
)
NEON = Host("generic", "+fp-armv8,+neon", "aarch64")
BFMMLA = Host("generic", "+bf16,+fp-armv8,+neon", "aarch64")
SHIPPED_NAMES = {V3: V3.name, V4: V4.name, NEON: "aarch64", BFMMLA: "aarch64-bf16"}


def target() -> Host:
    """The processor that code is compiled for: a level that a wheel has code for,
    or the host, less what Numba's settings say.
    """
    if TOLD:
        return Host(*TOLD.split(" "))
    return _target(
        setting("CPU_NAME"), setting("CPU_FEATURES"), setting("ENABLE_AVX", -1)
    )


# Numba uses AVX on these processors only if told to.
_WITHOUT_AVX = {"corei7-avx", "core-avx-i", "sandybridge", "ivybridge", "nocona"}


@cache
def _target(name: str | None, features: str | None, enables_avx: int) -> Host:
    # Once Numba is imported, its setting is 1, where nobody has set it.
    if name is features is None and enables_avx:
        here = level()
        if here and shipped(SHIPPED_NAMES[here]):
            return here
    if features is None and name == "generic":
        features = ""
    if features is not None:
        return Host(name or host().name, features)
    name = name or host().name
    names = host().features.split(",")
    if not enables_avx or (enables_avx < 0 and name in _WITHOUT_AVX):
        names = [
            each.replace("+", "-") if each[1:4] == "avx" else each for each in names
        ]
    return Host(name, ",".join(names))


def pair_target() -> Host:
    """The processor of mixed-precision blocks: of a level without instructions for
    pairs of bfloat16, the host or the level that has them, if this processor does.
    """
    chosen = target()
    if TOLD or chosen not in SHIPPED_NAMES or setting("CPU_NAME") is not None:
        return chosen
    if chosen == NEON:
        return BFMMLA if has_bfmmla() else NEON
    return host() if _has(cpuid(), _BFLOAT16) else chosen


@cache
def has_bfmmla() -> bool:
    """Ask the system, of whom LLVM learns few of Arm's features."""
    if HERE != "aarch64" or not LOADS:
        return False
    library = ctypes.CDLL(None)
    if sys.platform == "darwin":
        known = ctypes.c_int()
        size = ctypes.c_size_t(4)
        name = b"hw.optional.arm.FEAT_BF16"
        library.sysctlbyname(name, *map(ctypes.byref, (known, size)), None, 0)
        return bool(known.value)
    library.getauxval.restype = ctypes.c_ulong
    return bool(library.getauxval(ctypes.c_ulong(_FEATURES)) & _BFMMLA)


@cache
def host() -> Host:
    """LLVM is asked once: a forked child may find LLVM's lock taken.

    The features are empty if LLVM does not know the host:
    an instruction that the host lacks ends the process.
    """
    leaves = cpuid()
    stored = CodeCache(f"host {leaves.hex()}") if leaves else None
    if stored and (known := stored.load()) is not None:
        return Host(**known[0])
    # Ctrl-C while Python code takes LLVM's lock would leave it taken.
    with locks.deferred():
        import llvmlite.binding as llvm

        try:
            features: str = llvm.get_host_cpu_features().flatten()
        except RuntimeError:
            features = ""
        features += ",+bf16" * has_bfmmla()
        host = Host(llvm.get_host_cpu_name(), features)
    if stored:
        stored.save(host._asdict(), b"")
    return host


# cpuid: rdi the place of four results, esi the leaf, edx the subleaf.
_CPUID = bytes.fromhex("53 89f0 89d1 0fa2 8907 895f04 894f08 89570c 5b c3")
# xgetbv of register 0, where the system switched it on.
_XGETBV = bytes.fromhex("31c9 0f01d0 c3")
# Leaves, subleaves and the results that do not depend on the core:
# eax, ebx, ecx and edx.
_LEAVES = (
    (0, 0, 15),
    (1, 0, 13),
    (7, 0, 15),
    (7, 1, 15),
    (13, 1, 1),
    (0x14, 0, 2),
    (0x19, 0, 2),
    (0x24, 0, 2),
    (0x80000001, 0, 12),
    (0x80000008, 0, 2),
)
_OSXSAVE = 1 << 27
# By index of the result, the bits that a level needs, and the bit of AVX512-BF16.
_OF_V3 = {5: 0x38D83201, 8: 0x128, 19: 1 << 5, 22: 0x6}
_AVX512F = {8: 1 << 16, 22: 0xE6}
_OF_V4 = _OF_V3 | {8: 0xD0030128, 22: 0xE6}
_BFLOAT16 = {11: 1 << 5, 22: 0xE6}


def level() -> Host | None:
    """This processor's level: NEON is a part of each Arm processor of 64 bits."""
    return NEON if LOADS and HERE == "aarch64" else level_of(cpuid())


def level_of(leaves: bytes) -> Host | None:
    """A processor's level by its `cpuid`; None without a level, or with more of AVX-512
    than the lower level and less than the higher.
    """
    if _has(leaves, _OF_V4):
        return V4
    if _has(leaves, _OF_V3) and not _has(leaves, _AVX512F):
        return V3
    return None


def _has(leaves: bytes, bits: dict[int, int]) -> bool:
    words = struct.unpack(f"<{len(leaves) // 4}I", leaves)
    return len(words) > max(bits) and all(words[i] & n == n for i, n in bits.items())


def cpuid() -> bytes:
    """The words from which LLVM derives a host, on x86-64; elsewhere nothing."""
    if not LOADS or HERE != "x86_64":
        return b""
    words = ctypes.c_uint32 * 4
    kind = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_uint32, ctypes.c_uint32)
    try:
        ask: Callable[..., Any] = kind(executable(_CPUID))
        xgetbv: Callable[..., int] = ctypes.CFUNCTYPE(ctypes.c_uint32)(
            executable(_XGETBV)
        )
    except OSError:
        return b""
    results = []
    out = words()
    for leaf, subleaf, which in _LEAVES:
        ask(out, leaf, subleaf)
        results += [word for i, word in enumerate(out) if which >> i & 1]
    if results[5] & _OSXSAVE:
        results.append(xgetbv())
    return b"".join(word.to_bytes(4, "little") for word in results)


def lanes_of(scalar: type[np.floating[Any]]) -> int:
    """Numbers in a vector register: the columns of a panel."""
    return vector_bytes() // np.dtype(scalar).itemsize
