"""The cost model: does a team finish a call sooner than one thread?

A calibration measures, with known work, the costs of launching and joining a team and its speedup
at the moment: two cores may be two threads of one core, and another process may keep one busy.
"""

import threading
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from fastmlp.backends.cpu.threads import limits, worker_pool
from fastmlp.backends.cpu.threads.team import JOINED, constants_of
from fastmlp.backends.cpu.tuning import (
    APART_BYTES,
    CLEAR_SPEEDUP,
    FAR_JOIN,
    ITEMS,
    JOINS,
    JOINS_SAVED,
    LEAST_FLOPS,
    LEAST_JOIN,
    NUMBERS,
    RATE,
    REPEATS,
    ROUNDS,
    SECONDS_DOUBTED,
    SECONDS_VALID,
    WAKING,
    WORTH_COMPILING,
)
from fastmlp.compiler import (
    COMPILER,
    Block,
    Record,
    block_of,
    flushed,
    fma,
    load_acquire,
    njit,
    prange,
    record_at,
    restored,
    row,
)
from fastmlp.compiler.jit import INTERPRETED

# Without room between items a join of 0.2 us was measured as 0.8 to 1.4.
ITEM_BYTES = NUMBERS * 8 + APART_BYTES


class Calibration(Record):
    """The job of a calibration's driver."""

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
    flops : float, operations that a team can share
    n_joins : int, how often the team joins
    fetched : float or None, seconds of cross-core traffic; None: estimated from the joins
    """

    flops: float
    n_joins: int
    fetched: float | None = None

    def times(self, n: int) -> "Work":
        """Return n times this work."""
        fetched = None if self.fetched is None else n * self.fetched
        return Work(n * self.flops, n * self.n_joins, fetched)


def pays(work: Work, n_threads: int) -> bool:
    """Return True if a team of so many threads finishes the work clearly sooner than one thread."""
    if INTERPRETED or n_threads < 2 or work.flops <= LEAST_FLOPS * work.n_joins:
        return False
    seconds = work.flops / RATE
    costs = _recent(n_threads) if _seen(seconds) > WORTH_COMPILING else None
    if costs is None:
        return False
    saved = seconds * (1 - 1 / costs.speedup)
    joined = work.n_joins * max(costs.join, LEAST_JOIN)
    if work.fetched is None:
        return saved > costs.launch + JOINS_SAVED * joined
    # The traffic is estimated for cores far from each other; a join tells how far they are. Half of
    # it, for the autotuner times the rest: 8.8 -> 6.7 us (64-32-10@64, 1 -> 2 near cores).
    fetched = work.fetched / 2 * min(costs.join / FAR_JOIN, 1.0)
    return saved > costs.launch + joined + fetched


def measure(n_threads: int) -> Costs:
    """Measure the costs of a team in about 2 ms: the best of several rounds.

    A worker that wakes late disturbs a round: joins of 0.1 us were measured as 4.5, in the median
    of three rounds too, and no team was tried for 5 s.
    """
    end = time.perf_counter() + WAKING
    launches, joins, speedups = zip(*(_round(n_threads, end) for _ in range(ROUNDS)), strict=True)
    return Costs(min(launches), min(joins), max(speedups))


def calibration_driver() -> Block:
    """Return the driver of a calibration, compiled."""
    return block_of(calibrate, np.float64)


@njit
def _multiply_add(numbers: int) -> None:
    """Do multiply-adds on some numbers for 0.3 us. Numba drops the writes of a `prange` loop to a
    view that its own body makes: here the view is a called function's."""
    values, factor, summand = row(numbers, NUMBERS, np.float64), np.float64(0.5), np.float64(1.0)
    for _ in range(REPEATS):
        for i in range(NUMBERS):
            values[i] = fma(values[i], factor, summand)


@njit(parallel=True)
def exercise(team: int, numbers: int, n_items: int) -> None:
    """Do arithmetic for 0.3 us an item, on memory far from the other items'."""
    for index in prange(n_items):
        mode = flushed()
        # As int64: Numba's index is unsigned.
        _multiply_add(numbers + int(np.int64(index)) * ITEM_BYTES)
        restored(mode)


def calibrate(scalar: Any) -> Callable[[int], None]:
    """Make the driver that waits for the whole team, 1 ms at most, and then shares items."""

    def calibrate_team(address: int) -> None:
        job = record_at(address, Calibration)
        _wait_for_team(job.team)
        for _ in range(job.n_joins):
            exercise(job.team, job.numbers, job.n_items)

    return calibrate_team


# Numba's own threads join no team whose record counts them.
_HAS_TEAM = COMPILER == "translator"


@njit
def _wait_for_team(team: int) -> None:
    if not _HAS_TEAM or team == 0:
        return
    limit, spins = constants_of(team).limit, 0
    while load_acquire(team + JOINED) < limit and spins < 1_000_000:
        spins += 1


def _wake(n_threads: int, end: float) -> None:
    """Call the workers until all are awake, or until `time.perf_counter` reaches `end`."""
    driver = calibration_driver()
    job = np.zeros(1, Calibration.dtype)
    while not worker_pool.run(driver, job, n_threads) and time.perf_counter() < end:
        pass


def _round(n: int, end: float) -> Costs:
    """Time a launch, an item on one thread, and a short and a long loop on the team."""
    launched = _seconds(n, 0, 0, end)
    item = _seconds(1, JOINS * ITEMS, 1) / (JOINS * ITEMS)
    short, long = (
        max(_seconds(n, JOINS, n * items, end) - launched, 0.0) / JOINS for items in (1, ITEMS)
    )
    # short = n item / speedup + join, and long has ITEMS times the work.
    share = max((long - short) / (ITEMS - 1), 1e-9)
    return Costs(launched, max(short - share, 0.0), min(max(n * item / share, 1.0), n))


def _seconds(n_threads: int, n_joins: int, n_items: int, end: float = 0.0) -> float:
    driver = calibration_driver()
    numbers = np.zeros((n_items, ITEM_BYTES // 8))
    job = np.array([(0, 1, n_joins, n_items, numbers.ctypes.data)], Calibration.dtype)
    if n_threads > 1:
        # Sleeping workers are woken first: with one asleep, a speedup of 1.9 was measured as 1.15.
        _wake(n_threads, end)
    start = time.perf_counter()
    worker_pool.run(driver, job, n_threads)
    return time.perf_counter() - start


_work = {"seconds": 0.0}


def _seen(seconds: float) -> float:
    """Return the seconds of shareable work in the process so far, these included."""
    _work["seconds"] += seconds
    return _work["seconds"]


class _Finding(NamedTuple):
    """Costs, the time of their calibration, and for how many seconds they are valid."""

    costs: Costs
    when: float
    valid: float


_known: dict[int, _Finding] = {}
_lock = threading.Lock()


def _recent(n_threads: int) -> Costs | None:
    """Return valid costs, measured if need be; None while another thread measures the first."""
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
    """Return for how many seconds a calibration is valid: a poor speedup twice as long as before.

    After a pause the time starts anew: another library's threads may have spun for 0.2 s, and fits
    of 0.3 s in turns with it never had a team.
    """
    if costs.speedup >= CLEAR_SPEEDUP:
        return SECONDS_VALID
    if last is None or last.costs.speedup >= CLEAR_SPEEDUP:
        return SECONDS_DOUBTED
    if time.monotonic() - last.when > 2 * last.valid:
        return SECONDS_DOUBTED
    return min(2 * last.valid, SECONDS_VALID)


def _renew_lock() -> None:
    global _lock
    _lock = threading.Lock()


limits.after_fork(_renew_lock)
