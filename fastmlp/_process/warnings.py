"""Warnings, at the line of the user's that brought them about."""

import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

Warnings = list[tuple[str, type[Warning]]]


def warn(message: str, category: type[Warning]) -> None:
    """Warn at the line that called into fastmlp, or where warnings are collected, add it there."""
    if _is_collected(message, category):
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
    """Whether the filters make an error of it; those for a module are for lines of the user's."""
    for action, text, kind, module, line in warnings.filters:
        applies = module is None and not line and issubclass(category, kind)
        if applies and (text is None or text.match(message)):
            return action == "error"
    return False


@contextmanager
def raised() -> Iterator[None]:
    """Raise this thread's warnings that the filters make errors of, in place of collecting them."""
    before = getattr(_here, "raises", False)
    _here.raises = True
    try:
        yield
    finally:
        _here.raises = before


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
