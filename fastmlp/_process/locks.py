"""What keeps threads apart that use one net at a time."""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from numpy.typing import NDArray


class Guard:
    """The locks of one net; a copy gets its own, and a forked child finds them open.

    Whoever reads or writes all parameters in code that has released the GIL holds `whole`; whoever
    trains, and so owns the optimizer's state, is the only one to be inside `training`.
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
        """The lock of the parameters: a short hold, to copy them in or out.

        The lock itself, for its own `__enter__` is one step: Ctrl-C cannot come after it was taken
        and before the block begins, and leave it taken for ever. Its thread may take it again: a
        signal's handler that predicts comes between two steps of a holder, who copies in one.
        """
        if self._process != os.getpid():
            self._renew()
        return self._lock

    @contextmanager
    def training(self, who: str) -> Iterator[None]:
        """Be the only one who trains.

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
        """Let this thread have the state of the training, which rests while callbacks run."""
        self._caller = threading.get_ident()
        try:
            yield
        finally:
            self._caller = None

    @property
    def is_trained_elsewhere(self) -> bool:
        """Whether a fit, which called nothing of this thread's, is changing its state just now."""
        return self._trainer is not None and self._caller != threading.get_ident()


def publish(values: NDArray[Any], target: NDArray[Any]) -> None:
    """Copy values to a C-contiguous target, the GIL held: NumPy would release it.

    A prediction of few rows holds the GIL too, and so sees all of them or none.
    """
    target.data.cast("B")[:] = values.data.cast("B")
