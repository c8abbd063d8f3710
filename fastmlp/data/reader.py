"""A thread that reads ahead."""

import queue
import threading
import time
from collections.abc import Generator
from typing import Generic, Self, TypeVar

from fastmlp._process import task_pool

T = TypeVar("T")
# Seconds that a wait lasts at a time, so that signals are handled, and how long the end may take.
LOOK_SECONDS, END_SECONDS = 0.1, 1.0
# Seconds of computing from which the reading of a buffer counts as a thread. A call of the training
# loop is as long, and has one number of threads to its end.
LEAST_SECONDS = 0.05
# The part of the reading's time in which it computes; a source that waits more needs no core.
COMPUTING = 0.25


class Reader(Generic[T]):
    """Runs a generator in a thread of its own; its items and its error arrive in the caller's.

    The generator waits by itself where it is too far ahead. Where the system starts no thread, the
    caller runs it, an item at a time.
    """

    def __init__(self, items: Generator[T, None, None]) -> None:
        self._items = items
        self._ready: queue.SimpleQueue[T | BaseException | None] = queue.SimpleQueue()
        thread = threading.Thread(target=self._read, name="fastmlp reader", daemon=True)
        self._thread = thread if task_pool.started(thread) else None

    def _read(self) -> None:
        try:
            for item in self._items:
                self._ready.put(item)
            self._ready.put(None)
        except BaseException as error:
            self._ready.put(error)

    def next(self) -> T | None:
        """Return the next item, None after the last.

        Raises
        ------
        BaseException
            The generator's, with its traceback.
        """
        while True:
            task_pool.check()
            if self._thread is None:
                return next(self._items, None)
            try:
                item = self._ready.get(timeout=LOOK_SECONDS)
            except queue.Empty:
                continue
            if isinstance(item, BaseException):
                raise item
            return item

    def join(self) -> None:
        """Wait for the thread's end, not longer than `END_SECONDS`: a read may block for ever."""
        if self._thread is not None:
            self._thread.join(END_SECONDS)


class Load:
    """What the reading of one buffer takes of the process: a thread, if it computes for long.

    Training has a thread less meanwhile. A team of as many threads as cores would wait at each
    barrier for the member whose core the reading has: 502 -> 432 ns a row (20-64-64-1@256, 2
    threads), 1378 -> 1273 ns (20-128-128-1@64), both from Parquet.
    """

    def __init__(self, *, takes_thread: bool = False) -> None:
        # Not before a fit: it imports the backend.
        from fastmlp.backends.cpu.threads import limits

        self._thread, self._computes = limits.reserved(1), takes_thread
        self._since = 0.0, 0.0
        if takes_thread:
            self._thread.__enter__()

    def next(self) -> Self:
        """Return the load of the next buffer, which is like the last one that has ended."""
        return type(self)(takes_thread=self._computes)

    def begin(self) -> None:
        """Begin to read, in this thread."""
        self._since = time.thread_time(), time.perf_counter()

    def end(self) -> None:
        """End the reading: the thread is free."""
        cpu, wall = time.thread_time() - self._since[0], time.perf_counter() - self._since[1]
        self._computes = cpu > max(LEAST_SECONDS, COMPUTING * wall)
        self._thread.__exit__()
