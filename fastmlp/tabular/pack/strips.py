"""Strips of rows that are predicted at once, by threads side by side."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, TypeVar

from fastmlp._process.task_pool import Task
from fastmlp._process.warnings import warn
from fastmlp.training.pool import n_threads_of, pool_of

Result = TypeVar("Result")
# Rows of a strip: encoded they stay in the second-level cache, or near it.
CHUNK = 8192


def in_strips(n_rows: int, do: Callable[[slice], Result]) -> list[Result]:
    """Return what a function returns of each strip of rows, at least of one, in their order.

    Threads share the strips: each net's own team would wait for the others at the end of each.
    """
    strips = list(_strips(n_rows, n_threads_of(None)))
    if len(strips) == 1:
        return [do(strips[0])]
    pool = pool_of(None)
    ended: list[Any] = pool.run([Task(1, partial(do, strip)) for strip in strips], "")
    if pool.interrupted:
        raise KeyboardInterrupt
    for outcome in ended:
        for message, category in outcome.warnings:
            warn(message, category)
    return [outcome.result for outcome in ended]


def _strips(n_rows: int, n_threads: int) -> Iterator[slice]:
    """Yield strips that are about equal; where they are several, as many for each thread."""
    n = max(1, -(-n_rows // CHUNK))
    if n > 1:
        n = max(n, min(-(-n // n_threads) * n_threads, n_rows // (CHUNK // 2)))
    return (slice(i * n_rows // n, (i + 1) * n_rows // n) for i in range(n))
