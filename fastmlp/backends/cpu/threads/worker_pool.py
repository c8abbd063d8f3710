"""The pool of workers: a team gathers from its Python threads.

Workers enter after 40 to 400 us, while the leader works without waiting for them. For calls in a
row workers spin at their mailboxes and enter after 1 us: a launch takes 20 us. A parallel region of
Numba's would be launched in 17 us while OpenMP's threads still spin, but end only when all of them
have entered: 0.1 -> 4 to 7 ms (a call beside a busy process, 2 threads).
"""

import threading
from collections.abc import Callable
from contextlib import nullcontext
from ctypes import addressof, c_char
from functools import cache
from queue import SimpleQueue
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastmlp._process.memory import FreeList
from fastmlp.backends.cpu.threads import limits
from fastmlp.backends.cpu.threads.team import (
    CONSTANT,
    JOINED,
    LEFT,
    LINE,
    MOST,
    POSTED,
    STOPPED,
    entry,
    lead,
    lead_team,
    make_team,
    renew,
    share,
    yield_core,
)
from fastmlp.backends.cpu.tuning import MAILBOX_SPINS, MAILBOX_YIELDS
from fastmlp.compiler import (
    COMPILER,
    Block,
    Record,
    block_of,
    call,
    exchange_if,
    fetch_add,
    load_acquire,
    pause,
    record_at,
    store_release,
)
from fastmlp.compiler.jit import INTERPRETED

# A mailbox's state: no worker spins at it; a worker spins; a caller writes; a call has been posted.
EMPTY, WAITING, TAKEN, WRITTEN = range(4)


class Mailbox(Record):
    """A call for one worker, and the worker's constants."""

    state: int  # EMPTY, WAITING, TAKEN or WRITTEN
    team: int  # address of the team's record
    driver: int  # address of the driver
    job: int  # address of the job's record
    enter: int  # address of the block by which threads enter a team
    yield_core: int  # address of the system's function that yields the core; 0: none
    queue: int  # address of the number of calls queued for sleeping workers
    spins: int  # how many times a worker spins before it sleeps


_FIELDS = Mailbox.dtype.names or ()


