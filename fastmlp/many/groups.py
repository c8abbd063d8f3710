"""Groups of tasks on the workers of a Dask client. Shared arrays are sent once."""

import io
import pickle
import platform
import socket
import sys
import time
import weakref
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import CancelledError
from contextlib import suppress
from functools import partial
from importlib.metadata import version
from queue import Empty, SimpleQueue
from typing import Any
from uuid import uuid4

from fastmlp import __version__
from fastmlp._process import warn
from fastmlp._process.task_pool import Outcome, Pool, Task, threads_of_task
from fastmlp.backends.protocol import thread_limit
from fastmlp.validation.messages import imported, listed


def client_of(client: Any, who: str) -> Any:
    """The client of the argument `client`: the object,
    or for "auto" the current client.

    The client must be running and not asynchronous. Tasks of workers cannot have one.
    """
    _check_no_task(who)
    if client == "auto":
        distributed = imported("distributed", f'{who}: client="auto"')
        try:
            client = distributed.get_client()
        except ValueError as error:
            raise ValueError(
                f'{who}: client="auto" found no client: make one, '
                f"distributed.Client(address)"
            ) from error
    kind = getattr(sys.modules.get("distributed"), "Client", ())
    if not isinstance(client, kind):
        raise TypeError(
            f'{who}: client must be a distributed.Client, or "auto", got {client!r}'
        )
    if client.asynchronous or client.status != "running":
        state = "asynchronous" if client.asynchronous else client.status
        raise ValueError(
            f"{who}: client must be a running one that is not asynchronous: {state}"
        )
    return client


def _check_no_task(who: str) -> None:
    """Raise ValueError in a task of a worker,
    which would wait for tasks that need its thread.
    """
    module = sys.modules.get("distributed.worker")
    if module is not None and hasattr(module.thread_state, "execution_state"):
        raise ValueError(
            f"{who}: client= is for the program that has the client, and this is a "
            "task on a worker: leave client out, and the task trains on the threads of "
            "the worker"
        )


def pickle_parts(content: Any, shared: Sequence[Any]) -> tuple[bytes, list[int]]:
    """An object as bytes, and the indices in `shared` of arrays that it holds.

    Shared arrays are known by identity, and left out of the bytes.
    Functions of the user's program are sent as code.
    """
    from cloudpickle import Pickler

    places = {id(value): i for i, value in enumerate(shared)}
    held: dict[int, None] = {}

    class SharingPickler(Pickler):  # type: ignore[misc, unused-ignore]
        def persistent_id(self, value: Any) -> int | None:
            place = places.get(id(value))
            if place is not None:
                held[place] = None
            return place

    file = io.BytesIO()
    SharingPickler(file, protocol=pickle.HIGHEST_PROTOCOL).dump(content)
    return file.getvalue(), list(held)


def unpack(packed: bytes, shared: Mapping[int, Any]) -> Any:
    """The inverse of `pickle_parts`; `shared` has arrays by index."""

    class SharingUnpickler(pickle.Unpickler):
        def persistent_load(self, place: Any) -> Any:
            return shared[place]

    return SharingUnpickler(io.BytesIO(packed)).load()


# Seconds that an ending group waits for a callback that does not return.
CALLBACK_SECONDS = 5.0
HOST, THREADS = "host", "threads"


