"""Services of the process: locks, buffer pools, task pool, signals, memory, random.

Here: warnings that point to the user's line, or are collected by a thread of a pool.
"""

import sys
import threading
import warnings
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

# Packages that call fastmlp for the user, and those that start threads and processes.
LIBRARIES = ("fastmlp", "sklearn", "joblib", "contextlib")
STARTERS = ("threading", "multiprocessing", "concurrent")
Warnings = list[tuple[str, type[Warning]]]


def warn(message: str, category: type[Warning], module: str | None = None) -> None:
    """Warn at the user's line; in a thread that collects warnings, collect it.

    The user's line is the first outside of fastmlp, and of scikit-learn and joblib
    where those call fastmlp, as in a pipeline. In a thread or process of joblib it is
    the line that called fastmlp.

    Parameters
    ----------
    module : str, optional
        The name that filters by module see; default: the module of the line.
    """
    if _is_collected(message, category, module):
        return
    frame = _frame_of_user()
    seen = frame.f_globals.setdefault("__warningregistry__", {})
    name = module or frame.f_globals.get("__name__")
    place = (frame.f_code.co_filename, frame.f_lineno)
    warnings.warn_explicit(message, category, *place, module=name, registry=seen)


def _frame_of_user() -> FrameType:
    caller = _out_of(("fastmlp",), sys._getframe(1))
    frame = _out_of(LIBRARIES, caller)
    return caller if _package(frame) in STARTERS else frame


def _out_of(packages: Collection[str], frame: FrameType) -> FrameType:
    while _package(frame) in packages and frame.f_back is not None:
        frame = frame.f_back
    return frame


def _package(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__", "")).partition(".")[0]


def _is_collected(message: str, category: type[Warning], module: str | None) -> bool:
    """Threads of a pool must not change the filters: those belong to the process,
    and a thread that restores its copy brings back older filters.
    """
    collection: Warnings | None = getattr(_here, "collection", None)
    if collection is None:
        return False
    if getattr(_here, "raises", False) and _is_error(message, category, module):
        raise category(message)
    collection.append((message, category))
    return True


def _is_error(message: str, category: type[Warning], module: str | None) -> bool:
    """True if the filters raise this warning; filters for a line are ignored,
    and those for a module if the warning lacks a module.
    """
    for action, text, kind, names, line in warnings.filters:
        if line or not issubclass(category, kind):
            continue
        if _matches(text, message) and _matches(names, module):
            return action == "error"
    return False


def _matches(pattern: Any, text: str | None) -> bool:
    """Python's filters are strings."""
    if pattern is None or text is None or isinstance(pattern, str):
        return pattern in (None, text)
    return pattern.match(text) is not None


@contextmanager
def raise_warnings() -> Iterator[None]:
    """Raise this thread's warnings if a filter says "error",
    instead of collecting them.
    """
    before = getattr(_here, "raises", False)
    _here.raises = True
    try:
        yield
    finally:
        _here.raises = before


@contextmanager
def collect_warnings() -> Iterator[Warnings]:
    """Collect this thread's warnings,
    for a thread that the user's code did not start.
    """
    before: Warnings | None = getattr(_here, "collection", None)
    _here.collection = []
    try:
        yield _here.collection
    finally:
        _here.collection = before


_here = threading.local()
