"""The argument `client`, a client of Dask's: checks of it, and waiting for it."""

import math
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import Any, final

from fastmlp.validation.packages import needs


def client_of(client: Any, who: str) -> Any:
    """Return the client that is meant by the argument `client`: itself, or by "auto" the current.

    Raises
    ------
    TypeError
        If it is neither.
    ImportError
        If it is "auto", and distributed is not installed.
    ValueError
        If it is "auto", and there is no client; or the client is closed, or asynchronous; or this
        is a task of a worker.
    """
    _check_no_task(who)
    if client == "auto":
        try:
            from distributed import get_client
        except ImportError as error:
            raise ImportError(needs(f'{who}: client="auto"', "distributed")) from error
        try:
            client = get_client()
        except ValueError as error:
            raise ValueError(
                f'{who}: client="auto" found no client: make one, distributed.Client(address)'
            ) from error
    kind = getattr(sys.modules.get("distributed"), "Client", ())
    if not isinstance(client, kind):
        raise TypeError(f'{who}: client must be a distributed.Client, or "auto", got {client!r}')
    if client.asynchronous or client.status != "running":
        state = "asynchronous" if client.asynchronous else client.status
        raise ValueError(f"{who}: client must be a running one that is not asynchronous: {state}")
    return client


def _check_no_task(who: str) -> None:
    """Raise ValueError in a task of a worker's: it would wait for tasks that need its thread."""
    module = sys.modules.get("distributed.worker")
    if module is not None and hasattr(module.thread_state, "execution_state"):
        raise ValueError(
            f"{who}: client= is for the program that has the client, and this is a task on a "
            "worker: leave client out, and the task trains on its own threads"
        )


# Seconds between two looks at the client.
LOOK_SECONDS = 0.1
# Seconds in which all workers must answer, which import Numba first: 1 to 3 on an idle machine.
ANSWER_SECONDS = 60.0
# Seconds for which a cluster may be without workers: a nanny starts another one in 1 to 3.
EMPTY_SECONDS = 60.0
# Seconds between two questions to the scheduler, which workers there are.
ASK_SECONDS = 2.0
# Seconds beside a group's own timeout, after which its worker, too, counts as one that hangs.
GRACE_SECONDS = 10.0
# Workers send a heartbeat each half second to some seconds.
SILENT_SECONDS = 5.0
# Seconds in which a scheduler says when it heard of each worker, before an error without that: on a
# machine that 15 processes shared one second was too short.
LAST_SEEN_SECONDS = 10.0
# Of a slow network: Fast Ethernet.
BYTES_A_SECOND = 1e7


@final
class ClientWatch:
    """Looks at a client, at its workers and at the clock while a call waits for them.

    Parameters
    ----------
    client : distributed.Client
    timeout : seconds that a group may take, or None
    """

    def __init__(self, client: Any, who: str, timeout: float | None) -> None:
        self._client, self._who, self._timeout = client, who, timeout
        self._address = str(getattr(client.scheduler, "address", "")) or "of the client"
        self.begin()

    def begin(self) -> None:
        """Start the clocks of the groups anew.

        They count looks: a process that is stopped for a while, and goes on, has not waited.
        """
        self._idle = self._unasked = self._empty = 0.0

    @property
    def limit(self) -> float:
        """Seconds without a group that ends, after which a worker hangs."""
        return math.inf if self._timeout is None else self._timeout + GRACE_SECONDS

    def check(self) -> None:
        """Check that the client has its scheduler.

        Raises
        ------
        ConnectionError
            If it has not.
        """
        status = self._client.status
        if status == "running":
            return
        if status in ("closing", "closed"):
            raise ConnectionError(
                f"{self._who}: the client, or its cluster, was closed before the call was over: "
                "make another client, and call again"
            )
        raise ConnectionError(
            f"{self._who}: the scheduler {self._address} has gone away: start it and its workers "
            "again, make another client, and call again"
        )

    def next(self, arriving: "SimpleQueue[Any]") -> Any:
        """The next object that arrives.

        Raises
        ------
        ConnectionError
            If the scheduler goes away, or the client is closed.
        TimeoutError
            If nothing arrives for longer than a group may take.
        RuntimeError
            If the cluster has no workers any more.
        """
        while True:
            with suppress(Empty):
                arrived = arriving.get(timeout=LOOK_SECONDS)
                self._idle = 0.0
                return arrived
            self.check()
            self._idle += LOOK_SECONDS
            if self._idle > self.limit:
                raise TimeoutError(
                    f"{self._who}: no group has ended for {self.limit:g} s, and each may take "
                    f"{self._timeout:g}{self._silent()}: restart the workers that hang, "
                    "client.restart_workers([address]), and call again"
                )
            self._unasked += LOOK_SECONDS
            if self._unasked > ASK_SECONDS:
                self._look_for_workers()

    def _look_for_workers(self) -> None:
        there = self.within(ANSWER_SECONDS, self._client.nthreads, "the scheduler has not answered")
        self._empty = 0.0 if there else self._empty + self._unasked
        self._unasked = 0.0
        if self._empty > EMPTY_SECONDS:
            raise RuntimeError(
                f"{self._who}: the cluster has had no workers for {EMPTY_SECONDS:g} s: start some, "
                "and call again"
            )

    def within(self, seconds: float, call: Callable[[], Any], complaint: str) -> Any:
        """The result of a call to the cluster, which may hang for ever.

        Raises
        ------
        ConnectionError
            If the scheduler goes away, or the client is closed.
        TimeoutError
            If it takes longer; `complaint` is the message's beginning. Its thread is left behind.
        """
        answers: SimpleQueue[tuple[Any, BaseException | None]] = SimpleQueue()

        def ask() -> None:
            try:
                answers.put((call(), None))
            except BaseException as error:
                answers.put((None, error))

        threading.Thread(target=ask, name="fastmlp call to a cluster", daemon=True).start()
        waited = 0.0
        while True:
            with suppress(Empty):
                answer, error = answers.get(timeout=LOOK_SECONDS)
                if error is None:
                    return answer
                self.check()
                raise error
            self.check()
            waited += LOOK_SECONDS
            if waited > seconds:
                raise TimeoutError(
                    f"{self._who}: {complaint} for {seconds:g} s{self._silent()}: restart what "
                    "hangs, such as by client.restart_workers([address]), and call again"
                )

    def _silent(self) -> str:
        """Return the workers that the scheduler has not heard of lately, as text."""
        answers: SimpleQueue[Any] = SimpleQueue()
        ask = lambda: answers.put(self._client.scheduler_info())  # noqa: E731
        threading.Thread(target=ask, daemon=True).start()
        with suppress(Empty):
            seen_at = {
                name: about["last_seen"]
                for name, about in answers.get(timeout=LAST_SEEN_SECONDS)["workers"].items()
            }
            silent = [
                name
                for name, seen in seen_at.items()
                if seen < max(seen_at.values()) - SILENT_SECONDS
            ]
            return f" (nothing has been heard of {', '.join(silent)})" if silent else ""
        return ""
