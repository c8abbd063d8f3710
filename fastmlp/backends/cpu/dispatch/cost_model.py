"""Whether a team pays: what launching and joining cost on this machine, now, and what it gains.

Measured by a drill of known work, not assumed: two cores may be two threads of one core, and
another process may keep one busy.
"""

import threading
import time
from typing import Any, NamedTuple

import numpy as np

from fastmlp.backends.cpu.plan.packing import APART_BYTES
from fastmlp.backends.cpu.threads import limits, worker_pool
from fastmlp.backends.cpu.threads.team import CONSTANT, CONSTANTS, JOINED, spread
from fastmlp.compiler import COMPILER, Block, block_of, fma, load_acquire, njit, row
from fastmlp.compiler.jit import INTERPRETED

# What a serial step does: 60 to 180 GFLOP/s. Too high a rate errs on the side of one thread.
RATE = 1.2e11
# Joins that a spread must save: between two of them a thread also fetches what the others wrote. At
# 0.4 us a join, 16-64-64-2 at 64 rows (2 MFLOP) took 23.6 us on two threads and 15.8 on one;
# 4-32-16-4 at 10,000 (40 MFLOP) 465 and 665.
JOINS = 20
# Seconds of a join where cores are far from each other, and what one takes at least, with what
# whoever comes first waits for the other: where they are near a drill finds 0 to 0.06 us.
FAR_JOIN, LEAST_JOIN = 4e-7, 2e-7
# A team is not worth a thought, nor a measurement, below so much work a join: 16-64-64-2 at 16 rows
# has 126,000, and takes two threads 5.6 us, one 6.9.
LEAST_FLOPS = 120_000
SECONDS_VALID = 5.0
# A drill that found no second core is done again sooner, at first: what disturbed it for 1 ms kept
# a fit of 1024-2048-2048-1000 on one thread for 5 s.
SECONDS_DOUBTED, CLEAR_SPEEDUP = 0.25, 1.5
# Seconds of shareable work before a process thinks of teams: to compile one takes 0.7 s, once.
WORTH_COMPILING = 0.1
ROUNDS, SPREADS, ITEMS = 3, 25, 8
NUMBERS, REPEATS = 128, 40
# Seconds for helpers to wake in, each on a core of its own. After 0.2 s of sleep Linux woke half of
# them on their caller's core, and took 7 to 22 ms to move them to the idle one. Of two idle cores a
# drill then measured a speedup of 1.0 to 1.2, and 16-64-64-2 at 64 rows was trained by one thread,
# in 9.9 us for 6.6.
WAKING = 0.03
# Without room between rows, joins of 0.2 us looked like 0.8 to 1.4.
ITEM_BYTES = NUMBERS * 8 + APART_BYTES
DRILL = np.dtype(
    (np.record, [(n, np.int64) for n in ("team", "n_parts", "block", "n_spreads", "n", "address")])
)


class Costs(NamedTuple):
    """Seconds to launch and to join, and how many times as fast a long piece of work is."""

    launch: float
    join: float
    speedup: float


class Work(NamedTuple):
    """A job: how much of it can be shared, how often the team joins, and the seconds that each of
    it takes to fetch what others wrote; None: unknown, and guessed from the joins."""

    flops: float
    n_spreads: int
    fetched: float | None = None

    def times(self, n: int) -> "Work":
        """Return so much work n times."""
        fetched = None if self.fetched is None else n * self.fetched
        return Work(n * self.flops, n * self.n_spreads, fetched)


def pays(work: Work, n_threads: int) -> bool:
    """Whether so many threads finish the work clearly sooner than one."""
    if COMPILER == "numba":
        return False  # the drill measures our own teams
    if INTERPRETED or n_threads < 2 or work.flops <= LEAST_FLOPS * work.n_spreads:
        return False
    seconds = work.flops / RATE
    costs = _recent(n_threads) if _seen(seconds) > WORTH_COMPILING else None
    if costs is None:
        return False
    saved = seconds * (1 - 1 / costs.speedup)
    joined = work.n_spreads * max(costs.join, LEAST_JOIN)
    if work.fetched is None:
        return saved > costs.launch + JOINS * joined
    # The estimate is for cores far from each other, and a join tells how far they are. Half of it:
    # whoever tries finds out. 64-32-10 at 64 takes 6.7 us on two near ones, 8.8 on one.
    fetched = work.fetched / 2 * min(costs.join / FAR_JOIN, 1.0)
    return saved > costs.launch + joined + fetched


