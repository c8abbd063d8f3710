"""A GPU: whether it is usable, its size and its memory."""

import importlib
import os
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from importlib.util import find_spec
from typing import Any

import numpy as np

from fastmlp._process.memory import readable
from fastmlp.backends.cuda.device import adapter
from fastmlp.validation.packages import needs

# The oldest compute capability that the compiler for CUDA 13 supports; the tests compile for it.
OLDEST = (7, 5)


def installed() -> bool:
    """Return True if a CUDA module with a compiler is installed, or in the simulator."""
    return adapter.SIMULATED or any(find_spec(name) for name in ("numba_cuda", "numba_cuda_mlir"))


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
    if adapter.SIMULATED:
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
    if adapter.SIMULATED:
        return 1
    try:
        return len(adapter.MODULE.gpus)
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
    capability = tuple(adapter.MODULE.gpus[index].compute_capability)
    if capability < OLDEST:
        own, oldest = (".".join(map(str, pair)) for pair in (capability, OLDEST))
        return (
            f"cuda:{index} has compute capability {own}, and fastmlp's kernels need {oldest} or "
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
    return int(adapter.private_driver().driver.get_version()[0]), int(package)


class Card:
    """A GPU.

    Attributes
    ----------
    index : int
    n_multiprocessors : int
    """

    n_multiprocessors: int

    def __init__(self, index: int) -> None:
        note_use()
        self.index = index
        if adapter.SIMULATED:
            self.n_multiprocessors = 1
            return
        self.n_multiprocessors = int(adapter.MODULE.gpus[index].MULTIPROCESSOR_COUNT)

    def current(self) -> AbstractContextManager[Any]:
        """Return a context in which allocations and launches go to this GPU."""
        return nullcontext() if adapter.SIMULATED else adapter.MODULE.gpus[self.index]

    def free_bytes(self) -> int:
        """Return the number of bytes that can still be allocated."""
        if adapter.SIMULATED:
            return 1 << 40
        with self.current():
            return int(adapter.MODULE.current_context().get_memory_info()[0])

    def reclaim(self) -> None:
        """Return freed memory to the driver: the module keeps up to ten freed arrays, or a fifth
        of the memory."""
        if adapter.SIMULATED:
            return
        with self.current():
            # Another library's memory manager, such as RMM's, may have no such list.
            manager = getattr(adapter.MODULE.current_context(), "memory_manager", None)
            freed = getattr(manager, "deallocations", None)
            if freed is not None:
                freed.clear()

    def require_bytes(self, n_bytes: int, who: str) -> None:
        """Check that so many bytes are free.

        Raises
        ------
        MemoryError
            If not; the message states the bytes needed and the bytes free.
        """
        if n_bytes > self.free_bytes():
            self.reclaim()
        if n_bytes > (free := self.free_bytes()):
            raise MemoryError(
                f"{who}: this takes {readable(n_bytes)} of the memory of cuda:{self.index}, where "
                f"{readable(free)} are free; use a smaller batch_size or fewer rows, or free some "
                "there"
            )

    def empty(self, shape: Any, dtype: Any) -> Any:
        """Return an uninitialised array on the GPU.

        Raises
        ------
        MemoryError
            If it does not fit.
        """
        n_bytes = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
        return self._allocated(lambda: adapter.MODULE.device_array(shape, dtype), n_bytes)

    def copied(self, array: Any) -> Any:
        """Return a copy of a host array on the GPU.

        Raises
        ------
        MemoryError
            If it does not fit.
        """
        return self._allocated(lambda: adapter.MODULE.to_device(array), array.nbytes)

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
    """Return the GPU with this number, which `require` has checked."""
    return Card(index)
