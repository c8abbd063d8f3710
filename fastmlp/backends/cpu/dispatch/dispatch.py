"""Runs drivers on a network's sessions, by one thread or a team."""

import time
from functools import lru_cache
from typing import Any, Protocol

from numpy.typing import NDArray

from fastmlp._process import task_pool
from fastmlp._process.locks import Guard
from fastmlp.backends.cpu.dispatch import cost_model
from fastmlp.backends.cpu.dispatch.autotuner import pilot_for
from fastmlp.backends.cpu.dispatch.cost_model import Work
from fastmlp.backends.cpu.plan.workspace import STRIP_ROWS
from fastmlp.backends.cpu.session import Session
from fastmlp.backends.cpu.threads import limits, worker_pool
from fastmlp.backends.cpu.threads.team import MOST_PIECES
from fastmlp.compiler import block_of
from fastmlp.network.spec import Network

# Work of 0.35 to 0.7 ms a piece, and few of them, for each reads all of a layer's inputs. On cores
# that multiply 280 GFLOP/s, 16 pieces of 40 MFLOP cost 1024-2048-2048-1000 at 512 rows 15 % over 4
# of 80, and at 32 rows 11 (of 121 GFLOP/s nothing); 4 are 5 % faster than one, and 11 where another
# process takes half of one of two cores.
PIECE_FLOPS = 80_000_000
# A driver for each dtype; asked for under a lock, it took 0.9 us a call.
_driver = lru_cache(maxsize=64)(block_of)


def pieces_of(work: Work, n_threads: int) -> int:
    """Return into how many pieces to cut what each of a team does from one join to the next."""
    flops = work.flops / max(work.n_spreads, 1) / n_threads
    return max(1, min(int(flops / PIECE_FLOPS), MOST_PIECES))


class Job(Protocol):
    """What a driver works in: its record, the record's fields, and about how many rows."""

    record: Any
    job: Any
    rows: int


class Runner:
    """A network, and how many threads may work on it.

    Parameters
    ----------
    network : Network
    n_threads : int or None
        At most so many threads; None: as many as the process may use.
    guard : Guard, optional
        Held while the parameters are read, or written, as a whole.
    """

    def __init__(
        self, network: Network, n_threads: int | None = None, guard: Guard | None = None
    ) -> None:
        self.network, self.guard = network, guard or Guard()
        limit = limits.thread_limit()
        self.n_threads = limit if n_threads is None else min(n_threads, limit)

    def load(self, session: Session, parameters: NDArray[Any]) -> None:
        """Have a session take the parameters, whole."""
        with self.guard.whole:
            session.load(parameters)

    def work(self, rows: int, forward: int = 0, tiles: int = 0, *, by_lots: bool = False) -> Work:
        """Return the work of a chunk: operations a weight and row in each of the two phases.

        A single strip of rows has nothing to share in phase one. By lots both are shared at once.
        """
        several = rows > STRIP_ROWS
        shared = forward * several + tiles
        n_spreads = 1 if by_lots else several + (tiles > 0)
        return Work(shared * self.network.layout.n_weights * rows, n_spreads)

    def run(self, driver: Any, session: Job, work: Work, **fields: Any) -> Any:
        """Set fields of the session's job, do it with a team where that pays, and return them."""
        task_pool.check()
        job, n_threads = session.job, min(self.n_threads, task_pool.share() or self.n_threads)
        for name, value in fields.items():
            job[name] = value
        network = self.network
        kind = (driver.__name__, network.layout.sizes, network.dtype, session.rows, n_threads)
        pilot = pilot_for(kind)
        team = cost_model.pays(work, n_threads) and pilot.wants_team()
        block, start = _driver(driver, network.dtype), time.perf_counter()
        seconds, n = work.flops / cost_model.RATE, n_threads if team else 1
        awake = worker_pool.run(block, session.record, n, seconds, pieces_of(work, n))
        pilot.record(team, work.flops, time.perf_counter() - start, awake=awake)
        return job
