"""A GPU: its size, its memory, and other libraries' arrays in it."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from typing import Any

import numpy as np

from fastmlp._process.memory import readable
from fastmlp.backends.cuda import adapter
from fastmlp.backends.cuda.launch_config import synchronize


class Card:
    """A GPU.

    Attributes
    ----------
    index : int
    n_multiprocessors : int
    shared_bytes : int, the most shared memory of one block
    """

    n_multiprocessors: int
    shared_bytes: int

    def __init__(self, index: int) -> None:
        adapter.note_use()
        self.index = index
        if adapter.SIMULATED:
            self.n_multiprocessors, self.shared_bytes = 1, 1 << 20
            return
        device = adapter.MODULE.gpus[index]
        self.n_multiprocessors = int(device.MULTIPROCESSOR_COUNT)
        self.shared_bytes = int(device.MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)

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
    """Return the GPU with this number, which `adapter.require` has checked."""
    return Card(index)


def is_device_array(array: Any) -> bool:
    """Return True if an object has the CUDA array interface."""
    return hasattr(array, "__cuda_array_interface__")


def adopted(array: Any, name: str) -> Any:
    """Return a view of another library's array on the current GPU, without a copy.

    It waits for work on the array that its library has started.

    Raises
    ------
    ValueError
        If the array is on another GPU; the message begins with `name`.
    """
    interface = array.__cuda_array_interface__
    if adapter.SIMULATED:
        return np.asarray(_HostMemory(interface))
    address, current = interface["data"][0], adapter.MODULE.current_context().device.id
    device = _device_of(address) if address else current
    if device != current:
        raise ValueError(
            f"{name} lies on cuda:{device}, the net on cuda:{current}: move one of them"
        )
    if "stream" not in interface:
        # Version 2 of the interface, which is PyTorch's, does not name the stream to wait for.
        synchronize()
    return adapter.MODULE.as_cuda_array(array)


def _device_of(address: int) -> int:
    private = adapter.private_driver()
    ordinal = private.binding.CUpointer_attribute.CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL
    pointer = private.binding.CUdeviceptr(address)
    return int(private.driver.cuPointerGetAttribute(ordinal, pointer))


class _HostMemory:
    """Host memory by its address: the simulator's device arrays are host arrays."""

    def __init__(self, interface: dict[str, Any]) -> None:
        self.__array_interface__ = interface
