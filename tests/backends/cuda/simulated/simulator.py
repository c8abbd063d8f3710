"""Parts of Numba's simulator, replaced, and a race detector.

The simulator's own blocks poll their threads without a pause: 11 s where these take 2.4
s. Its shared memory is not the same for all threads of a block, if two request it first
at the same time: once in some thousand launches on a busy machine, two times in three
if a request takes 0.5 ms.

One order of threads hides missing barriers and races between blocks. The detector runs
threads in a chosen order, and records reads and writes of global and shared memory. If
two threads access a number and one of them changes it, both must be in one block, with
a barrier between the accesses.
"""

import sys
import threading
from collections.abc import Callable, Sequence
from types import FrameType
from typing import Any

import numpy as np
from numba.cuda.simulator import kernel, kernelapi
from numpy.typing import NDArray


class Record:
    __slots__ = ("_fields",)

    def __init__(self, fields: Any) -> None:
        object.__setattr__(self, "_fields", fields)

    def __getattr__(self, name: str) -> Any:
        return self._fields[name]

    def __setattr__(self, name: str, value: Any) -> None:
        self._fields[name] = value


class Records:
    def __init__(self, array: NDArray[Any]) -> None:
        self.shape, self._array = array.shape, array.view(array.dtype.descr)

    def __getitem__(self, i: int) -> Record:
        return Record(self._array[i])


def arrays_replaced(argument: Any, replacement: Callable[[NDArray[Any]], Any]) -> Any:
    if isinstance(argument, tuple):
        return type(argument)(
            *(arrays_replaced(part, replacement) for part in argument)
        )
    array = getattr(argument, "_item", argument)
    if hasattr(array, "_ary"):
        return replacement(array._ary)
    return argument


class Thread(kernel.BlockThread):
    """A thread that runs to its next barrier when its semaphore is released."""

    def __init__(self, target: Any, block: Any, grid_point: Any, place: Any) -> None:
        super().__init__(target, block, grid_point, place, False)
        self.go = threading.Semaphore(0)
        self.over = False
        self.block = grid_point

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
        self._f = f
        self._grid_dim = grid
        self._block_dim = block
        self.block_state = np.zeros(block, np.bool_)
        self.back = threading.Semaphore(0)

    def run(self, grid_point: Any, *arguments: Any) -> None:
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
        for thread in threads:
            thread.go.release()
            self.back.acquire()
            if thread.exception:
                raise thread.exception[0].with_traceback(thread.exception[1])

    def thread(self, *given: Any) -> Thread:
        return Thread(*given)

    def replaced(self, array: NDArray[Any]) -> Any:
        return Records(array) if array.dtype.names else array


LOCK = threading.Lock()


class Shared(kernelapi.FakeCUDAShared):
    """A replacement of the simulator's shared memory, filled with NaN."""

    def __init__(self, n_bytes: int) -> None:
        super().__init__(n_bytes)
        self._dynshared[:] = -1

    def array(self, shape: Any, dtype: Any) -> Any:
        """Return the array of this line of the program,
        or with 0 the launch's dynamic memory.
        """
        frame = sys._getframe(1)
        return self.at((frame.f_code, frame.f_lineno), shape, dtype)

    def at(self, place: Any, shape: Any, dtype: Any) -> Any:
        if shape == 0:
            return super().array(shape, dtype)
        with LOCK:
            if place not in self._allocations:
                like = kernelapi.numpy_support.as_dtype(dtype)
                self._allocations[place] = np.full(shape, np.nan, like)
            return self._allocations[place]


Order = Callable[[Sequence[Any]], Sequence[Any]]


def in_random_order(seed: int) -> Order:
    rng = np.random.default_rng(seed)
    return lambda threads: [threads[i] for i in rng.permutation(len(threads))]


ORDERS: dict[str, Callable[[], Order]] = {
    "backward": lambda: lambda threads: threads[::-1],
    "random": lambda: in_random_order(1),
}


class Touched:
    """The accesses of one number in a launch."""

    def __init__(self) -> None:
        self.writer: Any = None
        # The interval between barriers of the last read,
        # its readers, and all blocks that read.
        self.interval, self.readers = -1, set[int]()
        self.blocks = set[Any]()


def this_thread() -> Any:
    """Return the simulated thread that runs: a `Thread`."""
    return threading.current_thread()


def called(name: str, place: Any) -> str:
    """A field of a record, or an element of an array, as messages name it."""
    if isinstance(place, str):
        return f"{name}.{place}"
    return f"{name}[{place}]"


