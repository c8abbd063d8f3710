"""The host's vector registers, as Numba compiles for it."""

from functools import cache
from typing import Any

import numba
import numpy as np
from numba.core.codegen import get_host_cpu_features

from fastmlp._process import signals

# Bytes of a cache line.
LINE_BYTES = 64


def vector_bytes() -> int:
    """Return the bytes of the host's vector registers, as Numba compiles for it."""
    names = _features()
    return 64 if "+avx512f" in names else 32 if "+avx2" in names else 16


def multiplies_pairs() -> bool:
    """Return True if the host multiplies pairs of bfloat16, by AVX512-BF16."""
    return "+avx512bf16" in _features()


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
