"""The locks of one net, which several threads use."""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from numpy.typing import NDArray


class Guard:
    """The locks of one net; a copy gets its own, and in a forked child they are open.

    Code that reads or writes all parameters with the GIL released holds `whole`. The thread that
    trains is inside `training`, alone, and owns the optimizer's state.
    """

    def __init__(self) -> None:
        self._renew()

    def _renew(self) -> None:
        self._lock, self._process = threading.RLock(), os.getpid()
        self._trainer: object = None
        self._caller: int | None = None

    def __reduce__(self) -> Any:
        return Guard, ()

    @property
    def whole(self) -> threading.RLock:
        """The lock of the parameters, held while they are copied in or out.

        It is a lock, not a context manager in Python: its `__enter__` is one step, so that Ctrl-C
        cannot come between taking it and entering the block, and leave it locked for ever. It is
        reentrant: a signal handler that predicts runs in the thread that holds it, between two
        copies.
        """
        if self._process != os.getpid():
            self._renew()
        return self._lock

    @contextmanager
    def training(self, who: str) -> Iterator[None]:
        """Return a context for the one thread that trains.

        Raises
        ------
        RuntimeError
            Where another thread, or the caller of this callback, trains the net.
        """
        ticket = object()
        try:
            with self.whole:
                if self._trainer is not None:
                    raise RuntimeError(
                        f"{who}: a fit of this net is running, which owns its optimizer's state; "
                        "wait for its end, or train a copy: copy.deepcopy(net)"
                    )
                self._trainer = ticket
            yield
        finally:
            if self._trainer is ticket:
                self._trainer = None

    @contextmanager
    def calling_back(self) -> Iterator[None]:
        """Return a context for callbacks: this thread may read the state of training in it."""
        self._caller = threading.get_ident()
        try:
            yield
        finally:
            self._caller = None

    @property
    def is_trained_elsewhere(self) -> bool:
        """True if a fit is changing its state, and this thread is not its callback's."""
        return self._trainer is not None and self._caller != threading.get_ident()


def publish(values: NDArray[Any], target: NDArray[Any]) -> None:
    """Copy values to a C-contiguous target while holding the GIL, which NumPy would release.

    A prediction of few rows holds the GIL, too, and so reads all new values or none.
    """
    target.data.cast("B")[:] = values.data.cast("B")
