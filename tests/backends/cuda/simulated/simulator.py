"""Parts of the simulator, replaced: blocks whose threads run one at a time, and shared memory.

The simulator's own blocks poll their threads without a pause: 11 s where these take 2.4 s. Its
shared memory is not the same for all threads of a block, if two request it first at the same time:
once in some thousand launches on a busy machine, two times in three if a request takes 0.5 ms.
"""

import sys
import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numba.cuda.simulator import kernel, kernelapi
from numpy.typing import NDArray


class Record:
    """A record, live. Reading a field of one of NumPy's takes 1 us, here 0.3 us."""

    __slots__ = ("_fields",)

    def __init__(self, fields: Any) -> None:
        object.__setattr__(self, "_fields", fields)

    def __getattr__(self, name: str) -> Any:
        return self._fields[name]

    def __setattr__(self, name: str, value: Any) -> None:
        self._fields[name] = value


class Records:
    """An array of records."""

    def __init__(self, array: NDArray[Any]) -> None:
        self.shape, self._array = array.shape, array.view(array.dtype.descr)

    def __getitem__(self, i: int) -> Record:
        return Record(self._array[i])


def arrays_replaced(argument: Any, replacement: Callable[[NDArray[Any]], Any]) -> Any:
    """Return a kernel's argument with its arrays replaced."""
    if isinstance(argument, tuple):
        return type(argument)(*(arrays_replaced(part, replacement) for part in argument))
    array = getattr(argument, "_item", argument)
    return replacement(array._ary) if hasattr(array, "_ary") else argument


class Thread(kernel.BlockThread):
    """A thread that runs to its next barrier when its semaphore is released."""

    def __init__(self, target: Any, block: Any, grid_point: Any, place: Any) -> None:
        super().__init__(target, block, grid_point, place, False)
        self.go, self.over, self.block = threading.Semaphore(0), False, grid_point

    def run(self) -> None:
        self.go.acquire()
        try:
            if not self.abort:
                super().run()
        finally:
            self.over = True
            self._manager.back.release()

    def syncthreads(self) -> None:
        self._manager.back.release()
        self.go.acquire()
        if self.abort:
            raise RuntimeError("another thread has failed")


class Block:
    """A replacement of the simulator's `BlockManager`."""

    def __init__(self, f: Any, grid: Any, block: Any, debug: bool) -> None:
        self._f, self._grid_dim, self._block_dim = f, grid, block
        self.block_state = np.zeros(block, np.bool_)
        self.back = threading.Semaphore(0)

    def run(self, grid_point: Any, *arguments: Any) -> None:
        """Run all threads of the block."""
        arguments = tuple(arrays_replaced(each, self.replaced) for each in arguments)
        threads = [
            self.thread(lambda: self._f(*arguments), self, grid_point, place)
            for place in np.ndindex(*self._block_dim)
        ]
        for thread in threads:
            thread.start()
        try:
            while not all(thread.over for thread in threads):
                self.turn(threads)
        finally:
            for thread in threads:
                thread.abort = True
                thread.go.release()
            for thread in threads:
                thread.join()

    def turn(self, threads: Sequence[Any]) -> None:
        """Run each thread to its next barrier, or to its end."""
        for thread in threads:
            thread.go.release()
            self.back.acquire()
            if thread.exception:
                raise thread.exception[0].with_traceback(thread.exception[1])

    def thread(self, *given: Any) -> Thread:
        """Return a thread of the block."""
        return Thread(*given)

    def replaced(self, array: NDArray[Any]) -> Any:
        """Return an array of a kernel's arguments, as the block's threads take it."""
        return Records(array) if array.dtype.names else array


LOCK = threading.Lock()


class Shared(kernelapi.FakeCUDAShared):
    """A replacement of the simulator's shared memory, filled with NaN."""

    def __init__(self, n_bytes: int) -> None:
        super().__init__(n_bytes)
        self._dynshared[:] = -1

    def array(self, shape: Any, dtype: Any) -> Any:
        """Return the array of this line of the program, or with 0 the launch's dynamic memory."""
        frame = sys._getframe(1)
        return self.at((frame.f_code, frame.f_lineno), shape, dtype)

    def at(self, place: Any, shape: Any, dtype: Any) -> Any:
        """Return the array of this place in the program."""
        if shape == 0:
            return super().array(shape, dtype)
        with LOCK:
            if place not in self._allocations:
                like = kernelapi.numpy_support.as_dtype(dtype)
                self._allocations[place] = np.full(shape, np.nan, like)
            return self._allocations[place]
