"""What fastmlp runs on: versions, processor, threads and cache, to read or to paste in a report."""

import os
import platform
from importlib import metadata
from importlib.util import find_spec

import llvmlite
import llvmlite.binding
import numba
import numpy as np

from fastmlp import __version__
from fastmlp.backends.cpu.threads import limits
from fastmlp.compiler import cache

# LLVM's names of what the kernels gain from: wider vectors and fused multiply-add.
VECTOR_FEATURES = (
    "sse4.2", "avx", "avx2", "fma", "avx512f", "avx512bw", "avx512dq", "avx512vl",
    "neon", "fp-armv8", "sve", "sve2",
)  # fmt: skip
OPTIONAL_PACKAGES = (
    "scikit-learn", "scipy", "matplotlib", "tqdm", "safetensors", "tbb", "numba-cuda",
)  # fmt: skip
CUDA_PACKAGES = ("numba_cuda", "numba_cuda_mlir")


def info() -> dict[str, str]:
    """Return what fastmlp runs on, from a name to a text; nothing heavy is imported for it.

    Examples
    --------
    >>> from fastmlp.cli.info import info
    >>> list(info())[:5]
    ['fastmlp', 'Python', 'numba', 'llvmlite', 'numpy']
    """
    return {
        "fastmlp": __version__,
        "Python": f"{platform.python_version()} ({platform.python_implementation()})",
        "numba": numba.__version__,
        "llvmlite": llvmlite.__version__,
        "numpy": np.__version__,
        "platform": platform.platform(),
        "CPU": llvmlite.binding.get_host_cpu_name(),
        "vector features": _vector_features(),
        "threading layer": _threading_layer(),
        "threads": f"{limits.thread_limit()} (NUMBA_NUM_THREADS {numba.config.NUMBA_NUM_THREADS})",
        "cache": _cache(),
        "GPU": _gpu(),
        "optional packages": _optional_packages(),
    }


def format_info() -> str:
    """Return `info` as text, one aligned line per entry.

    Examples
    --------
    >>> from fastmlp.cli.info import format_info
    >>> format_info().startswith("fastmlp")
    True
    """
    entries = info()
    width = max(map(len, entries))
    return "\n".join(f"{name:<{width}}  {text}" for name, text in entries.items())


def _vector_features() -> str:
    try:
        features = llvmlite.binding.get_host_cpu_features()
    except RuntimeError:
        return "unknown to LLVM"
    return " ".join(name for name in VECTOR_FEATURES if features.get(name)) or "none"


def _threading_layer() -> str:
    layer = limits.threading_layer()
    safe = limits.parallel_is_safe()
    return layer if safe else f"{layer} (not used: helpers are Python threads)"


def _cache() -> str:
    folder = cache.folder()
    if folder is not None:
        return str(folder)
    if os.environ.get("FASTMLP_CACHE") == "0":
        return "off (FASTMLP_CACHE=0)"
    if not cache.sources():
        return "none: fastmlp's files lie in no folder, as in a zip or a frozen program"
    return "none: no folder can be written; set NUMBA_CACHE_DIR to one that can"


def _gpu() -> str:
    """What there is of CUDA; without a package nothing of it is imported."""
    if not any(find_spec(name) for name in CUDA_PACKAGES):
        return 'none: no package; pip install "fastmlp[cuda]"'
    from fastmlp.backends.cuda import adapter

    try:
        n_devices = adapter.count("fastmlp info")
    except RuntimeError as error:
        return f"none: {str(error).partition(': ')[2]}"
    return f"{n_devices} seen by the driver"


def _optional_packages() -> str:
    return ", ".join(filter(None, map(_found, OPTIONAL_PACKAGES))) or "none"


def _found(package: str) -> str | None:
    try:
        return f"{package} {metadata.version(package)}"
    except metadata.PackageNotFoundError:
        return None
