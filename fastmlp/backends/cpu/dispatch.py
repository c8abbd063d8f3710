"""Dispatch: the number of threads of a call, by a cost model and by timing.

A calibration measures a team's launch, join and speedup at the moment:
two cores may be two threads of one core, and another process may keep one busy.
"""

import ctypes
import threading
import time
from collections.abc import Callable, Hashable
from functools import lru_cache, partial
from typing import Any, NamedTuple, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from fastmlp._process import task_pool
from fastmlp._process.locks import NetLock
from fastmlp._process.memory import keep
from fastmlp.backends.cpu import limits, tuning, worker_pool
from fastmlp.backends.cpu.plan.partition import Partition, form_of, partition_of
from fastmlp.backends.cpu.plan.records import address, fields_of, fields_of_each
from fastmlp.backends.cpu.session import Session
from fastmlp.backends.cpu.team import JOINED, MOST_THREADS, constants_of
from fastmlp.compiler import COMPILER, Block, block_of, fma, njit, prange
from fastmlp.compiler.jit import INTERPRETED
from fastmlp.compiler.memory import Record, load_acquire, record_at, row
from fastmlp.network.spec import Network

# Without room between items a join of 0.2 us was measured as 0.8 to 1.4.
ITEM_BYTES = tuning.NUMBERS * 8 + tuning.APART_BYTES


class Calibration(Record):
    team: int  # address of the team's record; 0: no team
    n_parts: int  # not used: the items are the parts
    n_joins: int  # how often the team shares the items
    n_items: int
    numbers: int  # address of the items, ITEM_BYTES each


class Costs(NamedTuple):
    """Seconds to launch and to join a team, and its speedup of a long piece of work."""

    launch: float
    join: float
    speedup: float


class Work(NamedTuple):
    """A call's work.

    Attributes
    ----------
    flops : operations that a team can share
    n_joins : how often the team joins
    fetched : seconds of cross-core traffic; None: estimated from the joins
    """

    flops: float
    n_joins: int
    fetched: float | None = None

    def times(self, n: int) -> "Work":
        fetched = None if self.fetched is None else n * self.fetched
        return Work(n * self.flops, n * self.n_joins, fetched)


def pays(work: Work, n_threads: int) -> bool:
    """True if a team of this size finishes the work clearly sooner than one thread."""
    if INTERPRETED or n_threads < 2 or work.flops <= tuning.LEAST_FLOPS * work.n_joins:
        return False
    seconds = work.flops / tuning.FLOP_RATE
    if _seen(seconds) > tuning.WORTH_COMPILING:
        costs = _recent(n_threads)
    else:
        costs = None
    if costs is None:
        return False
    saved = seconds * (1 - 1 / costs.speedup)
    joined = work.n_joins * max(costs.join, tuning.LEAST_JOIN)
    if work.fetched is None:
        return saved > costs.launch + tuning.JOINS_SAVED * joined
    # The traffic is estimated for distant cores; a join tells the distance. Half of it
    # counts, as the autotuner then measures the whole: 8.8 -> 6.7 us (64-32-10@64, 1 ->
    # 2 near cores).
    fetched = work.fetched / 2 * min(costs.join / tuning.FAR_JOIN, 1.0)
    return saved > costs.launch + joined + fetched


def measure(n_threads: int) -> Costs:
    """The best of several rounds; takes about 2 ms.

    A worker that wakes late disturbs a round: joins of 0.1 us were measured as 4.5,
    in the median of three rounds too, and no team was tried for 5 s.
    """
    end = time.perf_counter() + tuning.WAKING
    launches, joins, speedups = zip(
        *(_round(n_threads, end) for _ in range(tuning.ROUNDS)), strict=True
    )
    return Costs(min(launches), min(joins), max(speedups))


def calibration_driver() -> Block:
    return block_of(calibrate, np.float64)


@njit
def _multiply_add(numbers: int) -> None:
    """Multiply-adds for 0.3 us. The view is made here:
    Numba drops a `prange` loop's writes to a view that its body makes.
    """
    values = row(numbers, tuning.NUMBERS, np.float64)
    factor, summand = np.float64(0.5), np.float64(1.0)
    for _ in range(tuning.REPEATS):
        for i in range(tuning.NUMBERS):
            values[i] = fma(values[i], factor, summand)


@njit(parallel=True)
def exercise(team: int, numbers: int, n_items: int) -> None:
    for index in prange(n_items):
        # Numba's index is unsigned.
        _multiply_add(numbers + int(np.int64(index)) * ITEM_BYTES)


