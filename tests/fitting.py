"""Marks of tests that fit, callbacks that end a fit, or its process, and work of many threads."""

import os
import signal
import threading
from collections.abc import Callable
from typing import Any

import pytest

from fastmlp.compiler.jit import INTERPRETED

needs_compiler = pytest.mark.skipif(INTERPRETED, reason="NUMBA_DISABLE_JIT is set: too slow")
# Fits of a few epochs on purpose.
unconverged = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


class Cut(Exception):
    """What ends a fit that is cut."""


def cut_after(epoch: int) -> Callable[[Any], None]:
    """A callback that ends a fit after an epoch."""

    def callback(report: Any) -> None:
        if report.epoch == epoch:
            raise Cut

    return callback


def killed_after(epoch: int, work: Callable[[Callable[[Any], None]], Any]) -> None:
    """Do work with a callback, in a forked child that the callback kills after an epoch."""

    def kill(report: Any) -> None:
        if report.epoch == epoch:
            os.kill(os.getpid(), signal.SIGKILL)

    process = os.fork()
    if process == 0:
        try:
            signal.alarm(100)
            work(kill)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == -signal.SIGKILL


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
