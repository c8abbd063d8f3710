"""How a team gathers: by a parallel region of Numba's, or by Python threads of our own.

A region is launched in 17 us while OpenMP's threads still spin, but it ends only when all of them
have come: 20 ms after the last one they sleep, and a call of 0.1 ms then took 4 to 7 ms beside a
busy process. So regions are for long calls. Python threads come within 40 to 400 us while their
leader works, and nobody waits for them: the same call took 0.05 ms longer than on one thread. For
calls in a row they wait awake, each in a seat, and come in 1 us: such a launch takes 20.
"""

import threading
from contextlib import nullcontext
from functools import cache
from queue import SimpleQueue
from typing import Any

import numpy as np
from numba import prange, types
from numpy.typing import NDArray

from fastmlp.backends.cpu.threads import limits
from fastmlp.backends.cpu.threads.mailboxes import SPINS, Seats, post, serve
from fastmlp.backends.cpu.threads.team import (
    JOINED,
    LEFT,
    MOST,
    POSTED,
    STOPPED,
    alone,
    entry,
    make_team,
    share,
)
from fastmlp.compiler import COMPILER, Block, block_of, call, kernel
from fastmlp.compiler.jit import INTERPRETED

Team = NDArray[np.int64]

# Estimated seconds of work from which a call opens a region.
LONG = 0.005
# Those below which it does not wait for helpers that sleep.
SHORT = 0.0005


@kernel("cpu.gather", parallel=True)
def gather(n_threads: Any, enter: Any, team: Any, driver: Any, job: Any) -> None:
    """Enter a team on as many threads as Numba's pool gives, up to n."""
    for _ in prange(n_threads):
        call(enter, (team, driver, job))


@cache
def _block(factory: Any) -> Block:
    """Return a team's block, sooner than `block_of`: a call of 0.1 ms asks for several."""
    return block_of(factory, np.int64)


def compile_all() -> None:
    """Compile what a team needs, without launching any."""
    entry()
    for factory in (share, alone, post, serve):
        _block(factory)
    compiled: Any = gather
    compiled.compile((types.int64,) * 5)


def run(driver: Block, job: Any, wanted: int, seconds: float = 0.0, pieces: int = 1) -> bool:
    """Do a job, a record array of shape (1,) with `team` and `n_parts`, on up to so many threads.

    `seconds` is about how long it takes; 0: not known. A thread's part of the work is cut into so
    many `pieces`. Threads that other calls of this process keep busy are not counted on.
    Interpreted, a call is always alone: its words of memory are not atomic. Returns whether helpers
    were awake, where a team was wanted.
    """
    address = job.ctypes.data
    with limits.reserved(1 if INTERPRETED else min(wanted, MOST)) as n:
        if n < 2:
            job["team"], job["n_parts"] = 0, 1
            _block(alone)(0, 1, driver.address, address)
            return True
        if COMPILER == "numba":
            _run_by_numba(driver, job, n)
            return True
        team = make_team(n, pieces)
        job["team"], job["n_parts"] = team.ctypes.data, n * pieces
        if seconds >= LONG and limits.parallel_is_safe():
            with limits.threads(n):
                gather(n, entry().address, team.ctypes.data, driver.address, address)
            return True
        return _pool().run(driver, address, team, n, patient=not 0 < seconds < SHORT)


def _run_by_numba(driver: Block, job: NDArray[Any], n: int) -> None:
    """Run a driver on this thread; its loops open regions of Numba's where that is safe."""
    safe = limits.parallel_is_safe()
    job["team"], job["n_parts"] = (1, n) if safe else (0, 1)
    with limits.threads(n) if safe else nullcontext():
        _block(alone)(0, 1, driver.address, job.ctypes.data)


class Pool:
    """Python threads that wait for the next call awake, and soon sleep until one wants help. Idle
    ones cost nothing.

    Parameters
    ----------
    spins : int, for how long they wait awake
    """

    def __init__(self, spins: int = SPINS) -> None:
        self._calls: SimpleQueue[tuple[Team, int, int]] = SimpleQueue()
        self._size = self._n_seats = 0
        self._seats = Seats(spins)
        # A signal's handler may ask for a team while this thread holds it.
        self._lock = threading.RLock()
        # Teams that a helper may still be in.
        self._teams: dict[int, Team] = {}

    def run(self, driver: Block, job: int, team: Team, n: int, *, patient: bool = True) -> bool:
        """Lead a team of up to n; the helpers enter while the leader works. Return whether all were
        awake; who is `patient` waits a little for the others too.

        One that wakes too late finds the team stopped. A reference that goes with the call keeps
        the record alive for one who slept, and one of the pool's for one who waited in a seat.
        """
        self._grow(n - 1)
        team[JOINED // 8] = 1  # the leader's place is taken: a helper must never run the driver
        address = team.ctypes.data
        self._teams[address] = team
        try:
            seats = (self._seats.first, min(self._n_seats, MOST), n - 1)
            _block(post)(*seats, address, driver.address, job)
            asleep = n - 1 - int(team[POSTED // 8])
            for _ in range(asleep):
                self._calls.put((team, driver.address, job))
            if asleep:
                self._count_calls()
            members = n if patient else n - asleep
            _block(alone)(address, members, driver.address, job)
            return asleep == 0
        finally:
            team[0] = STOPPED  # also where an interrupt came before the driver
            if team[POSTED // 8] < 0:
                self._teams.pop(address, None)
            self._let_go()

    def _count_calls(self) -> None:
        """Tell those in seats how many calls wait; after each change of the queue.

        Under a lock: a number read before a helper took its call, and written after, would have
        sent everybody from the seats until the next call for those who sleep.
        """
        with self._lock:
            self._seats.queue[0] = self._calls.qsize()

    def _let_go(self) -> None:
        """Forget the teams that all who were called have left."""
        for address, team in list(self._teams.items()):
            if team[POSTED // 8] == team[LEFT // 8]:
                self._teams.pop(address, None)

    def _grow(self, size: int) -> None:
        """Have at least so many helpers, if there are threads for them.

        No two share a seat: both would enter the team that is called there, and the second find its
        record let go when the first has left. A seat is given before its helper starts, for an
        interrupt may come while `start` waits.
        """
        if self._size >= size:
            return
        with self._lock:
            while self._size < size:
                seat = self._n_seats
                self._n_seats += 1
                thread = threading.Thread(
                    target=self._help, args=(seat,), name="fastmlp helper", daemon=True
                )
                try:
                    thread.start()
                except RuntimeError:  # out of threads, or at the interpreter's end
                    self._n_seats = seat
                    return
                self._size += 1

    def _help(self, number: int) -> None:
        block, place = _block(serve), self._seats.place(number)
        while True:
            team, driver, job = self._calls.get()
            self._count_calls()
            block(place, team.ctypes.data, driver, job)
            del team


_POOLS: list[Pool] = []


def _pool() -> Pool:
    """Return the pool, made when the first team gathers: it compiles."""
    if not _POOLS:
        _POOLS.append(Pool())
    return _POOLS[0]


def _renew_pool() -> None:
    """The threads of the pool do not exist in a forked child."""
    _POOLS.clear()


limits.after_fork(_renew_pool)
