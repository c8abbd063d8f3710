"""The host's registers, as Numba compiles for it, and what multiplies pairs of bfloat16 in them."""

import ctypes
import platform
import re
import sys
from functools import cache
from pathlib import Path
from typing import Any, Literal

import llvmlite.binding as llvm
import numba
import numpy as np
from numba.core.codegen import get_host_cpu_features

from fastmlp._process import signals

# Bytes of a cache line.
LINE_BYTES = 64
# How pairs of bfloat16 are multiplied: by AMX, in tile registers; by bfmmla of Arm, as matrices of
# 2 x 4 numbers; by AVX512-BF16, a pair in each lane; or as float32, to which they are widened.
PairProducts = Literal["tiles", "matrices", "lanes", "widened"]
# LLVM's names of processors with bfmmla: of Arm's features it knows few from the system.
_WITH_BFMMLA = re.compile(
    "neoverse-(512tvb|[nv][23].*|v1)|cortex-(a[57][12][05]|x[2-4]|x925)|c1-.*|ampere1.*|"
    "apple-(m[2-9]|a1[5-9])|cobalt-100|fujitsu-monaka|gb10|grace|olympus|oryon-1"
)
# Linux' arch_prctl on x86-64, its request of state that is off by default, and that of AMX's tiles.
_ARCH_PRCTL, _ARCH_REQ_XCOMP_PERM, _TILE_DATA = 158, 0x1023, 18


def is_arm() -> bool:
    """Return True if the host is a 64-bit Arm processor."""
    return platform.machine().lower() in ("arm64", "aarch64")


def vector_bytes() -> int:
    """Return the bytes of the host's vector registers, as Numba compiles for it."""
    names = _features()
    return 64 if "+avx512f" in names else 32 if "+avx2" in names else 16


def second_level_bytes() -> int:
    """Return the bytes of a core's second-level cache, as Linux tells; 1 MB where it does not."""
    try:
        text = Path("/sys/devices/system/cpu/cpu0/cache/index2/size").read_text()
        return int(text.strip().removesuffix("K")) * 1024
    except (OSError, ValueError):
        return 1 << 20


def multiplies_pairs() -> bool:
    """Return True if the host multiplies pairs of bfloat16, by AVX512-BF16."""
    return "+avx512bf16" in _features()


def pair_products() -> PairProducts:
    """Return how the host multiplies pairs of bfloat16 in products of matrices.

    Tiles are used where the system permits it; the process asks for it here, once.
    """
    features = set(_features())
    if vector_bytes() == 64 and {"+avx512bf16", "+amx-tile", "+amx-bf16"} <= features:
        return "tiles" if permits_tiles() else "lanes"
    if "+avx512bf16" in features:
        return "lanes"
    if "+bf16" in features or _WITH_BFMMLA.fullmatch(_cpu_name()):
        return "matrices"
    return "widened"


def _cpu_name() -> str:
    """Return LLVM's name of the processor that Numba compiles for."""
    return str(_host_name() if numba.config.CPU_NAME is None else numba.config.CPU_NAME)


@cache
def _host_name() -> str:
    """Return LLVM's name of the host, queried once, as its features are."""
    with signals.deferred():
        name: str = llvm.get_host_cpu_name()
    return name


@cache
def permits_tiles() -> bool:
    """Ask Linux for tile registers, for all threads of the process and for its children.

    It refuses if a thread's alternate signal stack is too small for them. Other systems have no
    such call.
    """
    if sys.platform != "linux":
        return False
    call = ctypes.CDLL(None, use_errno=True).syscall
    words = (ctypes.c_long(word) for word in (_ARCH_PRCTL, _ARCH_REQ_XCOMP_PERM, _TILE_DATA))
    return int(call(*words)) == 0


def _features() -> list[str]:
    config = numba.config
    if config.CPU_NAME == "generic" and not config.CPU_FEATURES:
        return []
    return (_host_features() if config.CPU_FEATURES is None else config.CPU_FEATURES).split(",")


@cache
def _host_features() -> str:
    """Return the host's features, queried once: a forked child may find LLVM's lock taken.

    They are Numba's, without those that ``NUMBA_ENABLE_AVX=0`` turns off, and empty if LLVM does
    not know the host: an instruction that the host lacks ends the process.
    """
    # Ctrl-C while Python code takes LLVM's lock would leave it taken.
    with signals.deferred():
        features: str = get_host_cpu_features()
    return features


def lanes_of(scalar: type[np.floating[Any]]) -> int:
    """Return how many numbers a vector register holds: the columns of a panel."""
    return vector_bytes() // np.dtype(scalar).itemsize
