"""A thread that reads ahead."""

import queue
import threading
from collections.abc import Generator
from typing import Generic, TypeVar

from fastmlp._process import task_pool

T = TypeVar("T")
# Seconds that a wait lasts at a time, so that signals are handled, and how long the end may take.
LOOK_SECONDS, END_SECONDS = 0.1, 1.0


class Reader(Generic[T]):
    """Runs a generator in a thread of its own; its items and its error arrive in the caller's.

    The generator waits by itself where it is too far ahead.
    """

    def __init__(self, items: Generator[T, None, None]) -> None:
        self._items = items
        self._ready: queue.SimpleQueue[T | BaseException | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._read, name="fastmlp reader", daemon=True)
        self._thread.start()

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
            try:
                item = self._ready.get(timeout=LOOK_SECONDS)
            except queue.Empty:
                continue
            if isinstance(item, BaseException):
                raise item
            return item

    def join(self) -> None:
        """Wait for the thread's end, not longer than `END_SECONDS`: a read may block for ever."""
        self._thread.join(END_SECONDS)