class Mailboxes:
    """The mailboxes of a pool's workers, each on cache lines of its own.

    Parameters
    ----------
    spins : int, how many times a worker spins before it sleeps

    Attributes
    ----------
    first : int, address of the first mailbox
    queue : int64, shape (1,), the number of calls queued for sleeping workers
    """

    queue: NDArray[np.int64]
    first: int

    def __init__(self, spins: int = MAILBOX_SPINS) -> None:
        words = LINE // 8
        self._memory = memory = np.zeros((MOST + 2) * words, np.int64)
        lines = memory[-memory.ctypes.data % LINE // 8 :][: (MOST + 1) * words]
        self.queue, boxes = lines[:1], lines[words:]
        self.first = int(boxes.ctypes.data)
        fixed = {
            "enter": entry().address,
            "yield_core": yield_core(),
            "queue": self.queue.ctypes.data,
            "spins": spins,
        }
        for name, value in fixed.items():
            boxes[_FIELDS.index(name) :: words] = value

    def place(self, number: int) -> int:
        """Return the address of a worker's mailbox."""
        return self.first + number % MOST * LINE


def serve(scalar: Any) -> Callable[[int, int, int, int], None]:
    """Make the worker's loop: run the current call, then spin on the mailbox until a call is
    posted, the spins are used up, or a call is queued for sleeping workers.

    Between two calls it does not return to Python, where it would wait for the GIL.
    """

    def serve_calls(place: int, team: int, driver: int, job: int) -> None:
        box, spins = record_at(place, Mailbox), 0
        call(box.enter, (team, driver, job))
        store_release(place, WAITING)
        while True:
            if load_acquire(place) == WRITTEN:
                posted = box.team
                call(box.enter, (posted, box.driver, box.job))
                fetch_add(posted + LEFT, 1)
                store_release(place, WAITING)
                spins = 0
            elif spins >= box.spins or load_acquire(box.queue) > 0:
                if exchange_if(place, WAITING, EMPTY):
                    return
            else:
                spins += 1
                if box.yield_core != 0 and spins % MAILBOX_YIELDS == 0:
                    call(box.yield_core, ())
            pause()

    return serve_calls


def launch(scalar: Any) -> Callable[..., None]:
    """Make the block that posts a call to the mailboxes of up to n spinning workers, and writes
    their number to the team's record; with all n of them it runs the driver as the leader."""

    def post_and_lead(boxes: int, n_boxes: int, n: int, team: int, driver: int, job: int) -> None:
        n_posted = 0
        for b in range(n_boxes):
            place = boxes + b * LINE
            if n_posted < n and load_acquire(place) == WAITING:
                if exchange_if(place, WAITING, TAKEN):
                    box = record_at(place, Mailbox)
                    box.team, box.driver, box.job = team, driver, job
                    n_posted += 1
                    store_release(place, WRITTEN)
        store_release(team + POSTED, n_posted)
        if n_posted == n:
            lead_team(team, n + 1, driver, job)

    return post_and_lead


Team = NDArray[np.int64]


class Entered(NamedTuple):
    """A team that workers may be inside, and True until its leader has returned."""

    team: Team
    runs: bool


@cache
def _stopped_team() -> Team:
    """Return a team whose call has ended: who enters it leaves at once."""
    team = make_team(1)
    team[0], team[JOINED // 8] = STOPPED, 1
    return team


@cache
def block(factory: Callable[..., Any]) -> Block:
    """Return a block of the team, without the lock of `block_of`: a call asks for several."""
    return block_of(factory, np.int64)


def compile_all() -> None:
    """Compile the blocks of a team, without launching one."""
    entry()
    for factory in (share, lead, launch, serve):
        block(factory)


def run(
    driver: Block,
    job: Any,
    n_threads: int,
    pieces: int = 1,
    patient: bool = True,
) -> bool:
    """Run a driver on a job, on up to `n_threads` threads; return False if a worker was woken.

    Threads that other calls of the process use are subtracted. Interpreted, a call has one thread:
    its words of memory are not atomic.

    Parameters
    ----------
    job : record array, shape (1,), or its fields
        `team` is set to the address of the team's record, 0 for one thread, and `n_parts` to the
        number of parts that suit a loop over rows.
    pieces : into how many pieces each thread's part of a loop is cut
    patient : True if the leader waits briefly for sleeping workers
    """
    # `ctypes.data` takes 1 us more; of fields it takes a tenth of that of a record array.
    address = addressof(c_char.from_buffer(job))
    with limits.reserved(1 if INTERPRETED else min(n_threads, MOST)) as n:
        if n < 2:
            job["team"], job["n_parts"] = 0, 1
            block(lead).entry(0, 1, driver.address, address)
            return True
        if COMPILER == "numba":
            _run_by_numba(driver, job, address, n)
            return True
        team = pool().team(n, pieces)
        job["team"], job["n_parts"] = addressof(c_char.from_buffer(team.data)), n * pieces
        return pool().run(driver, address, team, n, patient=patient)


def _run_by_numba(driver: Block, job: Any, address: int, n: int) -> None:
    """Run a driver on this thread; its loops open regions of Numba's where that is safe."""
    safe = limits.parallel_is_safe()
    job["team"], job["n_parts"] = (1, n) if safe else (0, 1)
    with limits.threads(n) if safe else nullcontext():
        block(lead).entry(0, 1, driver.address, address)


class WorkerPool:
    """The Python threads that enter teams as workers; idle ones sleep and cost nothing.

    Parameters
    ----------
    spins : int, how many times a worker spins at its mailbox before it sleeps
    """

    def __init__(self, spins: int = MAILBOX_SPINS) -> None:
        self._calls: SimpleQueue[tuple[Team, int, int]] = SimpleQueue()
        self._size = self._n_mailboxes = 0
        self._mailboxes = Mailboxes(spins)
        # Reentrant: a signal's handler may ask for a team while this thread holds it.
        self._lock = threading.RLock()
        # By address, the teams that workers may still be inside.
        self._teams: dict[int, Entered] = {}
        # Teams that all threads have left, for later calls of as many threads and pieces.
        self._spare = FreeList()

    def team(self, n_threads: int, pieces: int) -> Team:
        """Return the record of a team that no thread has entered."""
        team = self._spare.take((n_threads, pieces))
        return make_team(n_threads, pieces) if team is None else renew(team)

    def run(self, driver: Block, job: int, team: Team, n: int, *, patient: bool = True) -> bool:
        """Run the driver as leader; up to n - 1 workers join while it runs.

        `patient`: wait briefly for sleeping workers. Returns False if a worker had to be woken. A
        worker that wakes too late finds the team stopped. A queued call holds a reference to the
        team's record; `_teams` holds those of posted calls.
        """
        boxes = self.boxes(n - 1)
        team[JOINED // 8] = 1  # the leader's ticket: a worker must never run the driver
        address = addressof(c_char.from_buffer(team.data))
        self._teams[address] = Entered(team, runs=True)
        try:
            block(launch)(*boxes, n - 1, address, driver.address, job)
            asleep = n - 1 - int(team[POSTED // 8])
            if asleep == 0:
                return True
            for _ in range(asleep):
                self._calls.put((team, driver.address, job))
            self._count_calls()
            block(lead).entry(address, n if patient else n - asleep, driver.address, job)
            return False
        finally:
            team[0] = STOPPED  # also where an interrupt came before the driver
            if team[POSTED // 8] < 0:
                self._teams.pop(address, None)
            else:
                self._teams[address] = Entered(team, runs=False)
            self._let_go()

    def keep(self, team: Team) -> None:
        """Keep a team's record until the workers have left it that were posted to it."""
        if len(team):
            self._teams[addressof(c_char.from_buffer(team.data))] = Entered(team, runs=False)

    def boxes(self, n: int) -> tuple[int, int]:
        """Return the address and the number of the mailboxes of n workers or more."""
        self._grow(n)
        return self._mailboxes.first, min(self._n_mailboxes, MOST)

    def wake(self, n: int) -> None:
        """Wake up to n sleeping workers, which then spin at their mailboxes."""
        if n > self._calls.qsize():
            self._calls.put((_stopped_team(), 0, 0))
            self._count_calls()

    def _count_calls(self) -> None:
        """Write down how many calls are queued, after each change of the queue.

        Under a lock: a number read before a worker took its call, but written after, would keep all
        workers from spinning at their mailboxes until the next queued call.
        """
        with self._lock:
            self._mailboxes.queue[0] = self._calls.qsize()

    def _let_go(self) -> None:
        """Drop the teams that all workers have left to which they were posted; a team of which no
        worker was asleep serves another call.

        Under a lock, and an entry that a signal's handler has replaced is put back: a team that is
        kept while it runs would be given to a second call.
        """
        with self._lock:
            for address, entered in list(self._teams.items()):
                team = entered.team
                if entered.runs or team[POSTED // 8] != team[LEFT // 8]:
                    continue
                last = self._teams.pop(address, None)
                if last is not entered:
                    if last is not None:
                        self._teams[address] = last
                    continue
                n_threads, pieces = int(team[CONSTANT // 8]), int(team[CONSTANT // 8 + 3])
                if team[POSTED // 8] == n_threads - 1:
                    self._spare.give((n_threads, pieces), team)

    def _grow(self, size: int) -> None:
        """Start workers up to this number, if the system has threads for them.

        No two workers share a mailbox: both would enter the posted team, and the second find its
        record dropped when the first has left. A mailbox is given before its worker starts, for an
        interrupt may come while `start` waits.
        """
        if self._size >= size:
            return
        with self._lock:
            while self._size < size:
                number = self._n_mailboxes
                self._n_mailboxes += 1
                thread = threading.Thread(
                    target=self._work, args=(number,), name="fastmlp team worker", daemon=True
                )
                try:
                    thread.start()
                except RuntimeError:  # out of threads, or at the interpreter's end
                    self._n_mailboxes = number
                    return
                self._size += 1

    def _work(self, number: int) -> None:
        serving, place = block(serve), self._mailboxes.place(number)
        while True:
            team, driver, job = self._calls.get()
            self._count_calls()
            serving(place, team.ctypes.data, driver, job)
            del team


_POOLS: list[WorkerPool] = []


def pool() -> WorkerPool:
    """Return the process's pool. The first call makes it, which compiles."""
    if not _POOLS:
        _POOLS.append(WorkerPool())
    return _POOLS[0]


def _renew_pool() -> None:
    """Drop the pool in a forked child, where its threads do not exist."""
    _POOLS.clear()


limits.after_fork(_renew_pool)
