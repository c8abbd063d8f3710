"""The pool of workers: a team gathers from its Python threads.

For calls in a row workers spin at their mailboxes and enter after 1 us: a launch takes
20 us. Sleeping workers enter after 40 to 400 us, while the leader works. Both wait in
compiled code, without the GIL: woken in Python, they waited 5 ms for a caller that
holds it. A parallel region of Numba's would be launched in 17 us while OpenMP's threads
spin, but end only when all have entered: 0.1 -> 4 to 7 ms
(a call beside a busy process, 2 threads).

The rule of ownership: a worker is never joined, so what it can reach outlives it.
Compiled code is immortal, and so is the pool with mailboxes, locks and teams' records.
A posted worker may come to a record after the call, and after the caller's end.
Therefore a pool alone owns records, and lends one when all posted workers have left.
Rows, parameters and jobs belong to the caller: a leader leaves when no worker is
inside a part, and a latecomer reads the record alone. At the interpreter's end the
frames of a daemonic leader keep them.
"""

import ctypes
import os
import threading
import weakref
from collections.abc import Callable
from contextlib import nullcontext, suppress
from ctypes import addressof, c_char
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastmlp._process.memory import FreeList, immortal
from fastmlp.backends.cpu import limits
from fastmlp.backends.cpu.team import (
    CONSTANT,
    GENERATION,
    JOINED,
    LEFT,
    LINE,
    MOST_THREADS,
    PART_LINES,
    POSTED,
    STOPPED,
    WOKEN,
    entry,
    lead,
    lead_team,
    make_team,
    renew,
    wait_for_team,
    yield_core,
)
from fastmlp.backends.cpu.tuning import (
    MAILBOX_SPINS,
    MAILBOX_YIELDS,
    TEAM_SPINS,
)
from fastmlp.compiler import (
    COMPILER,
    Block,
    block_of,
    call,
    flush_denormals,
    njit,
    pause,
    restore_denormals,
)
from fastmlp.compiler.jit import INTERPRETED
from fastmlp.compiler.memory import (
    Record,
    exchange_if,
    fetch_add,
    load_acquire,
    record_at,
    row,
    store_release,
)

# A mailbox's state: its worker has not come, spins,
# or sleeps; a caller writes; a call is posted.
EMPTY, WAITING, ASLEEP, TAKEN, WRITTEN = range(5)


class Mailbox(Record):
    """A call for one worker, and the worker's constants."""

    state: int  # EMPTY, WAITING, ASLEEP, TAKEN or WRITTEN
    team: int  # address of the team's record
    driver: int  # address of the driver
    job: int  # address of the job's record
    enter: int  # address of the block by which threads enter a team
    yield_core: int  # address of the system's function that yields the core, or 0
    spins: int  # how many times a worker spins before it sleeps
    lock: int  # the interpreter's lock at which it sleeps,
    acquire: int  # and addresses of the functions that acquire it, which needs no GIL,
    release: int  # and release it