def calibrate(scalar: Any) -> Callable[[int], None]:
    """The driver waits at most 1 ms for the whole team, and then shares items."""

    def calibrate_team(address: int) -> None:
        job = record_at(address, Calibration)
        _wait_for_team(job.team)
        for _ in range(job.n_joins):
            exercise(job.team, job.numbers, job.n_items)

    return calibrate_team


# Numba's threads do not join a team whose record counts them.
_HAS_TEAM = COMPILER == "translator"


@njit
def _wait_for_team(team: int) -> None:
    if not _HAS_TEAM or team == 0:
        return
    limit = constants_of(team).limit
    spins = 0
    while load_acquire(team + JOINED) < limit and spins < 1_000_000:
        spins += 1


def _wake(n_threads: int, end: float) -> None:
    driver = calibration_driver()
    job = np.zeros(1, Calibration.dtype)
    while not worker_pool.run(driver, job, n_threads) and time.perf_counter() < end:
        pass


def _round(n: int, end: float) -> Costs:
    """Time a launch, an item on one thread, and a short and a long loop on the team."""
    launched = _seconds(n, 0, 0, end)
    item = _seconds(1, tuning.JOINS * tuning.ITEMS, 1) / (tuning.JOINS * tuning.ITEMS)
    short, long = (
        max(_seconds(n, tuning.JOINS, n * items, end) - launched, 0.0) / tuning.JOINS
        for items in (1, tuning.ITEMS)
    )
    # short = n item / speedup + join, and long has ITEMS times the work.
    share = max((long - short) / (tuning.ITEMS - 1), 1e-9)
    return Costs(launched, max(short - share, 0.0), min(max(n * item / share, 1.0), n))


