"""The one place where a device's name becomes an engine."""

from functools import cache
from importlib import import_module
from typing import Any

from fastmlp._process import signals, task_pool
from fastmlp._process.locks import NetLock
from fastmlp._process.memory import FreeList
from fastmlp.backends.protocol import Engine
from fastmlp.network.spec import Network


def index_of(device: str) -> int:
    """Return the number of a GPU by its name: "cuda" is "cuda:0"."""
    return int(device.partition(":")[2] or 0)


def require(device: str, who: str = "MLP") -> None:
    """Check that there is such a device; nothing of CUDA is imported for the CPU."""
    if device != "cpu":
        import_module("fastmlp.backends.cuda.device").require(index_of(device), who)


def engine_on(
    device: str,
    network: Network,
    n_threads: int | None = None,
    lock: NetLock | None = None,
    buffers: FreeList | None = None,
) -> Engine[Any]:
    """Return a device's engine for one network.

    Parameters
    ----------
    device : "cpu", "cuda" or "cuda:<number>"
    n_threads : at most so many threads of the CPU; None: as many as the process may use
    lock : held while the parameters are read or written as a whole
    buffers : where calls leave buffers for the next ones; None: the engine's own
    """
    if device == "cpu":
        engine: Engine[Any] = _module("cpu").Engine(network, n_threads, lock, buffers)
    else:
        engine = _module("cuda").Engine(network, index_of(device), lock)
    return engine


def thread_limit() -> int:
    return int(import_module("fastmlp.backends.cpu.limits").thread_limit())


def n_threads_of(n_threads: int | None) -> int:
    """Return the number of threads; None: as many as this thread may use."""
    return task_pool.share() or thread_limit() if n_threads is None else int(n_threads)


@cache
def _module(backend: str) -> Any:
    """Import a backend on first use, Ctrl-C deferred: an import that ends half way may leave
    modules that a later import cannot complete."""
    with signals.deferred():
        return import_module(f"fastmlp.backends.{backend}.engine")