def facts() -> dict[str, Any]:
    """Versions and hardware that may change the bits of a fit,
    and the threads for tasks.
    """
    from fastmlp.compiler.target import vector_bytes

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
    """The result of the packed function, which runs in a pool.

    A callback that never returns leaves a thread behind at the timeout.
    If the client has cancelled the task, `CancelledError` is raised.

    Parameters
    ----------
    packed : bytes, of `pickle_parts`
    places : indices of the packed arrays
    shares : number of threads of a task, by host name
    timeout : seconds after which `TimeoutError` is raised, or None
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
    pool = Pool(n_threads, CALLBACK_SECONDS, look)
    work = unpack(packed, dict(zip(places, arrays, strict=True)))
    (outcome,) = pool.run([Task(1.0, work)], "")
    assert outcome is not None
    return outcome.result


# Operations of a group: a fifth of a second or more at 5e10 a second (one core of 2.1
# GHz with AVX-512). A task without work takes 2.5 ms.
LEAST_COST = 1e10
# Groups for each concurrent task, so that the last ones end at about the same time.
GROUPS_EACH = 8
# Rounds in which groups of lost workers are sent again.
ROUNDS_OF_LOST = 3
LOST = ("cancelled", "lost")
# Seconds after a group's timeout after which the worker counts as hanging.
GRACE_SECONDS = 10.0
OF_HOST = (HOST, THREADS)

# Arrays of a client's last call, by content.
# Another call with the same arrays sends nothing.
_sent: "weakref.WeakKeyDictionary[Any, dict[str, Any]]" = weakref.WeakKeyDictionary()


# Numbers of a task's items, and the pickled function that returns a result for each.
Group = tuple[list[int], Callable[[], Sequence[Any]]]


def dealt(costs: Sequence[float], n_at_once: int) -> list[list[int]]:
    """Numbers of tasks in groups of about equal cost, the costliest first."""
    least = max(LEAST_COST, sum(costs) / (GROUPS_EACH * n_at_once))
    groups: list[list[int]] = []
    cost = least
    for i in sorted(range(len(costs)), key=lambda i: (-costs[i], i)):
        if cost >= least:
            groups.append([])
            cost = 0.0
        groups[-1].append(i)
        cost += costs[i]
    return groups


class Cluster:
    """The checked workers of a client.

    Parameters
    ----------
    client : distributed.Client, of `client_of`
    timeout : seconds that a group may take, or None

    Attributes
    ----------
    n_at_once : int, number of concurrent groups
    interrupted : bool, True if Ctrl-C ended `run`
    """

    def __init__(self, client: Any, who: str, timeout: float | None = None) -> None:
        self._client = client
        self._who = who
        self._timeout = timeout
        # Seconds without the end of a group after which a worker hangs.
        self._limit = None if timeout is None else timeout + GRACE_SECONDS
        self.interrupted = False
        answers = self._asked(client.run, facts, on_error="return")
        for answer in answers.values():
            # Workers that die meanwhile are left out.
            if isinstance(answer, Exception) and not isinstance(answer, OSError):
                raise answer
        facts_of = {
            name: answer
            for name, answer in answers.items()
            if not isinstance(answer, Exception)
        }
        if not facts_of:
            raise RuntimeError(
                f"{who}: the client has no workers; client.wait_for_workers(1) waits "
                f"for the first"
            )
        others = sorted({host["fastmlp"] for host in facts_of.values()} - {__version__})
        if others:
            raise RuntimeError(
                f"{who}: the workers have fastmlp {', '.join(others)}, and here it is "
                f"{__version__}: install the same"
            )
        self._warn_of_others([facts(), *facts_of.values()])
        n_threads = self._asked(client.nthreads)
        self.n_at_once = max(1, sum(n_threads.values()))
        at_once = Counter[str]()
        for address, host in facts_of.items():
            at_once[host[HOST]] += n_threads.get(address, 1)
        # Threads of a machine are divided among its concurrent tasks.
        self._shares = {
            host[HOST]: max(1, host[THREADS] // at_once[host[HOST]])
            for host in facts_of.values()
        }

    def _warn_of_others(self, all_facts: Sequence[dict[str, Any]]) -> None:
        different = []
        for name in all_facts[0]:
            known = sorted({str(known_facts[name]) for known_facts in all_facts})
            if len(known) > 1 and name not in OF_HOST:
                different.append(f"{name} {' and '.join(known)}")
        if different:
            warn(
                f"{self._who}: results may differ in the last bits from results of one "
                f"machine: workers, or workers and this process, have "
                f"{', '.join(different)}",
                UserWarning,
            )

    def run(
        self,
        work: Callable[[Any], Sequence[Any]],
        items: Sequence[Any],
        costs: Sequence[float],
        arrays: Iterable[Any],
        done: Callable[[int, Any], Any],
        name: str,
    ) -> None:
        """Run a function on items, in groups of about equal cost.

        `done` gets number and result of each item, in any order. A group whose worker
        dies runs again on another. The first error cancels all other groups, with a
        note that names its items. Ctrl-C cancels them too.

        Parameters
        ----------
        work : pickled function of a list of items; returns one result for each
        items, costs : sequences of one length
        arrays : objects that several groups hold; others are sent with their group
        name : the name of an item, in notes
        """
        groups: list[Group] = [
            (numbers, partial(work, [items[i] for i in numbers]))
            for numbers in dealt(costs, self.n_at_once)
        ]
        left = list(range(len(groups)))
        shared = list(arrays)
        try:
            for _ in range(ROUNDS_OF_LOST):
                left = self._round(groups, left, shared, done, name)
                if not left:
                    return
                _sent.pop(self._client, None)
        except KeyboardInterrupt:
            self.interrupted = True
            return
        except Exception:
            # If the scheduler was lost, its error is raised instead.
            self._check()
            raise
        lost = _text([number for i in left for number in groups[i][0]])
        raise RuntimeError(
            f"{self._who}: the workers of {name} {lost} were lost {ROUNDS_OF_LOST} times"
        )

    def _round(
        self,
        groups: Sequence[Group],
        left: Sequence[int],
        arrays: list[Any],
        done: Callable[[int, Any], Any],
        name: str,
    ) -> list[int]:
        """Run the remaining groups, and return the lost ones."""
        lost: list[int] = []
        arriving: SimpleQueue[Any] = SimpleQueue()
        try:
            submitted = self._submitted(groups, left, arrays)
        except OSError:  # A worker died as it took the rows.
            self._check()
            return list(left)
        try:
            for future in submitted:
                future.add_done_callback(arriving.put)
            for _ in range(len(submitted)):
                future = self._next(arriving)
                i = submitted[future]
                if future.status in LOST:
                    self._check()
                    lost.append(i)
                    continue
                try:
                    results = self._result(future)
                except CancelledError:
                    lost.append(i)
                    continue
                except Exception as error:
                    if not getattr(error, "__notes__", None):
                        error.add_note(f"in {name} {_text(groups[i][0])}")
                    raise
                for number, result in zip(groups[i][0], results, strict=True):
                    done(number, result)
        finally:
            if self._client.status == "running":
                # The client may be closed, which must not hide another error.
                with suppress(Exception):
                    self._client.cancel(list(submitted), force=True)
        return lost

    def _asked(self, call: Callable[..., Any], *words: Any, **options: Any) -> Any:
        """The answer to a call. If the scheduler was lost, raise that error instead."""
        try:
            return call(*words, **options)
        except Exception:
            self._check()
            raise

    def _check(self) -> None:
        if self._client.status != "running":
            raise ConnectionError(
                f"{self._who}: the client, or its scheduler, was closed or has gone "
                "away: make another client, and call again"
            )

    def _next(self, arriving: "SimpleQueue[Any]") -> Any:
        try:
            return arriving.get(timeout=self._limit)
        except Empty:
            raise TimeoutError(
                f"{self._who}: no group has ended for {self._limit:g} s, and each may "
                f"take {self._timeout:g}: restart the workers that hang, "
                "client.restart_workers([address]), and call again"
            ) from None

    def _result(self, future: Any) -> Any:
        from distributed import KilledWorker

        try:
            return future.result(timeout=self._limit)
        except KilledWorker as error:
            raise RuntimeError(
                f"{self._who}: the workers that ran this group died one after the "
                "other, perhaps for lack of memory: give them more memory, or fewer "
                "threads of Dask"
            ) from error

    def _submitted(
        self, groups: Sequence[Group], left: Sequence[int], arrays: list[Any]
    ) -> dict[Any, int]:
        """Submit the groups in order, and return their indices by future."""
        import dask

        packed = {i: pickle_parts(groups[i][1], arrays) for i in left}
        held = Counter(place for _, places in packed.values() for place in places)
        several = [place for place, n in held.items() if n > 1]
        arguments = dict(enumerate(arrays))
        arguments |= zip(
            several, self._scattered([arrays[place] for place in several]), strict=True
        )
        submitted: dict[Any, int] = {}
        # Groups of large nets are large on purpose.
        with dask.config.set(
            {"distributed.admin.large-graph-warning-threshold": "1TB"}
        ):
            for rank, i in enumerate(left):
                content, places = packed[i]
                leading = (content, places, self._shares, self._timeout)
                future = self._client.submit(
                    run_group,
                    *leading,
                    *(arguments[place] for place in places),
                    key=f"fastmlp-{self._who}-{uuid4().hex}",
                    priority=-rank,
                    pure=False,
                )
                submitted[future] = i
        return submitted

    def _scattered(self, arrays: Sequence[Any]) -> list[Any]:
        from dask.base import tokenize

        before = _sent.get(self._client, {})
        tokens = [tokenize(array) for array in arrays]
        now = {
            token: before[token]
            for token in tokens
            if token in before and before[token].status not in LOST
        }
        new = {
            token: array
            for token, array in zip(tokens, arrays, strict=True)
            if token not in now
        }
        if new:
            sent = self._client.scatter(list(new.values()), broadcast=True, hash=False)
            now |= zip(new, sent, strict=True)
        _sent[self._client] = now
        return [now[token] for token in tokens]


def _text(numbers: Sequence[int]) -> str:
    return listed([*map(str, sorted(numbers))], 8)


def side_by_side(tasks: Sequence[Task]) -> list[Outcome | None]:
    return Pool(threads_of_task() or thread_limit()).run(tasks)


def run_tasks(
    cluster: Cluster,
    tasks: Sequence[Task],
    arrays: Iterable[Any],
    done: Callable[[int, Outcome], Any],
    name: str,
) -> None:
    """Run tasks on the workers of a cluster. On Ctrl-C,
    raise KeyboardInterrupt at the end.
    """
    named = [task._replace(name=f"{name} {i}") for i, task in enumerate(tasks)]
    cluster.run(side_by_side, named, [task.cost for task in tasks], arrays, done, name)
    if cluster.interrupted:
        raise KeyboardInterrupt