def measure(n_threads: int) -> Costs:
    """Measure, in about 2 ms: the best of some rounds.

    One is disturbed by a helper that wakes late: joins of 0.1 us looked like 4.5, in the median of
    three too, and for 5 s no team was tried. Whoever tries one finds out what it gains.
    """
    end = time.perf_counter() + WAKING
    launches, joins, speedups = zip(*(_round(n_threads, end) for _ in range(ROUNDS)), strict=True)
    return Costs(min(launches), min(joins), max(speedups))


def blocks() -> tuple[Block, Block]:
    """Compile what a measurement runs."""
    return block_of(drill, np.float64), block_of(exercise, np.float64)


def drill(scalar: Any) -> Any:
    """Make the driver that waits until the team is complete, for 1 ms at most, and spreads."""

    def drill_team(address: Any) -> None:
        job = row(address, 1, DRILL)[0]
        _muster(job.team)
        for _ in range(job.n_spreads):
            spread(job.team, job.block, job.n, job.address)

    return drill_team


def exercise(scalar: Any) -> Any:
    """Make the block that keeps a core busy: 0.3 us an item, on a row far from the others'."""

    def exercise_rows(address: Any, first: Any, last: Any, part: Any) -> None:
        factor, summand = scalar(0.5), scalar(1)
        for item in range(first, last):
            numbers = row(address + item * ITEM_BYTES, NUMBERS, scalar)
            for _ in range(REPEATS):
                for i in range(NUMBERS):
                    numbers[i] = fma(numbers[i], factor, summand)

    return exercise_rows


@njit
def _muster(team: Any) -> None:
    if team == 0:
        return
    limit, spins = row(team + CONSTANT, 1, CONSTANTS)[0].limit, 0
    while load_acquire(team + JOINED) < limit and spins < 1_000_000:
        spins += 1


def _wake(n_threads: int, end: float) -> None:
    """Call helpers, again until all wait awake or `time.perf_counter` is at the `end`."""
    driver, block = blocks()
    job = np.array([(0, 0, block.address, 0, 0, 0)], DRILL)
    while not worker_pool.run(driver, job, n_threads) and time.perf_counter() < end:
        pass


def _round(n: int, end: float) -> Costs:
    """Time a launch, an item alone, and a short and a long spread of the team."""
    launched = _seconds(n, 0, 0, end)
    item = _seconds(1, SPREADS * ITEMS, 1) / (SPREADS * ITEMS)
    short, long = (
        max(_seconds(n, SPREADS, n * items, end) - launched, 0.0) / SPREADS for items in (1, ITEMS)
    )
    # short = n item / speedup + join, and long has ITEMS times the work.
    share = max((long - short) / (ITEMS - 1), 1e-9)
    return Costs(launched, max(short - share, 0.0), min(max(n * item / share, 1.0), n))


def _seconds(n_threads: int, n_spreads: int, n_items: int, end: float = 0.0) -> float:
    driver, block = blocks()
    numbers = np.zeros((n_items, ITEM_BYTES // 8))
    job = np.array([(0, 0, block.address, n_spreads, n_items, numbers.ctypes.data)], DRILL)
    if n_threads > 1:
        # Who has fallen asleep is woken first: a speedup of 1.9 was measured as 1.15 with one.
        _wake(n_threads, end)
    start = time.perf_counter()
    worker_pool.run(driver, job, n_threads)
    return time.perf_counter() - start


_work = {"seconds": 0.0}


def _seen(seconds: float) -> float:
    """Return how much shareable work the process has been asked for, this included."""
    _work["seconds"] += seconds
    return _work["seconds"]


class _Finding(NamedTuple):
    """Costs, when they were measured, and for how many seconds they are believed."""

    costs: Costs
    when: float
    valid: float


_known: dict[int, _Finding] = {}
_lock = threading.Lock()


def _recent(n_threads: int) -> Costs | None:
    """Return costs that are recent; None while another thread measures the first."""
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
    """Return for how long to believe it: a poor speedup the longer, the more often it was found.

    In a row, that is: after a pause, another library's threads may spin on for 0.2 s, and fits of
    0.3 s in turns with it never had a team.
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
