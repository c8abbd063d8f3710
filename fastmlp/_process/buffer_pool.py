"""What a call has made and the next one may use."""

from collections.abc import Hashable
from typing import Any

# As many threads may do the same thing at once, and each finds something made.
MOST = 8


class Idle:
    """Things that are slow to make, each used by one call at a time; for any number of threads.

    A copy begins with none.
    """

    def __init__(self) -> None:
        self._things: list[tuple[Hashable, Any]] = []

    def __reduce__(self) -> Any:
        return Idle, ()

    def take(self, key: Hashable) -> Any:
        """Return a thing that was given with this key, or None; the last of another is let go."""
        try:
            # One step, so that no two threads take the same.
            its_key, thing = self._things.pop()
        except IndexError:
            return None
        return thing if its_key == key else None

    def give(self, key: Hashable, thing: Any) -> None:
        """Keep a thing that its call has ended with, if there are not enough."""
        if len(self._things) < MOST:
            self._things.append((key, thing))


class Kept:
    """Large things for whoever wants their like next; for any number of threads.

    Parameters
    ----------
    most : int, the bytes of all together; the oldest goes first
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._things: dict[int, tuple[Any, Any, int]] = {}

    def take(self, key: Any) -> Any:
        """Return a thing that was given with this key, or None."""
        for name, (its_key, thing, _) in list(self._things.items()):
            # Popping is one step, so that no two threads take the same.
            if its_key == key and self._things.pop(name, None) is not None:
                return thing
        return None

    def give(self, key: Any, thing: Any, n_bytes: int) -> None:
        """Keep a thing of so many bytes that its call has ended with, unless that is too large."""
        if n_bytes > self._most:
            return
        self._things[id(thing)] = key, thing, n_bytes
        while self.n_bytes > self._most or len(self._things) > MOST:
            for oldest in list(self._things)[:1]:
                self._things.pop(oldest, None)

    @property
    def n_bytes(self) -> int:
        """The bytes of all that is kept."""
        return sum(n_bytes for _, _, n_bytes in list(self._things.values()))

    def clear(self) -> None:
        """Let everything go."""
        self._things.clear()
