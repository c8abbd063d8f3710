"""A worker of Dask's: its facts, the objects sent to it, and a group of tasks on its cores."""

import io
import pickle
import platform
import socket
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import CancelledError
from importlib.metadata import version
from typing import Any

from fastmlp import __version__
from fastmlp._process.task_pool import Pool, Task
from fastmlp.backends.devices import thread_limit


def pack(content: Any, shared: Sequence[Any]) -> tuple[bytes, list[int]]:
    """Return an object as bytes, and the places in `shared` of what it holds of them.

    What is shared is known by its identity, and is not part of the bytes. Functions of the user's
    program go along as code.
    """
    from cloudpickle import Pickler

    places = {id(each): i for i, each in enumerate(shared)}
    found: dict[int, None] = {}

    class Sharing(Pickler):  # type: ignore[misc, unused-ignore]
        def persistent_id(self, given: Any) -> int | None:
            place = places.get(id(given))
            if place is not None:
                found[place] = None
            return place

    file = io.BytesIO()
    Sharing(file, protocol=pickle.HIGHEST_PROTOCOL).dump(content)
    return file.getvalue(), list(found)


def unpack(packed: bytes, shared: Mapping[int, Any]) -> Any:
    """Return the object; `shared` are the arrays at their places."""

    class Sharing(pickle.Unpickler):
        def persistent_load(self, place: Any) -> Any:
            return shared[place]

    return Sharing(io.BytesIO(packed)).load()


# Seconds that a group which is to end waits for a callback that does not return.
PATIENCE = 5.0
HOST, THREADS = "host", "threads"


def facts() -> dict[str, Any]:
    """Return what may make the bits of a fit differ, and how many threads there are for tasks."""
    from fastmlp.compiler.target import vector_bytes  # Numba, which fit_many imports when it trains

    libraries = {name: version(name) for name in ("numba", "numpy", "llvmlite")}
    return {
        "fastmlp": __version__,
        "Python": platform.python_version(),
        **libraries,
        "processor": f"{platform.machine()}, vectors of {8 * vector_bytes()} bits",
        HOST: socket.gethostname(),
        THREADS: thread_limit(),
    }


def run_group(
    packed: bytes,
    places: Sequence[int],
    shares: Mapping[str, int],
    timeout: float | None,
    *arrays: Any,
) -> Any:
    """Return what the packed function returns, which runs in a pool of its own.

    Parameters
    ----------
    packed : bytes, of `payload.pack`
    places : of the arrays in what was packed
    shares : how many threads a task has, by the names of hosts
    timeout : seconds after which `TimeoutError` is raised, or None

    Raises
    ------
    TimeoutError
        If it takes longer. A thread of a callback that never returns is left behind.
    CancelledError
        If the client does not want the result any more.
    """
    from distributed import get_worker

    worker = get_worker()
    key = worker.get_current_task()
    own = thread_limit() // worker.state.nthreads
    end = None if timeout is None else time.monotonic() + timeout

    def look() -> None:
        task = worker.state.tasks.get(key)
        if task is None or task.state == "cancelled":
            raise CancelledError(str(key))
        if end is not None and time.monotonic() > end:
            raise TimeoutError(f"a group of tasks took more than {timeout:g} s")

    n_threads = shares.get(socket.gethostname(), max(1, own))
    pool = Pool(n_threads, PATIENCE, look)
    work = unpack(packed, dict(zip(places, arrays, strict=True)))
    (outcome,) = pool.run([Task(1.0, work)], "")
    assert outcome is not None
    return outcome.result
