"""Warnings that point to the user's line, or are collected by a thread of a pool."""

import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

Warnings = list[tuple[str, type[Warning]]]


def warn(message: str, category: type[Warning]) -> None:
    """Warn at the line that called into fastmlp; in a thread that collects warnings, collect it."""
    if _is_collected(message, category):
        return
    depth = 2
    while sys._getframe(depth - 1).f_globals.get("__name__", "").startswith("fastmlp."):
        depth += 1
    warnings.warn(message, category, stacklevel=depth)


def warn_at(message: str, category: type[Warning], stacklevel: int) -> None:
    """Warn as `warnings.warn` does; in a thread that collects warnings, collect it.

    Threads of a pool must not change the filters: those belong to the process, and a thread that
    restores its copy brings back older filters.
    """
    if _is_collected(message, category):
        return
    warnings.warn(message, category, stacklevel=stacklevel + 1)


def _is_collected(message: str, category: type[Warning]) -> bool:
    collection: Warnings | None = getattr(_here, "collection", None)
    if collection is None:
        return False
    if getattr(_here, "raises", False) and _is_error(message, category):
        raise category(message)
    collection.append((message, category))
    return True


def _is_error(message: str, category: type[Warning]) -> bool:
    """Return True if the filters raise this warning; filters for a module or a line are ignored."""
    for action, text, kind, module, line in warnings.filters:
        applies = module is None and not line and issubclass(category, kind)
        if applies and (text is None or text.match(message)):
            return action == "error"
    return False


@contextmanager
def raised() -> Iterator[None]:
    """Raise this thread's warnings if a filter says "error", instead of collecting them."""
    before = getattr(_here, "raises", False)
    _here.raises = True
    try:
        yield
    finally:
        _here.raises = before


@contextmanager
def collected() -> Iterator[Warnings]:
    """Collect this thread's warnings, for a thread that the user's code did not start."""
    before: Warnings | None = getattr(_here, "collection", None)
    _here.collection = []
    try:
        yield _here.collection
    finally:
        _here.collection = before


_here = threading.local()
