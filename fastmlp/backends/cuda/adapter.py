"""The CUDA module: numba-cuda's, its successor's, or Numba's simulator.

Kernels use what the three have in common, and take `cuda` from here. Code that needs private parts
of the module is here, in `launch_config` and in `card`.
"""

import importlib
import os
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import numpy as np
from numba import config, types

from fastmlp.validation.packages import needs

Function = Callable[..., Any]
SIMULATED = bool(config.ENABLE_CUDASIM)
# The oldest compute capability that the compiler for CUDA 13 supports; the tests compile for it.
OLDEST = (7, 5)
SCALARS: dict[str, Any] = {name: getattr(types, name) for name in ("int32", "float32", "float64")}


class _Simulated:
    """The module `cuda` of kernels in the simulator.

    The simulator replaces the module in a function's globals during a call. With many threads in
    functions of other modules, one thread would restore it during another thread's call.
    """

    def __getattr__(self, name: str) -> Any:
        kernels = importlib.import_module("numba.cuda.simulator.kernel")
        return getattr(kernels._get_kernel_context(), name)


def _module() -> Any:
    """Return the CUDA module; Numba's own, deprecated and without a compiler, comes last."""
    if find_spec("numba_cuda") is None and find_spec("numba_cuda_mlir") is not None:
        return importlib.import_module("numba_cuda_mlir.cuda")
    return importlib.import_module("numba.cuda")


MODULE: Any = _module()
cuda: Any = _Simulated() if SIMULATED else MODULE


def device_function(function: Function) -> Any:
    """Make a function that kernels call. It is inlined, so that its local arrays stay in registers
    and the compiler knows which arrays are in shared memory."""
    if SIMULATED:
        return function
    return MODULE.jit(device=True, forceinline=True)(function)


def _unsigned(i: Any) -> Any:
    return np.uint64(i)


# An index that is not negative. For a signed index, the compiler adds the test for -1, the last
# element, to every access: a third of the instructions of the innermost loops.
unsigned = int if SIMULATED else device_function(_unsigned)


def kernel(function: Function) -> Any:
    """Make a kernel, which compiles at its first launch."""
    if not SIMULATED:
        return MODULE.jit(function)

    def simulated(*arguments: Any) -> None:
        # Compiled code never warns of an overflow.
        with np.errstate(all="ignore"):
            function(*arguments)

    return MODULE.jit(simulated)


def installed() -> bool:
    """Return True if a CUDA module with a compiler is installed, or in the simulator."""
    return SIMULATED or any(find_spec(name) for name in ("numba_cuda", "numba_cuda_mlir"))


# The process that first used a device: CUDA does not work in processes forked from it.
_first_user: int | None = None


def note_use() -> None:
    """Record that this process uses a device."""
    global _first_user
    _first_user = os.getpid()


def require(index: int, who: str = "MLP") -> None:
    """Check that the device with this number is usable.

    Raises
    ------
    ImportError
        If there is no CUDA module.
    RuntimeError
        If there is no driver, or no such device.
    """
    if SIMULATED:
        return
    if not installed():
        needed = needs(f'{who}: device="cuda"', "numba-cuda")
        raise ImportError(f'{needed}, or use device="cpu"')
    if _first_user not in (None, os.getpid()):
        raise RuntimeError(
            f"{who}: this process was forked from one that had used a GPU, where CUDA does not "
            'work: start it by multiprocessing\'s "spawn"'
        )
    n_devices = count(who)
    if index >= n_devices:
        known = ", ".join(f"cuda:{i}" for i in range(n_devices))
        raise RuntimeError(
            f"{who}: there is no device cuda:{index}; known: {known}"
            if known
            else f'{who}: the NVIDIA driver sees no device: check nvidia-smi, or use device="cpu"'
        )
    reason = _why_unusable(index)
    if reason:
        raise RuntimeError(f"{who}: {reason}")


def count(who: str = "MLP") -> int:
    """Return the number of devices that the driver sees.

    Raises
    ------
    RuntimeError
        If there is no driver, or it does not answer.
    """
    if SIMULATED:
        return 1
    try:
        return len(MODULE.gpus)
    except Exception as error:  # The class differs between versions of the module.
        message = " ".join(str(error).split()) or repr(error)
        if "CUDA_ERROR_NO_DEVICE" in message:
            return 0
        first = message.removeprefix("Error at driver init: ").partition(".")[0]
        raise RuntimeError(
            f'{who}: device="cuda" needs the NVIDIA driver, which does not load ({first}): '
            'install it, see that nvidia-smi runs, or use device="cpu"'
        ) from error


def _why_unusable(index: int) -> str | None:
    """Return the reason, in words, why a device is not usable; None if it is."""
    capability = tuple(MODULE.gpus[index].compute_capability)
    if capability < OLDEST:
        found, oldest = (".".join(map(str, pair)) for pair in (capability, OLDEST))
        return (
            f"cuda:{index} has compute capability {found}, and fastmlp's kernels need {oldest} or "
            'more; use device="cpu"'
        )
    driver, package = _versions()
    if driver < package:
        return (
            f"the NVIDIA driver is for CUDA {driver}, and the package for CUDA {package}: install "
            f'a newer driver, or pip install "numba-cuda[cu{driver}]"'
        )
    return None


def _versions() -> tuple[int, int]:
    """Return the CUDA versions of the driver and of the package."""
    package = importlib.import_module("cuda.bindings").__version__.partition(".")[0]
    return int(private_driver().driver.get_version()[0]), int(package)


def private_driver() -> Any:
    """Return the private part of the module that calls the driver."""
    return importlib.import_module(f"{MODULE.__name__}.cudadrv.driver")
