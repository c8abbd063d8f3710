"""What several nets share: made once for all, or for each."""

from collections.abc import Callable
from typing import Any

# Takes a key and a function without arguments; returns what that returns, or returned at this key.
Once = Callable[[Any, Callable[[], Any]], Any]


def each_time(key: Any, make: Callable[[], Any]) -> Any:
    """Return what `make` returns, and keep nothing."""
    return make()