class Mailboxes:
    """A pool's mailboxes, each on separate cache lines.

    Parameters
    ----------
    spins : of a worker before it sleeps

    Attributes
    ----------
    first : address of the first mailbox
    fields : int64 arrays by the names of their fields
    """

    first: int

    def __init__(self, spins: int = MAILBOX_SPINS) -> None:
        words = LINE // 8
        memory = np.zeros((MOST_THREADS + 1) * words, np.int64)
        boxes = memory[-memory.ctypes.data % LINE // 8 :][: MOST_THREADS * words]
        self.first = int(boxes.ctypes.data)
        self.fields = {
            name: boxes[i::words] for i, name in enumerate(Mailbox.dtype.names or ())
        }
        fixed = {
            "enter": entry().address,
            "yield_core": yield_core(),
            "spins": spins,
            "acquire": _of_python("PyThread_acquire_lock"),
            "release": _of_python("PyThread_release_lock"),
        }
        for name, value in fixed.items():
            self.fields[name][:] = value

    def add(self, number: int) -> int:
        lock = self.fields["lock"]
        if not lock[number]:
            made = ctypes.PYFUNCTYPE(ctypes.c_void_p)(
                _of_python("PyThread_allocate_lock")
            )()
            if made is None:
                raise MemoryError("no memory for the lock of a worker")
            ctypes.pythonapi.PyThread_acquire_lock(ctypes.c_void_p(made), 1)
            lock[number] = made
        return self.first + number * LINE


def _of_python(name: str) -> int:
    """The address of a function of the interpreter's."""
    return ctypes.cast(getattr(ctypes.pythonapi, name), ctypes.c_void_p).value or 0


def serve(scalar: Any) -> Callable[[int], None]:
    """The worker's loop: run the calls that are posted to the mailbox; between two of
    them spin, and sleep when the spins are used up. The loop never returns.
    """

    def serve_calls(place: int) -> None:
        box = record_at(place, Mailbox)
        spins = 0
        store_release(place, WAITING)
        while True:
            # A leader may take its post back.
            if load_acquire(place) == WRITTEN and exchange_if(place, WRITTEN, TAKEN):
                posted = box.team
                call(box.enter, (posted, box.driver, box.job))
                fetch_add(posted + LEFT, 1)
                store_release(place, WAITING)
                spins = 0
            elif spins >= box.spins:
                if exchange_if(place, WAITING, ASLEEP):
                    call(box.acquire, (box.lock, 1))
                    spins = 0
            else:
                spins += 1
                if box.yield_core != 0 and spins % MAILBOX_YIELDS == 0:
                    call(box.yield_core, ())
            pause()

    return serve_calls


@njit
def _post(place: int, state: int, team: int, driver: int, job: int) -> bool:
    """Post a call to a mailbox in this state; return False if it is in another."""
    if load_acquire(place) != state or not exchange_if(place, state, TAKEN):
        return False
    box = record_at(place, Mailbox)
    box.team = team
    box.driver = driver
    box.job = job
    store_release(place, WRITTEN)
    if state == ASLEEP:
        call(box.release, (box.lock,))
    return True


# What a caller does with workers that sleep.
LEFT_ASLEEP, WOKEN_ONCE, AWAITED = range(3)


@njit
def _post_all(
    boxes: int, n_boxes: int, n: int, team: int, driver: int, job: int, sleepers: int
) -> None:
    """Post a call to up to n - 1 workers, first where they spin, and unless sleepers
    are left asleep where they sleep; write the numbers posted and woken to the team's
    record.
    """
    n_spinning = n_woken = 0
    for b in range(n_boxes):
        if n_spinning < n - 1 and _post(boxes + b * LINE, WAITING, team, driver, job):
            n_spinning += 1
    if sleepers != LEFT_ASLEEP:
        for b in range(n_boxes):
            if n_spinning + n_woken < n - 1 and _post(
                boxes + b * LINE, ASLEEP, team, driver, job
            ):
                n_woken += 1
    store_release(team + WOKEN, n_woken)
    store_release(team + POSTED, n_spinning + n_woken)


@njit
def _end(boxes: int, n_boxes: int, team: int) -> None:
    """Stop a team, and take back the posts that no worker has claimed."""
    store_release(team + GENERATION, STOPPED)
    if load_acquire(team + JOINED) > load_acquire(team + POSTED):
        return
    for b in range(n_boxes):
        place = boxes + b * LINE
        if load_acquire(place) == WRITTEN and exchange_if(place, WRITTEN, TAKEN):
            if record_at(place, Mailbox).team == team:
                fetch_add(team + LEFT, 1)
                store_release(place, WAITING)
            else:
                store_release(place, WRITTEN)


def launch(scalar: Any) -> Callable[..., None]:
    """Posts a call to up to n - 1 workers' mailboxes,
    and runs the driver as the leader.

    The leader waits briefly for workers that spin,
    and if it is patient for those that slept.
    """

    def post_and_lead(
        boxes: int, n_boxes: int, n: int, team: int, driver: int, job: int, patient: int
    ) -> None:
        _post_all(boxes, n_boxes, n, team, driver, job, WOKEN_ONCE)
        n_woken = load_acquire(team + WOKEN)
        awaited = 1 + load_acquire(team + POSTED) - (1 - patient) * n_woken
        lead_team(team, awaited, driver, job)
        _end(boxes, n_boxes, team)

    return post_and_lead


class NextCalls(Record):
    """How the next calls of some size run."""

    left: int  # how many, before Python decides anew
    n: int  # threads, the caller's included
    sleepers: int  # LEFT_ASLEEP, WOKEN_ONCE or AWAITED


# How a led call ran: alone, as others use the threads; with a whole team; with workers
# that came late, or not at all, or were woken; alone, as the workers sleep.
ALONE, WHOLE, LATE, SLEPT = range(4)


class Lead(Record):
    """A team that leads calls of one job, and the last call's status."""

    job: int  # address of the job's `team`, which `n_parts` follows
    team: int  # address of the record of the team, which the pool owns
    boxes: int  # address of the first mailbox
    n_boxes: int
    busy: int  # address of `limits.busy`
    limit: int  # the most threads of all calls of the process
    spins: int  # for how many a leader waits for workers that spin
    status: int  # of the last call: ALONE, WHOLE, LATE or SLEPT


class JobTeam(Record):
    """The fields of a job that a leader writes."""

    team: int
    n_parts: int


@njit
def _renewed(team: int, n: int) -> bool:
    """Renew the record of a team; return False if a worker of its last call is late."""
    if load_acquire(team + LEFT) < load_acquire(team + POSTED):
        return False
    head = row(team, CONSTANT // 8, np.int64)
    parts = row(team + PART_LINES, n * LINE // 8, np.int64)
    head[:] = 0
    parts[:] = 0
    store_release(team + JOINED, 1)
    return True


@njit
def _lead(lead: Lead, ahead: NextCalls, n: int, driver: int, job: int) -> None:
    """Run a driver as the leader of n threads; workers may join until its last loop."""
    _post_all(lead.boxes, lead.n_boxes, n, lead.team, driver, job, ahead.sleepers)
    n_posted = load_acquire(lead.team + POSTED)
    n_woken = load_acquire(lead.team + WOKEN)
    if n_posted == 0:
        for b in range(lead.n_boxes):
            if load_acquire(lead.boxes + b * LINE) == ASLEEP:
                lead.status = SLEPT
    place = record_at(lead.job, JobTeam)
    if n_posted > 0:
        place.team = lead.team
        place.n_parts = n
        if ahead.sleepers == AWAITED:
            wait_for_team(lead.team, 1 + n_posted, max(lead.spins, TEAM_SPINS))
        else:
            ahead.sleepers = LEFT_ASLEEP
            wait_for_team(lead.team, 1 + n_posted - n_woken, lead.spins)
    call(driver, (job,))
    place.team = 0
    place.n_parts = 1
    if n_posted > 0:
        have_come = n_woken == 0 and load_acquire(lead.team + JOINED) > n_posted
        lead.status = WHOLE if have_come else LATE
    _end(lead.boxes, lead.n_boxes, lead.team)


def lead_call(scalar: Any) -> Callable[[int, int, int, int], None]:
    """Runs a driver on a job, with the workers that spin; a short call wakes no worker.

    Neither Python nor a lock is asked: a call joins its workers in 1 us.
    """

    def lead_job(address: int, ahead: int, driver: int, job: int) -> None:
        mode = flush_denormals()
        lead = record_at(address, Lead)
        how = record_at(ahead, NextCalls)
        others = fetch_add(lead.busy + 8, 1) + load_acquire(lead.busy)
        n = min(how.n, lead.limit - others)
        lead.status = ALONE
        if n > 1 and _renewed(lead.team, how.n):
            _lead(lead, how, n, driver, job)
        else:
            call(driver, (job,))
        fetch_add(lead.busy + 8, -1)
        restore_denormals(mode)

    return lead_job


Team = NDArray[np.int64]


class Entered(NamedTuple):
    """A team that workers may be inside, and True until its leader has returned."""

    team: Team
    runs: bool


@cache
def block(factory: Callable[..., Any]) -> Block:
    """A block of the team, without the lock of `block_of`."""
    return block_of(factory, np.int64)


def run(
    driver: Block, job: Any, n_threads: int, pieces: int = 1, patient: bool = True
) -> bool:
    """Run a driver on a job, on up to `n_threads` threads;
    return False if a worker was not awake.

    Threads that other calls of the process use are subtracted. Interpreted,
    a call has one thread: its words of memory are not atomic.

    Parameters
    ----------
    job : record array, shape (1,), or its fields
        `team` is set to the address of the team's record, 0 for one thread,
        and `n_parts` to the number of parts that suit a loop over rows.
    pieces : of each thread's part of a loop
    patient : True if the leader waits briefly for sleeping workers
    """
    # `ctypes.data` takes 1 us more; of fields it takes a tenth of a record array's.
    address = addressof(c_char.from_buffer(job))
    with limits.reserved(1 if INTERPRETED else min(n_threads, MOST_THREADS)) as n:
        if n < 2:
            job["team"] = 0
            job["n_parts"] = 1
            block(lead).entry(0, 1, driver.address, address)
            return True
        if COMPILER == "numba":
            _run_by_numba(driver, job, address, n)
            return True
        team = pool().team(n, pieces)
        job["team"] = addressof(c_char.from_buffer(team.data))
        job["n_parts"] = n * pieces
        return pool().run(driver, address, team, n, patient=patient)


def _run_by_numba(driver: Block, job: Any, address: int, n: int) -> None:
    """Loops open regions of Numba's where that is safe."""
    safe = limits.parallel_is_safe()
    job["team"], job["n_parts"] = (1, n) if safe else (0, 1)
    with limits.threads(n) if safe else nullcontext():
        block(lead).entry(0, 1, driver.address, address)


class WorkerPool:
    """The Python threads that enter teams as workers; idle ones sleep and cost nothing.

    Parameters
    ----------
    spins : of a worker at its mailbox before it sleeps
    """

    def __init__(self, spins: int = MAILBOX_SPINS) -> None:
        self._size = self._n_mailboxes = 0
        self._mailboxes = Mailboxes(spins)
        # Reentrant: a signal's handler may ask for a team while this thread holds it.
        self._lock = threading.RLock()
        self._workers: list[int] = []
        # By address, the teams that workers may still be inside.
        self._teams: dict[int, Entered] = {}
        # Teams that all threads have left,
        # for later calls of as many threads and pieces.
        self._spare = FreeList()
        # Teams that are lent to nobody, by threads and pieces.
        # A late worker may be inside.
        self._lent: dict[tuple[int, int], list[Team]] = {}

    def team(self, n_threads: int, pieces: int) -> Team:
        team = self._spare.take((n_threads, pieces))
        return make_team(n_threads, pieces) if team is None else renew(team)

    def lend(self, n_threads: int, pieces: int, holder: object) -> Team:
        """A team for one call of the holder's after the other, until its end."""
        ready = self._lent.setdefault((n_threads, pieces), [])
        team = ready.pop() if ready else make_team(n_threads, pieces)
        weakref.finalize(holder, ready.append, team).atexit = False
        return team

    def run(
        self, driver: Block, job: int, team: Team, n: int, *, patient: bool = True
    ) -> bool:
        """Run the driver as leader; up to n - 1 workers join while it runs.

        `patient`: wait briefly for sleeping workers. Return False unless all n - 1 were
        awake. A worker that wakes too late finds the team stopped; `_teams` holds the
        team until then.
        """
        boxes = self.boxes(n - 1)
        team[JOINED // 8] = 1  # the leader's ticket: a worker must never run the driver
        address = addressof(c_char.from_buffer(team.data))
        self._teams[address] = Entered(team, runs=True)
        try:
            block(launch).entry(*boxes, n, address, driver.address, job, int(patient))
            return all_were_awake(team, n)
        finally:
            if team[POSTED // 8] < 0:
                self._teams.pop(address, None)
            else:
                self._teams[address] = Entered(team, runs=False)
            self._let_go()

    def boxes(self, n: int) -> tuple[int, int]:
        """The address and the number of the mailboxes of n workers or more."""
        self._grow(n)
        return self._mailboxes.first, self._n_mailboxes

    def _let_go(self) -> None:
        """Give teams that all their workers have left to other calls.

        A lock is held, and an entry that a signal's handler has replaced is put back:
        else a second call could get a running team.
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
                n_threads = int(team[CONSTANT // 8])
                pieces = int(team[CONSTANT // 8 + 3])
                self._spare.give((n_threads, pieces), team)

    def _grow(self, size: int) -> None:
        """Start workers up to this number, as far as the system has threads.

        No two workers share a mailbox: both would enter the posted team, and the second
        find its record dropped when the first has left. A mailbox is given before its
        worker starts, for an interrupt may come while `start` waits.
        """
        if self._size >= size:
            return
        with self._lock:
            while self._size < size and self._n_mailboxes < MOST_THREADS:
                number = self._n_mailboxes
                self._n_mailboxes += 1
                thread = threading.Thread(
                    target=self._work,
                    args=(number,),
                    name="fastmlp team worker",
                    daemon=True,
                )
                try:
                    thread.start()
                except RuntimeError:  # out of threads, or at the interpreter's end
                    self._n_mailboxes = number
                    return
                self._size += 1

    def spread(self) -> None:
        """Have workers leave the core of this thread;
        the cores that they may use stay the same.

        Linux wakes a worker on its caller's core, and moves it after 7 to 22 ms.
        """
        core = _core()
        for worker in self._workers if core is not None else ():
            with suppress(OSError):
                cores = os.sched_getaffinity(worker)
                if cores - {core}:
                    os.sched_setaffinity(worker, cores - {core})
                    os.sched_setaffinity(worker, cores)

    def _work(self, number: int) -> None:
        self._workers.append(threading.get_native_id())
        block(serve).entry(self._mailboxes.add(number))


def _core() -> int | None:
    """The core of this thread, on Linux."""
    try:
        core: int = ctypes.pythonapi.sched_getcpu()
    except AttributeError:
        return None
    return core if core >= 0 and hasattr(os, "sched_setaffinity") else None


def all_were_awake(team: Team, n: int) -> bool:
    """True if a call of n threads was posted to n - 1 spinning workers."""
    return int(team[POSTED // 8] - team[WOKEN // 8]) == n - 1


_POOLS: list[WorkerPool] = []


def pool() -> WorkerPool:
    """The first call makes the process's pool, which compiles."""
    if not _POOLS:
        _POOLS.append(immortal(WorkerPool()))
    return _POOLS[0]


def _renew_pool() -> None:
    """Drop the pool in a forked child, where its threads do not exist."""
    _POOLS.clear()


limits.after_fork(_renew_pool)
