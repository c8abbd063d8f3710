"""Versions, processor, compiler, threads and cache, for a bug report."""

import platform
from contextlib import suppress
from importlib import metadata
from importlib.util import find_spec

import numpy as np

from fastmlp import __version__
from fastmlp.backends.cpu import limits
from fastmlp.compiler import COMPILER, INTERPRETED, cache, target
from fastmlp.compiler.jit import setting
from fastmlp.compiler.target import pair_products
from fastmlp.validation.messages import NUMBA_CUDA, install

# LLVM's names of features that kernels use: wide vectors and fused multiply-add.
VECTOR_FEATURES = (
    "sse4.2",
    "avx",
    "avx2",
    "fma",
    "avx512f",
    "avx512bw",
    "avx512dq",
    "avx512vl",
    "avx512bf16",
    "amx-tile",
    "amx-bf16",
    "neon",
    "fp-armv8",
    "bf16",
    "sve",
    "sve2",
)
# Products of mixed precision, by instruction.
BFLOAT16_WORDS = {
    "tiles": "multiplied in tiles (AMX)",
    "matrices": "multiplied as matrices (bfmmla)",
    "lanes": "multiplied (AVX512-BF16)",
    "widened": "rounded, multiplied as float32",
}
OPTIONAL_PACKAGES = (
    "scikit-learn",
    "scipy",
    "matplotlib",
    "tqdm",
    "safetensors",
    "pyarrow",
    "onnx",
    "distributed",
    "mpi4py",
    "numba-cuda",
)
CUDA_PACKAGES = ("numba_cuda", "numba_cuda_mlir")


def info() -> dict[str, str]:
    """Return versions, processor, compiler, threads and cache by name.

    Examples
    --------
    >>> from fastmlp.info import info
    >>> list(info())[:5]
    ['fastmlp', 'Python', 'numba', 'llvmlite', 'numpy']
    """
    return {
        "fastmlp": __version__,
        "Python": f"{platform.python_version()} ({platform.python_implementation()})",
        "numba": _version("numba"),
        "llvmlite": _version("llvmlite"),
        "numpy": np.__version__,
        "platform": platform.platform(),
        "CPU": _cpu(),
        "vector features": _vector_features(),
        "bfloat16": _products_of_pairs(),
        "compiler": _compiler(),
        "threading layer": _threading_layer(),
        "threads": f"{limits.thread_limit()} (NUMBA_NUM_THREADS "
        f"{limits.numbas_threads()})",
        "cache": cache_state(),
        "GPU": _gpu(),
        "optional packages": _optional_packages(),
    }


def format_info() -> str:
    """Return `info` as text, one aligned line per entry.

    Examples
    --------
    >>> from fastmlp.info import format_info
    >>> format_info().startswith("fastmlp")
    True
    """
    entries = info()
    width = max(map(len, entries))
    return "\n".join(f"{name:<{width}}  {text}" for name, text in entries.items())


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def _cpu() -> str:
    name = target.target().name
    try:
        there = target.host().name
    except ImportError:
        there = "unknown without llvmlite"
    if setting("CPU_NAME"):
        reason = "NUMBA_CPU_NAME"
    else:
        reason = "the level of the wheel's code"
    if name == there:
        return name
    return f"{name} ({reason}; the host is {there})"


def _products_of_pairs() -> str:
    try:
        return BFLOAT16_WORDS[pair_products()]
    except ModuleNotFoundError:  # a wheel's code needs no LLVM, which knows the host
        return "compiled by LLVM: needs llvmlite"


def _vector_features() -> str:
    features = target.target().features.split(",")
    names = " ".join(name for name in VECTOR_FEATURES if f"+{name}" in features)
    return names or ("none" if target.host().features else "unknown to LLVM")


def _compiler() -> str:
    if INTERPRETED:
        return "none (NUMBA_DISABLE_JIT=1): kernels run as Python"
    if COMPILER != "translator":
        return "numba (FASTMLP_COMPILER=numba)"
    level = target.SHIPPED_NAMES.get(target.target(), "")
    if level and cache.shipped(level):
        return f"translator; the wheel has code for {level}"
    folder, _ = cache.find()
    if folder:
        n = sum(file.suffix == cache.CODE_SUFFIX for file in folder.iterdir())
    else:
        n = 0
    # One file holds the processor's name.
    return "translator; " + (
        "the cache has code" if n > 1 else "code is compiled on first use"
    )


def _threading_layer() -> str:
    if COMPILER == "translator":
        return "none: workers are Python threads"
    layer = limits.threading_layer()
    safe = limits.parallel_is_safe()
    if safe:
        return layer
    return f"{layer} (not used: workers are Python threads)"


def cache_state() -> str:
    """The cache folder, or the reason for not having one."""
    folder, reason = cache.find()
    return reason if folder is None else str(folder)


def _gpu() -> str:
    """The number of GPUs, or the reason for not having one."""
    if not any(find_spec(name) for name in CUDA_PACKAGES):
        return f"none: no package; {install('numba-cuda')}"
    from fastmlp.backends.cuda import device

    try:
        n_devices = device.count("fastmlp info")
    except RuntimeError as error:
        return f"none: {str(error).partition(': ')[2]}"
    return f"{n_devices} seen by the driver"


def _optional_packages() -> str:
    installed = []
    for package in OPTIONAL_PACKAGES:
        with suppress(metadata.PackageNotFoundError):
            version = metadata.version(package)
            if package == "numba-cuda" and not version.startswith(f"{NUMBA_CUDA}."):
                version += f" (tested: {NUMBA_CUDA})"
            installed.append(f"{package} {version}")
    return ", ".join(installed) or "none"
