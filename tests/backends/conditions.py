"""Marks of tests that need threads, a team or compiled code, and jobs that show a team's work."""

from typing import Any

import numpy as np
import pytest

from fastmlp.backends.cpu import limits
from fastmlp.backends.cpu.team import JOINED, share_loop, spin
from fastmlp.compiler import block_of, call, fetch_add, load_acquire, njit, row
from fastmlp.compiler.jit import INTERPRETED
from fastmlp.network import spec

needs_threads = pytest.mark.skipif(
    limits.thread_limit() < 2, reason="on one CPU every launch is serial"
)
only_compiled = pytest.mark.skipif(INTERPRETED, reason="uncompiled kernels are Python")
needs_a_team = pytest.mark.skipif(INTERPRETED, reason="uncompiled no team gathers")


def count_as_wide(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let layers of so many inputs and outputs take part in mixed precision."""
    monkeypatch.setattr(spec, "WIDE_INPUTS", width)
    monkeypatch.setattr(spec, "WIDE_OUTPUTS", width)


JOB = np.dtype(
    (
        np.record,
        [
            (n, np.int64)
            for n in ("team", "n_parts", "block", "n", "address", "n_loops", "n_joined")
        ],
    )
)
# Waits for workers, of about 0.5 us: ten seconds and more.
LONGEST = 1 << 25


@njit
def shared(team: int, block: int, n: int, address: int) -> None:
    """Run n items of a block on a team; team 0: on this thread, as a translated `prange` does."""
    if team == 0:
        call(block, (address, 0, n, 0))
    else:
        share_loop(team, block, n, address)


def count(scalar: Any) -> Any:
    """Make the block that counts how often each item is done, and the calls on the word before."""

    def count_items(address: Any, first: Any, last: Any, part: Any) -> None:
        counts = row(address, last, np.int64)
        fetch_add(address - 8, 1)
        for i in range(first, last):
            counts[i] += 1

    return count_items


def repeat(scalar: Any) -> Any:
    """Make the driver that shares a block's work with its team, again and again, once so many
    threads have joined."""

    def repeat_job(address: Any) -> None:
        job, spins = row(address, 1, JOB)[0], 0
        for _ in range(LONGEST if job.team != 0 else 0):
            if load_acquire(job.team + JOINED) >= job.n_joined:
                break
            spins = spin(job.team, spins)
        for _ in range(job.n_loops):
            shared(job.team, job.block, job.n, job.address)

    return repeat_job


class Drill:
    """`n_loops` times `n` items to count, for `worker_pool.run`.

    The leader waits for `n_joined` of its team, itself included, however long the system lets
    them wait for a core; who only works on may be done before any comes.
    """

    def __init__(self, n: int, n_loops: int, n_joined: int = 0) -> None:
        self.driver, self.n_loops = block_of(repeat, np.int64), n_loops
        self.memory = np.zeros(n + 1, np.int64)
        self.block = block_of(count, np.int64)
        fields = (0, 0, self.block.address, n, self.memory.ctypes.data + 8, n_loops, n_joined)
        self.job = np.array([fields], JOB)

    @property
    def calls(self) -> int:
        """The number of calls of the block: n_loops if the leader was alone."""
        return int(self.memory[0])

    @property
    def exact(self) -> bool:
        """True if every item was done once in each loop."""
        return bool((self.memory[1:] == self.n_loops).all())
