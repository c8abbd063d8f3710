"""How a team gathers: by a parallel region of Numba's, or by Python threads of our own.

A region is launched in 17 us while OpenMP's threads still spin, but it ends only when all of them
have come: 20 ms after the last one they sleep, and a call of 0.1 ms then took 4 to 7 ms beside a
busy process. So regions are for long calls. Python threads come within 40 to 400 us while their
leader works, and nobody waits for them: the same call took 0.05 ms longer than on one thread.
"""

import threading
from queue import SimpleQueue
from typing import Any

import numpy as np
from numba import prange, types
from numpy.typing import NDArray

from fastmlp._compile import Block, block_of, call, kernel
from fastmlp._compile.jit import INTERPRETED
from fastmlp.backends.cpu import launch
from fastmlp.backends.cpu.team import JOINED, STOPPED, alone, enter, make_team, share

Team = NDArray[np.int64]

# Estimated seconds of work from which a call opens a region.
LONG = 0.005


@kernel("cpu.gather", parallel=True)
def gather(n_threads: Any, enter: Any, team: Any, driver: Any, job: Any) -> None:
    """Enter a team on as many threads as Numba's pool gives, up to n."""
    for _ in prange(n_threads):
        call(enter, (team, driver, job))


def entry() -> Block:
    """Return the block by which threads enter a team."""
    return block_of(enter, np.int64)


def compile_all() -> None:
    """Compile what a team needs, without launching any."""
    entry()
    block_of(share, np.int64)
    block_of(alone, np.int64)
    compiled: Any = gather
    compiled.compile((types.int64,) * 5)


def run(driver: Block, job: Any, wanted: int, seconds: float = 0.0) -> None:
    """Do a job, a record array of shape (1,) with a field `team`, on up to so many threads.

    `seconds` is about how long it takes. Threads that other calls of this process keep busy are
    not counted on. Interpreted, a call is always alone: its words of memory are not atomic.
    """
    address = job.ctypes.data
    with launch.reserved(1 if INTERPRETED else wanted) as n:
        if n < 2:
            job["team"] = 0
            block_of(alone, np.int64)(0, driver.address, address)
            return
        team = make_team(n)
        job["team"] = team.ctypes.data
        if seconds >= LONG and launch.parallel_is_safe():
            with launch.threads(n):
                gather(n, entry().address, team.ctypes.data, driver.address, address)
        else:
            _POOL.run(driver, address, team, n)


class Pool:
    """Python threads that sleep until a call wants help. Idle ones cost nothing."""

    def __init__(self) -> None:
        self._calls: SimpleQueue[tuple[Team, int, int]] = SimpleQueue()
        self._size = 0

    def run(self, driver: Block, job: int, team: Team, n: int) -> None:
        """Lead a team of up to n; the helpers enter while the leader works.

        One that wakes too late finds the team stopped; its own reference keeps the record alive.
        """
        self._grow(n - 1)
        team[JOINED // 8] = 1  # the leader's place is taken: a helper must never run the driver
        try:
            for _ in range(n - 1):
                self._calls.put((team, driver.address, job))
            block_of(alone, np.int64)(team.ctypes.data, driver.address, job)
        finally:
            team[0] = STOPPED  # also where an interrupt came before the driver

    def _grow(self, size: int) -> None:
        while self._size < size:
            thread = threading.Thread(target=self._help, name="fastmlp helper", daemon=True)
            try:
                thread.start()
            except RuntimeError:  # out of threads, or at the interpreter's end
                return
            self._size += 1

    def _help(self) -> None:
        enter_team = entry()
        while True:
            team, driver, job = self._calls.get()
            enter_team(team.ctypes.data, driver, job)


_POOL = Pool()


def _renew_pool() -> None:
    """The threads of the pool do not exist in a forked child."""
    global _POOL
    _POOL = Pool()


launch.after_fork(_renew_pool)
