"""Callbacks that end a fit, and work that threads do at the same time."""

import threading
from collections.abc import Callable
from typing import Any


class Cut(Exception):
    """What ends a fit that is cut."""


def cut_after(epoch: int) -> Callable[[Any], None]:
    """A callback that ends a fit after an epoch."""

    def callback(report: Any) -> None:
        if report.epoch == epoch:
            raise Cut

    return callback


def in_threads(work: Callable[[int], Any], n: int = 8) -> list[Any]:
    """Return what n threads make of their numbers; raise what one of them raises."""
    results: list[Any] = [None] * n
    errors: list[BaseException] = []
    start = threading.Barrier(n)

    def run(i: int) -> None:
        start.wait()
        try:
            results[i] = work(i)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(i,)) for i in range(n)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return results
