"""Warnings, at the line of the user's that brought them about."""

import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

Warnings = list[tuple[str, type[Warning]]]


def warn(message: str, category: type[Warning]) -> None:
    """Warn at the line that called into fastmlp, or where warnings are collected, add it there."""
    collection: Warnings | None = getattr(_here, "collection", None)
    if collection is not None:
        collection.append((message, category))
        return
    depth = 2
    while sys._getframe(depth - 1).f_globals.get("__name__", "").startswith("fastmlp."):
        depth += 1
    warnings.warn(message, category, stacklevel=depth)


def warn_at(message: str, category: type[Warning], stacklevel: int) -> None:
    """Warn as `warnings.warn` does, or where warnings are collected, add it there.

    Threads may not: the filters are the process's, and each thread that puts its own aside brings
    back older ones.
    """
    collection: Warnings | None = getattr(_here, "collection", None)
    if collection is not None:
        collection.append((message, category))
        return
    warnings.warn(message, category, stacklevel=stacklevel + 1)


@contextmanager
def collected() -> Iterator[Warnings]:
    """Collect this thread's warnings, for one whose callers are not the user's."""
    before: Warnings | None = getattr(_here, "collection", None)
    _here.collection = []
    try:
        yield _here.collection
    finally:
        _here.collection = before


_here = threading.local()
