"""Free lists and a buffer pool: objects that one call has made and a later call reuses."""

from collections.abc import Hashable
from typing import Any

# The most objects that are kept: as many threads may make the same call at once.
MOST = 8


class FreeList:
    """A thread-safe free list of objects that are slow to make; one call at a time uses each.

    A copy or a pickle of it is empty.
    """

    def __init__(self) -> None:
        self._things: list[tuple[Hashable, Any]] = []

    def __reduce__(self) -> Any:
        return FreeList, ()

    def take(self, key: Hashable) -> Any:
        """Return an object that was given with this key, or None; drop one of another key."""
        try:
            # Popping is one step: no two threads take the same object.
            its_key, thing = self._things.pop()
        except IndexError:
            return None
        return thing if its_key == key else None

    def give(self, key: Hashable, thing: Any) -> None:
        """Keep an object for later calls, unless `MOST` are kept."""
        if len(self._things) < MOST:
            self._things.append((key, thing))


class BufferPool:
    """A thread-safe pool of large buffers for reuse, bounded in bytes; the oldest is evicted first.

    Parameters
    ----------
    most : int, bytes of all buffers together
    at_most : int, how many buffers
    """

    def __init__(self, most: int, at_most: int = MOST) -> None:
        self._most, self._at_most = most, at_most
        self._things: dict[int, tuple[Any, Any, int]] = {}

    def take(self, key: Any) -> Any:
        """Return a buffer that was given with this key, or None."""
        for name, (its_key, thing, _) in list(self._things.items()):
            # Popping is one step: no two threads take the same buffer.
            if its_key == key and self._things.pop(name, None) is not None:
                return thing
        return None

    def give(self, key: Any, thing: Any, n_bytes: int) -> None:
        """Keep a buffer of `n_bytes` for later calls, unless it is larger than the pool."""
        if n_bytes > self._most:
            return
        self._things[id(thing)] = key, thing, n_bytes
        while self.n_bytes > self._most or len(self._things) > self._at_most:
            for oldest in list(self._things)[:1]:
                self._things.pop(oldest, None)

    def drop(self, thing: Any) -> None:
        """Drop a buffer, if it is in the pool."""
        self._things.pop(id(thing), None)

    @property
    def n_bytes(self) -> int:
        """The bytes of all buffers in the pool."""
        return sum(n_bytes for _, _, n_bytes in list(self._things.values()))

    def clear(self) -> None:
        """Drop every buffer."""
        self._things.clear()
