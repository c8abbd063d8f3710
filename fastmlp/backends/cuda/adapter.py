"""The CUDA module behind one interface: numba-cuda, its successor, or Numba's simulator.

Kernels use features that the three have in common, and import `cuda` from here. Every use of a
private part of the module is in this file, so that a successor needs changes here only.
"""

import importlib
import os
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from importlib.util import find_spec
from typing import Any

import numpy as np
from numba import config, types

from fastmlp._process.memory import readable

Function = Callable[..., Any]
# Shared memory that every block has without an opt-in.
PLAIN_SHARED_BYTES = 48 * 1024
SIMULATED = bool(config.ENABLE_CUDASIM)
# The oldest compute capability that the tests compile for, and the oldest that CUDA 13 supports.
OLDEST = (7, 5)
SCALARS: dict[str, Any] = {name: getattr(types, name) for name in ("int32", "float32", "float64")}


class _Simulated:
    """The `cuda` of kernels in the simulator.

    The simulator replaces the module in a function's globals while the function runs. With many
    threads in a function of another module, one restores the module while others run.
    """

    def __getattr__(self, name: str) -> Any:
        kernels = importlib.import_module("numba.cuda.simulator.kernel")
        return getattr(kernels._get_kernel_context(), name)


def _module() -> Any:
    """Return the CUDA module; Numba's own comes last: it is deprecated and may lack a compiler."""
    if find_spec("numba_cuda") is None and find_spec("numba_cuda_mlir") is not None:
        return importlib.import_module("numba_cuda_mlir.cuda")
    return importlib.import_module("numba.cuda")


MODULE: Any = _module()
cuda: Any = _Simulated() if SIMULATED else MODULE


def device_function(function: Function) -> Any:
    """Return a device function that is inlined in kernels, so that its arrays stay in registers and
    the compiler sees which arrays are shared memory."""
    if SIMULATED:
        return function
    return MODULE.jit(device=True, forceinline=True)(function)


def _unsigned(i: Any) -> Any:
    return np.uint64(i)


# Marks an index as non-negative. For others the compiler adds code for negative indices at every
# access, a third of the instructions of the innermost loops.
unsigned = int if SIMULATED else device_function(_unsigned)


def kernel(function: Function) -> Any:
    """Return a kernel, which is compiled on first launch."""
    if not SIMULATED:
        return MODULE.jit(function)

    def simulated(*arguments: Any) -> None:
        # As compiled code, which never warns of an overflow.
        with np.errstate(all="ignore"):
            function(*arguments)

    return MODULE.jit(simulated)


def installed() -> bool:
    """Return True if a CUDA module that can compile, or the simulator, is installed."""
    return SIMULATED or any(find_spec(name) for name in ("numba_cuda", "numba_cuda_mlir"))


def require(index: int, who: str = "MLP") -> None:
    """Check that this device can be used.

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
        raise ImportError(
            f'{who}: device="cuda" needs a package: pip install "fastmlp[cuda]", '
            'or use device="cpu"'
        )
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
    unfit = _unfit(index)
    if unfit:
        raise RuntimeError(f"{who}: {unfit}")


def count(who: str = "MLP") -> int:
    """Return how many devices the driver sees.

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
        told = " ".join(str(error).split()) or repr(error)
        if "CUDA_ERROR_NO_DEVICE" in told:
            return 0
        first = told.removeprefix("Error at driver init: ").partition(".")[0]
        raise RuntimeError(
            f'{who}: device="cuda" needs the NVIDIA driver, which does not load ({first}): '
            'install it, see that nvidia-smi runs, or use device="cpu"'
        ) from error


