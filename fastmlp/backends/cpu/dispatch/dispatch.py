"""Dispatch: the number of threads of a call, by the cost model or by timing one and a team."""

import time
from collections.abc import Callable, Hashable
from functools import lru_cache
from typing import Any, NamedTuple, Protocol

from numpy.typing import NDArray

from fastmlp._process import task_pool
from fastmlp._process.locks import NetLock
from fastmlp.backends.cpu.dispatch import cost_model
from fastmlp.backends.cpu.dispatch.cost_model import Work
from fastmlp.backends.cpu.session import Session
from fastmlp.backends.cpu.threads import limits, worker_pool
from fastmlp.backends.cpu.tuning import (
    MOST_PIECES,
    MOST_RETRY,
    PATIENT_SECONDS,
    PIECE_FLOPS,
    RATE,
    REGION_SECONDS,
    RETRY,
    SETTLING,
    SLOWER,
    STRIP_ROWS,
)
from fastmlp.compiler import block_of
from fastmlp.network.spec import Network


@lru_cache(maxsize=256)
def tuner_for(kind: Hashable) -> "Autotuner":
    """Return the autotuner of jobs of one kind: one fit's timings serve the next fit."""
    return Autotuner()


class Autotuner:
    """Chooses one thread or a team for calls of one kind of job."""

    def __init__(self) -> None:
        self._seconds: dict[bool, float] = {}
        self._calls = {True: 0, False: 0}
        self._since, self._retry = 0, RETRY
        self._woke = False

    def wants_team(self) -> bool:
        """Return True if the next call should run on a team.

        One thread and a team are tried first; then the faster of the two runs, and the other is
        retried now and then.
        """
        for team in (True, False):
            if self._calls[team] <= SETTLING[team]:
                return team
        best = self._best()
        return best if self._since < self._retry else not best

    def record(self, team: bool, work: float, seconds: float, *, awake: bool = True) -> None:
        """Take the time of a call that did `work`, in any unit; a call without work is ignored.

        A call that had to wake workers is ignored too, unless the call before it had to: the first
        of several calls of a team takes 0.45 ms, the others two thirds of one thread's 0.1 ms.
        """
        if work <= 0:
            return
        self._woke = not awake and not self._woke
        if self._woke:
            return
        n_calls = self._calls[team] + 1
        if n_calls > SETTLING[team]:
            self._learn(team, seconds / work)
        # Counted last: a thread that reads the count must find the seconds.
        self._calls[team] = n_calls

    def _learn(self, team: bool, seconds: float) -> None:
        known, before = len(self._seconds) == 2, self._best()
        slowest = SLOWER * self._seconds.get(team, float("inf"))
        self._seconds[team] = min(seconds, slowest)
        if known and self._best() != before:
            self._retry, self._since = RETRY, 0
        elif known and team != before:
            self._retry, self._since = min(2 * self._retry, MOST_RETRY), 0
        else:
            self._since += 1

    def _best(self) -> bool:
        """Return True if a team has been faster so far; without timings it counts as slower."""
        slow = float("inf")
        return self._seconds.get(True, slow) < self._seconds.get(False, slow)


# A driver for each dtype. Asking `block_of`, under its lock, takes 0.9 us a call.
_driver = lru_cache(maxsize=64)(block_of)


class Threads(NamedTuple):
    """The threads of a call, and the autotuner that takes its time.

    Attributes
    ----------
    n : int, the threads to ask for, the calling one included; 1: no team
    pieces : int, into how many pieces each thread's part is cut
    region : bool, True to gather the team by a parallel region of Numba's, if that is safe
    patient : bool, True to wait for sleeping workers
    tuner : Autotuner, which takes the call's time
    """

    n: int
    pieces: int
    region: bool
    patient: bool
    tuner: Autotuner

    def record(self, work: Work, seconds: float, *, awake: bool) -> None:
        """Give the autotuner the call's time; `awake`: no worker had to be woken."""
        self.tuner.record(self.n > 1, work.flops, seconds, awake=awake)


def threads_for(work: Work, kind: tuple[Any, ...], limit: int) -> Threads:
    """Return the threads to run a call on.

    A team runs it if the cost model finds that a team pays and the autotuner finds it faster. The
    pool of `fit_many` bounds the number, and so do the threads that other calls of the process use
    at that moment: the autotuner must not take one thread's time for a team's.

    Parameters
    ----------
    work : Work, of the call
    kind : tuple, hashable; calls of one kind share an autotuner
    limit : int, the most threads
    """
    most = limits.free_threads(min(limit, task_pool.share() or limit))
    tuner = tuner_for((*kind, most))
    n = most if cost_model.pays(work, most) and tuner.wants_team() else 1
    seconds = work.flops / RATE
    region, patient = seconds >= REGION_SECONDS, not 0 < seconds < PATIENT_SECONDS
    return Threads(n, pieces_of(work, n), region, patient, tuner)


def pieces_of(work: Work, n_threads: int) -> int:
    """Return the number of pieces of a thread's part of the work between two joins."""
    flops = work.flops / max(work.n_joins, 1) / n_threads
    return max(1, min(int(flops / PIECE_FLOPS), MOST_PIECES))


class JobHolder(Protocol):
    """An object with the record of a driver's job, such as a session.

    Attributes
    ----------
    record : record array, shape (1,), with the fields `team` and `n_parts`
    job : the record's fields by their names
    kind : tuple, hashable: calls of one kind share an autotuner; it has the sizes of the layers,
        the dtypes, and about how many rows there are
    """

    record: Any
    job: Any
    kind: tuple[Any, ...]


class Runner:
    """Runs drivers on one network's sessions.

    Parameters
    ----------
    network : Network
    n_threads : int or None
        The most threads; None: as many as the process may use.
    lock : NetLock, optional
        Held while all parameters are read or written.
    """

    network: Network
    lock: NetLock
    n_threads: int
    # Of its last trainer.
    rules: Any = None

    def __init__(
        self, network: Network, n_threads: int | None = None, lock: NetLock | None = None
    ) -> None:
        self.network, self.lock = network, lock or NetLock()
        limit = limits.thread_limit()
        self.n_threads = limit if n_threads is None else min(n_threads, limit)

    def load(self, session: Session, parameters: NDArray[Any]) -> None:
        """Copy the parameters, as one state of them, to a session."""
        with self.lock.parameters:
            session.load(parameters)

    def work(
        self, rows: int, forward: int = 0, tiles: int = 0, *, by_microbatches: bool = False
    ) -> Work:
        """Return the work of a chunk: operations per weight and row in each of the two phases.

        A single strip of rows is not shared in phase one. Microbatches share both phases at once.
        """
        several = rows > STRIP_ROWS
        shared = forward * several + tiles
        n_joins = 1 if by_microbatches else several + (tiles > 0)
        return Work(shared * self.network.layout.n_weights * rows, n_joins)

    def run(
        self,
        driver: Callable[..., Any],
        session: JobHolder,
        work: Work,
        *,
        plain: bool = False,
        **fields: Any,
    ) -> Any:
        """Set fields of the session's job, run the driver on it, and return the job; `plain`: the
        driver's plain form."""
        task_pool.check()
        job = session.job
        for name, value in fields.items():
            job[name] = value
        threads = threads_for(work, (driver.__name__, *session.kind), self.n_threads)
        options = {"plain": True} if plain else {}
        block, start = _driver(driver, self.network.dtype, **options), time.perf_counter()
        awake = worker_pool.run(
            block, session.job, threads.n, threads.region, threads.pieces, threads.patient
        )
        threads.record(work, time.perf_counter() - start, awake=awake)
        return job
