"""What a call has made and the next one may use."""

from collections.abc import Hashable
from typing import Any

# As many threads may predict with one net at once and find something made.
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