def _unfit(index: int) -> str | None:
    """Return why a device that exists cannot be used, as text, or None."""
    capability = tuple(MODULE.gpus[index].compute_capability)
    if capability < OLDEST:
        its, oldest = (".".join(map(str, pair)) for pair in (capability, OLDEST))
        return (
            f"cuda:{index} has compute capability {its}, and fastmlp's kernels need {oldest} or "
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
    return int(_private().driver.get_version()[0]), int(package)


def _private() -> Any:
    """Return the module's private interface to the driver."""
    return importlib.import_module(f"{MODULE.__name__}.cudadrv.driver")


# The first process that used a device: CUDA does not work in processes forked from it.
_first_user: int | None = None


class Card:
    """A device, its sizes and its memory.

    Attributes
    ----------
    index : int
    n_multiprocessors : int
    shared_bytes : int, the most shared memory of one block
    """

    def __init__(self, index: int) -> None:
        global _first_user
        self.index, _first_user = index, os.getpid()
        if SIMULATED:
            self.n_multiprocessors, self.shared_bytes = 1, 1 << 20
            return
        its = MODULE.gpus[index]
        self.n_multiprocessors = int(its.MULTIPROCESSOR_COUNT)
        self.shared_bytes = int(its.MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)

    def current(self) -> AbstractContextManager[Any]:
        """Return a context in which allocations and launches go to this device."""
        return nullcontext() if SIMULATED else MODULE.gpus[self.index]

    def free_bytes(self) -> int:
        """Return how many bytes can still be allocated on it."""
        if SIMULATED:
            return 1 << 40
        with self.current():
            return int(MODULE.current_context().get_memory_info()[0])

    def reclaim(self) -> None:
        """Free pending deallocations: the module delays up to ten arrays, a fifth of the memory."""
        if SIMULATED:
            return
        with self.current():
            # Another library's memory manager, such as RMM's, may have no such list.
            manager = getattr(MODULE.current_context(), "memory_manager", None)
            freed = getattr(manager, "deallocations", None)
            if freed is not None:
                freed.clear()

    def empty(self, shape: Any, dtype: Any) -> Any:
        """Return an uninitialised array on the device.

        Raises
        ------
        MemoryError
            If there is no room for it.
        """
        n_bytes = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
        return self._allocated(lambda: MODULE.device_array(shape, dtype), n_bytes)

    def copied(self, array: Any) -> Any:
        """Return a copy of a host array on the device.

        Raises
        ------
        MemoryError
            If there is no room for it.
        """
        return self._allocated(lambda: MODULE.to_device(array), array.nbytes)

    def _allocated(self, allocate: Callable[[], Any], n_bytes: int) -> Any:
        try:
            return allocate()
        except Exception as error:
            if "OUT_OF_MEMORY" not in str(error):
                raise
            raise MemoryError(
                f"cuda:{self.index} has no room for {readable(n_bytes)} in one piece: use a "
                "smaller batch_size or fewer rows, or free some there"
            ) from error


@cache
def card_of(index: int) -> Card:
    """Return the device of this number; call `require` before."""
    return Card(index)


def is_device_array(array: Any) -> bool:
    """Return True if an object has `__cuda_array_interface__`."""
    return hasattr(array, "__cuda_array_interface__")


def adopted(array: Any, name: str) -> Any:
    """Return a view, not a copy, of another library's array on the device.

    It waits for work that the library has begun on the array.

    Raises
    ------
    ValueError
        If the array is on another device than the one in use; the message begins with `name`.
    """
    interface = array.__cuda_array_interface__
    if SIMULATED:
        return np.asarray(_Named(interface))
    address, here = interface["data"][0], MODULE.current_context().device.id
    there = _device_of(address) if address else here
    if there != here:
        raise ValueError(f"{name} lies on cuda:{there}, the net on cuda:{here}: move one of them")
    if "stream" not in interface:
        # Version 2 of the interface, which PyTorch implements, names no stream to wait for.
        synchronize()
    return MODULE.as_cuda_array(array)


def _device_of(address: int) -> int:
    theirs = _private()
    ordinal = theirs.binding.CUpointer_attribute.CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL
    return int(theirs.driver.cuPointerGetAttribute(ordinal, theirs.binding.CUdeviceptr(address)))


class _Named:
    """Host memory by its address, which the simulator uses as device memory."""

    def __init__(self, interface: dict[str, Any]) -> None:
        self.__array_interface__ = interface


def synchronize() -> None:
    """Wait for all launches."""
    MODULE.synchronize()


def configured(
    dispatcher: Any,
    arguments: tuple[Any, ...],
    n_blocks: int,
    n_threads: int,
    shared_bytes: int = 0,
) -> Any:
    """Return a kernel with launch sizes, compiled for these arguments.

    Raises
    ------
    TypeError
        If a rule does not compile for a GPU.
    """
    if SIMULATED:
        return dispatcher[n_blocks, n_threads, 0, shared_bytes]
    if not dispatcher.overloads:
        compiled_for(dispatcher, arguments)
    return _configured(dispatcher, n_blocks, n_threads, shared_bytes)


@cache
def _configured(dispatcher: Any, n_blocks: int, n_threads: int, shared_bytes: int) -> Any:
    # The module warns of grids of few blocks; a small net is a grid of one.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return dispatcher[n_blocks, n_threads, 0, shared_bytes]


def compiled_for(dispatcher: Any, arguments: tuple[Any, ...]) -> Any:
    """Return a kernel's compiled form for these arguments."""
    try:
        return dispatcher.compile(tuple(map(dispatcher.typeof_pyval, arguments)))
    except Exception as error:  # The compiler raises errors of many kinds, KeyError among them.
        if "CUDA_ERROR" in str(error) or type(error).__name__.upper().startswith("CUDA"):
            # An error of the driver: the rules have compiled.
            raise
        raise TypeError(
            "a rule of this net does not compile for a GPU; it must be a function of scalars that "
            f"calls only functions of fastmlp.rules.elementary and of math: {error}"
        ) from error


def lift_shared_limit(dispatcher: Any, arguments: tuple[Any, ...], n_bytes: int) -> None:
    """Allow a kernel, compiled for these arguments, `n_bytes` of dynamic shared memory.

    More than 48 KiB need an opt-in for each function, for which the module has no public call.
    """
    if SIMULATED or n_bytes <= PLAIN_SHARED_BYTES:
        return
    theirs = _private()
    attribute = theirs.binding.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
    function = compiled_for(dispatcher, arguments)._codelibrary.get_cufunc()
    # Raises if the driver refuses.
    theirs.driver.cuKernelSetAttribute(attribute, n_bytes, function.handle, function.device.id)


def most_cooperative_blocks(dispatcher: Any, arguments: tuple[Any, ...], n_threads: int) -> int:
    """Return how many blocks of a kernel can be resident at once."""
    if SIMULATED:
        return 1
    return int(compiled_for(dispatcher, arguments).max_cooperative_grid_blocks(n_threads))