class Watch:
    """The accesses of a launch so far."""

    def __init__(self) -> None:
        self.cells: dict[Any, Touched] = {}

    def read(self, key: Any, *name: Any) -> None:
        """Record a read; of the names, `called` makes one where it is wrong."""
        cell = self._cell(key)
        t = this_thread()
        self._after_the_write(cell, t, name)
        if cell.interval != t.interval or t.block not in cell.blocks:
            cell.interval = t.interval
            cell.readers = set()
        cell.readers.add(t.thread_id)
        cell.blocks.add(t.block)

    def write(self, key: Any, *name: Any) -> None:
        cell = self._cell(key)
        t = this_thread()
        self._after_the_write(cell, t, name)
        if cell.interval == t.interval:
            others = cell.readers - {t.thread_id}
        else:
            others = set()
        words = "is changed by one thread and read by"
        assert not others, f"{called(*name)} {words} {others} of its block"
        words = "is changed by one block and read by others"
        assert cell.blocks <= {t.block}, f"{called(*name)} {words}"
        cell.writer = (t.block, t.interval, t.thread_id)

    def _cell(self, key: Any) -> Touched:
        cell = self.cells.get(key)
        if cell is None:
            cell = self.cells[key] = Touched()
        return cell

    def _after_the_write(self, cell: Touched, t: Any, name: tuple[Any, ...]) -> None:
        if cell.writer is None or cell.writer[::2] == (t.block, t.thread_id):
            return
        block, interval, thread = cell.writer
        words = f"is changed by block {block} and touched by {t.block}"
        assert block == t.block, f"{called(*name)} {words}"
        words = f"is changed by thread {thread}, no barrier behind it"
        assert interval < t.interval, f"{called(*name)} {words}"


class Watched:
    """An array of a kernel that records its accesses."""

    def __init__(
        self, array: NDArray[Any], name: str, watch: Watch, *, shared: bool
    ) -> None:
        self.array = array
        self.shape = array.shape
        self._name = name
        self._watch = watch
        self._shared = shared
        self._base = array.__array_interface__["data"][0]
        self._strides = array.strides

    def __len__(self) -> int:
        return len(self.array)

    def _key(self, key: Any) -> Any:
        place = key if isinstance(key, tuple) else (key,)
        assert min(place) >= 0, f"{self._name}[{key}]"
        block = this_thread().block if self._shared else None
        at = self._base + sum(
            int(i) * n for i, n in zip(place, self._strides, strict=True)
        )
        return block, at

    def __getitem__(self, key: Any) -> Any:
        value = self.array[key]
        if isinstance(value, np.void):
            return WatchedRecord(value, self._key(key)[1], self._name, self._watch)
        if isinstance(value, np.ndarray):
            if isinstance(key, tuple | slice):
                return value
            return Watched(value, self._name, self._watch, shared=self._shared)
        self._watch.read(self._key(key), self._name, key)
        return value

    def __setitem__(self, key: Any, value: Any) -> None:
        before = self.array[key].tobytes()
        self.array[key] = value
        place = self._key(key)
        if self.array[key].tobytes() != before:
            self._watch.write(place, self._name, key)


class WatchedRecord(Record):
    """A record that records the accesses of its fields."""

    __slots__ = ("_address", "_name", "_watch")

    def __init__(self, fields: Any, address: int, name: str, watch: Watch) -> None:
        super().__init__(fields)
        for slot, value in zip(self.__slots__, (address, name, watch), strict=True):
            object.__setattr__(self, slot, value)

    def __getattr__(self, name: str) -> Any:
        self._watch.read(self._key(name), self._name, name)
        return super().__getattr__(name)

    def __setattr__(self, name: str, value: Any) -> None:
        before = super().__getattr__(name).tobytes()
        super().__setattr__(name, value)
        if super().__getattr__(name).tobytes() != before:
            self._watch.write(self._key(name), self._name, name)

    def _key(self, name: str) -> Any:
        return None, self._address + self._fields.dtype.fields[name][1]


class WatchedThread(Thread):
    """A thread that notes where it waits, and the number of barriers behind it."""

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self.place: list[Any] = []
        self.interval = 0

    def syncthreads(self) -> None:
        self.place = []
        frame: FrameType | None = sys._getframe(1)
        while frame is not None:
            self.place.append((frame.f_code.co_filename, frame.f_lineno))
            frame = frame.f_back
        super().syncthreads()
        self.interval += 1


class WatchedBlock(Block):
    """A block whose arrays record their accesses,
    and whose threads wait at one barrier.
    """

    def __init__(self, order: Order, watch: Watch, *given: Any) -> None:
        super().__init__(*given)
        self._order = order
        self._watch = watch

    def run(self, grid_point: Any, *arguments: Any) -> None:
        if not any(grid_point):
            self._watch.cells.clear()
        super().run(grid_point, *arguments)

    def turn(self, threads: Sequence[Any]) -> None:
        super().turn(self._order(threads))
        assert len({thread.over for thread in threads}) == 1, (
            "some wait for threads that are gone"
        )
        places = [thread.place for thread in threads]
        assert places.count(places[0]) == len(places), (
            "threads wait at different barriers"
        )

    def thread(self, *given: Any) -> Thread:
        return WatchedThread(*given)

    def replaced(self, array: NDArray[Any]) -> Any:
        name = f"array of {array.shape}, {array.dtype.names or array.dtype}"
        if array.dtype.names:
            array = array.view(array.dtype.descr)
        else:
            array = array
        return Watched(array, name, self._watch, shared=False)


def watched(order: Order, monkeypatch: Any) -> None:
    watch = Watch()

    def block(*given: Any) -> Block:
        return WatchedBlock(order, watch, *given)

    class Ours(Shared):
        def array(self, shape: Any, dtype: Any) -> Any:
            frame = sys._getframe(1)
            array = self.at((frame.f_code, frame.f_lineno), shape, dtype)
            return Watched(array, "shared", watch, shared=True)

    monkeypatch.setattr(kernel, "BlockManager", block)
    monkeypatch.setattr(kernelapi, "FakeCUDAShared", Ours)