def _seconds(n_threads: int, n_joins: int, n_items: int, end: float = 0.0) -> float:
    driver = calibration_driver()
    numbers = np.zeros((n_items, ITEM_BYTES // 8))
    job = np.array([(0, 1, n_joins, n_items, numbers.ctypes.data)], Calibration.dtype)
    if n_threads > 1:
        # With a worker asleep, a speedup of 1.9 was measured as 1.15.
        _wake(n_threads, end)
    start = time.perf_counter()
    worker_pool.run(driver, job, n_threads)
    return time.perf_counter() - start


_work = {"seconds": 0.0}


def _seen(seconds: float) -> float:
    """Add these seconds of shareable work to the process's, and return the sum."""
    _work["seconds"] += seconds
    return _work["seconds"]


class _Finding(NamedTuple):
    """Costs, the time of their calibration, and the seconds of their validity."""

    costs: Costs
    when: float
    valid: float


_known: dict[int, _Finding] = {}
_lock = threading.Lock()


def _recent(n_threads: int) -> Costs | None:
    """Valid costs, measured if need be;
    None while another thread measures the first.
    """
    last = _known.get(n_threads)
    if last is not None and time.monotonic() - last.when < last.valid:
        return last.costs
    if not _lock.acquire(blocking=False):
        return last.costs if last is not None else None
    try:
        if last is None:
            _seconds(n_threads, 0, 0)  # compiles, and starts the threads
        costs = measure(n_threads)
        _known[n_threads] = _Finding(costs, time.monotonic(), _validity(costs, last))
        return costs
    finally:
        _lock.release()


def _validity(costs: Costs, last: _Finding | None) -> float:
    """Seconds of a calibration's validity, doubled while the speedup stays poor.

    After a pause the time starts anew: another library's threads may have spun for 0.2
    s, and fits of 0.3 s in turns with it never had a team.
    """
    if costs.speedup >= tuning.CLEAR_SPEEDUP:
        return tuning.SECONDS_VALID
    if last is None or last.costs.speedup >= tuning.CLEAR_SPEEDUP:
        return tuning.SECONDS_DOUBTED
    if time.monotonic() - last.when > 2 * last.valid:
        return tuning.SECONDS_DOUBTED
    return min(2 * last.valid, tuning.SECONDS_VALID)


def _renew_lock() -> None:
    global _lock
    _lock = threading.Lock()


limits.after_fork(_renew_lock)


@lru_cache(maxsize=256)
def tuner_for(kind: Hashable) -> "Autotuner":
    """One fit's timings serve the next fit of a kind."""
    return Autotuner()


class Autotuner:
    """Chooses one thread or a team for calls of one kind of job."""

    def __init__(self) -> None:
        self._seconds: dict[bool, float] = {}
        self._calls = {True: 0, False: 0}
        self._since = 0
        self._retry = tuning.RETRY
        self._waited = 0.0
        self._woke = False

    def wants_team(self) -> bool:
        """True if the next call should run on a team.

        One thread and a team are tried first. The faster of the two runs;
        the other is retried now and then.
        """
        for team in (True, False):
            if self._calls[team] <= tuning.SETTLING[team]:
                return team
        is_due = (
            self._since >= tuning.LONG_RETRY
            and self._waited >= tuning.LONG_RETRY_SECONDS
        )
        return self._best() != (is_due or self._since >= self._retry)

    def record(
        self, team: bool, work: float, seconds: float, *, awake: bool = True
    ) -> None:
        """Take the time of a call that did `work`, in any unit.

        Calls without work are ignored. So is the first in a row that had to wake
        workers: it takes 0.45 ms, the others two thirds of one thread's 0.1 ms.
        """
        if work <= 0:
            return
        self._woke = not awake and not self._woke
        if self._woke:
            return
        n_calls = self._calls[team] + 1
        if n_calls > tuning.SETTLING[team]:
            self._learn(team, seconds / work)
            self._waited += seconds
        # Counted last: a thread that reads the count must find the seconds.
        self._calls[team] = n_calls

    def _learn(self, team: bool, seconds: float) -> None:
        known = len(self._seconds) == 2
        before = self._best()
        slowest = tuning.SLOWER * self._seconds.get(team, float("inf"))
        self._seconds[team] = min(seconds, slowest)
        if known and self._best() != before:
            self._retry = tuning.RETRY
            self._since = 0
            self._waited = 0.0
        elif known and team != before:
            self._retry = min(2 * self._retry, tuning.MOST_RETRY)
            self._since = 0
            self._waited = 0.0
        else:
            self._since += 1

    def is_known(self) -> bool:
        """True if the next call is of the way that is known to be faster."""
        return len(self._seconds) == 2 and self.wants_team() == self._best()

    def _best(self) -> bool:
        """True if a team has been faster; without timings it counts as slower."""
        slow = float("inf")
        return self._seconds.get(True, slow) < self._seconds.get(False, slow)


# `block_of`, under its lock, takes 0.9 us a call.
_driver = lru_cache(maxsize=64)(block_of)


class Threads(NamedTuple):
    """The threads of a call, and the autotuner that takes its time.

    Attributes
    ----------
    n : threads to ask for, the calling one included; 1: no team
    pieces : of each thread's part
    patient : True to wait for sleeping workers
    """

    n: int
    pieces: int
    patient: bool
    tuner: Autotuner

    def record(self, work: Work, seconds: float, *, awake: bool) -> None:
        """`awake`: no worker had to be woken."""
        self.tuner.record(self.n > 1, work.flops, seconds, awake=awake)


def threads_for(work: Work, kind: tuple[Any, ...], limit: int) -> Threads:
    """The threads of a call:
    a team if the cost model finds that it pays and the autotuner finds it faster.

    The number is bounded by the pool of `fit_many`, and by other calls of the process
    at that moment: the autotuner must not take one thread's time for a team's.

    Parameters
    ----------
    kind : hashable; calls of one kind share an autotuner
    limit : the most threads
    """
    most = limits.free_threads(limit)
    tuner = tuner_for((*kind, most))
    n = most if pays(work, most) and tuner.wants_team() else 1
    seconds = work.flops / tuning.FLOP_RATE
    patient = not 0 < seconds < tuning.PATIENT_SECONDS
    return Threads(n, pieces_of(work, n), patient, tuner)


def pieces_of(work: Work, n_threads: int) -> int:
    flops = work.flops / max(work.n_joins, 1) / n_threads
    return max(1, min(int(flops / tuning.PIECE_FLOPS), tuning.MOST_PIECES))


T = TypeVar("T")


class LedCalls:
    """Calls of one job, whose leader is joined by workers that spin.

    A table has the threads of the next calls, by the order of their operations, where
    compiled calls read it. After some calls Python times one and decides anew. A first
    call on a team is as fast as a calibration, which is left out.

    Parameters
    ----------
    kind : hashable; calls of one kind share autotuners
    n_threads : the most threads
    job : fields of a record that begins as `worker_pool.JobTeam`
    pieces : of each thread's part of a loop
    n_weights : of the net; a row of a wide one may be shared

    Attributes
    ----------
    n_threads : the most threads
    least : fewest operations of a call that may be shared
    next_calls : address of the table of `worker_pool.NextCalls` records
    lead : address of the `worker_pool.Lead` record
    """

    def __init__(
        self,
        kind: Hashable,
        n_threads: int,
        job: Any,
        *,
        pieces: int = 1,
        n_weights: int = 0,
    ) -> None:
        several = n_threads > 1 and COMPILER == "translator" and not INTERPRETED
        self.least = tuning.LEAST_LED if several else 1 << 62
        if several and n_weights >= tuning.LED_WEIGHTS:
            self.least = min(self.least, 2 * n_weights)
        self._kind = kind
        self.n_threads = n_threads
        self._asked = False
        # A short call after one of the other way fetches its weights from the other
        # core: 43 us, the next one 15 (one row, 760-835-5, 2 threads).
        self._was_shared = False
        self._pieces = pieces
        self._table = np.zeros(64 if several else 0, worker_pool.NextCalls.dtype)
        self._record = np.zeros(1, worker_pool.Lead.dtype)
        self._next_calls = [*fields_of_each(self._table)]
        self._fields = fields_of(self._record)
        self.next_calls, self.lead = address(self._table), address(self._record)
        self._fields["job"] = ctypes.addressof(job)
        self._fields["busy"] = ctypes.addressof(limits.busy)
        self._pool: object = None
        self._slept_at = self._late_since = self._spread_at = 0.0

    def is_shared(self, flops: int) -> bool:
        """True if the next call of this many operations has a team."""
        return flops >= self.least and self._next_calls[flops.bit_length()]["n"] > 1

    def run(
        self,
        driver: Block,
        place: int,
        flops: int,
        alone: Callable[..., None] | None = None,
        lead: Callable[..., None] | None = None,
    ) -> None:
        """Run the driver on the job at `place`, without the GIL.

        Parameters
        ----------
        alone, lead : of the driver, and of `worker_pool.lead_call`, if they are to hold the GIL
        """
        alone = alone or driver.entry
        if flops < self.least:
            alone(place)
            return
        ahead = self._next_calls[flops.bit_length()]
        if ahead["left"] > 0 and ahead["n"] == 1:
            ahead["left"] -= 1
            alone(place)
            return
        lead = lead or worker_pool.block(worker_pool.lead_call).entry
        led = self.lead, ctypes.addressof(ahead), driver.address, place
        if ahead["left"] == 0:
            self.timed(flops, partial(lead, *led))
            return
        ahead["left"] -= 1
        lead(*led)
        if self._fields["status"] >= worker_pool.LATE:
            self.note(flops)

    def timed(self, flops: int, call: Callable[[], T]) -> T:
        """Decide on the threads of a call, time it, and decide on the next ones."""
        order = flops.bit_length()
        ahead = self._next_calls[order]
        most = self._most()
        start = time.perf_counter()
        is_long = flops / tuning.FLOP_RATE >= tuning.PATIENT_SECONDS
        ahead["n"] = 1
        ahead["left"] = 1 if is_long else tuning.LED_CALLS
        if most == 1 or _seen(0.0) <= tuning.WORTH_COMPILING:
            result = call()
            _seen(ahead["left"] * (time.perf_counter() - start))
            return result
        self._take_team()
        tuner = tuner_for(("led", self._kind, order, most))
        team = tuner.wants_team()
        ahead["n"] = most if team else 1
        if is_long:
            ahead["sleepers"] = worker_pool.AWAITED
        start = time.perf_counter()
        result = call()
        end = time.perf_counter()
        status = self._fields["status"]
        is_shared = team and status == worker_pool.WHOLE
        is_warm = is_long or is_shared == self._was_shared
        self._was_shared = is_shared
        counts = not team or self._counts(status, end)
        if counts and is_warm:
            tuner.record(team, flops, end - start)
        ahead["n"] = most if tuner.wants_team() else 1
        asks = not tuner.is_known()
        if team and status >= worker_pool.LATE:
            is_close = start - self._slept_at < tuning.AWAKE_SECONDS
            self.note(flops)
            if status == worker_pool.SLEPT:
                asks = is_close or not self._asked
                ahead["n"] = most if asks else 1
                if is_close:
                    ahead["sleepers"] = worker_pool.WOKEN_ONCE
                else:
                    ahead["sleepers"] = worker_pool.LEFT_ASLEEP
        self._asked = asks
        ahead["left"] = 0 if is_long or asks else tuning.LED_CALLS
        return result

    def _counts(self, status: int, now: float) -> bool:
        """True if a call of this status tells how long a team takes.

        A worker that wakes on its caller's core comes late until the system moves it.
        """
        is_late = status == worker_pool.LATE
        since = self._late_since or now
        counts = status == worker_pool.WHOLE or (
            is_late and now - since > tuning.WAKING
        )
        if status != worker_pool.SLEPT:
            self._late_since = 0.0 if counts or not is_late else since
        return counts

    def note(self, flops: int) -> None:
        """Note that workers slept, or were late.

        Workers are woken where a call follows another one closely,
        on which Python decides.
        """
        now = time.perf_counter()
        if self._fields["status"] == worker_pool.SLEPT:
            self._slept_at = now
            self._next_calls[flops.bit_length()]["left"] = 0
        elif now - self._spread_at > tuning.SPREAD_SECONDS:
            self._spread_at = now
            worker_pool.pool().spread()

    def _most(self) -> int:
        """The most threads, in a task of a pool its share."""
        task_pool.check()
        return min(self.n_threads, task_pool.threads_of_task() or self.n_threads)

    def _take_team(self) -> None:
        """Have a team of this process's pool; a forked child's pool is another one."""
        pool = worker_pool.pool()
        fields = self._fields
        n_threads = min(self.n_threads, MOST_THREADS)
        if self._pool is not pool:
            fields["team"] = address(pool.lend(n_threads, self._pieces, self))
            self._pool = pool
        fields["boxes"], fields["n_boxes"] = pool.boxes(n_threads - 1)
        fields["limit"] = max(limits.thread_limit(), n_threads)
        fields["spins"] = tuning.LED_SPINS


class JobHolder(Protocol):
    """An object with the record of a driver's job, such as a session.

    Attributes
    ----------
    record : record array, shape (1,), with the fields `team` and `n_parts`
    job : the record's fields by their names
    kind : layer sizes, dtypes, order of the number of rows; calls of a kind share an autotuner
    """

    record: Any
    job: Any
    kind: tuple[Any, ...]


class Runner:
    """Runs drivers on one network's sessions.

    Parameters
    ----------
    n_threads : the most threads; None: as many as the process may use
    lock : held while all parameters are read or written, optional
    """

    network: Network
    lock: NetLock
    n_threads: int
    # The key of the last trainer, and the trainer itself once it has ended.
    rules: Any = None
    last: Any = None

    def __init__(
        self,
        network: Network,
        n_threads: int | None = None,
        lock: NetLock | None = None,
    ) -> None:
        self.network, self.lock = network, lock or NetLock()
        limit = limits.thread_limit()
        if n_threads is None:
            self.n_threads = limit
        else:
            self.n_threads = min(n_threads, limit)
        self._partitions: dict[int, tuple[Partition, Hashable]] = {}

    def partition(self, n_rows: int) -> Partition:
        return self._divided(n_rows)[0]

    def serves(self, n_rows: int, room: int) -> bool:
        """True if a step on n dense rows has the same bits in buffers for `room`
        rows.
        """
        return n_rows <= room and self._divided(n_rows)[1] == self._divided(room)[1]

    def _divided(self, n_rows: int) -> tuple[Partition, Hashable]:
        kept = self._partitions.get(n_rows)
        if kept is None:
            network = self.network
            made = partition_of(
                network, n_rows, self.n_threads, train=True, sparse=False
            )
            kept = keep(
                self._partitions, n_rows, (made, form_of(network, n_rows, made))
            )
        return kept

    def load(self, session: Session, parameters: NDArray[Any]) -> None:
        """Copy the parameters to a session, as one state."""
        with self.lock.parameters:
            session.load(parameters)

    def work(
        self,
        rows: int,
        forward: int = 0,
        tiles: int = 0,
        *,
        by_microbatches: bool = False,
    ) -> Work:
        """A chunk's operations per weight and row in each of the two phases.

        A single strip of rows is not shared in phase one.
        Microbatches share both phases at once.
        """
        several = rows > tuning.STRIP_ROWS
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
        """Set fields of the session's job, run the driver on it, and return the job."""
        task_pool.check()
        job = session.job
        for name, value in fields.items():
            job[name] = value
        if plain:
            options = {"plain": True}
        else:
            options = {}
        block = _driver(driver, self.network.dtype, **options)
        limit = min(self.n_threads, task_pool.threads_of_task() or self.n_threads)
        if limit == 1:
            worker_pool.run(block, session.job, 1)
            return job
        threads = threads_for(work, (driver.__name__, *session.kind), limit)
        start = time.perf_counter()
        awake = worker_pool.run(
            block, session.job, threads.n, threads.pieces, threads.patient
        )
        threads.record(work, time.perf_counter() - start, awake=awake)
        return job
