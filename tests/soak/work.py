"""Work whose bits are known, for threads and processes of every kind to do."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
from fitting import in_threads as in_threads

from fastmlp import MLP
from fastmlp.backends.cpu import dispatch, limits, tuning
from fastmlp.backends.cpu.dispatch import Autotuner

RNG = np.random.default_rng(0)
X = RNG.normal(size=(100, 5)).astype(np.float32)
Y = RNG.integers(3, size=100)
SECONDS = 60


def always_in_parallel() -> None:
    """Have every fit launch a parallel region,
    where the layer allows one, however small it is.
    """
    dispatch.pays = lambda work, n_threads: n_threads > 1
    Autotuner.wants_team = lambda self: True  # type: ignore[method-assign]
    limits.thread_limit = lambda: 64
    tuning.LEAST_LED = 1
    tuning.WORTH_COMPILING = -1.0


def fitted(seed: int = 0, n_threads: int = 2) -> bytes:
    always_in_parallel()
    net = MLP((5, 17, 3), loss="cross_entropy", seed=seed, n_threads=n_threads)
    history = net.fit(X, Y, epochs=2, batch_size=50)
    return (
        net.parameters.tobytes()
        + net.predict(X).tobytes()
        + repr(history.loss).encode()
    )


def same(expected: bytes, seed: int = 0) -> int:
    """Return 0 where a fit here has the expected bits; die where it hangs."""
    if (
        hasattr(signal, "alarm")
        and threading.current_thread() is threading.main_thread()
    ):
        signal.alarm(SECONDS)
    try:
        return int(fitted(seed) != expected)
    finally:
        if (
            hasattr(signal, "alarm")
            and threading.current_thread() is threading.main_thread()
        ):
            signal.alarm(0)


@contextmanager
def beside(work: Callable[[], object]) -> Iterator[None]:
    """Do work again and again in another thread meanwhile."""
    stop = threading.Event()

    def work_on() -> None:
        while not stop.is_set():
            work()

    thread = threading.Thread(target=work_on)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def forked(work: Callable[[], int]) -> int:
    """Return the exit code of work in a forked child; a signal's is negative."""
    process = os.fork()
    if process == 0:
        signal.alarm(SECONDS)
        os._exit(work())
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
